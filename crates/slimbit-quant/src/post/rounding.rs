//! Rounding the weights of one output channel to integers.
//!
//! Near a trained network the loss is, to second order, the sum over layers of the squared change of
//! their outputs (Nagel et al., *Up or Down? Adaptive Rounding for Post-Training Quantization*, 2020,
//! eq. 20). For one channel with weights `w` and integers `q` of step `s` that is
//! `(w − s·q)ᵀ·H·(w − s·q)` with the inputs' second moments `H`: a closest-vector problem. It is
//! solved from one end by nearest planes, which is what OPTQ does (Frantar et al., 2023), and
//! improved by cyclic coordinate descent (QuantEase, Behdin et al., 2023).

use super::gram::{Factor, Gram, axpy};

/// Passes of coordinate descent at most; it stops when nothing changes any more.
const SWEEPS: usize = 12;

/// The real values `step · (index + offset)` that a weight can take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lattice {
    pub(crate) step: f64,
    /// 0, or one half where the codes are odd.
    pub(crate) offset: f64,
}

impl Lattice {
    fn value(self, index: i32) -> f64 {
        self.step * (f64::from(index) + self.offset)
    }

    /// The index within `bounds` whose value is nearest.
    fn nearest(self, x: f64, bounds: [i32; 2]) -> i32 {
        let index = (x / self.step - self.offset).round_ties_even();
        index.clamp(bounds[0].into(), bounds[1].into()) as i32
    }
}

/// Each weight on its own: rounding to nearest.
pub(crate) fn nearest(weights: &[f64], lattice: Lattice, bounds: &[[i32; 2]]) -> Vec<i32> {
    let pairs = weights.iter().zip(bounds);
    pairs
        .map(|(&w, &bounds)| lattice.nearest(w, bounds))
        .collect()
}

/// What the channels of one group share: their inputs' moments, factored.
pub(crate) struct Reconstruction<'a> {
    gram: &'a Gram,
    /// Weights from the least to the most important; the most important is rounded first, while all
    /// others can still make up for its error.
    order: Vec<usize>,
    /// Of the moments in that order.
    factor: Factor,
}

impl<'a> Reconstruction<'a> {
    /// Nothing where the moments are not positive definite.
    pub(crate) fn new(gram: &'a Gram) -> Option<Self> {
        let diagonal: Vec<f64> = gram.diagonal().collect();
        let mut order: Vec<usize> = (0..gram.size).collect();
        order.sort_by(|&a, &b| diagonal[a].total_cmp(&diagonal[b]));
        let factor = Factor::new(gram.permuted(&order), gram.size)?;
        Some(Self {
            gram,
            order,
            factor,
        })
    }

    /// The weights that, on the inputs as they are after quantisation upstream, come nearest to the
    /// outputs that `weights` give on the inputs of the float network: `w + (H + λ)⁻¹·Cᵀ·w`.
    pub(crate) fn compensated(&self, weights: &[f64]) -> Vec<f64> {
        let size = self.gram.size;
        let mut wanted = vec![0.0; size];
        for (row, &w) in self.gram.drift.chunks_exact(size).zip(weights) {
            axpy(&mut wanted, w, row);
        }
        let mut change: Vec<f64> = self.order.iter().map(|&i| wanted[i]).collect();
        self.factor.solve(&mut change);
        let mut out = weights.to_vec();
        for (&i, change) in self.order.iter().zip(change) {
            out[i] += change;
        }
        out
    }

    /// Integers within `bounds` with a small output error.
    pub(crate) fn round(&self, weights: &[f64], lattice: Lattice, bounds: &[[i32; 2]]) -> Vec<i32> {
        let mut indices = self.nearest_plane(weights, lattice, bounds);
        self.descend(weights, lattice, bounds, &mut indices);
        indices
    }

    fn nearest_plane(&self, weights: &[f64], lattice: Lattice, bounds: &[[i32; 2]]) -> Vec<i32> {
        let mut indices = vec![0; weights.len()];
        let mut residual = vec![0.0; weights.len()];
        for place in (0..weights.len()).rev() {
            let at = self.order[place];
            let row = self.factor.row(place);
            let centre = weights[at] + residual[place] / row[place];
            indices[at] = lattice.nearest(centre, bounds[at]);
            let error = weights[at] - lattice.value(indices[at]);
            axpy(&mut residual[..place], error, &row[..place]);
        }
        indices
    }

    /// Moves one integer at a time to where the error is least, given all others.
    fn descend(&self, weights: &[f64], lattice: Lattice, bounds: &[[i32; 2]], indices: &mut [i32]) {
        let size = self.gram.size;
        let rows = |i: usize| &self.gram.moments[i * size..(i + 1) * size];
        let mut gradient = vec![0.0; size];
        for i in 0..size {
            axpy(
                &mut gradient,
                weights[i] - lattice.value(indices[i]),
                rows(i),
            );
        }
        for _ in 0..SWEEPS {
            let mut moved = false;
            for i in 0..size {
                let value = lattice.value(indices[i]);
                let best = lattice.nearest(value + gradient[i] / rows(i)[i], bounds[i]);
                if best != indices[i] {
                    axpy(&mut gradient, value - lattice.value(best), rows(i));
                    indices[i] = best;
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gram::tests::gram;
    use super::*;

    const LATTICE: Lattice = Lattice {
        step: 0.25,
        offset: 0.0,
    };

    fn weights(size: usize) -> Vec<f64> {
        (0..size).map(|i| (i as f64 * 1.7).sin() * 1.4).collect()
    }

    fn error(weights: &[f64], lattice: Lattice, indices: &[i32]) -> Vec<f64> {
        let pairs = weights.iter().zip(indices);
        pairs.map(|(w, &i)| w - lattice.value(i)).collect()
    }

    #[test]
    fn reconstruction_beats_rounding_to_nearest() {
        for (size, offset) in [(9, 0.0), (36, 0.5), (144, 0.0)] {
            let lattice = Lattice { offset, ..LATTICE };
            let gram = gram(size, 4 * size, 5);
            let (weights, bounds) = (weights(size), vec![[-8, 7]; size]);
            let cost = |indices: &[i32]| gram.cost(&error(&weights, lattice, indices));
            let plain = cost(&nearest(&weights, lattice, &bounds));
            let reconstruction = Reconstruction::new(&gram).unwrap();
            let planes = cost(&reconstruction.nearest_plane(&weights, lattice, &bounds));
            let descended = cost(&reconstruction.round(&weights, lattice, &bounds));
            assert!(planes < 0.8 * plain, "{size}: {planes} {plain}");
            assert!(descended <= planes, "{size}: {descended} {planes}");
        }
    }

    #[test]
    fn no_single_integer_can_be_improved() {
        let gram = gram(24, 60, 8);
        let (weights, bounds) = (weights(24), vec![[-5, 4]; 24]);
        let found = Reconstruction::new(&gram)
            .unwrap()
            .round(&weights, LATTICE, &bounds);
        let least = gram.cost(&error(&weights, LATTICE, &found));
        for i in 0..24 {
            for step in [-1, 1] {
                let mut other = found.clone();
                other[i] += step;
                let inside = (-5..=4).contains(&other[i]);
                let cost = gram.cost(&error(&weights, LATTICE, &other));
                assert!(!inside || cost >= least - 1e-12, "{i}");
            }
        }
    }

    #[test]
    fn bounds_hold() {
        let gram = gram(16, 40, 2);
        let bounds: Vec<[i32; 2]> = (0..16).map(|i| [i - 8, i - 7]).collect();
        let weights = weights(16);
        let reconstruction = Reconstruction::new(&gram).unwrap();
        for indices in [
            nearest(&weights, LATTICE, &bounds),
            reconstruction.round(&weights, LATTICE, &bounds),
        ] {
            let inside = indices
                .iter()
                .zip(&bounds)
                .all(|(i, b)| (b[0]..=b[1]).contains(i));
            assert!(inside, "{indices:?}");
        }
    }

    /// Upstream, every input has shrunk to half: twice the weights give back the old outputs.
    #[test]
    fn compensation_undoes_a_drift_of_the_inputs() {
        let mut gram = gram(12, 400, 4);
        gram.drift.clone_from(&gram.moments);
        let weights = weights(12);
        let found = Reconstruction::new(&gram).unwrap().compensated(&weights);
        for (found, w) in found.iter().zip(&weights) {
            assert!((found - 2.0 * w).abs() < 1e-6, "{found} for {w}");
        }
    }
}
