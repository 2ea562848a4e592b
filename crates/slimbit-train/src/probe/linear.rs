use pulp::Arch;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::matrix::dot_products;
use super::{Features, ProbeReport};
use crate::TrainError;

/// A linear classifier on frozen features, trained by SGD with momentum on the cross-entropy (spec section 3.9).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearProbe {
    /// Passes over the training features; the learning rate falls to a tenth after 60 % and after 80 % of them.
    pub epochs: usize,
    /// Images per step.
    pub batch: usize,
    /// Learning rate for a batch of 512; scaled in proportion to the batch.
    pub lr: f64,
    /// Momentum.
    pub momentum: f64,
    /// Seed of the initial weights and of the images' order.
    pub seed: u64,
}

impl Default for LinearProbe {
    /// US3L's and SSQL's CIFAR protocol: 100 epochs, rate 30, momentum 0.9, no weight decay.
    fn default() -> Self {
        Self {
            epochs: 100,
            batch: 512,
            lr: 30.0,
            momentum: 0.9,
            seed: 0,
        }
    }
}

/// A linear classifier: `logits = weights · features + biases`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearClassifier {
    /// `[classes, features]`, row-major.
    pub weights: Vec<f32>,
    /// `[classes]`.
    pub biases: Vec<f32>,
}

/// Rows of weights and of their momentum, one per class, the bias as the last entry of a row.
struct Classifier {
    weights: Vec<f32>,
    velocity: Vec<f32>,
    classes: usize,
    dim: usize,
}

impl LinearProbe {
    /// Trains on `train` and classifies `test`; the number of threads changes nothing.
    ///
    /// # Errors
    /// [`TrainError::Probe`] where the dimensions differ, there are no epochs or images per step, or the weights
    /// diverge.
    pub fn classify(&self, train: &Features, test: &Features) -> Result<ProbeReport, TrainError> {
        train.check_same_dim(test)?;
        let classes = 1 + train
            .labels()
            .iter()
            .max()
            .map_or(0, |&label| label as usize);
        let classifier = self.train(train, classes)?;
        Ok(ProbeReport::new(
            classifier.predict(test.data()),
            test.labels(),
        ))
    }

    /// Trains a classifier with `classes` outputs; labels are below that.
    ///
    /// # Errors
    /// As [`classify`](Self::classify), and for a label that is not below `classes`.
    pub fn fit(&self, train: &Features, classes: usize) -> Result<LinearClassifier, TrainError> {
        if let Some(label) = train
            .labels()
            .iter()
            .find(|&&label| label as usize >= classes)
        {
            let what = format!("label {label} is not among {classes} classes");
            return Err(TrainError::Probe(what));
        }
        Ok(self.train(train, classes)?.into())
    }

    /// The classifier of `features` with which training begins.
    pub fn start(&self, classes: usize, features: usize) -> LinearClassifier {
        let rng = &mut ChaCha8Rng::seed_from_u64(self.seed);
        Classifier::init(classes, features, rng).into()
    }

    fn train(&self, train: &Features, classes: usize) -> Result<Classifier, TrainError> {
        if self.epochs == 0 || self.batch == 0 {
            let what = format!(
                "{} epochs of batches of {}; both must be positive",
                self.epochs, self.batch
            );
            return Err(TrainError::Probe(what));
        }
        let rng = &mut ChaCha8Rng::seed_from_u64(self.seed);
        let mut classifier = Classifier::init(classes, train.dim(), rng);
        let mut order: Vec<usize> = (0..train.labels().len()).collect();
        for epoch in 0..self.epochs {
            let drops = [3, 4]
                .iter()
                .filter(|&&fifths| 5 * epoch >= fifths * self.epochs)
                .count();
            order.shuffle(rng);
            for batch in order.chunks(self.batch) {
                let scale = batch.len() as f64 / 512.0 * 0.1_f64.powi(drops as i32);
                classifier.step(train, batch, (self.lr * scale) as f32, self.momentum as f32);
            }
        }
        if classifier.weights.iter().any(|w| !w.is_finite()) {
            let what = format!(
                "the linear classifier diverged at learning rate {}; lower it",
                self.lr
            );
            return Err(TrainError::Probe(what));
        }
        Ok(classifier)
    }
}

impl From<Classifier> for LinearClassifier {
    fn from(classifier: Classifier) -> Self {
        let (weights, biases): (Vec<&[f32]>, Vec<f32>) = classifier.rows().unzip();
        Self {
            weights: weights.concat(),
            biases,
        }
    }
}

impl Classifier {
    /// PyTorch's initialisation of a linear layer: uniform within 1/√dim.
    fn init(classes: usize, dim: usize, rng: &mut impl Rng) -> Self {
        let bound = 1.0 / (dim as f32).sqrt();
        let len = classes * (dim + 1);
        let weights = (0..len).map(|_| rng.random_range(-bound..=bound)).collect();
        Self {
            weights,
            velocity: vec![0.0; len],
            classes,
            dim,
        }
    }

    /// Weights and bias of each class.
    fn rows(&self) -> impl Iterator<Item = (&[f32], f32)> {
        let rows = self.weights.chunks_exact(self.dim + 1);
        rows.map(|row| (&row[..self.dim], row[self.dim]))
    }

    /// Logits of each row, `[rows, classes]`.
    fn logits(&self, rows: &[f32]) -> Vec<f32> {
        let arch = Arch::new();
        let (weights, biases): (Vec<&[f32]>, Vec<f32>) = self.rows().unzip();
        let weights = weights.concat();
        let mut logits = vec![0.0; rows.len() / self.dim * self.classes];
        logits
            .par_chunks_mut(32 * self.classes)
            .zip(rows.par_chunks(32 * self.dim))
            .for_each(|(logits, rows)| {
                dot_products(arch, rows, &weights, self.dim, logits);
                for row in logits.chunks_exact_mut(self.classes) {
                    row.iter_mut()
                        .zip(&biases)
                        .for_each(|(logit, bias)| *logit += bias);
                }
            });
        logits
    }

    fn predict(&self, rows: &[f32]) -> Vec<u32> {
        let logits = self.logits(rows);
        let best = |row: &[f32]| {
            (0..row.len())
                .rev()
                .max_by(|&a, &b| row[a].total_cmp(&row[b]))
        };
        logits
            .chunks_exact(self.classes)
            .map(|row| best(row).unwrap_or(0) as u32)
            .collect()
    }

    fn step(&mut self, train: &Features, batch: &[usize], lr: f32, momentum: f32) {
        let rows: Vec<f32> = batch.iter().flat_map(|&i| train.row(i)).copied().collect();
        let mut errors = self.logits(&rows);
        for (row, &image) in errors.chunks_exact_mut(self.classes).zip(batch) {
            softmax(row);
            row[train.labels()[image] as usize] -= 1.0;
            row.iter_mut().for_each(|e| *e /= batch.len() as f32);
        }
        let (dim, classes) = (self.dim, self.classes);
        let parameters = self
            .weights
            .par_chunks_mut(dim + 1)
            .zip(self.velocity.par_chunks_mut(dim + 1));
        parameters
            .enumerate()
            .for_each(|(class, (weights, velocity))| {
                velocity.iter_mut().for_each(|v| *v *= momentum);
                for (row, errors) in rows.chunks_exact(dim).zip(errors.chunks_exact(classes)) {
                    let error = errors[class];
                    velocity
                        .iter_mut()
                        .zip(row)
                        .for_each(|(v, x)| *v += error * x);
                    velocity[dim] += error;
                }
                weights
                    .iter_mut()
                    .zip(velocity.iter())
                    .for_each(|(w, v)| *w -= lr * v);
            });
    }
}

fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|v| *v = (*v - max).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|v| *v /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Classes at the corners of a hypercube, with noise that leaves a margin.
    fn separable(images: usize, seed: u64) -> Features {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let labels: Vec<u32> = (0..images).map(|_| rng.random_range(0..8)).collect();
        let mut data = Vec::new();
        for &label in &labels {
            data.extend((0..3).map(|bit| (label >> bit & 1) as f32 + rng.random_range(-0.3..0.3)));
            data.extend((0..5).map(|_| rng.random_range(-1.0..1.0_f32)));
        }
        Features::new(8, data, labels).unwrap()
    }

    #[test]
    fn separable_classes_are_separated() {
        let report = LinearProbe::default()
            .classify(&separable(2000, 1), &separable(400, 2))
            .unwrap();
        assert!(report.top1 > 0.98, "{}", report.top1);
    }

    #[test]
    fn labels_without_relation_to_the_features_stay_at_chance() {
        let mut train = separable(2000, 1);
        let rng = &mut ChaCha8Rng::seed_from_u64(3);
        train = Features::new(8, train.data().to_vec(), {
            let mut labels = train.labels().to_vec();
            labels.shuffle(rng);
            labels
        })
        .unwrap();
        let report = LinearProbe {
            epochs: 20,
            ..LinearProbe::default()
        }
        .classify(&train, &separable(400, 2))
        .unwrap();
        assert!(report.top1 < 0.3, "{}", report.top1);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let (train, test) = (separable(500, 1), separable(100, 2));
        let probe = LinearProbe {
            epochs: 3,
            ..LinearProbe::default()
        };
        let weights = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let mut classifier = Classifier::init(8, 8, &mut ChaCha8Rng::seed_from_u64(1));
                let batch: Vec<usize> = (0..500).collect();
                (0..5).for_each(|_| classifier.step(&train, &batch, 1.0, 0.9));
                (classifier.weights, probe.classify(&train, &test).unwrap())
            })
        };
        assert_eq!(weights(1), weights(3));
    }

    #[test]
    fn a_fitted_classifier_is_the_one_that_classifies() {
        let (train, test) = (separable(500, 1), separable(100, 2));
        let probe = LinearProbe {
            epochs: 5,
            ..LinearProbe::default()
        };
        let fitted = probe.fit(&train, 8).unwrap();
        assert_eq!((fitted.weights.len(), fitted.biases.len()), (64, 8));
        let predictions = probe.classify(&train, &test).unwrap().predictions;
        for (image, &predicted) in predictions.iter().enumerate() {
            let logit = |class: usize| -> f32 {
                let weights = &fitted.weights[class * 8..][..8];
                let products = weights.iter().zip(test.row(image)).map(|(w, x)| w * x);
                products.sum::<f32>() + fitted.biases[class]
            };
            let best = (0..8).fold(f32::MIN, |best, class| best.max(logit(class)));
            assert!(best - logit(predicted as usize) < 1e-3);
        }
        assert!(probe.fit(&train, 7).is_err());
    }

    #[test]
    fn divergence_is_reported() {
        let probe = LinearProbe {
            lr: 1e40,
            epochs: 5,
            ..LinearProbe::default()
        };
        let error = probe
            .classify(&separable(500, 1), &separable(100, 2))
            .unwrap_err();
        assert!(error.to_string().contains("lower it"), "{error}");
    }
}
