//! The fixed-point add against the definition, on every pair of codes.

use proptest::prelude::*;
use slimbit_num::{
    ActQuant, AddAffine, AddCounterexample, AddRequant, Clip, Rational, SolveError, prove_add,
    solve_add,
};

const BYTE: Clip = Clip::unsigned(8);

fn quant(bits: u8) -> impl Strategy<Value = ActQuant> {
    let limits = (-6f32..0.5, 0.5f32..9.0);
    limits.prop_map(move |(min, max)| ActQuant::from_range(min, max, bits))
}

/// The definition, by rationals alone.
fn exact(truth: &AddAffine, qa: i32, qb: i32, clip: Clip) -> i32 {
    let products = &(&truth.a * &Rational::from(qa)) + &(&truth.b * &Rational::from(qb));
    let shifted = &(&products + &truth.c) + &Rational::new(1, 2).unwrap();
    clip.apply(shifted.floor() as i64)
}

fn all_equal(truth: &AddAffine, [a, b, clip]: [Clip; 3], add: AddRequant) -> bool {
    (a.lo..=a.hi).all(|qa| {
        (b.lo..=b.hi).all(|qb| add.apply(qa as u8, qb as u8, clip) == exact(truth, qa, qb, clip))
    })
}

/// Whether any integers at all are exact at this shift.
fn feasible(truth: &AddAffine, [a, b, clip]: [Clip; 3], k: u8) -> bool {
    let steepest = [&truth.a, &truth.b]
        .map(|slope| slope.floor() as i64 + 2)
        .into_iter()
        .max()
        .unwrap();
    let reach = steepest << k;
    let pairs: Vec<(i64, i64, i64)> = (a.lo..=a.hi)
        .flat_map(|qa| (b.lo..=b.hi).map(move |qb| (qa, qb)))
        .map(|(qa, qb)| (qa.into(), qb.into(), exact(truth, qa, qb, clip).into()))
        .collect();
    let has_constant = |ma: i64, mb: i64| {
        let (mut c_min, mut c_max) = (i64::MIN, i64::MAX);
        for &(qa, qb, code) in &pairs {
            let least = (code << k) - ma * qa - mb * qb;
            if code > clip.lo.into() {
                c_min = c_min.max(least);
            }
            if code < clip.hi.into() {
                c_max = c_max.min(least + (1 << k) - 1);
            }
        }
        c_min <= c_max
    };
    (0..=reach).any(|ma| (0..=reach).any(|mb| has_constant(ma, mb)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn byte_adds_are_exact_on_every_pair(a in quant(8), b in quant(8), y in quant(8)) {
        let truth = AddAffine::of_quantisers(a, b, y).unwrap();
        let add = solve_add(&truth, BYTE, BYTE, BYTE).unwrap();
        prop_assert!(all_equal(&truth, [BYTE; 3], add));
        prop_assert_eq!(prove_add(&truth, BYTE, BYTE, BYTE, add), Ok(()));
        let below = AddRequant { c: add.c - 1, ..add };
        prop_assert!(prove_add(&truth, BYTE, BYTE, BYTE, below).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn small_adds_are_exact_and_provable(
        a in quant(4), b in quant(4), y in quant(4), negate: bool, dm in -1i32..=1, dc in -2i64..=2,
    ) {
        let mut truth = AddAffine::of_quantisers(a, b, y).unwrap();
        if negate {
            truth.b = -&truth.b;
        }
        let ranges = [a.clip(), b.clip(), y.clip()];
        let add = solve_add(&truth, ranges[0], ranges[1], ranges[2]).unwrap();
        prop_assert!(all_equal(&truth, ranges, add));
        let near = AddRequant { ma: add.ma + dm, c: add.c + dc, ..add };
        let proof = prove_add(&truth, ranges[0], ranges[1], ranges[2], near);
        prop_assert_eq!(proof.is_ok(), all_equal(&truth, ranges, near));
    }
}

/// Only multipliers next to the true slopes are tried: that can miss a smaller shift, never exactness.
#[test]
fn the_shift_need_not_be_the_least() {
    let quant = |scale, zero_point| ActQuant {
        scale,
        zero_point,
        bits: 2,
    };
    let (a, b, y) = (
        quant(1.829_030_4, 2),
        quant(3.655_559_5, 1),
        quant(3.682_351, 1),
    );
    let truth = AddAffine::of_quantisers(a, b, y).unwrap();
    let ranges = [Clip::unsigned(2); 3];
    let add = solve_add(&truth, ranges[0], ranges[1], ranges[2]).unwrap();
    assert!(all_equal(&truth, ranges, add));
    assert_eq!((0..=add.k).find(|&k| feasible(&truth, ranges, k)), Some(3));
    assert_eq!(add.k, 7);
}

#[test]
fn ties_go_up() {
    let mean = AddAffine::from_floats(0.5, 0.5, 0.0).unwrap();
    let add = solve_add(&mean, BYTE, BYTE, BYTE).unwrap();
    assert_eq!(
        add,
        AddRequant {
            ma: 1,
            mb: 1,
            c: 1,
            k: 1
        }
    );
}

#[test]
fn constant_one_sided_and_saturating_sums() {
    let constant = AddAffine::from_floats(0.0, 0.0, 17.4).unwrap();
    assert_eq!(
        solve_add(&constant, BYTE, BYTE, BYTE),
        Ok(AddRequant {
            ma: 0,
            mb: 0,
            c: 17,
            k: 0
        })
    );
    let one_sided = AddAffine::from_floats(0.0, -0.7, 200.0).unwrap();
    let add = solve_add(&one_sided, BYTE, BYTE, BYTE).unwrap();
    assert_eq!((add.ma, all_equal(&one_sided, [BYTE; 3], add)), (0, true));
    // An operand whose step is far above the output's range: only its sign is left.
    let dead_output = AddAffine::from_floats(3e10, 1e10, -2e10).unwrap();
    let add = solve_add(&dead_output, BYTE, BYTE, BYTE).unwrap();
    assert!(all_equal(&dead_output, [BYTE; 3], add));
}

#[test]
fn refusals_name_the_reason() {
    let signed = Clip::signed(8);
    let truth = AddAffine::from_floats(1.0, 1.0, 0.0).unwrap();
    assert_eq!(
        solve_add(&truth, BYTE, signed, BYTE),
        Err(SolveError::NotByteCodes(signed))
    );
    let add = AddRequant {
        ma: 1,
        mb: 1,
        c: 0,
        k: 0,
    };
    assert_eq!(
        prove_add(&truth, BYTE, signed, BYTE, add),
        Err(AddCounterexample::NotByteCodes(signed))
    );
    let steep = AddAffine::from_floats(1e18, 1.0, 0.0).unwrap();
    let first_is_zero = Clip { lo: 0, hi: 1 };
    let refused = solve_add(&steep, first_is_zero, BYTE, Clip::signed(31));
    assert!(
        matches!(refused, Err(SolveError::MultiplierTooWide { .. })),
        "{refused:?}"
    );
}
