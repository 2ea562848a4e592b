use std::cmp::Ordering;

use pulp::Arch;
use rayon::prelude::*;

use super::matrix::dot_products;
use super::{Features, ProbeReport};
use crate::TrainError;

/// The weighted nearest-neighbour classifier that is usual for unsupervised features: cosine similarity `s` to the
/// `k` nearest training images, each of which votes for its label with weight `exp(s / temperature)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Knn {
    /// Neighbours; all training images where there are fewer.
    pub k: usize,
    /// The smaller, the more the nearest count.
    pub temperature: f64,
}

impl Default for Knn {
    /// 200 neighbours at temperature 0.1.
    fn default() -> Self {
        Self {
            k: 200,
            temperature: 0.1,
        }
    }
}

/// Test images per unit of parallel work.
const BLOCK: usize = 32;

impl Knn {
    /// Classifies the test images by the training images. Equal votes go to the smaller label, equal similarities to
    /// the earlier image; the number of threads changes nothing.
    ///
    /// # Errors
    /// [`TrainError::Probe`] where the dimensions differ, `k` is 0, or the temperature is not positive.
    pub fn classify(&self, train: &Features, test: &Features) -> Result<ProbeReport, TrainError> {
        train.check_same_dim(test)?;
        if self.k == 0 || !(self.temperature > 0.0 && self.temperature.is_finite()) {
            let what = format!(
                "k = {}, temperature {}; both must be positive",
                self.k, self.temperature
            );
            return Err(TrainError::Probe(what));
        }
        let (dim, bank) = (train.dim(), train.normalised());
        let arch = Arch::new();
        let predictions: Vec<Vec<u32>> = test
            .normalised()
            .par_chunks(BLOCK * dim)
            .map(|queries| {
                let mut similarities = vec![0.0; queries.len() / dim * train.labels().len()];
                dot_products(arch, queries, &bank, dim, &mut similarities);
                let rows = similarities.chunks_exact(train.labels().len());
                rows.map(|row| self.vote(row, train.labels())).collect()
            })
            .collect();
        Ok(ProbeReport::new(predictions.concat(), test.labels()))
    }

    fn vote(&self, similarities: &[f32], labels: &[u32]) -> u32 {
        let nearer = |&a: &usize, &b: &usize| -> Ordering {
            similarities[b].total_cmp(&similarities[a]).then(a.cmp(&b))
        };
        let mut order: Vec<usize> = (0..similarities.len()).collect();
        if self.k < order.len() {
            order.select_nth_unstable_by(self.k - 1, nearer);
            order.truncate(self.k);
        }
        order.sort_unstable_by(nearer);
        // Relative to the nearest, so that no temperature overflows.
        let nearest = f64::from(similarities[order[0]]);
        let mut votes: Vec<(u32, f64)> = order
            .into_iter()
            .map(|i| {
                (
                    labels[i],
                    ((f64::from(similarities[i]) - nearest) / self.temperature).exp(),
                )
            })
            .collect();
        votes.sort_by_key(|&(label, _)| label);
        let totals = votes.chunk_by(|a, b| a.0 == b.0);
        totals
            .map(|votes| (votes[0].0, votes.iter().map(|v| v.1).sum::<f64>()))
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
            .expect("there is at least one neighbour")
            .0
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn random(images: usize, dim: usize, classes: u32, seed: u64) -> Features {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let labels: Vec<u32> = (0..images).map(|_| rng.random_range(0..classes)).collect();
        let data = labels
            .iter()
            .flat_map(|&label| {
                (0..dim)
                    .map(|d| rng.random_range(-1.0..1.0) + f32::from(d as u32 % classes == label))
                    .collect::<Vec<f32>>()
            })
            .collect();
        Features::new(dim, data, labels).unwrap()
    }

    /// Every similarity in f64, a full sort, a map of votes.
    fn brute_force(knn: Knn, train: &Features, test: &Features) -> Vec<u32> {
        let cosine = |a: &[f32], b: &[f32]| {
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter()
                    .zip(b)
                    .map(|(&x, &y)| f64::from(x) * f64::from(y))
                    .sum()
            };
            dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
        };
        (0..test.labels().len())
            .map(|i| {
                let mut all: Vec<(f64, u32)> = (0..train.labels().len())
                    .map(|j| (cosine(test.row(i), train.row(j)), train.labels()[j]))
                    .collect();
                all.sort_by(|a, b| b.0.total_cmp(&a.0));
                let mut votes = [0.0; 16];
                for (similarity, label) in all.into_iter().take(knn.k) {
                    votes[label as usize] += (similarity / knn.temperature).exp();
                }
                (0..16)
                    .max_by(|&a, &b| votes[a].total_cmp(&votes[b]).then(b.cmp(&a)))
                    .unwrap() as u32
            })
            .collect()
    }

    #[test]
    fn agrees_with_brute_force() {
        let (train, test) = (random(300, 19, 7, 1), random(70, 19, 7, 2));
        for k in [1, 5, 200, 1000] {
            for temperature in [0.02, 0.1, 10.0] {
                let knn = Knn { k, temperature };
                let report = knn.classify(&train, &test).unwrap();
                assert_eq!(
                    report.predictions,
                    brute_force(knn, &train, &test),
                    "{knn:?}"
                );
            }
        }
        let report = Knn {
            k: 20,
            ..Knn::default()
        }
        .classify(&train, &test)
        .unwrap();
        assert!(report.top1 > 0.5, "{}", report.top1);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let (train, test) = (random(300, 19, 7, 1), random(170, 19, 7, 2));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| Knn::default().classify(&train, &test).unwrap())
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn ties_go_to_the_smaller_label_and_zero_vectors_are_no_neighbours_of_note() {
        let train = Features::new(1, vec![1.0, 1.0, 0.0], vec![5, 3, 1]).unwrap();
        let test = Features::new(1, vec![2.0, 0.0], vec![3, 1]).unwrap();
        let report = Knn::default().classify(&train, &test).unwrap();
        assert_eq!(report.predictions, [3, 1]);
        assert_eq!(report.top1, 1.0);
    }

    #[test]
    fn unusable_requests_are_refused() {
        let (train, test) = (random(3, 2, 2, 1), random(3, 3, 2, 2));
        assert!(Knn::default().classify(&train, &test).is_err());
        assert!(
            Knn {
                k: 0,
                ..Knn::default()
            }
            .classify(&train, &train)
            .is_err()
        );
        assert!(
            Knn {
                temperature: 0.0,
                ..Knn::default()
            }
            .classify(&train, &train)
            .is_err()
        );
    }
}
