//! The list of a run's images, by which a resumed run knows whether they are still the same.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use slimbit_data::Dataset;

use crate::TrainError;
use crate::atomic::write_atomically;

/// Names that a difference tells.
const EXAMPLES: usize = 3;

/// Names and sizes of a run's images, in their order. Contents are not looked at.
///
/// On disk it is compressed text: a line `{"images":620,"crc32c":"…"}`, then a line `["name",bytes]` per picture. Of
/// images that are held in memory there is one line, with their shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageList {
    images: u64,
    entries: Vec<(String, u64)>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    images: u64,
    crc32c: String,
}

/// In what two lists differ.
#[derive(Debug)]
pub(crate) struct Difference {
    then: u64,
    now: u64,
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
}

impl ImageList {
    /// The images of a dataset as they are now.
    ///
    /// # Errors
    /// [`TrainError::Io`] where a file's size cannot be read.
    pub(crate) fn of(dataset: &Dataset) -> Result<Self, TrainError> {
        let images = dataset.len();
        let entry = |index: usize| {
            let Some(file) = dataset.file(index) else {
                return Ok(None);
            };
            let name = file.strip_prefix(dataset.path()).unwrap_or(file);
            let name = match name.to_str() {
                Some(name) => name.to_owned(),
                None => format!("{name:?}"),
            };
            match fs::metadata(file) {
                Ok(metadata) => Ok(Some((name, metadata.len()))),
                Err(error) => Err(TrainError::io("read", file, error)),
            }
        };
        let mut entries: Vec<_> = (0..images)
            .filter_map(|index| entry(index).transpose())
            .collect::<Result<_, _>>()?;
        if entries.is_empty() {
            let (channels, height, width) = dataset.shape();
            entries.push((
                format!("images of {height}x{width}x{channels}"),
                images as u64,
            ));
        }
        Ok(Self {
            images: images as u64,
            entries,
        })
    }

    fn lines(&self) -> String {
        let mut text = String::new();
        for entry in &self.entries {
            text += &serde_json::to_string(entry).expect("text and numbers are JSON");
            text.push('\n');
        }
        text
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), TrainError> {
        let lines = self.lines();
        let header = Header {
            images: self.images,
            crc32c: format!("{:08x}", crc32c::crc32c(lines.as_bytes())),
        };
        let header = serde_json::to_string(&header).expect("text and numbers are JSON");
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let bytes = writeln!(encoder, "{header}")
            .and_then(|()| encoder.write_all(lines.as_bytes()))
            .and_then(|()| encoder.finish())
            .expect("memory can be written");
        write_atomically(path, &bytes)
    }

    /// Reads a list; `None` where there is none, as in runs that were begun by an earlier program.
    ///
    /// # Errors
    /// [`TrainError::Io`]; [`TrainError::Checkpoint`] where the file is damaged.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, TrainError> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|e| TrainError::io("read", path, e))?,
        };
        let damaged = || {
            TrainError::checkpoint(
                path,
                "the list of images is damaged; restore it, or remove it to go on with the images as they are now",
            )
        };
        let mut text = String::new();
        GzDecoder::new(bytes.as_slice())
            .read_to_string(&mut text)
            .map_err(|_| damaged())?;
        let (header, lines) = text.split_once('\n').ok_or_else(damaged)?;
        let header: Header = serde_json::from_str(header).map_err(|_| damaged())?;
        if header.crc32c != format!("{:08x}", crc32c::crc32c(lines.as_bytes())) {
            return Err(damaged());
        }
        let entries = lines.lines().map(serde_json::from_str);
        Ok(Some(Self {
            images: header.images,
            entries: entries.collect::<Result<_, _>>().map_err(|_| damaged())?,
        }))
    }

    /// What is different now; `None` where nothing is.
    pub(crate) fn difference(&self, now: &Self) -> Option<Difference> {
        if self == now {
            return None;
        }
        let sizes =
            |list: &Self| -> BTreeMap<String, u64> { list.entries.iter().cloned().collect() };
        let (before, after) = (sizes(self), sizes(now));
        let names = |of: &BTreeMap<String, u64>, keep: &dyn Fn(&str, u64) -> bool| {
            let kept = of.iter().filter(|(name, size)| keep(name, **size));
            kept.map(|(name, _)| name.clone()).collect()
        };
        Some(Difference {
            then: self.images,
            now: now.images,
            added: names(&after, &|name, _| !before.contains_key(name)),
            removed: names(&before, &|name, _| !after.contains_key(name)),
            changed: names(&after, &|name, size| {
                before.get(name).is_some_and(|&old| old != size)
            }),
        })
    }
}

impl Difference {
    /// Why a run is not resumed, and how it can be.
    pub(crate) fn refusal(&self, run: &Path) -> TrainError {
        TrainError::RunDir {
            path: run.to_owned(),
            what: format!(
                "its images are no longer those that it began with: {self}; it would go on with others in another order. \
                 Restore them, or go on with what is there now: --allow-changed-data"
            ),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} images then, {} now", self.then, self.now)?;
        for (names, what) in [
            (&self.added, "added"),
            (&self.removed, "removed"),
            (&self.changed, "of another size"),
        ] {
            if names.is_empty() {
                continue;
            }
            let mut examples = String::new();
            for (index, name) in names.iter().take(EXAMPLES).enumerate() {
                let comma = if index == 0 { "" } else { ", " };
                // Quoted and escaped, as names may hold anything.
                let _ = write!(examples, "{comma}{name:?}");
            }
            let more = if names.len() > EXAMPLES { ", …" } else { "" };
            write!(f, "; {} {what} ({examples}{more})", names.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[(&str, u64)]) -> ImageList {
        ImageList {
            images: names.len() as u64,
            entries: names.iter().map(|&(n, s)| (n.to_owned(), s)).collect(),
        }
    }

    #[test]
    fn a_list_survives_the_disk_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images");
        assert_eq!(ImageList::read(&path).unwrap(), None);
        let written = list(&[("a\nb.png", 3), ("c\t\"d\".jpg", 4)]);
        written.write(&path).unwrap();
        assert_eq!(ImageList::read(&path).unwrap(), Some(written));
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 12;
        bytes[last] ^= 8;
        fs::write(&path, bytes).unwrap();
        let error = ImageList::read(&path).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
    }

    #[test]
    fn a_difference_names_what_came_went_and_changed() {
        let then = list(&[("a", 1), ("b", 2), ("c", 3)]);
        assert!(then.difference(&then.clone()).is_none());
        let now = list(&[("a", 1), ("b", 9), ("d", 4), ("e", 5)]);
        assert_eq!(
            then.difference(&now).unwrap().to_string(),
            r#"3 images then, 4 now; 2 added ("d", "e"); 1 removed ("c"); 1 of another size ("b")"#
        );
    }
}
