//! Golden values of the SSQL quantisers (specification of US3L and SSQL, 8.1 to 8.3) and identities of the nested grids.

use proptest::prelude::*;
use slimbit_num::{ActQuant, WeightGrid};

const CHANNELS: [[f32; 4]; 3] = [
    [0.30, -0.70, 0.11, 0.52],
    [1.00, -0.25, 0.40, -0.90],
    [-1.2, 0.6, 0.05, -0.33],
];

#[test]
fn weight_codes_and_scales() {
    let golden: [(u8, [f32; 3], [[i8; 4]; 3]); 4] = [
        (
            2,
            [0.466667, 0.666667, 0.8],
            [[1, -2, 0, 1], [1, 0, 1, -1], [-2, 1, 0, 0]],
        ),
        (
            3,
            [0.2, 0.285714, 0.342857],
            [[2, -4, 1, 3], [3, -1, 1, -3], [-4, 2, 0, -1]],
        ),
        (
            4,
            [0.093333, 0.133333, 0.16],
            [[3, -8, 1, 6], [7, -2, 3, -7], [-8, 4, 0, -2]],
        ),
        (
            8,
            [0.00549, 0.007843, 0.009412],
            [[55, -128, 20, 95], [127, -32, 51, -115], [-128, 64, 5, -35]],
        ),
    ];
    for (bits, scales, codes) in golden {
        for channel in 0..3 {
            let mut out = [0; 4];
            let scale = WeightGrid::MinMax.quantise_channel(&CHANNELS[channel], bits, &mut out);
            assert_eq!(out, codes[channel], "channel {channel} at {bits} bits");
            assert!((scale - scales[channel]).abs() < 1e-6);
        }
    }
}

#[test]
fn activation_codes_scales_and_zero_points() {
    let x = [0.0, 0.13, 0.5, 0.77, 1.0, 1.4, -0.2];
    let golden: [(f32, u8, f32, u8, [u8; 7]); 6] = [
        (0.0, 2, 0.333333, 0, [0, 0, 2, 2, 3, 3, 0]),
        (0.0, 4, 0.066667, 0, [0, 2, 7, 12, 15, 15, 0]),
        (0.0, 8, 0.003922, 0, [0, 33, 127, 196, 255, 255, 0]),
        (-0.2, 2, 0.4, 0, [0, 0, 1, 2, 2, 3, 0]),
        (-0.2, 4, 0.08, 2, [2, 4, 8, 12, 14, 15, 0]),
        (-0.2, 8, 0.004706, 42, [42, 70, 148, 206, 254, 255, 0]),
    ];
    for (min, bits, scale, zero_point, codes) in golden {
        let quant = ActQuant::from_range(min, 1.0, bits);
        assert!((quant.scale - scale).abs() < 1e-6);
        assert_eq!(quant.zero_point, zero_point);
        assert_eq!(
            x.map(|x| quant.quantise(x)),
            codes,
            "[{min}, 1] at {bits} bits"
        );
    }
}

/// The largest weight of a channel sits on a rounding tie; which way `f32` breaks it is part of the definition.
#[test]
fn maximum_elements_round_outward_as_often_as_specified() {
    let published = [
        (2, 1.0),
        (3, 0.915),
        (4, 0.898),
        (5, 0.894),
        (6, 0.889),
        (7, 0.900),
        (8, 0.889),
    ];
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        0.01 + (state >> 40) as f32 / (1 << 24) as f32
    };
    let maxima: Vec<f32> = (0..4096).map(|_| next()).collect();
    for (bits, share) in published {
        let outward =
            |max: &&f32| WeightGrid::MinMax.code(-**max, **max, bits) == -1i8 << (bits - 1);
        let counted = maxima.iter().filter(outward).count() as f64 / 4096.0;
        assert!(
            (counted - share).abs() < 0.04,
            "{counted} at {bits} bits, published {share}"
        );
    }
}

#[test]
fn nested_codes_are_the_rounded_upper_part() {
    for code8 in i8::MIN..=i8::MAX {
        for bits in 2..8 {
            let step = f64::from(1u32 << (8 - bits));
            let top = 2f64.powi(i32::from(bits) - 1);
            let expected = (f64::from(code8) / step + 0.5)
                .floor()
                .clamp(-top, top - 1.0);
            let nested = WeightGrid::Nested.narrow(code8, bits);
            assert_eq!(f64::from(nested), expected, "{code8} at {bits} bits");
            let odd = WeightGrid::NestedOdd.narrow(code8, bits);
            if bits <= 3 {
                assert_eq!(
                    f64::from(odd),
                    2.0 * (f64::from(code8) / step).floor() + 1.0
                );
                assert!((f64::from(odd) * step / 2.0 - f64::from(code8)).abs() <= step / 2.0);
            } else {
                assert_eq!(odd, nested);
            }
        }
        for grid in [
            WeightGrid::MinMax,
            WeightGrid::Nested,
            WeightGrid::NestedOdd,
        ] {
            assert_eq!(grid.narrow(code8, 8), code8);
        }
    }
}

#[test]
fn an_all_zero_channel_has_a_scale_and_no_weight() {
    for grid in [
        WeightGrid::MinMax,
        WeightGrid::Nested,
        WeightGrid::NestedOdd,
    ] {
        for bits in 2..=8 {
            let mut codes = [7; 3];
            let scale = grid.quantise_channel(&[0.0, -0.0, 0.0], bits, &mut codes);
            assert!(scale > 0.0);
            assert_eq!(codes, if grid.is_odd_at(bits) { [1; 3] } else { [0; 3] });
            assert!(f32::from(codes[0]) * scale <= 3.2e-11);
        }
    }
    let mut none = [];
    assert!(WeightGrid::Nested.quantise_channel(&[], 4, &mut none) > 0.0);
    let mut codes = [0; 2];
    WeightGrid::Nested.quantise_channel(&[f32::NAN, 1.0], 8, &mut codes);
    assert_eq!(codes, [0, 127]);
}

#[test]
fn names_round_trip() {
    for grid in [
        WeightGrid::MinMax,
        WeightGrid::Nested,
        WeightGrid::NestedOdd,
    ] {
        assert_eq!(grid.to_string().parse(), Ok(grid));
    }
    assert!("Nested".parse::<WeightGrid>().is_err());
}

proptest! {
    #[test]
    fn narrowing_the_stored_code_equals_quantising_directly(w in -2f32..2.0, max in 0.01f32..2.0, bits in 2u8..=8) {
        let w = w.clamp(-max, max);
        for grid in [WeightGrid::Nested, WeightGrid::NestedOdd] {
            let code8 = grid.code(w, max, 8);
            prop_assert_eq!(code8, WeightGrid::MinMax.code(w, max, 8));
            prop_assert_eq!(grid.narrow(code8, bits), grid.code(w, max, bits));
        }
    }

    #[test]
    fn every_grid_stays_within_a_step_of_the_weight(w in -2f32..2.0, max in 0.01f32..2.0, bits in 2u8..=8) {
        let w = w.clamp(-max, max);
        for grid in [WeightGrid::MinMax, WeightGrid::Nested, WeightGrid::NestedOdd] {
            let error = f32::from(grid.code(w, max, bits)) * grid.scale(max, bits) - w;
            // Half a step of the grid and half an 8-bit step; at the positive end the missing code costs one step more.
            let step = grid.scale(max, bits) * if grid.is_odd_at(bits) { 2.0 } else { 1.0 };
            prop_assert!(error.abs() <= step / 2.0 + grid.scale(max, 8) * 0.51 || w > 0.0 && error.abs() <= step);
        }
    }
}
