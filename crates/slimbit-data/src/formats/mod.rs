//! The dataset formats: what they look like on disk, and how they are found.

pub(crate) mod cifar;
pub(crate) mod folder;
pub(crate) mod idx;
pub(crate) mod picture;

use std::fs;
use std::path::Path;

use crate::DataError;

/// A dataset read whole: images of one shape, HWC, one after another.
pub(crate) struct Pixels {
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) data: Vec<u8>,
    pub(crate) labels: Option<Vec<u32>>,
    pub(crate) classes: Vec<String>,
}

/// The names in `folder/file`, one a line, or numbers where there is no such file.
fn class_names(folder: &Path, file: &str, count: usize) -> Result<Vec<String>, DataError> {
    let path = folder.join(file);
    if !path.is_file() {
        return Ok((0..count).map(|label| label.to_string()).collect());
    }
    let text = fs::read_to_string(&path).map_err(|error| DataError::io(&path, error))?;
    let names: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(String::from)
        .collect();
    if names.len() < count {
        return Err(DataError::corrupt(
            &path,
            format!("{} names for {count} classes", names.len()),
        ));
    }
    Ok(names)
}
