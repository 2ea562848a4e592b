//! Reconstruction from a layer's sampled inputs themselves, for layers whose moments would be too
//! large a matrix.
//!
//! Of `n` inputs `x̂` with `K` elements each, `H = X̂ᵀ·X̂/n + λ` needs no room of `K²`: by the identity
//! `(X̂ᵀ·X̂ + λ)⁻¹·X̂ᵀ = X̂ᵀ·(X̂·X̂ᵀ + λ)⁻¹` nearest planes and coordinate descent work on the `n` outputs that
//! a channel's errors cause. The objective is that of [`rounding`](super::rounding), and so are its
//! minima; `K·n` numbers take the place of `K²`.

use rayon::prelude::*;

use super::rounding::{Channel, Reconstruct, SWEEPS, order};

/// Sampled inputs of one group: as quantisation upstream leaves them, and what it changed of them.
/// Each weight's `count` values lie together, divided by the root of `count`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    count: usize,
    seen: Vec<f32>,
    drift: Vec<f32>,
    /// `λ`.
    added: f64,
}

impl Samples {
    /// Of rows `[count, size]` of what a layer sees, and of what the float network's does.
    /// `damping` is the share of the mean second moment that is added to every weight's.
    pub(crate) fn new(seen: &[f32], float: &[f32], size: usize, damping: f64) -> Self {
        let count = seen.len() / size.max(1);
        let share = (1.0 / count.max(1) as f64).sqrt();
        let columns = |value: &(dyn Fn(usize) -> f32 + Sync)| -> Vec<f32> {
            let mut out = vec![0.0; seen.len()];
            let columns = out.par_chunks_exact_mut(count.max(1)).enumerate();
            columns.for_each(|(column, values)| {
                for (row, out) in values.iter_mut().enumerate() {
                    *out = (f64::from(value(row * size + column)) * share) as f32;
                }
            });
            out
        };
        let mut samples = Self {
            count,
            seen: columns(&|i| seen[i]),
            drift: columns(&|i| float[i] - seen[i]),
            added: 0.0,
        };
        let trace: f64 = samples.importance().iter().sum();
        // As in a Gram matrix: a layer that has only ever seen zeros is rounded to nearest.
        samples.added = match trace > 0.0 {
            true => damping * trace / size.max(1) as f64,
            false => 1.0,
        };
        samples
    }

    /// The second moment of each weight's input, `λ` included.
    pub(crate) fn importance(&self) -> Vec<f64> {
        let columns = self.seen.par_chunks_exact(self.count.max(1));
        let square = |column: &[f32]| column.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        columns.map(|column| square(column) + self.added).collect()
    }

    fn column<'a>(&self, of: &'a [f32], i: usize) -> &'a [f32] {
        &of[i * self.count..(i + 1) * self.count]
    }
}

/// What all channels share.
pub(crate) struct SampledReconstruction<'a> {
    samples: &'a Samples,
    importance: Vec<f64>,
    order: Vec<usize>,
    /// By place in the order: `(X̂·X̂ᵀ + λ)⁻¹·x̂` over the inputs up to that place, from which the best
    /// change of its weight follows.
    gains: Vec<f32>,
    /// `(X̂·X̂ᵀ + λ)⁻¹` over all inputs, row-major `[count, count]`.
    inverse: Vec<f64>,
}

impl<'a> SampledReconstruction<'a> {
    /// `importance` is that of the samples.
    pub(crate) fn new(samples: &'a Samples, importance: Vec<f64>) -> Self {
        let count = samples.count;
        let order = order(&importance);
        let mut inverse = vec![0.0; count * count];
        for value in inverse.iter_mut().step_by(count + 1) {
            *value = 1.0 / samples.added;
        }
        let mut gains = vec![0.0; order.len() * count];
        let mut product = vec![0.0; count];
        // Inputs join from the least important on, one update of rank one each.
        for (&at, gains) in order.iter().zip(gains.chunks_exact_mut(count.max(1))) {
            let column = samples.column(&samples.seen, at);
            let rows = inverse.par_chunks_exact(count).with_min_len(64);
            product
                .par_iter_mut()
                .with_min_len(64)
                .zip(rows)
                .for_each(|(product, row)| *product = dot(row, column));
            let share = 1.0 / (1.0 + dot(&product, column));
            let rows = inverse.par_chunks_exact_mut(count).with_min_len(64);
            rows.zip(&product).for_each(|(row, &own)| {
                let factor = share * own;
                for (value, other) in row.iter_mut().zip(&product) {
                    *value -= factor * other;
                }
            });
            for (gain, product) in gains.iter_mut().zip(&product) {
                *gain = (share * product) as f32;
            }
        }
        Self {
            samples,
            importance,
            order,
            gains,
            inverse,
        }
    }
}

impl Reconstruct for SampledReconstruction<'_> {
    fn compensate(&self, weights: &mut [Vec<f64>]) {
        let samples = self.samples;
        let zeros = vec![vec![0.0; samples.count]; weights.len()];
        let mut missing = zeros.clone();
        for i in 0..self.order.len() {
            let drift = samples.column(&samples.drift, i);
            for (missing, weights) in missing.iter_mut().zip(&*weights) {
                add(missing, weights[i], drift);
            }
        }
        let mut solved = zeros;
        for (i, row) in self.inverse.chunks_exact(samples.count.max(1)).enumerate() {
            for (solved, missing) in solved.iter_mut().zip(&missing) {
                solved[i] = super::gram::dot(row, missing);
            }
        }
        for i in 0..self.order.len() {
            let column = samples.column(&samples.seen, i);
            for (weights, solved) in weights.iter_mut().zip(&solved) {
                weights[i] += dot(solved, column);
            }
        }
    }

    fn round(&self, channels: &[Channel]) -> Vec<Vec<i32>> {
        let samples = self.samples;
        let size = self.order.len();
        let mut indices = vec![vec![0; size]; channels.len()];
        // What the errors so far do to each sample's output.
        let mut outputs = vec![vec![0.0; samples.count]; channels.len()];
        for (place, &at) in self.order.iter().enumerate().rev() {
            let (gains, column) = (
                samples.column(&self.gains, place),
                samples.column(&samples.seen, at),
            );
            let all = channels.iter().zip(&mut indices).zip(&mut outputs);
            for ((channel, indices), outputs) in all {
                let centre = channel.weights[at] + dot(outputs, gains);
                indices[at] = channel.lattice.nearest(centre, channel.bounds[at]);
                add(outputs, channel.error(at, indices[at]), column);
            }
        }
        let mut moving = vec![true; channels.len()];
        for _ in 0..SWEEPS {
            let last = moving;
            moving = vec![false; channels.len()];
            for i in 0..size {
                let column = samples.column(&samples.seen, i);
                for (c, channel) in channels.iter().enumerate().filter(|(c, _)| last[*c]) {
                    let index = &mut indices[c][i];
                    let gradient =
                        dot(&outputs[c], column) + samples.added * channel.error(i, *index);
                    let value = channel.lattice.value(*index);
                    let best = value + gradient / self.importance[i];
                    let best = channel.lattice.nearest(best, channel.bounds[i]);
                    if best != *index {
                        add(&mut outputs[c], value - channel.lattice.value(best), column);
                        *index = best;
                        moving[c] = true;
                    }
                }
            }
            if !moving.contains(&true) {
                break;
            }
        }
        indices
    }
}

/// Sums in eight lanes, whose number and order no CPU changes.
fn dot(a: &[f64], b: &[f32]) -> f64 {
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for (a, b) in a8.iter().zip(b8) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * f64::from(b[lane]);
        }
    }
    let rest: f64 = a_rest
        .iter()
        .zip(b_rest)
        .map(|(a, &b)| a * f64::from(b))
        .sum();
    lanes.iter().sum::<f64>() + rest
}

fn add(y: &mut [f64], a: f64, x: &[f32]) {
    y.iter_mut()
        .zip(x)
        .for_each(|(y, &x)| *y += a * f64::from(x));
}

#[cfg(test)]
mod tests {
    use super::super::gram::Gram;
    use super::super::rounding::tests::{LATTICE, channel, errors};
    use super::super::rounding::{Lattice, Reconstruction};
    use super::*;
    use rand::{Rng, SeedableRng};

    /// Correlated inputs, and the same after quantisation upstream.
    fn inputs(count: usize, size: usize) -> [Vec<f32>; 2] {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(9);
        let mut float = Vec::new();
        for _ in 0..count {
            let common: f32 = rng.random_range(-1.0..2.0);
            float
                .extend((0..size).map(|i| {
                    common + rng.random_range(-1.0..1.0) * (1.0 + i as f32 / size as f32)
                }));
        }
        let seen = float.iter().map(|x| (x * 4.0).round() / 4.0).collect();
        [seen, float]
    }

    fn gram(seen: &[f32], float: &[f32], size: usize) -> Gram {
        let mut gram = Gram::new(size);
        for (seen, float) in seen.chunks(size).zip(float.chunks(size)) {
            for i in 0..size {
                for j in 0..size {
                    let (x, drift) = (f64::from(seen[i]), f64::from(float[i] - seen[i]));
                    gram.moments[i * size + j] += x * f64::from(seen[j]);
                    gram.drift[i * size + j] += drift * f64::from(seen[j]);
                }
            }
        }
        gram.finish(seen.len() / size, 0.01);
        gram
    }

    /// Both are the same calculation, whether there are fewer inputs than weights or more.
    #[test]
    fn samples_and_moments_agree() {
        for (count, size) in [(10, 40), (33, 64), (90, 30)] {
            let [seen, float] = inputs(count, size);
            let gram = gram(&seen, &float, size);
            let samples = Samples::new(&seen, &float, size, 0.01);
            for (a, b) in samples.importance().iter().zip(gram.diagonal()) {
                assert!((a - b).abs() < 1e-5 * b, "{a} {b}");
            }
            let dense = Reconstruction::new(&gram).unwrap();
            let sampled = SampledReconstruction::new(&samples, samples.importance());
            let original = channel(size, LATTICE, [-8, 7]);
            let mut moved = [[original.weights.clone()], [original.weights.clone()]];
            dense.compensate(&mut moved[0]);
            sampled.compensate(&mut moved[1]);
            for (a, b) in moved[0][0].iter().zip(&moved[1][0]) {
                assert!((a - b).abs() < 1e-4, "{count} × {size}: {a} {b}");
            }
            let weights = moved[0][0].clone();
            for offset in [0.0, 0.5] {
                let channels = [Channel {
                    weights: weights.clone(),
                    lattice: Lattice { offset, ..LATTICE },
                    ..original.clone()
                }];
                let found = [dense.round(&channels), sampled.round(&channels)]
                    .map(|mut indices| indices.remove(0));
                assert_eq!(found[0], found[1], "{count} × {size}");
                let cost = |indices: &[i32]| gram.cost(&errors(&channels[0], indices));
                assert!(cost(&found[1]) < 0.8 * cost(&channels[0].nearest()));
            }
        }
    }

    #[test]
    fn inputs_of_zeros_round_to_nearest() {
        let zeros = vec![0.0; 60];
        let samples = Samples::new(&zeros, &zeros, 12, 0.01);
        let reconstruction = SampledReconstruction::new(&samples, samples.importance());
        let channels = [channel(12, LATTICE, [-8, 7])];
        assert_eq!(reconstruction.round(&channels)[0], channels[0].nearest());
    }
}
