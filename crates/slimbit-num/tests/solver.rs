//! The solver and the proof against brute force over whole intervals (specification B9, checks 3 to 6).

use proptest::prelude::*;
use slimbit_num::{
    Affine, Clip, Interval, Limits, Rational, Requant, Rounding, Solution, SolveError, prove,
    prove_with, solve, solve_with,
};

/// The exact function, tabulated from its definition with rationals alone.
fn tabulate(affine: &Affine, domain: Interval, clip: Clip, rounding: Rounding) -> Vec<(i64, i64)> {
    let half = Rational::new(1, 2).unwrap();
    let code = |x: i64| {
        let value = &(&affine.a * &Rational::from(x)) + &affine.b;
        let floor = value.floor();
        let rest = &value - &Rational::new(floor, 1).unwrap();
        let up = match rounding {
            Rounding::Floor => false,
            Rounding::HalfUp => rest >= half,
            Rounding::HalfEven => rest > half || (rest == half && floor % 2 != 0),
        };
        i64::from(clip.apply(floor as i64 + i64::from(up)))
    };
    (domain.lo..=domain.hi).map(|x| (x, code(x))).collect()
}

/// All constants that are exact for `m` and `k`, from every accumulator value.
fn constants(table: &[(i64, i64)], clip: Clip, m: i64, k: u8) -> Option<(i64, i64)> {
    let (mut c_min, mut c_max) = (i64::MIN, i64::MAX);
    for &(x, code) in table {
        if code > i64::from(clip.lo) {
            c_min = c_min.max((code << k) - m * x);
        }
        if code < i64::from(clip.hi) {
            c_max = c_max.min(((code + 1) << k) - 1 - m * x);
        }
        if c_min > c_max {
            return None;
        }
    }
    Some((c_min, c_max))
}

/// The least `k`, then the least `|m|`, with its constants, by trying everything up to the bound of Theorem 3.
fn exhaustive(table: &[(i64, i64)], clip: Clip) -> Option<(u8, i64, (i64, i64))> {
    let width = table.len() as u32;
    let levels = i64::from(clip.hi) - i64::from(clip.lo) + 1;
    for k in 0..=2 * (u32::BITS - width.leading_zeros()) as u8 {
        for magnitude in 0..=(levels << k) {
            for m in [magnitude, -magnitude] {
                if let Some(c) = constants(table, clip, m, k) {
                    return Some((k, m, c));
                }
            }
        }
    }
    None
}

fn matches(table: &[(i64, i64)], clip: Clip, requant: Requant) -> bool {
    table
        .iter()
        .all(|&(x, code)| i64::from(requant.apply(x as i32, clip)) == code)
}

prop_compose! {
    fn small_affine()(num in -30i128..30, den in 1i128..24, b in -50i128..50, b_den in 1i128..8) -> Affine {
        Affine { a: Rational::new(num, den).unwrap(), b: Rational::new(b, b_den).unwrap() }
    }
}

prop_compose! {
    fn small_ranges()(lo in -30i64..20, len in 0i64..24, q_lo in -6i32..4, q_len in 0i32..9) -> (Interval, Clip) {
        (Interval { lo, hi: lo + len }, Clip { lo: q_lo, hi: q_lo + q_len })
    }
}

fn any_rounding() -> impl Strategy<Value = Rounding> {
    prop_oneof![
        Just(Rounding::HalfUp),
        Just(Rounding::Floor),
        Just(Rounding::HalfEven)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn the_solution_is_the_least_of_all(
        affine in small_affine(), (domain, clip) in small_ranges(), rounding in any_rounding(),
    ) {
        let table = tabulate(&affine, domain, clip, rounding);
        let found = solve_with(&affine, domain, clip, rounding, Limits::default());
        let constant = table.iter().all(|&(_, code)| code == table[0].1);
        match (found, exhaustive(&table, clip)) {
            (Err(error), None) => prop_assert_eq!(error, SolveError::NoLine),
            (Ok(Solution { requant, .. }), Some(_)) if constant => {
                prop_assert_eq!(requant, Requant { m: 0, c: table[0].1, k: 0 });
            }
            (Ok(solution), Some((k, m, c))) => {
                let Solution { requant, c_min, c_max, .. } = solution;
                prop_assert_eq!((requant.k, i64::from(requant.m), (c_min, c_max)), (k, m, c));
                for c in [c_min - 1, c_max + 1] {
                    let outside = Requant { c, ..requant };
                    prop_assert!(!matches(&table, clip, outside));
                }
            }
            (found, expected) => prop_assert!(false, "{found:?}, but exhaustive search: {expected:?}"),
        }
    }

    #[test]
    fn the_proof_agrees_with_enumeration(
        affine in small_affine(), (domain, clip) in small_ranges(), rounding in any_rounding(),
        dm in -1i32..=1, dc in -3i64..=3, dk in 0u8..=1,
    ) {
        let table = tabulate(&affine, domain, clip, rounding);
        let Ok(Solution { requant, .. }) = solve_with(&affine, domain, clip, rounding, Limits::default()) else {
            return Ok(());
        };
        prop_assert_eq!(prove_with(&affine, domain, clip, requant, rounding), Ok(()));
        let near = Requant { m: requant.m + dm, c: requant.c + dc, k: requant.k + dk };
        let verdict = prove_with(&affine, domain, clip, near, rounding);
        prop_assert_eq!(verdict.is_ok(), matches(&table, clip, near));
    }

    #[test]
    fn a_shared_shift_stays_exact(affine in small_affine(), (domain, clip) in small_ranges(), more in 0u8..20) {
        let solution = solve(&affine, domain, clip).unwrap();
        let shared = solution.requant.with_shift(solution.requant.k + more).unwrap();
        prop_assert_eq!(prove(&affine, domain, clip, shared), Ok(()));
    }

    #[test]
    fn the_bounds_of_theorem_3_hold(affine in small_affine(), (domain, clip) in small_ranges()) {
        let solution = solve(&affine, domain, clip).unwrap();
        if let (Some(lo), Some(hi)) = (solution.slope_lo, solution.slope_hi) {
            prop_assert!(u32::from(solution.requant.k) <= (lo.den * hi.den).ilog2() + 1);
            let slope = |s: slimbit_num::Slope| Rational::new(s.num.into(), s.den.into()).unwrap();
            prop_assert!(slope(lo) < affine.a && affine.a < slope(hi));
        }
    }
}

/// Folded batch-norms as they occur: a float slope whose codes span the accumulator's range.
fn batch_norm(bits: u32) -> impl Strategy<Value = (Affine, Interval, f32)> {
    let half = (1i64 << bits) / 2;
    (0.2f32..6.0, any::<bool>(), -300f32..600.0, -0.3f64..0.3).prop_map(
        move |(gain, negative, b, shift)| {
            let a = gain * 255.0 / half as f32 * if negative { -1.0 } else { 1.0 };
            let offset = (shift * half as f64) as i64;
            let domain = Interval {
                lo: offset - half,
                hi: offset + half - 1,
            };
            (Affine::from_floats(a, b.into()).unwrap(), domain, a)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn float_batch_norms_are_exact_on_every_accumulator(
        (affine, domain, a) in (6u32..=16).prop_flat_map(batch_norm), bits in 1u8..=8,
    ) {
        let clip = Clip::unsigned(bits);
        let solution = solve(&affine, domain, clip).unwrap();
        for (x, code) in tabulate(&affine, domain, clip, Rounding::HalfUp) {
            prop_assert_eq!(i64::from(solution.requant.apply(x as i32, clip)), code);
        }
        prop_assert!(solution.multiplier_bits() <= 24, "a f32 slope is itself admissible");
        let fraction_bits = 150 - (a.to_bits() >> 23 & 0xff);
        prop_assert!(u32::from(solution.requant.k) <= fraction_bits);
    }

    #[test]
    fn wide_accumulators_solve_and_prove((affine, domain, _) in (17u32..=31).prop_flat_map(batch_norm), bits in 1u8..=8) {
        let clip = Clip::unsigned(bits);
        let solution = solve(&affine, domain, clip).unwrap();
        prop_assert_eq!(prove(&affine, domain, clip, solution.requant), Ok(()));
        prop_assert!(solution.multiplier_bits() <= 24);
        if solution.requant.m != 0 {
            for c in [solution.c_min - 1, solution.c_max + 1] {
                let outside = Requant { c, ..solution.requant };
                prop_assert!(prove(&affine, domain, clip, outside).is_err());
            }
            if let Some(limit) = solution.requant.k.checked_sub(1) {
                let limits = Limits { max_shift: limit, ..Limits::default() };
                let refused = solve_with(&affine, domain, clip, Rounding::HalfUp, limits);
                prop_assert_eq!(refused, Err(SolveError::ShiftTooLarge { limit }));
            }
        }
    }

    #[test]
    fn any_pair_of_floats_is_solved_or_refused(a: f32, b: f64, lo: i32, hi: i32, bits in 1u8..=8) {
        let domain = Interval { lo: lo.min(hi).into(), hi: lo.max(hi).into() };
        let clip = Clip::unsigned(bits);
        match Affine::from_floats(a, b) {
            Ok(affine) => {
                let solution = solve(&affine, domain, clip);
                if let Ok(solution) = solution {
                    prop_assert_eq!(prove(&affine, domain, clip, solution.requant), Ok(()));
                    for x in [domain.lo, domain.hi] {
                        prop_assert_eq!(solution.requant.apply(x as i32, clip), affine.eval(x, clip));
                    }
                }
            }
            Err(error) => {
                prop_assert!(!a.is_finite() || !b.is_finite());
                let named = matches!(error, SolveError::NotFinite { .. });
                prop_assert!(named);
            }
        }
    }
}

#[test]
fn sixteen_bit_codes_on_a_full_accumulator() {
    let affine = Affine::from_floats(1.6e-5, 21.3).unwrap();
    let clip = Clip::signed(16);
    let solution = solve(&affine, Interval::I32, clip).unwrap();
    assert_eq!(
        prove(&affine, Interval::I32, clip, solution.requant),
        Ok(())
    );
    assert!(solution.multiplier_bits() <= 24);
    let above = Requant {
        c: solution.c_max + 1,
        ..solution.requant
    };
    assert!(prove(&affine, Interval::I32, clip, above).is_err());
}

#[test]
fn tiny_and_huge_slopes() {
    let clip = Clip::unsigned(8);
    let tiny = Affine::from_floats(f32::from_bits(1), 7.5).unwrap();
    let solution = solve(&tiny, Interval::I32, clip).unwrap();
    let codes = [i32::MIN, -1, 0, i32::MAX].map(|x| solution.requant.apply(x, clip));
    assert_eq!(codes, [7, 7, 8, 8], "the tie at zero is the only step");

    let huge = Affine::from_floats(-f32::MAX, 100.0).unwrap();
    let solution = solve(&huge, Interval::I32, clip).unwrap();
    let codes = [i32::MIN, -1, 0, 1, i32::MAX].map(|x| solution.requant.apply(x, clip));
    assert_eq!(codes, [255, 255, 100, 0, 0]);
}
