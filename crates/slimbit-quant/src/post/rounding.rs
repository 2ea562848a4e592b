//! Rounding the weights of output channels to integers.
//!
//! Near a trained network the loss is, to second order, the sum over layers of the squared change of
//! their outputs (Nagel et al., *Up or Down? Adaptive Rounding for Post-Training Quantization*, 2020,
//! eq. 20). For one channel with weights `w` and integers `q` of step `s` that is
//! `(w − s·q)ᵀ·H·(w − s·q)` with the inputs' second moments `H`: a closest-vector problem. It is
//! solved from one end by nearest planes, which is what OPTQ does (Frantar et al., 2023), and
//! improved by cyclic coordinate descent (QuantEase, Behdin et al., 2023).
//!
//! Here `H` is there as a matrix. [`samples`](super::samples) does the same without one.

use super::gram::{Factor, Gram, axpy};

/// Passes of coordinate descent at most; it stops when nothing changes any more.
pub(crate) const SWEEPS: usize = 12;

/// The real values `step · (index + offset)` that a weight can take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lattice {
    pub(crate) step: f64,
    /// 0, or one half where the codes are odd.
    pub(crate) offset: f64,
}

impl Lattice {
    pub(crate) fn value(self, index: i32) -> f64 {
        self.step * (f64::from(index) + self.offset)
    }

    /// The index within `bounds` whose value is nearest.
    pub(crate) fn nearest(self, x: f64, bounds: [i32; 2]) -> i32 {
        let index = (x / self.step - self.offset).round_ties_even();
        index.clamp(bounds[0].into(), bounds[1].into()) as i32
    }
}

/// One output channel, to be rounded.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    pub(crate) weights: Vec<f64>,
    pub(crate) lattice: Lattice,
    /// First and last index that each weight may take.
    pub(crate) bounds: Vec<[i32; 2]>,
}

impl Channel {
    /// Each weight on its own: rounding to nearest.
    pub(crate) fn nearest(&self) -> Vec<i32> {
        let pairs = self.weights.iter().zip(&self.bounds);
        pairs
            .map(|(&w, &bounds)| self.lattice.nearest(w, bounds))
            .collect()
    }

    /// What is left of weight `i` at an index.
    pub(crate) fn error(&self, i: usize, index: i32) -> f64 {
        self.weights[i] - self.lattice.value(index)
    }
}

/// What the channels of one group share, and how they are rounded with it. Several channels go
/// through it together, so that what they share is read once for all; each comes out as it would
/// alone.
pub(crate) trait Reconstruct: Sync {
    /// Moves each channel's weights to those that, on the inputs as they are after quantisation
    /// upstream, come nearest to the outputs that they give on the inputs of the float network:
    /// `w + (H + λ)⁻¹·Cᵀ·w`.
    fn compensate(&self, weights: &mut [Vec<f64>]);

    /// Indices within the bounds with a small output error.
    fn round(&self, channels: &[Channel]) -> Vec<Vec<i32>>;
}

/// Weights from the least to the most important; the most important is rounded first, while all
/// others can still make up for its error.
pub(crate) fn order(importance: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..importance.len()).collect();
    order.sort_by(|&a, &b| importance[a].total_cmp(&importance[b]));
    order
}

/// The moments of one group's inputs, factored.
pub(crate) struct Reconstruction<'a> {
    gram: &'a Gram,
    order: Vec<usize>,
    /// Of the moments in that order.
    factor: Factor,
}

impl<'a> Reconstruction<'a> {
    /// Nothing where the moments are not positive definite.
    pub(crate) fn new(gram: &'a Gram) -> Option<Self> {
        let order = order(&gram.diagonal().collect::<Vec<f64>>());
        let factor = Factor::new(gram.permuted(&order), gram.size)?;
        Some(Self {
            gram,
            order,
            factor,
        })
    }

    fn nearest_plane(&self, channels: &[Channel]) -> Vec<Vec<i32>> {
        let size = self.gram.size;
        let mut indices = vec![vec![0; size]; channels.len()];
        let mut residuals = vec![vec![0.0; size]; channels.len()];
        for place in (0..size).rev() {
            let at = self.order[place];
            let row = self.factor.row(place);
            let all = channels.iter().zip(&mut indices).zip(&mut residuals);
            for ((channel, indices), residual) in all {
                let centre = channel.weights[at] + residual[place] / row[place];
                indices[at] = channel.lattice.nearest(centre, channel.bounds[at]);
                let error = channel.error(at, indices[at]);
                axpy(&mut residual[..place], error, &row[..place]);
            }
        }
        indices
    }

    /// Moves one integer at a time to where the error is least, given all others.
    fn descend(&self, channels: &[Channel], indices: &mut [Vec<i32>]) {
        let size = self.gram.size;
        let rows = |i: usize| &self.gram.moments[i * size..(i + 1) * size];
        let mut gradients = vec![vec![0.0; size]; channels.len()];
        for i in 0..size {
            let all = channels.iter().zip(&*indices).zip(&mut gradients);
            for ((channel, indices), gradient) in all {
                axpy(gradient, channel.error(i, indices[i]), rows(i));
            }
        }
        let mut moving = vec![true; channels.len()];
        for _ in 0..SWEEPS {
            let last = moving;
            moving = vec![false; channels.len()];
            for i in 0..size {
                for (c, channel) in channels.iter().enumerate().filter(|(c, _)| last[*c]) {
                    let (index, gradient) = (&mut indices[c][i], &mut gradients[c]);
                    let value = channel.lattice.value(*index);
                    let best = value + gradient[i] / rows(i)[i];
                    let best = channel.lattice.nearest(best, channel.bounds[i]);
                    if best != *index {
                        axpy(gradient, value - channel.lattice.value(best), rows(i));
                        *index = best;
                        moving[c] = true;
                    }
                }
            }
            if !moving.contains(&true) {
                break;
            }
        }
    }
}

impl Reconstruct for Reconstruction<'_> {
    fn compensate(&self, weights: &mut [Vec<f64>]) {
        let size = self.gram.size;
        let mut wanted = vec![vec![0.0; size]; weights.len()];
        for (i, row) in self.gram.drift.chunks_exact(size).enumerate() {
            for (wanted, weights) in wanted.iter_mut().zip(&*weights) {
                axpy(wanted, weights[i], row);
            }
        }
        let ordered = |wanted: Vec<f64>| self.order.iter().map(|&i| wanted[i]).collect();
        let mut changes: Vec<Vec<f64>> = wanted.into_iter().map(ordered).collect();
        self.factor.solve(&mut changes);
        for (weights, changes) in weights.iter_mut().zip(changes) {
            for (&i, change) in self.order.iter().zip(changes) {
                weights[i] += change;
            }
        }
    }

    fn round(&self, channels: &[Channel]) -> Vec<Vec<i32>> {
        let mut indices = self.nearest_plane(channels);
        self.descend(channels, &mut indices);
        indices
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::gram::tests::gram;
    use super::*;

    pub(crate) const LATTICE: Lattice = Lattice {
        step: 0.25,
        offset: 0.0,
    };

    /// A channel of many different weights.
    pub(crate) fn channel(size: usize, lattice: Lattice, bounds: [i32; 2]) -> Channel {
        Channel {
            weights: (0..size).map(|i| (i as f64 * 1.7).sin() * 1.4).collect(),
            lattice,
            bounds: vec![bounds; size],
        }
    }

    pub(crate) fn errors(channel: &Channel, indices: &[i32]) -> Vec<f64> {
        let indices = indices.iter().enumerate();
        indices.map(|(i, &index)| channel.error(i, index)).collect()
    }

    #[test]
    fn reconstruction_beats_rounding_to_nearest() {
        for (size, offset) in [(9, 0.0), (36, 0.5), (144, 0.0)] {
            let channel = channel(size, Lattice { offset, ..LATTICE }, [-8, 7]);
            let gram = gram(size, 4 * size, 5);
            let cost = |indices: &[i32]| gram.cost(&errors(&channel, indices));
            let plain = cost(&channel.nearest());
            let reconstruction = Reconstruction::new(&gram).unwrap();
            let channels = [channel.clone()];
            let planes = cost(&reconstruction.nearest_plane(&channels)[0]);
            let descended = cost(&reconstruction.round(&channels)[0]);
            assert!(planes < 0.8 * plain, "{size}: {planes} {plain}");
            assert!(descended <= planes, "{size}: {descended} {planes}");
        }
    }

    #[test]
    fn no_single_integer_can_be_improved() {
        let gram = gram(24, 60, 8);
        let channel = channel(24, LATTICE, [-5, 4]);
        let found = Reconstruction::new(&gram).unwrap();
        let found = found.round(std::slice::from_ref(&channel)).remove(0);
        let least = gram.cost(&errors(&channel, &found));
        for i in 0..24 {
            for step in [-1, 1] {
                let mut other = found.clone();
                other[i] += step;
                let inside = (-5..=4).contains(&other[i]);
                let cost = gram.cost(&errors(&channel, &other));
                assert!(!inside || cost >= least - 1e-12, "{i}");
            }
        }
    }

    #[test]
    fn bounds_hold() {
        let gram = gram(16, 40, 2);
        let mut channel = channel(16, LATTICE, [0, 0]);
        channel.bounds = (0..16).map(|i| [i - 8, i - 7]).collect();
        let reconstruction = Reconstruction::new(&gram).unwrap();
        let found = reconstruction.round(std::slice::from_ref(&channel));
        for indices in [channel.nearest(), found[0].clone()] {
            let inside = indices
                .iter()
                .zip(&channel.bounds)
                .all(|(i, b)| (b[0]..=b[1]).contains(i));
            assert!(inside, "{indices:?}");
        }
    }

    /// Channels that go together come out as each does alone, to the bit.
    #[test]
    fn channels_do_not_see_one_another() {
        let mut gram = gram(30, 70, 6);
        gram.drift = gram.moments.iter().map(|m| m * 0.03).collect();
        let reconstruction = Reconstruction::new(&gram).unwrap();
        let mut together: Vec<Vec<f64>> = (0..5)
            .map(|c| (0..30).map(|i| ((c * 31 + i) as f64).sin()).collect())
            .collect();
        let alone = together.clone();
        reconstruction.compensate(&mut together);
        let channel = |weights: &Vec<f64>| Channel {
            weights: weights.clone(),
            lattice: LATTICE,
            bounds: vec![[-4, 3]; 30],
        };
        let channels: Vec<Channel> = together.iter().map(channel).collect();
        let rounded = reconstruction.round(&channels);
        for ((weights, channel), rounded) in alone.into_iter().zip(&channels).zip(rounded) {
            let mut weights = [weights];
            reconstruction.compensate(&mut weights);
            assert_eq!(weights[0], channel.weights);
            assert_eq!(
                reconstruction.round(std::slice::from_ref(channel))[0],
                rounded
            );
        }
    }

    /// Upstream, every input has shrunk to half: twice the weights give back the old outputs.
    #[test]
    fn compensation_undoes_a_drift_of_the_inputs() {
        let mut gram = gram(12, 400, 4);
        gram.drift.clone_from(&gram.moments);
        let weights = channel(12, LATTICE, [0, 0]).weights;
        let mut found = [weights.clone()];
        Reconstruction::new(&gram).unwrap().compensate(&mut found);
        for (found, w) in found[0].iter().zip(&weights) {
            assert!((found - 2.0 * w).abs() < 1e-6, "{found} for {w}");
        }
    }
}
