use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::formats::{Pixels, cifar, folder, idx};
use crate::{DataError, Image};

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

/// A picture that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// Why it is left out.
    pub reason: String,
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
    skipped: Mutex<BTreeMap<PathBuf, String>>,
}

#[derive(Debug)]
enum Source {
    Memory(Vec<u8>),
    Files(Vec<PathBuf>),
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
    /// A path that holds several splits gives the training split.
    ///
    /// # Errors
    /// [`DataError`] when nothing is recognised, no image is left, a file is damaged or something
    /// cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        locate(path.as_ref(), None)
    }

    /// Opens one split of what [`Self::open`] opens: IDX files `train-*` or `t10k-*`, CIFAR's
    /// files, or a folder `train/`, `test/` or `val/`. Class folders of all splits are numbered
    /// together.
    ///
    /// # Errors
    /// As [`Self::open`], and [`DataError::NoSplit`] when there are images but not those.
    pub fn open_split(path: impl AsRef<Path>, split: Split) -> Result<Self, DataError> {
        locate(path.as_ref(), Some(split))
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

    fn from_memory(path: &Path, pixels: Pixels) -> Result<Self, DataError> {
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
            source: Source::Memory(data),
            shape: (channels, height, width),
            labels,
            classes,
            skipped: Mutex::default(),
        })
    }

    fn from_folder(path: &Path, siblings: &[PathBuf]) -> Result<Self, DataError> {
        let folder::Folder {
            files,
            labels,
            classes,
            shape,
            skipped,
        } = folder::open(path, siblings)?;
        let dataset = Dataset {
            path: path.into(),
            source: Source::Files(files),
            shape,
            labels,
            classes,
            skipped: Mutex::default(),
        };
        for Skipped { path, reason } in skipped {
            dataset.skip(&path, &reason);
        }
        Ok(dataset)
    }

    /// Images, those included that turn out to be undecodable later.
    #[allow(
        clippy::len_without_is_empty,
        reason = "a dataset without images cannot be opened"
    )]
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Memory(pixels) => {
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

    /// What an image is called: its path below the dataset's folder, or its number.
    ///
    /// # Panics
    /// Where `index` is not below [`Self::len`].
    pub fn name(&self, index: usize) -> String {
        match &self.source {
            Source::Memory(_) => index.to_string(),
            Source::Files(files) => {
                let file = &files[index];
                file.strip_prefix(&self.path)
                    .unwrap_or(file)
                    .display()
                    .to_string()
            }
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
        if index >= self.len() {
            return Err(DataError::OutOfRange {
                index,
                len: self.len(),
            });
        }
        match &self.source {
            Source::Memory(pixels) => {
                let (channels, height, width) = self.shape;
                let size = channels * height * width;
                let pixels = pixels[index * size..][..size].to_vec();
                Ok(Image {
                    channels,
                    height,
                    width,
                    pixels,
                })
            }
            Source::Files(files) => folder::decode(&files[index]).inspect_err(|error| {
                if let DataError::Decode { path, reason } = error {
                    self.skip(path, reason);
                }
            }),
        }
    }

    /// The first decodable image at or after an index, wrapping around.
    ///
    /// Only damage is passed over: a picture that cannot be *read* now may be readable after a
    /// restart, and then the resumed run would see other images than the run it continues.
    pub(crate) fn readable_from(&self, index: usize) -> Result<(usize, Image), DataError> {
        for index in (index..self.len()).chain(0..index) {
            match self.image(index) {
                Err(DataError::Decode { .. }) => {}
                result => return result.map(|image| (index, image)),
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
    /// class folders, later for damage found when decoding. Each was reported once by
    /// [`log::warn!`].
    pub fn skipped(&self) -> Vec<Skipped> {
        let skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        skipped
            .iter()
            .map(|(path, reason)| Skipped {
                path: path.clone(),
                reason: reason.clone(),
            })
            .collect()
    }

    fn skip(&self, path: &Path, reason: &str) {
        let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        if skipped.insert(path.into(), reason.into()).is_none() {
            log::warn!("skipping {}: {reason}", path.display());
        }
    }
}

fn locate(path: &Path, split: Option<Split>) -> Result<Dataset, DataError> {
    let metadata = fs::metadata(path).map_err(|error| DataError::io(path, error))?;
    if metadata.is_dir() {
        return locate_in_folder(path, split);
    }
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let is_idx = idx::is_image_file(&name);
    if !is_idx && !name.ends_with(".bin") {
        return Err(unrecognised(
            path,
            format!("a single file {name:?}; unpack an archive first"),
        ));
    }
    match split {
        Some(split) => locate_in_folder(parent(path), Some(split)),
        None if is_idx => Dataset::from_memory(path, idx::read(path)?),
        None => Dataset::from_memory(path, cifar::read(&[path.into()])?),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn locate_in_folder(path: &Path, split: Option<Split>) -> Result<Dataset, DataError> {
    let names = file_names(path)?;
    let no_split = |split: Option<Split>| match split {
        Some(split) => DataError::NoSplit {
            path: path.into(),
            split,
        },
        None => DataError::Empty {
            path: path.into(),
            skipped: 0,
        },
    };
    if names.iter().any(|name| idx::is_image_file(name)) {
        let images = path.join(idx::image_file(&names, split).ok_or_else(|| no_split(split))?);
        return Dataset::from_memory(&images, idx::read(&images)?);
    }
    if let Some(files) = cifar::record_files(&names, split) {
        let files: Vec<PathBuf> = files.into_iter().map(|name| path.join(name)).collect();
        if files.is_empty() {
            return Err(no_split(split.or(Some(Split::Train))));
        }
        return Dataset::from_memory(path, cifar::read(&files)?);
    }
    if let Some(folder) = cifar::archive_folder(&names) {
        return locate_in_folder(&path.join(folder), split);
    }
    if cifar::is_python_version(&names) {
        return Err(unrecognised(
            path,
            "CIFAR's Python version; download the binary version".into(),
        ));
    }
    let splits = folder::split_folders(path)?;
    if splits.is_empty() {
        return match split {
            Some(_) => Err(no_split(split)),
            None => Dataset::from_folder(path, &[]),
        };
    }
    // Alphabetical order prefers `test` to `val`.
    let wanted = |split| {
        splits
            .iter()
            .find(|&(_, &found)| found == split)
            .map(|(name, _)| name)
    };
    let chosen = match split {
        Some(split) => wanted(split).ok_or_else(|| no_split(Some(split)))?,
        None => wanted(Split::Train)
            .or_else(|| wanted(Split::Test))
            .ok_or_else(|| no_split(None))?,
    };
    let siblings: Vec<PathBuf> = splits
        .keys()
        .filter(|&name| name != chosen)
        .map(|name| path.join(name))
        .collect();
    Dataset::from_folder(&path.join(chosen), &siblings)
}

/// Sorted, so that what is found does not depend on the file system; raw files come before their
/// `.gz`.
fn file_names(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| DataError::io(folder, error))? {
        let entry = entry.map_err(|error| DataError::io(folder, error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn unrecognised(path: &Path, found: String) -> DataError {
    DataError::Unrecognised {
        path: path.into(),
        found,
    }
}
