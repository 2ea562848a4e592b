//! Decisions at one bit-width after the other, against the definition of the grids.

use super::super::gram::tests::gram;
use super::*;

const GRIDS: [WeightGrid; 3] = [
    WeightGrid::MinMax,
    WeightGrid::Nested,
    WeightGrid::NestedOdd,
];

fn weights(count: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (i as f32 * 1.3).sin().powi(3) * 0.8)
        .collect()
}

fn plain(bits: u8) -> Decision<'static> {
    Decision {
        bits,
        inputs: None,
        compensate: false,
        clip: false,
        headroom: 1.0,
        progress: &|_| {},
    }
}

fn layer(grid: WeightGrid, bits: &[u8], clip: bool) -> Layer {
    let bits = bits.iter().copied().collect();
    let mut layer = Layer::new(rows(), 1, grid);
    layer.share(&bits, clip, 1.0);
    layer
}

fn rows() -> Rows {
    let device = burn::tensor::Device::flex();
    Rows::new(Tensor::from_floats(&weights(54)[..], &device), 3)
}

#[test]
fn eight_bits_alone_are_the_grid_s_own_codes() {
    for grid in GRIDS {
        let mut layer = layer(grid, &[8], true);
        layer.decide(&plain(8));
        let weights = weights(54);
        for (channel, codes) in weights.chunks(18).zip(layer.codes(8, 0..3).chunks(18)) {
            let mut expected = [0; 18];
            grid.quantise_channel(channel, 8, &mut expected);
            assert_eq!(codes, expected, "{grid}");
        }
    }
}

/// Without reconstruction the nested codes are those of the grid's definition at every bit-width.
#[test]
fn plain_decisions_follow_the_grid() {
    for grid in [WeightGrid::Nested, WeightGrid::NestedOdd] {
        let mut layer = layer(grid, &[3, 4, 6, 8], false);
        for bits in [3, 4, 6, 8] {
            layer.decide(&plain(bits));
            let weights = weights(54);
            for (channel, codes) in weights.chunks(18).zip(layer.codes(bits, 0..3).chunks(18)) {
                let mut expected = [0; 18];
                grid.quantise_channel(channel, bits, &mut expected);
                assert_eq!(codes, expected, "{grid} at {bits} bits");
            }
        }
    }
}

/// What a layer believes its weights to be is what the file gives back at every bit-width.
#[test]
fn the_file_holds_what_was_decided() {
    let inputs = Inputs::Moments(vec![gram(18, 80, 1)]);
    for grid in GRIDS {
        for reconstruct in [false, true] {
            let mut layer = layer(grid, &[3, 4, 6, 8], true);
            let mut real = BTreeMap::new();
            for bits in [3, 4, 6, 8] {
                layer.decide(&Decision {
                    inputs: reconstruct.then_some(&inputs),
                    clip: true,
                    headroom: 1.0,
                    ..plain(bits)
                });
                real.insert(bits, layer.real(bits, 0..3));
            }
            let shape = [3, 3, 3, 2];
            let stored = layer.finish(shape);
            for (bits, real) in real {
                let codes = stored.at(grid, bits, shape);
                for (place, &code) in codes.iter().enumerate() {
                    let (channel, tap, input) = (place / 18, place / 2 % 9, place % 2);
                    let value = f32::from(code) * stored.scale(grid, bits, channel);
                    let at = channel * 18 + input * 9 + tap;
                    assert_eq!(value, real[at], "{grid} {bits} bits");
                }
            }
        }
    }
}

#[test]
fn a_narrow_decision_costs_the_wider_ones_little() {
    let inputs = Inputs::Moments(vec![gram(18, 80, 1)]);
    let cost = |real: &[f32]| -> f64 {
        let rows = weights(54);
        let rows = rows.chunks(18).zip(real.chunks(18));
        rows.map(|(w, r)| {
            let error: Vec<f64> = w.iter().zip(r).map(|(w, r)| f64::from(w - r)).collect();
            gram(18, 80, 1).cost(&error)
        })
        .sum()
    };
    let mut free = layer(WeightGrid::Nested, &[8], false);
    free.decide(&plain(8));
    let mut bound = layer(WeightGrid::Nested, &[4, 8], false);
    for bits in [4, 8] {
        bound.decide(&Decision {
            inputs: Some(&inputs),
            ..plain(bits)
        });
    }
    let (free, four, eight) = (
        cost(&free.real(8, 0..3)),
        cost(&bound.real(4, 0..3)),
        cost(&bound.real(8, 0..3)),
    );
    assert!(eight < 0.1 * four, "{eight} of {four}");
    assert!(eight < 20.0 * free, "{eight} of {free}");
}

#[test]
fn clipping_lowers_the_squared_error() {
    let error = |real: &[f32]| -> f64 {
        let pairs = weights(54).into_iter().zip(real.to_vec());
        pairs.map(|(w, r)| f64::from(w - r).powi(2)).sum()
    };
    for grid in GRIDS {
        let found = [false, true].map(|clip| {
            let mut layer = layer(grid, &[4], clip);
            layer.decide(&Decision { clip, ..plain(4) });
            error(&layer.real(4, 0..3))
        });
        assert!(found[1] < 0.9 * found[0], "{grid}: {found:?}");
    }
}

#[test]
fn headroom_makes_8_bit_codes_smaller_and_no_others() {
    for grid in [WeightGrid::MinMax, WeightGrid::Nested] {
        let largest = |headroom: f32| {
            let mut layer = Layer::new(rows(), 1, grid);
            layer.share(&BTreeSet::from([8]), false, headroom);
            layer.decide(&Decision {
                headroom,
                ..plain(8)
            });
            let codes = layer.codes(8, 0..3).into_iter();
            codes.map(|code| code.unsigned_abs()).max().unwrap()
        };
        assert_eq!(largest(1.0), 128, "{grid}");
        assert_eq!(largest(1.4), 91, "{grid}");
    }
}
