//! Labelled images as the tuning sees them.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use slimbit_data::{AugmentConfig, DataError, Dataset, Parts, Preprocess, augment};
use slimbit_graph::ClassNames;

use super::FineTuneConfig;
use super::classes::Classes;
use crate::TrainError;

/// The images whose labels are used.
pub(super) struct Examples {
    pub(super) dataset: Dataset,
    preprocess: Preprocess,
    augment: AugmentConfig,
    seed: u64,
    batch: usize,
    /// Positions in the dataset, and the class of each.
    drawn: Vec<(usize, u32)>,
    /// The classes, in the order of the logits.
    pub(super) names: ClassNames,
}

/// Normalised images, NCHW, and their classes.
pub(super) struct Batch {
    pub(super) values: Vec<f32>,
    pub(super) classes: Vec<u32>,
}

impl Examples {
    /// The images of a tuning that begins, or of one that goes on.
    pub(super) fn open(
        config: &FineTuneConfig,
        preprocess: &Preprocess,
        goes_on: bool,
    ) -> Result<Self, TrainError> {
        let dataset = match config.held_out() {
            Some(holdout) => Parts::open(&config.data, Some(holdout))?.train,
            None => Dataset::open(&config.data)?,
        };
        let labels: Option<Vec<u32>> = (0..dataset.len())
            .map(|image| dataset.label(image))
            .collect();
        let labels = labels.ok_or_else(|| {
            let what = format!(
                "{} has no labels; give an image folder with one subfolder per class, or IDX or CIFAR files",
                config.data.display()
            );
            TrainError::value("data", what)
        })?;
        let drawn = config
            .labels
            .draw_of(&labels, dataset.classes(), config.seed)?;
        let classes = match (config.classes.is_empty(), goes_on) {
            (false, _) => Classes::named(config.classes.clone(), &dataset)?,
            (true, false) => Classes::begin(&dataset, &labels)?,
            (true, true) => Classes::numbered(&dataset, &labels)?,
        };
        Ok(Self {
            drawn: drawn
                .into_iter()
                .map(|image| (image, classes.logit(labels[image])))
                .collect(),
            names: classes.names,
            preprocess: preprocess.clone(),
            augment: config.augment.clone(),
            seed: config.seed,
            batch: config.batch,
            dataset,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.drawn.len()
    }

    /// Steps of one epoch. The images that do not fill a last batch are left out, others in every epoch.
    pub(super) fn batches(&self) -> usize {
        (self.len() / self.batch).max(1)
    }

    /// A batch of augmented images: a function of the seed, the epoch and its number alone.
    pub(super) fn augmented(&self, epoch: u64, batch: usize) -> Result<Batch, TrainError> {
        const ORDER: u64 = u64::MAX;
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.shuffle(&mut self.rng(epoch, ORDER));
        let rows = &order[batch * self.batch..((batch + 1) * self.batch).min(order.len())];
        let size = (self.preprocess.height, self.preprocess.width);
        self.read(rows, |image, position| {
            let mut rng = self.rng(epoch, position as u64);
            let image = image.with_channels(self.preprocess.channels);
            augment(&image, size, &self.augment, &mut rng).pixels
        })
    }

    /// Images `start..start + count` as they are evaluated; fewer at the end.
    pub(super) fn plain(&self, start: usize, count: usize) -> Result<Batch, TrainError> {
        let rows: Vec<usize> = (start..(start + count).min(self.len())).collect();
        self.read(&rows, |image, _| self.preprocess.codes(image))
    }

    fn read(
        &self,
        rows: &[usize],
        codes: impl Fn(&slimbit_data::Image, usize) -> Vec<u8> + Sync,
    ) -> Result<Batch, TrainError> {
        let read = |&row: &usize| {
            let (position, class) = self.drawn[row];
            let made = self
                .dataset
                .with_image(position, |image| codes(image, position));
            match made {
                Ok(codes) => Ok(Some((codes, class))),
                // The dataset has reported it; the batch does without.
                Err(DataError::Decode { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let found = rows
            .par_iter()
            .map(read)
            .collect::<Result<Vec<_>, DataError>>()?;
        let (codes, classes): (Vec<Vec<u8>>, Vec<u32>) = found.into_iter().flatten().unzip();
        if classes.is_empty() {
            return Err(DataError::Empty {
                path: self.dataset.path().to_owned(),
                skipped: rows.len(),
            }
            .into());
        }
        Ok(Batch {
            values: self.preprocess.normalise(&codes.concat()),
            classes,
        })
    }

    /// The numbers are the key, so that no two draws share a stream.
    fn rng(&self, epoch: u64, purpose: u64) -> ChaCha8Rng {
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([self.seed, epoch, purpose]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }
}
