//! The acceptance vectors of the fixed-point method (specification B9, checks 1, 2, 7 and 9).

use slimbit_num::Rounding::{Floor, HalfEven, HalfUp};
use slimbit_num::{
    Affine, Clip, Interval, Limits, Rational, Rounding, Slope, Solution, SolveError, prove_with,
    solve_with,
};

fn ratio(num: i128, den: i128) -> Rational {
    Rational::new(num, den).unwrap()
}

fn float(value: f32) -> Rational {
    Rational::try_from(value).unwrap()
}

fn interval(lo: i64, hi: i64) -> Interval {
    Interval { lo, hi }
}

fn symmetric(bits: u32) -> Interval {
    interval(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
}

/// Solves, proves, and proves that the constants next to the reported interval fail.
fn solved(
    a: &Rational,
    b: &Rational,
    domain: Interval,
    clip: Clip,
    rounding: Rounding,
) -> Solution {
    let affine = Affine {
        a: a.clone(),
        b: b.clone(),
    };
    let solution = solve_with(&affine, domain, clip, rounding, Limits::default()).unwrap();
    let with_constant = |c| {
        let requant = slimbit_num::Requant {
            c,
            ..solution.requant
        };
        prove_with(&affine, domain, clip, requant, rounding)
    };
    assert_eq!(solution.requant.c, solution.c_min);
    assert_eq!(
        (with_constant(solution.c_min), with_constant(solution.c_max)),
        (Ok(()), Ok(()))
    );
    if solution.requant.m != 0 {
        assert!(
            with_constant(solution.c_min - 1).is_err()
                && with_constant(solution.c_max + 1).is_err()
        );
    }
    solution
}

#[track_caller]
fn check(solution: Solution, k: u8, m: i32, c: [i64; 2]) {
    let found = (
        solution.requant.k,
        solution.requant.m,
        [solution.c_min, solution.c_max],
    );
    assert_eq!(found, (k, m, c));
}

#[track_caller]
fn check_slopes(solution: Solution, lo: (i64, i64), hi: (i64, i64)) {
    let slope = |(num, den)| Some(Slope { num, den });
    assert_eq!(
        (solution.slope_lo, solution.slope_hi),
        (slope(lo), slope(hi))
    );
}

#[test]
fn rational_slopes() {
    let (third, zero) = (ratio(1, 3), ratio(0, 1));
    let floor = solved(&third, &zero, symmetric(8), Clip::signed(8), Floor);
    check(floor, 8, 85, [42, 42]);
    check_slopes(floor, (84, 253), (84, 251));
    check(
        solved(&third, &zero, symmetric(8), Clip::unsigned(4), HalfUp),
        6,
        21,
        [36, 42],
    );
}

#[test]
fn float_slopes() {
    let zero = ratio(0, 1);
    check(
        solved(&float(0.1), &zero, symmetric(12), Clip::unsigned(8), HalfUp),
        13,
        819,
        [4505, 4915],
    );

    let (a, b) = (float(0.0123), float(3.7));
    check(
        solved(&a, &b, symmetric(16), Clip::unsigned(4), HalfUp),
        15,
        403,
        [137617, 137644],
    );
    check(
        solved(&-&a, &b, symmetric(16), Clip::unsigned(4), HalfUp),
        15,
        -403,
        [137617, 137644],
    );

    let (a, b) = (float(0.00071), float(-0.25));
    let byte = solved(&a, &b, symmetric(18), Clip::unsigned(8), HalfUp);
    check(byte, 30, 762357, [268395189, 268397335]);
    check_slopes(byte, (51, 71831), (20, 28169));
    let crumb = solved(&a, &b, symmetric(18), Clip::unsigned(2), HalfUp);
    check(crumb, 21, 1489, [523919, 524558]);
    check_slopes(crumb, (1, 1409), (1, 1408));

    check(
        solved(&a, &float(0.5), symmetric(18), Clip::unsigned(1), Floor),
        0,
        1,
        [-704, -704],
    );
    check(
        solved(
            &float(1.7),
            &float(-11.3),
            interval(-100, 100),
            Clip::signed(4),
            HalfUp,
        ),
        4,
        27,
        [-172, -169],
    );
    check(
        solved(
            &zero,
            &float(5.4),
            interval(-1000, 1000),
            Clip::unsigned(4),
            HalfUp,
        ),
        0,
        0,
        [5, 5],
    );
}

#[test]
fn ties_to_even() {
    let (half, zero) = (ratio(1, 2), ratio(0, 1));
    let affine = Affine {
        a: half.clone(),
        b: zero.clone(),
    };
    let even = solve_with(
        &affine,
        interval(-8, 8),
        Clip::signed(8),
        HalfEven,
        Limits::default(),
    );
    assert_eq!(even, Err(SolveError::NoLine));
    check(
        solved(&half, &zero, interval(-8, 8), Clip::signed(8), HalfUp),
        1,
        1,
        [1, 1],
    );

    let rare = solved(
        &float(0.003),
        &float(100.0),
        interval(-1000, 1000),
        Clip::unsigned(8),
        HalfEven,
    );
    check(rare, 19, 1573, [52690876, 52691011]);
}

#[test]
fn division_by_constants() {
    let divide = |d: i128, n: u32, rounding| {
        solved(
            &ratio(1, d),
            &ratio(0, 1),
            interval(0, (1 << n) - 1),
            Clip::unsigned(20),
            rounding,
        )
    };
    check(divide(3, 8, Floor), 8, 85, [85, 85]);
    check(divide(5, 8, Floor), 8, 51, [51, 51]);
    check(divide(7, 8, Floor), 9, 73, [36, 73]);
    check(divide(10, 8, Floor), 9, 51, [50, 52]);
    check(divide(3, 12, Floor), 12, 1365, [1365, 1365]);
    check(divide(7, 12, Floor), 12, 585, [585, 585]);
    check(divide(10, 12, Floor), 13, 819, [818, 820]);
    check(divide(49, 16, Floor), 21, 42799, [1337, 42799]);

    // A clip that is never reached, so that the lowest code binds as well.
    let unclipped = |d: i128, n: u32, rounding| {
        solved(
            &ratio(1, d),
            &ratio(0, 1),
            interval(0, (1 << n) - 1),
            Clip::signed(20),
            rounding,
        )
    };
    check(unclipped(49, 14, Floor), 17, 2675, [0, 1672]);
    check(unclipped(3, 8, HalfUp), 8, 85, [170, 170]);
    check(unclipped(10, 8, HalfUp), 9, 51, [307, 307]);
    check(unclipped(49, 16, HalfUp), 21, 42799, [1028513, 1069975]);
}

#[test]
fn mirroring_the_domain_negates_the_multiplier() {
    for (a, b) in [(0.0123f32, 3.7f32), (0.003, 100.0), (1.7, -11.3)] {
        let (a, b) = (float(a), float(b));
        let forwards = solved(&a, &b, interval(-700, 1900), Clip::unsigned(6), HalfUp);
        let backwards = solved(&-&a, &b, interval(-1900, 700), Clip::unsigned(6), HalfUp);
        assert_eq!(backwards.requant.m, -forwards.requant.m);
        assert_eq!((backwards.requant.k, backwards.c_min, backwards.c_max), {
            (forwards.requant.k, forwards.c_min, forwards.c_max)
        });
        let negated = |slope: Option<Slope>| slope.map(|s| Slope { num: -s.num, ..s });
        assert_eq!(backwards.slope_lo, negated(forwards.slope_hi));
    }
}
