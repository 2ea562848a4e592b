//! Second moments of a layer's inputs: what makes one rounding of its weights better than another.

use rayon::prelude::*;

/// Columns that one step of the factorisation finishes.
const PANEL: usize = 64;

/// `H = E[x̂·x̂ᵀ]` of the inputs `x̂` of one output, and `C = E[(x − x̂)·x̂ᵀ]` of what quantisation
/// upstream has changed of them; both row-major `[size, size]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gram {
    pub(crate) size: usize,
    pub(crate) moments: Vec<f64>,
    pub(crate) drift: Vec<f64>,
}

/// A lower triangular `L` with `L·Lᵀ = H + damping`, row-major.
pub(crate) struct Factor {
    size: usize,
    rows: Vec<f64>,
}

impl Gram {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            size,
            moments: vec![0.0; size * size],
            drift: vec![0.0; size * size],
        }
    }

    /// Divides by the number of inputs, and adds `damping` times the mean of the diagonal to the
    /// diagonal: directions that no calibration image has shown then count a little too.
    pub(crate) fn finish(&mut self, inputs: usize, damping: f64) {
        let share = 1.0 / inputs.max(1) as f64;
        for values in [&mut self.moments, &mut self.drift] {
            values.iter_mut().for_each(|value| *value *= share);
        }
        let trace: f64 = self.diagonal().sum();
        // A layer that has only ever seen zeros is rounded as if all inputs were alike.
        let added = match trace > 0.0 {
            true => damping * trace / self.size as f64,
            false => 1.0,
        };
        for i in 0..self.size {
            self.moments[i * self.size + i] += added;
        }
    }

    pub(crate) fn diagonal(&self) -> impl Iterator<Item = f64> + '_ {
        self.moments.iter().copied().step_by(self.size + 1)
    }

    /// `errorᵀ·H·error`: the mean squared error that weights off by `error` cause in the output.
    #[cfg(test)]
    pub(crate) fn cost(&self, error: &[f64]) -> f64 {
        let rows = self.moments.chunks_exact(self.size);
        rows.zip(error).map(|(row, e)| e * dot(row, error)).sum()
    }

    /// The moments with rows and columns in another order.
    pub(crate) fn permuted(&self, order: &[usize]) -> Vec<f64> {
        let mut out = vec![0.0; self.moments.len()];
        out.par_chunks_mut(self.size.max(1))
            .zip(order)
            .for_each(|(row, &i)| {
                let source = &self.moments[i * self.size..(i + 1) * self.size];
                for (value, &j) in row.iter_mut().zip(order) {
                    *value = source[j];
                }
            });
        out
    }
}

impl Factor {
    /// Cholesky's factorisation, a panel of columns at a time; nothing where `moments` are not
    /// positive definite.
    pub(crate) fn new(mut moments: Vec<f64>, size: usize) -> Option<Self> {
        for start in (0..size).step_by(PANEL) {
            let end = (start + PANEL).min(size);
            for i in start..end {
                for j in start..=i {
                    let (row, other) = (&moments[i * size..], &moments[j * size..]);
                    let rest = row[j] - dot(&row[..j], &other[..j]);
                    moments[i * size + j] = if i == j {
                        if rest <= 0.0 || !rest.is_finite() {
                            return None;
                        }
                        rest.sqrt()
                    } else {
                        rest / other[j]
                    };
                }
            }
            let (done, below) = moments.split_at_mut(end * size);
            let panel = &done[start * size..];
            below.par_chunks_mut(size).for_each(|row| {
                for (j, other) in (start..end).zip(panel.chunks_exact(size)) {
                    row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
                }
            });
        }
        Some(Self {
            size,
            rows: moments,
        })
    }

    /// Row `i` up to its diagonal.
    pub(crate) fn row(&self, i: usize) -> &[f64] {
        &self.rows[i * self.size..=i * self.size + i]
    }

    /// Solves `L·Lᵀ·x = b` in place for several `b`, which share every read of a row.
    pub(crate) fn solve(&self, systems: &mut [Vec<f64>]) {
        for i in 0..self.size {
            let row = self.row(i);
            for b in &mut *systems {
                b[i] = (b[i] - dot(&row[..i], &b[..i])) / row[i];
            }
        }
        for i in (0..self.size).rev() {
            let row = self.row(i);
            for b in &mut *systems {
                b[i] /= row[i];
                let value = b[i];
                axpy(&mut b[..i], -value, &row[..i]);
            }
        }
    }
}

/// Sums in eight lanes, whose number and order no CPU changes.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for (a, b) in a8.iter().zip(b8) {
        for lane in 0..8 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f64>() + rest
}

pub(crate) fn axpy(y: &mut [f64], a: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    /// Moments of correlated inputs.
    pub(crate) fn gram(size: usize, inputs: usize, seed: u64) -> Gram {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut gram = Gram::new(size);
        for _ in 0..inputs {
            let common: f64 = rng.random_range(-1.0..2.0);
            let x: Vec<f64> = (0..size)
                .map(|i| common + rng.random_range(-1.0..1.0) * (1.0 + i as f64 / size as f64))
                .collect();
            for (row, &a) in gram.moments.chunks_exact_mut(size).zip(&x) {
                axpy(row, a, &x);
            }
        }
        gram.finish(inputs, 0.01);
        gram
    }

    #[test]
    fn the_factor_solves_its_system() {
        for size in [1, 7, PANEL, 150] {
            let gram = gram(size, 2 * size, 3);
            let factor = Factor::new(gram.moments.clone(), size).unwrap();
            let wanted: Vec<f64> = (0..size).map(|i| (i as f64 * 0.7).sin()).collect();
            let rows = gram.moments.chunks_exact(size);
            let mut found = [rows.map(|row| dot(row, &wanted)).collect::<Vec<f64>>()];
            factor.solve(&mut found);
            let off = found[0].iter().zip(&wanted).map(|(a, b)| (a - b).abs());
            let off = off.fold(0.0, f64::max);
            assert!(off < 1e-8, "{size}: {off}");
        }
        assert!(Factor::new(vec![1.0, 2.0, 2.0, 1.0], 2).is_none());
    }

    #[test]
    fn permutation_moves_rows_and_columns() {
        let mut gram = Gram::new(2);
        gram.moments = vec![1.0, 2.0, 2.0, 5.0];
        assert_eq!(gram.permuted(&[1, 0]), [5.0, 2.0, 2.0, 1.0]);
    }
}
