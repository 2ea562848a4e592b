use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::formats::Pixels;
use crate::formats::folder::Folder;
use crate::formats::picture::{self, Held};
use crate::skipped::{self, Damage, Skipped};
use crate::{DataError, Holdout, Image, escape_name, open, printable};

/// A part of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is measured on: `test` or, where there is none, validation.
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "train",
            Split::Test => "test",
        })
    }
}

/// A list of images with optional labels.
///
/// IDX and CIFAR files are held in memory; the pictures of a folder are decoded when they are asked
/// for. Shared between threads as it is.
#[derive(Debug)]
pub struct Dataset {
    path: PathBuf,
    source: Source,
    shape: (usize, usize, usize),
    labels: Option<Vec<u32>>,
    classes: Vec<String>,
    skipped: Arc<Mutex<Damage>>,
}

#[derive(Clone, Debug)]
enum Source {
    Memory {
        pixels: Arc<Vec<u8>>,
        /// Which of the images, where not all.
        rows: Option<Vec<usize>>,
        /// Where several splits follow one another: the name and the first image of each.
        splits: Vec<(Option<Split>, usize)>,
    },
    Files(Vec<PathBuf>),
}

/// The parts of a dataset on which a classifier learns and is measured; they have no image in common.
#[derive(Debug)]
pub struct Parts {
    /// Learnt on.
    pub train: Dataset,
    /// Measured on.
    pub test: Dataset,
}

impl Dataset {
    /// Opens a dataset, told by what is there:
    ///
    /// * IDX (`*-images-idx3-ubyte`, `.gz` or raw) with the label file and `classes.txt` beside it,
    ///   if any;
    /// * the binary version of CIFAR-10 or CIFAR-100 (`*.bin`), its folder or the folder that holds
    ///   it;
    /// * a folder of pictures (JPEG, PNG, BMP, GIF, TIFF, WebP, PNM), of any sizes: one subfolder
    ///   per class, or no subfolders and no labels. The header of every picture is read, and those
    ///   without a valid one are skipped.
    ///
    /// This is the one rule for "the images of a path" where no labels are needed: of several splits
    /// it is the training split, and where there are none, or no such split, all that there is.
    ///
    /// # Errors
    /// [`DataError`] when nothing is recognised, no image is left, a file is damaged or something
    /// cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        open::find(path.as_ref())?.open()
    }

    /// Opens one split of what [`Self::open`] opens: IDX files `train-*` or `t10k-*`, CIFAR's
    /// files, or a folder `train/`, `test/` or `val/`. Class folders of all splits are numbered
    /// together. The path of a single file stands for its folder.
    ///
    /// # Errors
    /// As [`Self::open`], and [`DataError::NoSplit`] when there are images but not those.
    pub fn open_split(path: impl AsRef<Path>, split: Split) -> Result<Self, DataError> {
        open::find_beside(path.as_ref())?.open_split(split)
    }

    /// Opens the images of all splits together, the training split first; where there are none, the
    /// same as [`Self::open`].
    ///
    /// # Errors
    /// As [`Self::open`], and [`DataError::Corrupt`] where splits hold images of different shapes.
    pub fn open_all(path: impl AsRef<Path>) -> Result<Self, DataError> {
        open::find(path.as_ref())?.open_all()
    }

    /// Whether a path has such a split; no image is read.
    ///
    /// # Errors
    /// [`DataError`] when nothing is recognised or something cannot be read.
    pub fn has_split(path: impl AsRef<Path>, split: Split) -> Result<bool, DataError> {
        Ok(open::find(path.as_ref())?.has(split))
    }

    /// Opens what is measured on where nothing is learnt: the test split, or all images where there is
    /// none; with a holdout and its seed, the test images of [`Parts::open`].
    ///
    /// # Errors
    /// As [`Self::open`] and [`Parts::open`].
    pub fn open_test(
        path: impl AsRef<Path>,
        holdout: Option<(Holdout, u64)>,
    ) -> Result<Self, DataError> {
        if holdout.is_some() {
            return Ok(Parts::open(path, holdout)?.test);
        }
        let found = open::find(path.as_ref())?;
        match found.has(Split::Test) {
            true => found.open_split(Split::Test),
            false => found.open_all(),
        }
    }

    /// A dataset of images that are in memory already: `shape` is (channels, height, width),
    /// `pixels` are HWC images one after another. Classes are named by their numbers.
    ///
    /// # Errors
    /// [`DataError::Setting`] when the lengths do not fit the shape or there is no image.
    pub fn from_pixels(
        shape: (usize, usize, usize),
        pixels: Vec<u8>,
        labels: Option<Vec<u32>>,
    ) -> Result<Self, DataError> {
        let (channels, height, width) = shape;
        let size = channels.saturating_mul(height).saturating_mul(width);
        let count = pixels.len().checked_div(size).unwrap_or(0);
        if !matches!(channels, 1 | 3) || count == 0 || count.checked_mul(size) != Some(pixels.len())
        {
            let reason = format!(
                "{} values are not images of {height}x{width}x{channels}",
                pixels.len()
            );
            return Err(DataError::setting("pixels", reason));
        }
        if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != count) {
            return Err(DataError::setting(
                "labels",
                format!("{} for {count} images", labels.len()),
            ));
        }
        let classes = labels
            .iter()
            .flatten()
            .max()
            .map_or(0, |&most| most as usize + 1);
        let classes = (0..classes).map(|label| label.to_string()).collect();
        let pixels = Pixels {
            channels,
            height,
            width,
            data: pixels,
            labels,
            classes,
        };
        Self::from_memory(Path::new("memory"), pixels)
    }

    pub(crate) fn from_memory(path: &Path, pixels: Pixels) -> Result<Self, DataError> {
        let Pixels {
            channels,
            height,
            width,
            data,
            labels,
            classes,
        } = pixels;
        if data.is_empty() {
            return Err(DataError::Empty {
                path: path.into(),
                skipped: 0,
            });
        }
        Ok(Dataset {
            path: path.into(),
            source: Source::Memory {
                pixels: Arc::new(data),
                rows: None,
                splits: Vec::new(),
            },
            shape: (channels, height, width),
            labels,
            classes,
            skipped: Arc::default(),
        })
    }

    /// Names the images in memory by their splits: for each, its first image.
    pub(crate) fn with_splits(mut self, of: Vec<(Option<Split>, usize)>) -> Self {
        if let Source::Memory { splits, .. } = &mut self.source {
            *splits = of;
        }
        self
    }

    pub(crate) fn from_folder(path: &Path, folder: Folder) -> Result<Self, DataError> {
        skipped::report(path, &folder.skipped, &folder.empty);
        let Some(shape) = folder.shape() else {
            let skipped = folder.skipped.len();
            return Err(match skipped == folder.damaged {
                true => DataError::Empty {
                    path: path.into(),
                    skipped,
                },
                false => DataError::Unusable {
                    path: path.into(),
                    skipped,
                    reasons: skipped::summary(path, &folder.skipped),
                },
            });
        };
        Ok(Dataset {
            path: path.into(),
            source: Source::Files(folder.files),
            shape,
            labels: folder.labels,
            classes: folder.classes,
            skipped: Arc::new(Mutex::new(Damage::new(folder.skipped))),
        })
    }

    /// The images at these positions, in this order, under the names that they have here.
    ///
    /// # Errors
    /// [`DataError::OutOfRange`] for a position that does not exist, and [`DataError::Empty`] for no
    /// position.
    pub fn subset(&self, positions: &[usize]) -> Result<Self, DataError> {
        let len = self.len();
        if let Some(&index) = positions.iter().find(|&&index| index >= len) {
            return Err(DataError::OutOfRange { index, len });
        }
        if positions.is_empty() {
            return Err(DataError::Empty {
                path: self.path.clone(),
                skipped: 0,
            });
        }
        let source = match &self.source {
            Source::Files(files) => Source::Files(
                positions
                    .iter()
                    .map(|&index| files[index].clone())
                    .collect(),
            ),
            Source::Memory {
                pixels,
                rows,
                splits,
            } => {
                let row = |&index: &usize| rows.as_ref().map_or(index, |rows| rows[index]);
                Source::Memory {
                    pixels: Arc::clone(pixels),
                    rows: Some(positions.iter().map(row).collect()),
                    splits: splits.clone(),
                }
            }
        };
        let labels = self.labels.as_ref();
        Ok(Dataset {
            path: self.path.clone(),
            source,
            shape: self.shape,
            labels: labels.map(|labels| positions.iter().map(|&index| labels[index]).collect()),
            classes: self.classes.clone(),
            skipped: Arc::clone(&self.skipped),
        })
    }

    /// The labels of all images; `None` for an unlabelled dataset.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// Images, those included that turn out to be undecodable later.
    #[allow(
        clippy::len_without_is_empty,
        reason = "a dataset without images cannot be opened"
    )]
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Memory {
                rows: Some(rows), ..
            } => rows.len(),
            Source::Memory { pixels, .. } => {
                let (channels, height, width) = self.shape;
                pixels.len() / (channels * height * width)
            }
            Source::Files(files) => files.len(),
        }
    }

    /// Where the images are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// (channels, height, width). Of a folder of mixed pictures: its most frequent size, with three
    /// channels if any picture has colours; a [`Preprocess`](crate::Preprocess) brings them all to
    /// one shape.
    pub fn shape(&self) -> (usize, usize, usize) {
        self.shape
    }

    /// The class of an image, an index into [`Self::classes`]; `None` for an unlabelled dataset or
    /// an index out of range.
    pub fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref()?.get(index).copied()
    }

    /// What an image is called: its path below the dataset's folder, or its number in its file, with
    /// its split where the dataset has several. One line, from which a file's name can be had back as
    /// [`escape_name`] says; of two images, never the same.
    ///
    /// # Panics
    /// Where `index` is not below [`Self::len`].
    pub fn name(&self, index: usize) -> String {
        match &self.source {
            Source::Memory { rows, splits, .. } => {
                let row = rows.as_ref().map_or(index, |rows| rows[index]);
                match splits.iter().rev().find(|(_, first)| *first <= row) {
                    Some((Some(split), first)) => format!("{split}/{}", row - first),
                    _ => row.to_string(),
                }
            }
            Source::Files(files) => {
                let file = &files[index];
                let below = file.strip_prefix(&self.path).unwrap_or(file);
                escape_name(below.as_os_str()).into_owned()
            }
        }
    }

    /// The file of a picture; `None` where the images are held in memory, or for an index out of range.
    pub fn file(&self, index: usize) -> Option<&Path> {
        match &self.source {
            Source::Memory { .. } => None,
            Source::Files(files) => files.get(index).map(PathBuf::as_path),
        }
    }

    /// The names of the classes; empty for an unlabelled dataset.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The image as it is stored: grey or RGB, of its own size.
    ///
    /// # Errors
    /// [`DataError::Decode`] for a picture that turns out to be damaged, which is also added to
    /// [`Self::skipped`]; [`DataError::Io`] when it cannot be read; [`DataError::OutOfRange`].
    pub fn image(&self, index: usize) -> Result<Image, DataError> {
        Ok(self.held(index)?.image)
    }

    /// What `use_it` makes of an image. Until it returns, the image counts as being decoded, so that
    /// the images of all threads together stay within the bound of [`open_image`](crate::open_image).
    ///
    /// # Errors
    /// As [`Self::image`].
    pub fn with_image<T>(
        &self,
        index: usize,
        use_it: impl FnOnce(&Image) -> T,
    ) -> Result<T, DataError> {
        Ok(use_it(&self.held(index)?.image))
    }

    fn held(&self, index: usize) -> Result<Held, DataError> {
        if index >= self.len() {
            return Err(DataError::OutOfRange {
                index,
                len: self.len(),
            });
        }
        match &self.source {
            Source::Memory { pixels, rows, .. } => {
                let (channels, height, width) = self.shape;
                let size = channels * height * width;
                let row = rows.as_ref().map_or(index, |rows| rows[index]);
                let pixels = pixels[row * size..][..size].to_vec();
                Ok(Held::free(Image {
                    channels,
                    height,
                    width,
                    pixels,
                }))
            }
            Source::Files(files) => picture::decode(&files[index]).inspect_err(|error| {
                if let DataError::Decode { path, reason } = error {
                    self.damage().add(path, reason);
                }
            }),
        }
    }

    /// The first decodable image at or after an index, wrapping around.
    ///
    /// Only damage is passed over: a picture that cannot be *read* now may be readable after a
    /// restart, and then the resumed run would see other images than the run it continues.
    pub(crate) fn readable_from(&self, index: usize) -> Result<(usize, Held), DataError> {
        for index in (index..self.len()).chain(0..index) {
            match self.held(index) {
                Err(DataError::Decode { .. }) => {}
                result => return result.map(|held| (index, held)),
            }
        }
        Err(self.no_image_left())
    }

    pub(crate) fn no_image_left(&self) -> DataError {
        DataError::Empty {
            path: self.path.clone(),
            skipped: self.len(),
        }
    }

    /// The pictures left out so far, by path: at opening for a bad header or a place outside the
    /// class folders, later for damage found when decoding. They were reported by [`log::warn!`], the
    /// former together and of the latter the first few.
    pub fn skipped(&self) -> Vec<Skipped> {
        self.damage().list()
    }

    fn damage(&self) -> MutexGuard<'_, Damage> {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    /// Opens the training and the test split of a path; with a holdout, all images of a path that has
    /// not both, of which those that `holdout` draws by the seed are the test images.
    ///
    /// The same images are held out whoever asks, as long as the folder is the same.
    ///
    /// # Errors
    /// As [`Dataset::open_split`]; [`DataError::Setting`] where a path with a training and a test split
    /// is to hold out more, where the two are the same folder, or where the images cannot be divided
    /// like that.
    pub fn open(
        path: impl AsRef<Path>,
        holdout: Option<(Holdout, u64)>,
    ) -> Result<Self, DataError> {
        let path = path.as_ref();
        let Some((holdout, seed)) = holdout else {
            let parts = Self {
                train: Dataset::open_split(path, Split::Train)?,
                test: Dataset::open_split(path, Split::Test)?,
            };
            return parts.disjoint();
        };
        let found = open::find(path)?;
        if found.has(Split::Train) && found.has(Split::Test) {
            let reason = format!(
                "{} has a training and a test split already; leave it out to measure on the test split",
                printable(path)
            );
            return Err(DataError::setting("holdout", reason));
        }
        let all = found.open_all()?;
        let test = holdout.draw(all.len(), all.labels(), seed)?;
        let train: Vec<usize> = (0..all.len())
            .filter(|image| test.binary_search(image).is_err())
            .collect();
        Ok(Self {
            train: all.subset(&train)?,
            test: all.subset(&test)?,
        })
    }

    /// Refuses splits that are links to one another.
    fn disjoint(self) -> Result<Self, DataError> {
        let place = |dataset: &Dataset| dataset.path.canonicalize().ok();
        let apart = match (&self.train.source, &self.test.source) {
            (Source::Files(_), Source::Files(_)) => place(&self.train) != place(&self.test),
            _ => true,
        };
        if apart {
            return Ok(self);
        }
        let reason = format!(
            "{} and {} are the same folder, so it would be measured on what it learnt from",
            printable(&self.train.path),
            printable(&self.test.path)
        );
        Err(DataError::setting("data", reason))
    }
}
