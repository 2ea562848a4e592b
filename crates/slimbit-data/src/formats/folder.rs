//! Folders of pictures: one subfolder per class, or all in one folder without labels; decoded when
//! they are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};

use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use rayon::prelude::*;
use walkdir::{DirEntry, WalkDir};

use crate::{DataError, Image, Skipped, Split};

type Shape = (usize, usize, usize);

/// The readable pictures below a folder, in the order of their paths.
pub(crate) struct Folder {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) labels: Option<Vec<u32>>,
    pub(crate) classes: Vec<String>,
    /// The most frequent size, with three channels if any picture has colours.
    pub(crate) shape: Shape,
    pub(crate) skipped: Vec<Skipped>,
}

fn split_of(name: &str) -> Option<Split> {
    match name {
        "train" | "training" => Some(Split::Train),
        "test" | "val" | "valid" | "validation" => Some(Split::Test),
        _ => None,
    }
}

/// The split folders of a folder that holds nothing but splits; a folder with other subfolders has
/// classes, one of which may well be called `train`.
pub(crate) fn split_folders(folder: &Path) -> Result<BTreeMap<String, Split>, DataError> {
    let mut splits = BTreeMap::new();
    for entry in entries(folder, 1) {
        let entry = entry?;
        if entry.file_type().is_dir() {
            match entry
                .file_name()
                .to_str()
                .and_then(|name| Some((name, split_of(name)?)))
            {
                Some((name, split)) => splits.insert(name.to_owned(), split),
                None => return Ok(BTreeMap::new()),
            };
        } else if is_picture(&entry) {
            return Ok(BTreeMap::new());
        }
    }
    Ok(splits)
}

/// Lists a folder and reads the header of every picture; `siblings` are the other splits of the
/// same dataset, whose classes are numbered with this one's.
pub(crate) fn open(folder: &Path, siblings: &[PathBuf]) -> Result<Folder, DataError> {
    let own = class_folders(folder)?;
    let mut names = own.clone();
    for sibling in siblings {
        names.extend(class_folders(sibling)?);
    }
    let numbers: BTreeMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();

    let mut skipped = Vec::new();
    let mut candidates = Vec::new();
    for entry in entries(folder, usize::MAX) {
        let entry = entry?;
        if !is_picture(&entry) {
            continue;
        }
        let class = (entry.depth() > 1).then(|| first_component(entry.path(), folder));
        match class {
            Some(name) => candidates.push((entry.into_path(), numbers[name.as_str()])),
            None if own.is_empty() => candidates.push((entry.into_path(), 0)),
            None => skipped.push(Skipped {
                path: entry.into_path(),
                reason: "outside the class folders".into(),
            }),
        }
    }

    let shapes = candidates
        .par_iter()
        .map(|(path, _)| read_shape(path))
        .collect::<Result<Vec<_>, DataError>>()?;
    let (mut files, mut labels) = (Vec::new(), Vec::new());
    let mut sizes: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut channels = 1;
    for ((path, label), shape) in candidates.into_iter().zip(shapes) {
        match shape {
            Ok((picture_channels, height, width)) => {
                channels = channels.max(picture_channels);
                *sizes.entry((height, width)).or_default() += 1;
                files.push(path);
                labels.push(label);
            }
            Err(reason) => skipped.push(Skipped { path, reason }),
        }
    }
    let Some(((height, width), _)) = sizes.into_iter().max_by_key(|&(_, count)| count) else {
        return Err(DataError::Empty {
            path: folder.into(),
            skipped: skipped.len(),
        });
    };
    let labels = (!own.is_empty()).then_some(labels);
    let classes = if labels.is_some() {
        names.into_iter().collect()
    } else {
        Vec::new()
    };
    Ok(Folder {
        files,
        labels,
        classes,
        shape: (channels, height, width),
        skipped,
    })
}

/// Decodes one picture: grey stays grey, everything else becomes RGB, transparency is dropped, 16
/// bits become 8.
pub(crate) fn decode(path: &Path) -> Result<Image, DataError> {
    let bytes = fs::read(path).map_err(|error| DataError::io(path, error))?;
    let undecodable = |reason: String| DataError::Decode {
        path: path.into(),
        reason,
    };
    // Only reading can fail for the system's reasons; from here on it is the file that is wrong.
    let reader = ImageReader::new(Cursor::new(&bytes))
        .with_guessed_format()
        .map_err(|e| undecodable(e.to_string()))?;
    if reader.format() == Some(ImageFormat::Jpeg) && !reaches_end_of_image(&bytes) {
        return Err(undecodable(
            "the file is truncated: it has no end-of-image marker".into(),
        ));
    }
    let picture = reader
        .decode()
        .map_err(|error| undecodable(error.to_string()))?;
    let (channels, height, width, pixels) = match picture {
        DynamicImage::ImageLuma8(grey) => (1, grey.height(), grey.width(), grey.into_raw()),
        other if !other.color().has_color() => (
            1,
            other.height(),
            other.width(),
            other.into_luma8().into_raw(),
        ),
        other => (
            3,
            other.height(),
            other.width(),
            other.into_rgb8().into_raw(),
        ),
    };
    Image::new(channels, height as usize, width as usize, pixels)
        .map_err(|error| undecodable(error.to_string()))
}

/// Whether a JPEG's segments lead to its end-of-image marker: the decoder pads a truncated picture
/// with grey instead of refusing it. Markers are followed from the start, because embedded
/// thumbnails and appended videos have their own.
fn reaches_end_of_image(jpeg: &[u8]) -> bool {
    let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff | 0xd0..=0xd7);
    let mut rest = jpeg.get(2..).unwrap_or_default();
    while let Some(marker) = rest.windows(2).position(is_marker) {
        let segment = &rest[marker + 2..];
        rest = match (rest[marker + 1], segment) {
            (0xd9, _) => return true,
            (0x01 | 0xd8, _) => segment,
            (_, &[high, low, ..]) => segment
                .get(usize::from(u16::from_be_bytes([high, low]))..)
                .unwrap_or_default(),
            _ => return false,
        };
    }
    false
}

fn read_shape(path: &Path) -> Result<Result<Shape, String>, DataError> {
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    let decoder = ImageReader::new(BufReader::new(file))
        .with_guessed_format()
        .map_err(image::ImageError::from)
        .and_then(ImageReader::into_decoder);
    Ok(match decoder {
        Err(error) => Err(error.to_string()),
        Ok(decoder) => match decoder.dimensions() {
            (0, _) | (_, 0) => Err("it has no pixels".into()),
            (width, height) => Ok((
                channels_of(decoder.color_type()),
                height as usize,
                width as usize,
            )),
        },
    })
}

fn channels_of(colour: ColorType) -> usize {
    if colour.has_color() { 3 } else { 1 }
}

fn is_picture(entry: &DirEntry) -> bool {
    entry.file_type().is_file()
        && ImageFormat::from_path(entry.path()).is_ok_and(|format| format.reading_enabled())
}

/// The names of the subfolders that hold a picture at any depth.
fn class_folders(folder: &Path) -> Result<BTreeSet<String>, DataError> {
    let mut names = BTreeSet::new();
    for entry in entries(folder, 1) {
        let entry = entry?;
        if entry.file_type().is_dir() && holds_picture(entry.path())? {
            let name = entry
                .file_name()
                .to_str()
                .ok_or_else(|| DataError::NonUtf8 {
                    path: entry.path().into(),
                })?;
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

fn holds_picture(folder: &Path) -> Result<bool, DataError> {
    for entry in entries(folder, usize::MAX) {
        if is_picture(&entry?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn first_component(path: &Path, folder: &Path) -> String {
    let below = path.strip_prefix(folder).unwrap_or(path);
    below
        .iter()
        .next()
        .unwrap_or(OsStr::new(""))
        .to_string_lossy()
        .into_owned()
}

/// What is below a folder, sorted by name, without hidden entries (`.DS_Store`,
/// `.ipynb_checkpoints`).
fn entries(folder: &Path, depth: usize) -> impl Iterator<Item = Result<DirEntry, DataError>> {
    let is_hidden = |entry: &DirEntry| {
        entry.depth() > 0 && entry.file_name().as_encoded_bytes().starts_with(b".")
    };
    let root = folder.to_path_buf();
    WalkDir::new(folder)
        .min_depth(1)
        .max_depth(depth)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(move |entry| !is_hidden(entry))
        .map(move |entry| {
            entry.map_err(|error| {
                let path = error.path().unwrap_or(&root).to_path_buf();
                DataError::Io {
                    path,
                    source: error.into(),
                }
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_jpeg_is_not_that_of_its_thumbnail() {
        let mut jpeg = Cursor::new(Vec::new());
        let noise = image::RgbImage::from_fn(40, 40, |x, y| {
            image::Rgb([(x * y * 7) as u8, (x * 31) as u8, y as u8])
        });
        noise.write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
        let plain = jpeg.into_inner();
        let length = (plain.len() as u16 + 2).to_be_bytes();
        let embedding = [&plain[..2], &[0xff, 0xe1], &length, &plain, &plain[2..]].concat();
        for jpeg in [&plain, &embedding] {
            assert!(reaches_end_of_image(jpeg));
            assert!(reaches_end_of_image(
                &[jpeg, &[0xff, 0xda, 0xff][..]].concat()
            ));
            for cut in 1..jpeg.len() - 1 {
                assert!(
                    !reaches_end_of_image(&jpeg[..cut]),
                    "{cut} of {}",
                    jpeg.len()
                );
            }
        }
    }
}
