use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::prefetch::{Prefetch, Producer};
use crate::seed::{epoch_order, view_rng};
use crate::{AugmentConfig, DataError, Dataset, Image, Preprocess, augment};
use slimbit_engine::Normaliser;

/// How a [`Loader`] cuts an epoch into batches and who makes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoaderConfig {
    /// Images per batch.
    pub batch: usize,
    /// Threads that decode and augment; 0 does it on the calling thread. Does not change the
    /// batches.
    pub workers: usize,
    /// Seed of the order and of every view.
    pub seed: u64,
    /// Leave out the images that do not fill a batch (others in every epoch).
    pub drop_last: bool,
    /// Batches kept ready, over all workers.
    pub prefetch: usize,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        LoaderConfig {
            batch: 128,
            workers: 2,
            seed: 0,
            drop_last: true,
            prefetch: 4,
        }
    }
}

/// Two random views of each image of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewBatch {
    /// Two normalised views, each NCHW: `views[v][((i * c + channel) * h + y) * w + x]`.
    pub views: [Vec<f32>; 2],
    /// The dataset index of each image.
    pub indices: Vec<usize>,
    /// Images.
    pub n: usize,
    /// Channels.
    pub c: usize,
    /// Rows.
    pub h: usize,
    /// Columns.
    pub w: usize,
}

/// Self-supervised batches of a dataset: each image twice, under two independent augmentations.
///
/// Every batch is a function of (seed, epoch, batch number) alone: neither the number of workers,
/// nor where an epoch is entered, nor which batches were made before changes a byte.
pub struct Loader {
    dataset: Arc<Dataset>,
    config: LoaderConfig,
    augment: AugmentConfig,
    preprocess: Preprocess,
}

impl Loader {
    /// Checks the settings against one another and against the dataset.
    ///
    /// # Errors
    /// [`DataError::Setting`] when one is out of range, or when an epoch would have no batch.
    pub fn new(
        dataset: Arc<Dataset>,
        config: LoaderConfig,
        augment: AugmentConfig,
        preprocess: Preprocess,
    ) -> Result<Self, DataError> {
        augment.validate()?;
        preprocess.validate()?;
        let loader = Loader {
            dataset,
            config,
            augment,
            preprocess,
        };
        let (batch, images) = (loader.config.batch, loader.dataset.len());
        if batch == 0 || loader.batches() == 0 {
            let reason = format!(
                "{batch} does not fit {images} images; choose at most {images} or drop_last = false"
            );
            return Err(DataError::setting("loader.batch", reason));
        }
        let limits = [
            ("loader.workers", loader.config.workers, MAX_WORKERS),
            ("loader.prefetch", loader.config.prefetch, MAX_PREFETCH),
        ];
        for (name, value, most) in limits {
            if value > most {
                return Err(DataError::setting(
                    name,
                    format!("{value} is more than {most}"),
                ));
            }
        }
        Ok(loader)
    }

    /// Batches per epoch.
    pub fn batches(&self) -> usize {
        let (images, batch) = (self.dataset.len(), self.config.batch.max(1));
        if self.config.drop_last {
            images / batch
        } else {
            images.div_ceil(batch)
        }
    }

    /// The images that are loaded.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// The input shape and normalisation of the views.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// The batches `start_batch..` of an epoch, in order; none when `start_batch` is not below
    /// [`Self::batches`].
    ///
    /// Workers start at once and stop when the iterator is dropped. An image that cannot be decoded
    /// is replaced by the next one that can ([`Dataset::skipped`] lists it). The first error ends
    /// the iteration.
    pub fn epoch(&self, epoch: u64, start_batch: usize) -> Epoch {
        let batches = self.batches();
        let views = Views {
            dataset: Arc::clone(&self.dataset),
            augment: self.augment.clone(),
            preprocess: self.preprocess.clone(),
            normaliser: Normaliser::new(&self.preprocess),
            order: epoch_order(self.config.seed, epoch, self.dataset.len()),
            batch: self.config.batch,
            seed: self.config.seed,
            epoch,
        };
        let range = start_batch.min(batches)..batches;
        Epoch {
            batches: Prefetch::start(
                Arc::new(views),
                range,
                self.config.workers,
                self.config.prefetch,
            ),
        }
    }
}

const MAX_WORKERS: usize = 256;
const MAX_PREFETCH: usize = 4096;

/// The batches of one epoch, made by [`Loader::epoch`].
pub struct Epoch {
    batches: Prefetch<Views>,
}

impl Iterator for Epoch {
    type Item = Result<ViewBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.batches.size_hint()
    }
}

/// Everything a worker needs to make any batch of one epoch.
struct Views {
    dataset: Arc<Dataset>,
    augment: AugmentConfig,
    preprocess: Preprocess,
    normaliser: Normaliser,
    order: Vec<usize>,
    batch: usize,
    seed: u64,
    epoch: u64,
}

impl Views {
    fn range(&self, batch: usize) -> Range<usize> {
        let start = batch * self.batch;
        start..(start + self.batch).min(self.order.len())
    }

    fn write(&self, image: &Image, drawn: usize, view: usize, values: &mut [f32]) {
        let mut rng = view_rng(self.seed, self.epoch, drawn, view);
        let size = (self.preprocess.height, self.preprocess.width);
        let view = augment(image, size, &self.augment, &mut rng);
        self.normaliser.write(&view.pixels, values);
    }
}

impl Producer for Views {
    type Item = ViewBatch;

    fn produce(&self, batch: usize, stop: &AtomicBool) -> Result<Option<ViewBatch>, DataError> {
        let drawn = &self.order[self.range(batch)];
        let len = self.preprocess.len();
        let mut views = [vec![0.0; drawn.len() * len], vec![0.0; drawn.len() * len]];
        let mut indices = Vec::with_capacity(drawn.len());
        for (slot, &wanted) in drawn.iter().enumerate() {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let (index, held) = self.dataset.readable_from(wanted)?;
            let image = held.image.with_channels(self.preprocess.channels);
            for (view, values) in views.iter_mut().enumerate() {
                self.write(&image, wanted, view, &mut values[slot * len..][..len]);
            }
            indices.push(index);
        }
        let Preprocess {
            channels: c,
            height: h,
            width: w,
            ..
        } = self.preprocess;
        Ok(Some(ViewBatch {
            views,
            n: indices.len(),
            indices,
            c,
            h,
            w,
        }))
    }
}
