//! The binary version of CIFAR-10 and CIFAR-100: records of one or two labels and 3 × 32 × 32
//! bytes, CHW.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Pixels, class_names};
use crate::{DataError, Split};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

struct Variant {
    /// Bytes before the pixels; the last of them is the label.
    label_bytes: usize,
    classes: usize,
    names: &'static str,
}

const CIFAR10: Variant = Variant {
    label_bytes: 1,
    classes: 10,
    names: "batches.meta.txt",
};
const CIFAR100: Variant = Variant {
    label_bytes: 2,
    classes: 100,
    names: "fine_label_names.txt",
};

impl Variant {
    fn record(&self) -> usize {
        self.label_bytes + 3 * PLANE
    }

    /// By the names of the original files, else by the record that divides the file.
    fn of(path: &Path, bytes: usize) -> &'static Variant {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("train.bin" | "test.bin") => &CIFAR100,
            Some(name) if name.starts_with("data_batch") || name.starts_with("test_batch") => {
                &CIFAR10
            }
            _ if bytes.is_multiple_of(CIFAR100.record()) => &CIFAR100,
            _ => &CIFAR10,
        }
    }
}

/// The folder that the official archives unpack to, if it is one of these names.
pub(crate) fn archive_folder(names: &[String]) -> Option<&String> {
    names
        .iter()
        .find(|name| matches!(name.as_str(), "cifar-10-batches-bin" | "cifar-100-binary"))
}

/// CIFAR's record files among the sorted file names of a folder, and the split of each.
pub(crate) fn record_files(names: &[String]) -> Vec<(&String, Option<Split>)> {
    let split_of = |name: &str| match name {
        "train.bin" => Some(Split::Train),
        "test.bin" | "test_batch.bin" => Some(Split::Test),
        _ if name.starts_with("data_batch") && name.ends_with(".bin") => Some(Split::Train),
        _ => None,
    };
    let files = names.iter().map(|name| (name, split_of(name)));
    files.filter(|(_, split)| split.is_some()).collect()
}

/// Whether the file names are those of the pickled version, which this crate does not read.
pub(crate) fn is_python_version(names: &[String]) -> bool {
    names.iter().any(|name| {
        matches!(
            name.as_str(),
            "data_batch_1" | "batches.meta" | "cifar-10-batches-py"
        )
    })
}

/// Reads record files of one variant, in order.
pub(crate) fn read(files: &[PathBuf]) -> Result<Pixels, DataError> {
    let (mut data, mut labels) = (Vec::new(), Vec::new());
    let mut classes = Vec::new();
    for path in files {
        let bytes = fs::read(path).map_err(|error| DataError::io(path, error))?;
        let variant = Variant::of(path, bytes.len());
        if bytes.is_empty() || !bytes.len().is_multiple_of(variant.record()) {
            let reason = format!(
                "its {} bytes are not whole records of {}",
                bytes.len(),
                variant.record()
            );
            return Err(DataError::corrupt(path, reason));
        }
        data.reserve(bytes.len());
        for (index, record) in bytes.chunks_exact(variant.record()).enumerate() {
            let (label, pixels) = record.split_at(variant.label_bytes);
            let label = label[variant.label_bytes - 1];
            if usize::from(label) >= variant.classes {
                let reason = format!("record {index} has label {label} of {}", variant.classes);
                return Err(DataError::corrupt(path, reason));
            }
            labels.push(u32::from(label));
            data.extend(
                (0..PLANE).flat_map(|i| [pixels[i], pixels[PLANE + i], pixels[2 * PLANE + i]]),
            );
        }
        if classes.is_empty() {
            classes = class_names(
                path.parent().unwrap_or(Path::new("")),
                variant.names,
                variant.classes,
            )?;
        }
    }
    Ok(Pixels {
        channels: 3,
        height: SIDE,
        width: SIDE,
        data,
        labels: Some(labels),
        classes,
    })
}
