//! The weights of one layer while its bit-widths are decided one after the other.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use slimbit_engine::{ChannelCodes, Codes, Weights};
use slimbit_num::WeightGrid;

use super::gram::Gram;
use super::rounding::{Lattice, Reconstruction, nearest};

/// Magnitudes tried for the largest code of a channel, in hundredths of its largest weight.
const MAGNITUDES: std::ops::RangeInclusive<u32> = 40..=112;

/// A layer's integers at the bit-widths decided so far, in the order of its float weights
/// `[out, in / groups, rows, columns]`.
///
/// On the nested grids all bit-widths share one 8-bit code. Deciding the fewest bits first leaves
/// each weight the interval of 8-bit codes that begin with its decision; the next bit-width chooses
/// within that interval.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    grid: WeightGrid,
    weights: Vec<f64>,
    /// Weights per output channel.
    per_channel: usize,
    groups: usize,
    /// Per bit-width on the minmax grid, under 8 on the nested ones.
    max_abs: BTreeMap<u8, Vec<f32>>,
    /// 8-bit codes that are still possible; for the nested grids.
    possible: Vec<[i8; 2]>,
    decided: BTreeMap<u8, Vec<i8>>,
}

/// How the integers of one bit-width are decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision<'a> {
    pub(crate) bits: u8,
    /// Moments of each group's inputs, to reconstruct the outputs; each weight is rounded on its own
    /// without them.
    pub(crate) grams: Option<&'a [Gram]>,
    /// Whether to make up for what quantisation upstream does to the inputs.
    pub(crate) compensate: bool,
    /// Whether to look for the magnitude with the least squared error.
    pub(crate) clip: bool,
    /// What the magnitude of 8-bit codes is multiplied by.
    pub(crate) headroom: f32,
}

impl Layer {
    /// A layer that will be decided at `bits`; `clip` and `headroom` as in [`Decision`].
    pub(crate) fn new(
        weights: &[f32],
        channels: usize,
        groups: usize,
        grid: WeightGrid,
        bits: &BTreeSet<u8>,
        clip: bool,
        headroom: f32,
    ) -> Self {
        let weights: Vec<f64> = weights.iter().map(|&w| w.into()).collect();
        let per_channel = weights.len() / channels.max(1);
        let mut max_abs = BTreeMap::new();
        if grid != WeightGrid::MinMax {
            let rows = weights.par_chunks_exact(per_channel.max(1));
            let shared = |row: &[f64]| match clip && bits.iter().any(|&b| b < 8) {
                true => shared_magnitude(row, grid, bits),
                false => largest(row) * headroom,
            };
            max_abs.insert(8, rows.map(shared).collect());
        }
        Self {
            grid,
            possible: vec![[i8::MIN, i8::MAX]; weights.len()],
            weights,
            per_channel,
            groups,
            max_abs,
            decided: BTreeMap::new(),
        }
    }

    pub(crate) fn is_decided(&self, bits: u8) -> bool {
        self.decided.contains_key(&bits)
    }

    /// Whether an earlier decision at fewer bits keeps any weight from its nearest code.
    pub(crate) fn is_bound(&self) -> bool {
        self.grid != WeightGrid::MinMax && !self.decided.is_empty()
    }

    pub(crate) fn decide(&mut self, decision: &Decision) {
        let Decision { bits, grams, .. } = *decision;
        let shared: Option<Vec<Option<Reconstruction>>> =
            grams.map(|grams| grams.par_iter().map(Reconstruction::new).collect());
        let channels = self.weights.len() / self.per_channel.max(1);
        let per_group = channels.div_ceil(self.groups);
        let decided: Vec<(f32, Vec<i8>)> = self
            .weights
            .par_chunks_exact(self.per_channel.max(1))
            .enumerate()
            .map(|(channel, row)| {
                let group = channel / per_group;
                let reconstruction = shared.as_ref().and_then(|all| all[group].as_ref());
                let importance = grams.map(|grams| &grams[group]);
                self.decide_channel(channel, row, decision, reconstruction, importance)
            })
            .collect();
        let (max_abs, codes): (Vec<f32>, Vec<Vec<i8>>) = decided.into_iter().unzip();
        let codes = codes.concat();
        if self.grid == WeightGrid::MinMax {
            self.max_abs.insert(bits, max_abs);
        } else {
            let ends = ends(self.grid, bits);
            for (possible, code) in self.possible.iter_mut().zip(&codes) {
                let [lo, hi] = ends[&i32::from(*code)];
                *possible = [possible[0].max(lo), possible[1].min(hi)];
            }
        }
        self.decided.insert(bits, codes);
    }

    fn decide_channel(
        &self,
        channel: usize,
        row: &[f64],
        decision: &Decision,
        reconstruction: Option<&Reconstruction>,
        gram: Option<&Gram>,
    ) -> (f32, Vec<i8>) {
        let bits = decision.bits;
        let row = match reconstruction {
            Some(reconstruction) if decision.compensate => reconstruction.compensated(row),
            _ => row.to_vec(),
        };
        let max_abs = match (self.max_abs.get(&8), self.grid) {
            (Some(shared), WeightGrid::Nested | WeightGrid::NestedOdd) => shared[channel],
            _ if decision.clip && bits < 8 => {
                let importance: Vec<f64> = match gram {
                    Some(gram) => gram.diagonal().collect(),
                    None => vec![1.0; row.len()],
                };
                best_magnitude(&row, |magnitude| {
                    squared_error(&row, &importance, self.grid, magnitude, bits)
                })
            }
            _ if bits == 8 => largest(&row) * decision.headroom,
            _ => largest(&row),
        };
        let lattice = lattice(self.grid, max_abs, bits);
        let first = channel * self.per_channel;
        let bounds: Vec<[i32; 2]> = match self.grid {
            WeightGrid::MinMax => vec![[-(1 << (bits - 1)), (1 << (bits - 1)) - 1]; row.len()],
            _ => self.possible[first..first + row.len()]
                .iter()
                .map(|ends| ends.map(|code| index(self.grid, self.grid.narrow(code, bits), bits)))
                .collect(),
        };
        let indices = match (reconstruction, self.grid) {
            (Some(reconstruction), _) => reconstruction.round(&row, lattice, &bounds),
            (None, WeightGrid::MinMax) => nearest(&row, lattice, &bounds),
            (None, _) => self.narrowed(channel, &row, max_abs, bits),
        };
        let code = |index: i32| match self.grid.is_odd_at(bits) {
            true => (2 * index + 1) as i8,
            false => index as i8,
        };
        (max_abs, indices.into_iter().map(code).collect())
    }

    /// The upper parts of the nearest 8-bit codes. To round to the wider steps directly would leave
    /// some 8-bit codes short of theirs, and all of those on the same side.
    fn narrowed(&self, channel: usize, row: &[f64], max_abs: f32, bits: u8) -> Vec<i32> {
        let lattice = lattice(self.grid, max_abs, 8);
        let possible = &self.possible[channel * self.per_channel..][..row.len()];
        let bounds: Vec<[i32; 2]> = possible.iter().map(|ends| ends.map(i32::from)).collect();
        let codes = nearest(row, lattice, &bounds).into_iter();
        codes
            .map(|code| index(self.grid, self.grid.narrow(code as i8, bits), bits))
            .collect()
    }

    /// The weights that the codes of a decided bit-width stand for.
    pub(crate) fn real(&self, bits: u8) -> Vec<f32> {
        let max_abs = self.max_abs.get(&bits).unwrap_or_else(|| &self.max_abs[&8]);
        let codes = self.decided[&bits].chunks_exact(self.per_channel.max(1));
        codes
            .zip(max_abs)
            .flat_map(|(codes, &max_abs)| {
                let scale = self.grid.scale(max_abs, bits);
                codes.iter().map(move |&code| f32::from(code) * scale)
            })
            .collect()
    }

    /// The layer as the engine stores it; `shape` is `[out, rows, columns, in / groups]`.
    pub(crate) fn finish(mut self, shape: [usize; 4]) -> Weights {
        let [_, rows, columns, inputs] = shape;
        let taps = rows * columns;
        let ordered = |codes: &[i8]| -> Vec<i8> {
            let mut out = Vec::with_capacity(codes.len());
            for channel in codes.chunks_exact((taps * inputs).max(1)) {
                for tap in 0..taps {
                    out.extend((0..inputs).map(|i| channel[i * taps + tap]));
                }
            }
            out
        };
        if self.grid != WeightGrid::MinMax && !self.is_decided(8) {
            self.decide(&Decision {
                bits: 8,
                grams: None,
                compensate: false,
                clip: false,
                headroom: 1.0,
            });
        }
        let stored = |bits: u8| ChannelCodes {
            max_abs: self.max_abs[&bits].clone(),
            codes: ordered(&self.decided[&bits]).into(),
        };
        let codes = match self.grid {
            WeightGrid::MinMax => Codes::MinMax(
                self.decided
                    .keys()
                    .map(|&bits| (bits, stored(bits)))
                    .collect(),
            ),
            _ => Codes::Nested(stored(8)),
        };
        Weights { shape, codes }
    }
}

/// Place of a code among those of its bit-width.
fn index(grid: WeightGrid, code: i8, bits: u8) -> i32 {
    match grid.is_odd_at(bits) {
        true => (i32::from(code) - 1) / 2,
        false => code.into(),
    }
}

fn lattice(grid: WeightGrid, max_abs: f32, bits: u8) -> Lattice {
    let scale = f64::from(grid.scale(max_abs, bits));
    match grid.is_odd_at(bits) {
        true => Lattice {
            step: 2.0 * scale,
            offset: 0.5,
        },
        false => Lattice {
            step: scale,
            offset: 0.0,
        },
    }
}

/// The first and the last 8-bit code of each code of `bits`.
fn ends(grid: WeightGrid, bits: u8) -> BTreeMap<i32, [i8; 2]> {
    let mut ends: BTreeMap<i32, [i8; 2]> = BTreeMap::new();
    for code in i8::MIN..=i8::MAX {
        let own = ends
            .entry(grid.narrow(code, bits).into())
            .or_insert([code; 2]);
        own[1] = code;
    }
    ends
}

fn largest(row: &[f64]) -> f32 {
    row.iter().fold(0.0, |max: f64, w| max.max(w.abs())) as f32
}

/// OMSE over the magnitude of the largest code, each squared error weighted by `importance`.
fn squared_error(row: &[f64], importance: &[f64], grid: WeightGrid, max_abs: f32, bits: u8) -> f64 {
    let lattice = lattice(grid, max_abs, bits);
    // The first and the last index, where odd codes end one step earlier than their lattice.
    let half = 1 << (bits - 1);
    let bounds = [-half, half - 1];
    let indices = nearest(row, lattice, &vec![bounds; row.len()]);
    let errors = row.iter().zip(indices).zip(importance);
    errors
        .map(|((w, index), importance)| {
            let error = w - lattice.step * (f64::from(index) + lattice.offset);
            error * error * importance
        })
        .sum()
}

/// One magnitude for all bit-widths: the least product of their squared errors, so that no bit-width
/// counts for more because its steps are wider.
fn shared_magnitude(row: &[f64], grid: WeightGrid, bits: &BTreeSet<u8>) -> f32 {
    let importance = vec![1.0; row.len()];
    best_magnitude(row, |magnitude| {
        let errors = bits.iter().map(|&bits| {
            squared_error(row, &importance, grid, magnitude, bits).max(f64::MIN_POSITIVE)
        });
        errors.map(f64::ln).sum()
    })
}

fn best_magnitude(row: &[f64], error: impl Fn(f32) -> f64) -> f32 {
    let largest = largest(row);
    let mut best = (f64::INFINITY, largest);
    for hundredths in MAGNITUDES {
        let magnitude = largest * hundredths as f32 / 100.0;
        let error = error(magnitude);
        if error < best.0 {
            best = (error, magnitude);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
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
            grams: None,
            compensate: false,
            clip: false,
            headroom: 1.0,
        }
    }

    fn layer(grid: WeightGrid, bits: &[u8], clip: bool) -> Layer {
        let bits = bits.iter().copied().collect();
        Layer::new(&weights(54), 3, 1, grid, &bits, clip, 1.0)
    }

    #[test]
    fn eight_bits_alone_are_the_grid_s_own_codes() {
        for grid in GRIDS {
            let mut layer = layer(grid, &[8], true);
            layer.decide(&plain(8));
            let weights = weights(54);
            for (channel, codes) in weights.chunks(18).zip(layer.decided[&8].chunks(18)) {
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
                for (channel, codes) in weights.chunks(18).zip(layer.decided[&bits].chunks(18)) {
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
        let grams = [gram(18, 80, 1)];
        for grid in GRIDS {
            for reconstruct in [false, true] {
                let mut layer = layer(grid, &[3, 4, 6, 8], true);
                let mut real = BTreeMap::new();
                for bits in [3, 4, 6, 8] {
                    layer.decide(&Decision {
                        grams: reconstruct.then_some(&grams[..]),
                        clip: true,
                        headroom: 1.0,
                        ..plain(bits)
                    });
                    real.insert(bits, layer.real(bits));
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
        let grams = [gram(18, 80, 1)];
        let cost = |real: &[f32]| -> f64 {
            let rows = weights(54);
            let rows = rows.chunks(18).zip(real.chunks(18));
            rows.map(|(w, r)| {
                let error: Vec<f64> = w.iter().zip(r).map(|(w, r)| f64::from(w - r)).collect();
                grams[0].cost(&error)
            })
            .sum()
        };
        let mut free = layer(WeightGrid::Nested, &[8], false);
        free.decide(&plain(8));
        let mut bound = layer(WeightGrid::Nested, &[4, 8], false);
        for bits in [4, 8] {
            bound.decide(&Decision {
                grams: Some(&grams),
                ..plain(bits)
            });
        }
        let (free, four, eight) = (
            cost(&free.real(8)),
            cost(&bound.real(4)),
            cost(&bound.real(8)),
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
                error(&layer.real(4))
            });
            assert!(found[1] < 0.9 * found[0], "{grid}: {found:?}");
        }
    }

    #[test]
    fn headroom_makes_8_bit_codes_smaller_and_no_others() {
        for grid in [WeightGrid::MinMax, WeightGrid::Nested] {
            let largest = |headroom: f32| {
                let mut layer = Layer::new(
                    &weights(54),
                    3,
                    1,
                    grid,
                    &BTreeSet::from([8]),
                    false,
                    headroom,
                );
                layer.decide(&Decision {
                    headroom,
                    ..plain(8)
                });
                let codes = layer.decided[&8].iter();
                codes.map(|code| code.unsigned_abs()).max().unwrap()
            };
            assert_eq!(largest(1.0), 128, "{grid}");
            assert_eq!(largest(1.4), 91, "{grid}");
        }
    }
}
