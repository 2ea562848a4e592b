//! Images: datasets, decoding, augmentation and deterministic loading.
//!
//! A [`Dataset`] is a list of images with optional labels: IDX files, CIFAR binaries or a folder of
//! pictures. A [`Preprocess`] says what a network is fed in evaluation, an [`AugmentConfig`] what
//! the self-supervised objectives do to a training image, and a [`Loader`] turns the three into
//! batches of two views, on worker threads, the same bytes for the same seed whatever the number of
//! threads.
//!
//! Pixels are `u8` in HWC order until the final normalisation, and resizing and colour arithmetic
//! give Pillow's bytes, so that a network trained or measured elsewhere sees here the input that it
//! saw there.
//!
//! ```
//! use std::sync::Arc;
//! use slimbit_data::{AugmentConfig, Dataset, Loader, LoaderConfig, Preprocess, Split};
//!
//! # fn main() -> Result<(), slimbit_data::DataError> {
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/fashion-mnist");
//! let train = Arc::new(Dataset::open_split(path, Split::Train)?);
//! assert_eq!((train.len(), train.shape()), (10_000, (1, 28, 28)));
//!
//! let config = LoaderConfig { batch: 64, seed: 1, ..LoaderConfig::default() };
//! let (augment, preprocess) = (AugmentConfig::fashion_mnist(), Preprocess::fashion_mnist());
//! let loader = Loader::new(train, config, augment, preprocess)?;
//! for batch in loader.epoch(0, 0).take(2) {
//!     let batch = batch?;
//!     assert_eq!(batch.views[0].len(), 64 * 28 * 28);
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod augment;
mod budget;
mod dataset;
mod error;
mod eval;
mod formats;
mod holdout;
mod image;
mod loader;
mod names;
mod open;
mod prefetch;
mod seed;
mod skipped;
mod spread;

pub use augment::{AugmentConfig, augment};
pub use dataset::{Dataset, Parts, Split};
pub use error::DataError;
pub use eval::{EvalBatch, EvalBatches, eval_batches};
pub use formats::folder::pictures;
pub use holdout::Holdout;
pub use image::open_image;
pub use loader::{Epoch, Loader, LoaderConfig, ViewBatch};
pub use names::{escape_name, printable};
pub use skipped::Skipped;
pub use slimbit_engine::{Filter, Image, Preprocess, Resize};
pub use spread::{eval_images, spread};
