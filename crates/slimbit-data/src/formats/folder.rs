//! Folders of pictures: one subfolder per class, or all in one folder without labels; decoded when
//! they are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use image::ImageFormat;
use rayon::prelude::*;
use walkdir::{DirEntry, WalkDir};

use super::picture::{self, Shape};
use crate::{DataError, Skipped, Split, escape_name, printable};

/// Endings of pictures that nothing here decodes; whoever has a folder of them should hear it.
const UNSUPPORTED: [&str; 17] = [
    "heic", "heif", "avif", "jxl", "jp2", "jpe", "psd", "svg", "raw", "dng", "cr2", "cr3", "nef",
    "arw", "orf", "rw2", "ico",
];

/// The readable pictures below a folder, in the order of their paths.
#[derive(Default)]
pub(crate) struct Folder {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) labels: Option<Vec<u32>>,
    /// Names in the order of the labels; none without labels.
    pub(crate) classes: Vec<String>,
    /// How many pictures have which height and width.
    sizes: BTreeMap<(usize, usize), usize>,
    channels: usize,
    pub(crate) skipped: Vec<Skipped>,
    /// How many of those have no valid header.
    pub(crate) damaged: usize,
    /// Subfolders beside the class folders that hold no picture.
    pub(crate) empty: Vec<PathBuf>,
}

impl Folder {
    /// The most frequent size, with three channels if any picture has colours; `None` where there is
    /// no picture.
    pub(crate) fn shape(&self) -> Option<Shape> {
        let (&(height, width), _) = self.sizes.iter().max_by_key(|&(_, count)| count)?;
        Some((self.channels, height, width))
    }

    /// The pictures of several splits of one dataset; with labels where all have some.
    pub(crate) fn join(parts: Vec<Folder>) -> Self {
        let mut all = Folder::default();
        let labelled = parts.iter().all(|part| part.labels.is_some());
        let mut labels = Vec::new();
        for part in parts {
            all.files.extend(part.files);
            labels.extend(part.labels.unwrap_or_default());
            // Every split names the classes of all.
            all.classes = part.classes;
            all.channels = all.channels.max(part.channels);
            for (size, count) in part.sizes {
                *all.sizes.entry(size).or_default() += count;
            }
            all.skipped.extend(part.skipped);
            all.damaged += part.damaged;
            all.empty.extend(part.empty);
        }
        match labelled {
            true => all.labels = Some(labels),
            false => all.classes.clear(),
        }
        all
    }
}

fn split_of(name: &str) -> Option<Split> {
    match name.to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Split::Train),
        "test" | "testing" | "val" | "valid" | "validation" => Some(Split::Test),
        _ => None,
    }
}

/// The split folders of a folder that holds no pictures but in splits; a folder with pictures beside
/// them has classes, one of which may well be called `train`.
pub(crate) fn split_folders(folder: &Path) -> Result<BTreeMap<String, Split>, DataError> {
    let (mut splits, mut beside) = (BTreeMap::new(), None);
    for entry in list(folder, 1)?.0 {
        let name = entry.file_name();
        let split = name.to_str().and_then(|name| Some((name, split_of(name)?)));
        match split {
            Some((name, split)) if entry.file_type().is_dir() => {
                splits.insert(name.to_owned(), split);
            }
            _ if beside.is_some() => {}
            _ if is_picture(&entry) || holds_picture(&entry) => beside = Some(name.to_owned()),
            _ => {}
        }
    }
    let Some(beside) = beside else {
        return Ok(splits);
    };
    let has = |wanted| splits.values().any(|split| *split == wanted);
    if has(Split::Train) && has(Split::Test) {
        let names: Vec<&str> = splits.keys().map(String::as_str).collect();
        log::warn!(
            "{}: {} are taken for classes and not for splits, because there are pictures in `{}` too; move it away \
             if they are splits",
            printable(folder),
            names.join(" and "),
            printable(&beside)
        );
    }
    Ok(BTreeMap::new())
}

/// Every picture in a folder and below, in the order of their paths, whatever folders they lie in; and what cannot be
/// looked into. No picture is read.
///
/// # Errors
/// [`DataError::Io`] where the folder itself cannot be read.
pub fn pictures(folder: &Path) -> Result<(Vec<PathBuf>, Vec<Skipped>), DataError> {
    let (entries, skipped) = list(folder, usize::MAX)?;
    let pictures = entries.into_iter().filter(is_picture);
    Ok((pictures.map(DirEntry::into_path).collect(), skipped))
}

/// Lists a folder and reads the header of every picture; `siblings` are the other splits of the
/// same dataset, whose classes are numbered with this one's.
pub(crate) fn open(folder: &Path, siblings: &[PathBuf]) -> Result<Folder, DataError> {
    let (entries, mut skipped) = list(folder, usize::MAX)?;
    let mut pictures = Vec::new();
    let (mut own, mut subfolders) = (BTreeSet::new(), BTreeSet::new());
    for entry in entries {
        let class = first_component(entry.path(), folder).to_owned();
        if entry.file_type().is_dir() {
            subfolders.insert(class);
        } else if is_picture(&entry) {
            let class = (entry.depth() > 1).then_some(class);
            own.extend(class.clone());
            pictures.push((entry.into_path(), class));
        } else if let Some(reason) = unusable(&entry) {
            skipped.push(Skipped::new(entry.into_path(), reason));
        }
    }
    let mut names = own.clone();
    for sibling in siblings {
        names.extend(class_folders(sibling)?);
    }
    let numbers: BTreeMap<&OsStr, u32> = names.iter().map(OsString::as_os_str).zip(0..).collect();

    let labelled = !own.is_empty();
    let mut candidates = Vec::new();
    for (path, class) in pictures {
        match class {
            Some(name) => candidates.push((path, numbers[name.as_os_str()])),
            None if !labelled => candidates.push((path, 0)),
            None => skipped.push(Skipped::new(path, "outside the class folders")),
        }
    }
    let shapes: Vec<Result<Shape, String>> = candidates
        .par_iter()
        .map(|(path, _)| picture::read_shape(path))
        .collect();
    let mut found = Folder {
        channels: 1,
        ..Folder::default()
    };
    let mut labels = Vec::new();
    for ((path, label), shape) in candidates.into_iter().zip(shapes) {
        match shape {
            Ok((channels, height, width)) => {
                found.channels = found.channels.max(channels);
                *found.sizes.entry((height, width)).or_default() += 1;
                found.files.push(path);
                labels.push(label);
            }
            Err(reason) => {
                found.damaged += 1;
                skipped.push(Skipped::new(path, reason));
            }
        }
    }
    found.skipped = skipped;
    if labelled {
        found.labels = Some(labels);
        found.classes = names
            .iter()
            .map(|name| escape_name(name).into_owned())
            .collect();
        let empty = subfolders.difference(&own).map(|name| folder.join(name));
        found.empty = empty.collect();
    }
    Ok(found)
}

/// Whether a file is a picture by its name; links count as what they lead to, and pipes, sockets and
/// devices are never opened.
fn is_picture(entry: &DirEntry) -> bool {
    entry.file_type().is_file() && has_ending_of_picture(entry.path())
}

fn has_ending_of_picture(path: &Path) -> bool {
    ImageFormat::from_path(path).is_ok_and(|format| format.reading_enabled())
}

/// Why something that looks like a picture is none.
fn unusable(entry: &DirEntry) -> Option<&'static str> {
    if !entry.file_type().is_file() {
        return has_ending_of_picture(entry.path()).then_some("not a regular file");
    }
    let ending = entry.path().extension()?.to_str()?.to_ascii_lowercase();
    UNSUPPORTED
        .contains(&ending.as_str())
        .then_some("a format that is not supported: convert it to JPEG or PNG")
}

/// The names of the subfolders that hold a picture at any depth.
fn class_folders(folder: &Path) -> Result<BTreeSet<OsString>, DataError> {
    let mut names = BTreeSet::new();
    for entry in list(folder, 1)?.0 {
        if holds_picture(&entry) {
            names.insert(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Whether an entry is a folder with a picture at any depth; one that cannot be looked into has none.
fn holds_picture(entry: &DirEntry) -> bool {
    entry.file_type().is_dir()
        && list(entry.path(), usize::MAX).is_ok_and(|(entries, _)| entries.iter().any(is_picture))
}

fn first_component<'a>(path: &'a Path, folder: &Path) -> &'a OsStr {
    let below = path.strip_prefix(folder).unwrap_or(path);
    below.iter().next().unwrap_or_default()
}

/// What is below a folder, sorted by name, without hidden entries (`.DS_Store`,
/// `.ipynb_checkpoints`); and what cannot be followed or looked into.
fn list(folder: &Path, depth: usize) -> Result<(Vec<DirEntry>, Vec<Skipped>), DataError> {
    let is_hidden = |name: &OsStr| name.as_encoded_bytes().starts_with(b".");
    let walk = WalkDir::new(folder)
        .max_depth(depth)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(move |entry| entry.depth() == 0 || !is_hidden(entry.file_name()));
    let (mut entries, mut skipped) = (Vec::new(), Vec::new());
    for entry in walk {
        match entry {
            Ok(entry) if entry.depth() == 0 => {}
            Ok(entry) => entries.push(entry),
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_path_buf();
                if error.depth() == 0 || path == folder {
                    return Err(DataError::Io {
                        path,
                        source: error.into(),
                    });
                }
                if path.file_name().is_some_and(is_hidden) {
                    continue;
                }
                let reason = match error.loop_ancestor() {
                    Some(_) => "a link that leads back to a folder above it".to_owned(),
                    None if path.is_symlink() && !path.exists() => {
                        "a link that leads nowhere".to_owned()
                    }
                    None => match error.io_error() {
                        Some(error) => format!("it cannot be read: {error}"),
                        None => error.to_string(),
                    },
                };
                skipped.push(Skipped { path, reason });
            }
        }
    }
    Ok((entries, skipped))
}
