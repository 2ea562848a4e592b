//! Finding what a path holds: one rule for every command.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::dataset::{Dataset, Split};
use crate::formats::folder::{self, Folder};
use crate::formats::{Pixels, cifar, idx};
use crate::{DataError, printable};

/// What a path holds.
pub(crate) enum Found {
    /// IDX image files, each of a split or of none.
    Idx(PathBuf, Vec<(PathBuf, Option<Split>)>),
    /// CIFAR's record files.
    Cifar(PathBuf, Vec<(PathBuf, Option<Split>)>),
    /// Pictures without splits.
    Pictures(PathBuf),
    /// A folder of pictures for each split, by name.
    SplitPictures(PathBuf, BTreeMap<String, Split>),
}

/// What is there, told by names; no image is read.
pub(crate) fn find(path: &Path) -> Result<Found, DataError> {
    let metadata = fs::metadata(path).map_err(|error| DataError::io(path, error))?;
    if metadata.is_dir() {
        return find_in_folder(path);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = vec![(path.to_path_buf(), None)];
    if idx::is_image_file(&name) {
        Ok(Found::Idx(path.into(), file))
    } else if name.ends_with(".bin") {
        Ok(Found::Cifar(path.into(), file))
    } else {
        let found = format!(
            "a single file \"{}\"; unpack an archive first, or give the folder of a picture",
            printable(&*name)
        );
        Err(unrecognised(path, found))
    }
}

/// What the folder of a file holds, or the folder itself.
pub(crate) fn find_beside(path: &Path) -> Result<Found, DataError> {
    let found = find(path)?;
    match path.parent() {
        _ if path.is_dir() => Ok(found),
        Some(parent) if parent != Path::new("") => find_in_folder(parent),
        _ => find_in_folder(Path::new(".")),
    }
}

fn find_in_folder(path: &Path) -> Result<Found, DataError> {
    let names = file_names(path)?;
    let join = |(name, split): (&String, Option<Split>)| (path.join(name), split);
    let idx = idx::image_files(&names);
    if !idx.is_empty() {
        return Ok(Found::Idx(path.into(), idx.into_iter().map(join).collect()));
    }
    let cifar = cifar::record_files(&names);
    if !cifar.is_empty() {
        let files = cifar.into_iter().map(join).collect();
        return Ok(Found::Cifar(path.into(), files));
    }
    if let Some(folder) = cifar::archive_folder(&names) {
        return find_in_folder(&path.join(folder));
    }
    if cifar::is_python_version(&names) {
        return Err(unrecognised(
            path,
            "CIFAR's Python version; download the binary version".into(),
        ));
    }
    let splits = folder::split_folders(path)?;
    Ok(match splits.is_empty() {
        true => Found::Pictures(path.into()),
        false => Found::SplitPictures(path.into(), splits),
    })
}

impl Found {
    /// Whether there is such a split.
    pub(crate) fn has(&self, split: Split) -> bool {
        match self {
            Self::Idx(_, files) | Self::Cifar(_, files) => {
                files.iter().any(|(_, found)| *found == Some(split))
            }
            Self::Pictures(_) => false,
            Self::SplitPictures(_, splits) => splits.values().any(|found| *found == split),
        }
    }

    /// The training split, or else what there is.
    pub(crate) fn open(self) -> Result<Dataset, DataError> {
        match self {
            Self::Idx(_, files) => {
                let train = files.iter().find(|(_, split)| *split == Some(Split::Train));
                let (path, _) = train.unwrap_or(&files[0]);
                Dataset::from_memory(path, idx::read(path)?)
            }
            Self::Pictures(path) => Dataset::from_folder(&path, folder::open(&path, &[])?),
            _ if self.has(Split::Train) => self.open_split(Split::Train),
            _ if self.has(Split::Test) => self.open_split(Split::Test),
            _ => self.open_all(),
        }
    }

    /// One split.
    pub(crate) fn open_split(self, split: Split) -> Result<Dataset, DataError> {
        if !self.has(split) {
            return Err(DataError::NoSplit {
                path: self.path().into(),
                split,
            });
        }
        match self {
            Self::Idx(_, files) => {
                let of_split = files.iter().find(|(_, found)| *found == Some(split));
                let (path, _) = of_split.expect("it has the split");
                Dataset::from_memory(path, idx::read(path)?)
            }
            Self::Cifar(path, files) => Dataset::from_memory(&path, cifar(&files, Some(split))?),
            Self::Pictures(_) => unreachable!("it has no splits"),
            Self::SplitPictures(path, splits) => {
                // Alphabetical order prefers `test` to `val`.
                let chosen = splits.iter().find(|&(_, found)| *found == split);
                let (chosen, _) = chosen.expect("it has the split");
                let folder = path.join(chosen);
                let found = folder::open(&folder, &siblings(&path, &splits, chosen))?;
                Dataset::from_folder(&folder, found)
            }
        }
    }

    /// The images of all splits, one after the other.
    pub(crate) fn open_all(self) -> Result<Dataset, DataError> {
        match self {
            Self::Idx(path, mut files) => {
                files.sort_by_key(|(_, split)| *split != Some(Split::Train));
                let mut parts = Vec::new();
                for (file, split) in &files {
                    parts.push((*split, idx::read(file)?));
                }
                joined(&path, parts)
            }
            Self::Cifar(path, files) => {
                let mut parts = Vec::new();
                for split in [Some(Split::Train), Some(Split::Test), None] {
                    if files.iter().any(|(_, found)| *found == split) {
                        parts.push((split, cifar(&files, split)?));
                    }
                }
                joined(&path, parts)
            }
            Self::Pictures(path) => Dataset::from_folder(&path, folder::open(&path, &[])?),
            Self::SplitPictures(path, splits) => {
                let mut names: Vec<&String> = splits.keys().collect();
                names.sort_by_key(|&name| splits[name] != Split::Train);
                let mut parts = Vec::new();
                for name in names {
                    let siblings = siblings(&path, &splits, name);
                    parts.push(folder::open(&path.join(name), &siblings)?);
                }
                Dataset::from_folder(&path, Folder::join(parts))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Idx(path, _)
            | Self::Cifar(path, _)
            | Self::Pictures(path)
            | Self::SplitPictures(path, _) => path,
        }
    }
}

fn siblings(path: &Path, splits: &BTreeMap<String, Split>, chosen: &str) -> Vec<PathBuf> {
    let others = splits.keys().filter(|&name| name != chosen);
    others.map(|name| path.join(name)).collect()
}

fn cifar(files: &[(PathBuf, Option<Split>)], split: Option<Split>) -> Result<Pixels, DataError> {
    let of_split = files.iter().filter(|(_, found)| *found == split);
    let paths: Vec<PathBuf> = of_split.map(|(path, _)| path.clone()).collect();
    cifar::read(&paths)
}

/// The images of several splits as one dataset.
fn joined(path: &Path, parts: Vec<(Option<Split>, Pixels)>) -> Result<Dataset, DataError> {
    let mut parts = parts.into_iter();
    let Some((first_split, mut all)) = parts.next() else {
        return Err(DataError::Empty {
            path: path.into(),
            skipped: 0,
        });
    };
    let size = all.channels * all.height * all.width;
    let mut splits = vec![(first_split, 0)];
    for (split, part) in parts {
        if (part.channels, part.height, part.width) != (all.channels, all.height, all.width) {
            let reason = format!(
                "its splits hold images of {}x{} and of {}x{}, which are not one dataset; open one split",
                all.height, all.width, part.height, part.width
            );
            return Err(DataError::corrupt(path, reason));
        }
        splits.push((split, all.data.len() / size));
        all.data.extend(part.data);
        all.labels = match (all.labels.take(), part.labels) {
            (Some(mut labels), Some(more)) => {
                labels.extend(more);
                Some(labels)
            }
            _ => None,
        };
        if part.classes.len() > all.classes.len() {
            all.classes = part.classes;
        }
    }
    if all.labels.is_none() {
        all.classes.clear();
    }
    Ok(Dataset::from_memory(path, all)?.with_splits(splits))
}

/// Sorted, so that what is found does not depend on the file system; raw files come before their
/// `.gz`.
fn file_names(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| DataError::io(folder, error))? {
        let entry = entry.map_err(|error| DataError::io(folder, error))?;
        // Names that are no UTF-8 are none of those looked for.
        names.extend(entry.file_name().into_string());
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
