use burn::tensor::{Device, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use slimbit_graph::Array;

/// The queue of MoCo and SEED: the most recent targets, of unit length, as negatives (spec section 4.5, variants).
#[derive(Clone, Debug)]
pub(super) struct Queue {
    keys: Vec<f32>,
    dim: usize,
}

impl Queue {
    /// Random directions, which the first targets replace one by one.
    pub(super) fn init(length: usize, dim: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut keys: Vec<f32> = (0..length * dim)
            .map(|_| StandardNormal.sample(&mut rng))
            .collect();
        keys.chunks_exact_mut(dim).for_each(normalise);
        Self { keys, dim }
    }

    /// The keys `[length, dim]`.
    pub(super) fn tensor(&self, device: &Device) -> Tensor<2> {
        let shape = [self.keys.len() / self.dim, self.dim];
        Tensor::from_data(TensorData::new(self.keys.clone(), shape), device)
    }

    /// Puts `rows` of targets, of any length, in place of the oldest. `before` have been put in so far.
    pub(super) fn push(&mut self, rows: &[f32], before: u64) {
        let length = self.keys.len() / self.dim;
        let first = (before % length as u64) as usize;
        for (offset, row) in rows.chunks_exact(self.dim).enumerate() {
            let slot = (first + offset) % length;
            let key = &mut self.keys[slot * self.dim..][..self.dim];
            key.copy_from_slice(row);
            normalise(key);
        }
    }

    pub(super) fn to_array(&self) -> Array {
        Array {
            shape: vec![self.keys.len() / self.dim, self.dim],
            data: self.keys.clone(),
        }
    }

    pub(super) fn from_array(array: &Array) -> Self {
        Self {
            keys: array.data.clone(),
            dim: array.shape.last().copied().unwrap_or(1),
        }
    }
}

fn normalise(key: &mut [f32]) {
    let norm = key.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-8);
    key.iter_mut().for_each(|v| *v /= norm);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_keys_go_first_and_the_end_wraps() {
        let mut queue = Queue::init(3, 2, 7);
        let unit = |key: &[f32]| (key[0].hypot(key[1]) - 1.0).abs() < 1e-6;
        assert!(queue.keys.chunks(2).all(unit));
        queue.push(&[3.0, 4.0, 0.0, 2.0], 2);
        assert_eq!(queue.keys[4..], [0.6, 0.8]);
        assert_eq!(queue.keys[..2], [0.0, 1.0]);
        assert_eq!(Queue::from_array(&queue.to_array()).keys, queue.keys);
    }
}
