use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use slimbit_engine::SettingError;

use crate::{Split, printable};

/// Why images could not be had. Every message names the place and, where there is one, the remedy.
#[derive(Debug)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder could not be read.
    Io {
        /// What was being read.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The path holds no format that this crate knows.
    Unrecognised {
        /// The path that was opened.
        path: PathBuf,
        /// What was found there instead.
        found: String,
    },
    /// The path holds a dataset, but not this part of it.
    NoSplit {
        /// The path that was opened.
        path: PathBuf,
        /// The part that was asked for.
        split: Split,
    },
    /// No image is left to read.
    Empty {
        /// The dataset's path.
        path: PathBuf,
        /// Candidates that were skipped because they could not be decoded.
        skipped: usize,
    },
    /// Everything that might be an image was left out.
    Unusable {
        /// The dataset's path.
        path: PathBuf,
        /// Files that were left out.
        skipped: usize,
        /// Why, with the first of their names.
        reasons: String,
    },
    /// A dataset file contradicts itself: truncated, too long, or with impossible values.
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Images and labels differ in number.
    LabelCount {
        /// The label file.
        path: PathBuf,
        /// Images in the image file.
        images: usize,
        /// Labels in the label file.
        labels: usize,
    },
    /// One image could not be decoded.
    Decode {
        /// The image file.
        path: PathBuf,
        /// The decoder's reason.
        reason: String,
    },
    /// There is no image with this index.
    OutOfRange {
        /// The index asked for.
        index: usize,
        /// The number of images.
        len: usize,
    },
    /// A setting has a value that cannot be used.
    Setting {
        /// The setting's name.
        name: &'static str,
        /// The value and what it should be.
        reason: String,
    },
    /// A loader thread could not be started, or panicked.
    Worker {
        /// The panic's message or the system's reason.
        reason: String,
    },
}

impl DataError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        DataError::Io {
            path: path.into(),
            source,
        }
    }

    pub(crate) fn corrupt(path: &Path, reason: impl Into<String>) -> Self {
        DataError::Corrupt {
            path: path.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn setting(name: &'static str, reason: impl Into<String>) -> Self {
        DataError::Setting {
            name,
            reason: reason.into(),
        }
    }
}

impl From<SettingError> for DataError {
    fn from(error: SettingError) -> Self {
        let SettingError { name, reason } = error;
        DataError::Setting { name, reason }
    }
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataError::Io { path, source } => {
                write!(
                    f,
                    "cannot read {}: {source}; check that it exists and may be read",
                    printable(path)
                )
            }
            DataError::Unrecognised { path, found } => write!(
                f,
                "no dataset in {}: {found}; expected IDX files (*-images-idx3-ubyte[.gz]), \
                 CIFAR binaries (*.bin), or a folder of images with or without class folders",
                printable(path)
            ),
            DataError::NoSplit { path, split } => write!(
                f,
                "no {split} split in {}; expected {}, or open the path without a split",
                printable(path),
                match split {
                    Split::Train =>
                        "train-images-idx3-ubyte, data_batch_1.bin, train.bin or a folder train/",
                    Split::Test =>
                        "t10k-images-idx3-ubyte, test_batch.bin, test.bin or a folder test/, val/",
                }
            ),
            DataError::Empty { path, skipped: 0 } => {
                write!(
                    f,
                    "no images in {}; point to a folder that holds some",
                    printable(path)
                )
            }
            DataError::Empty { path, skipped } => write!(
                f,
                "no readable image in {}: {} corrupt; copy or download the data again",
                printable(path),
                match skipped {
                    1 => "the only candidate is".to_owned(),
                    _ => format!("all {skipped} candidates are"),
                }
            ),
            DataError::Unusable {
                path,
                skipped,
                reasons,
            } => write!(
                f,
                "no usable image in {}: {skipped} left out, {reasons}; give a folder of JPEG, PNG, \
                 BMP, GIF, TIFF, WebP or PNM pictures",
                printable(path)
            ),
            DataError::Corrupt { path, reason } => {
                write!(
                    f,
                    "{} is damaged: {reason}; copy or download it again",
                    printable(path)
                )
            }
            DataError::LabelCount {
                path,
                images,
                labels,
            } => write!(
                f,
                "{} holds {labels} labels for {images} images; put the label file that belongs to \
                 the images beside them",
                printable(path)
            ),
            DataError::Decode { path, reason } => {
                write!(
                    f,
                    "cannot decode {}: {reason}; replace or remove it",
                    printable(path)
                )
            }
            DataError::OutOfRange { index, len } => {
                write!(f, "image {index} of {len} does not exist")
            }
            DataError::Setting { name, reason } => write!(f, "{name}: {reason}"),
            DataError::Worker { reason } => write!(f, "a loader thread failed: {reason}"),
        }
    }
}

impl std::error::Error for DataError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DataError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
