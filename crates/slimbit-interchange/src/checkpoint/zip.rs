//! `torch.save` since PyTorch 1.6: a zip archive with the pickle `NAME/data.pkl` and one entry
//! `NAME/data/KEY` per storage, uncompressed.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use ::zip::ZipArchive;
use ::zip::result::ZipError;

use super::pickle::{self, Allowance, TensorRef};
use super::strided::{Budget, gather};
use super::{Format, Tensors, Weights, state_dict};
use crate::ImportError;

/// How many times its size an archive may unpack to. PyTorch does not compress at all, and trained
/// weights hardly can be.
const MAX_EXPANSION: usize = 4;

/// Reads a whole archive.
pub(super) fn read(bytes: &[u8], weights: Weights) -> Result<Tensors, ImportError> {
    let archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| fault("archive", error))?;
    let mut entries = Entries {
        folder: folder(&archive)?,
        bytes_left: bytes.len().saturating_mul(MAX_EXPANSION),
        archive,
    };
    if entries.has("byteorder") && entries.read("byteorder")? != b"little" {
        let what = "is not little; save the checkpoint again on a little-endian machine";
        return Err(ImportError::invalid("entry `byteorder`", what));
    }
    let mut allowance = Allowance::of(bytes.len());
    let program = entries.read("data.pkl")?;
    let loaded = pickle::load(&program, 0, &mut allowance)?;

    let mut tensors = Tensors::new(Format::TorchZip, weights);
    let mut budget = Budget::of(bytes.len());
    // Tensors that share a storage come one after another: one storage is in memory at a time.
    let mut by_storage: BTreeMap<&str, Vec<(String, &TensorRef)>> = BTreeMap::new();
    let found = state_dict::find(&loaded, weights, &mut allowance)?;
    for (name, tensor) in tensors.take(found, &mut budget)? {
        let sharing = by_storage.entry(tensor.storage.key).or_default();
        sharing.push((name, tensor));
    }
    for (key, sharing) in by_storage {
        let stored = entries.read(&format!("data/{key}"))?;
        for (name, tensor) in sharing {
            let array = gather(&name, tensor, &stored, &mut budget)?;
            tensors.floats.insert(name, array);
        }
    }
    Ok(tensors)
}

/// The folder that the archive's one pickle lies in, with its slash.
fn folder(archive: &ZipArchive<Cursor<&[u8]>>) -> Result<String, ImportError> {
    let mut folders = Vec::new();
    for name in archive.file_names() {
        let name = name.map_err(|error| fault("archive", error))?;
        let folder = name.strip_suffix("data.pkl");
        folders.extend(
            folder
                .filter(|folder| folder.is_empty() || folder.ends_with('/'))
                .map(str::to_owned),
        );
    }
    match &mut folders[..] {
        [folder] => Ok(std::mem::take(folder)),
        _ => {
            let what = "holds not exactly one `data.pkl`, so it is not a PyTorch checkpoint";
            Err(ImportError::invalid("archive", what))
        }
    }
}

/// The entries of one folder of an archive.
struct Entries<'a> {
    archive: ZipArchive<Cursor<&'a [u8]>>,
    folder: String,
    /// What may still be unpacked.
    bytes_left: usize,
}

impl Entries<'_> {
    fn has(&self, name: &str) -> bool {
        let name = format!("{}{name}", self.folder);
        self.archive.index_for_name(&name).is_some()
    }

    fn read(&mut self, name: &str) -> Result<Vec<u8>, ImportError> {
        let at = format!("entry `{name}`");
        let path = format!("{}{name}", self.folder);
        let entry = self.archive.by_name(&path);
        let entry = entry.map_err(|error| fault(&at, error))?;
        let mut unpacked = Vec::new();
        // One byte more than is left tells a full budget from an exceeded one.
        let limit = self.bytes_left as u64 + 1;
        let read = entry.take(limit).read_to_end(&mut unpacked);
        read.map_err(|error| ImportError::damaged(&at, error.to_string()))?;
        match self.bytes_left.checked_sub(unpacked.len()) {
            Some(left) => self.bytes_left = left,
            None => {
                let what = format!(
                    "with it the archive unpacks to more than {MAX_EXPANSION} times its size; \
                     store it without compression"
                );
                return Err(ImportError::invalid(&at, what));
            }
        }
        Ok(unpacked)
    }
}

fn fault(at: &str, error: ZipError) -> ImportError {
    match error {
        ZipError::FileNotFound => ImportError::damaged(at, "is missing"),
        error => ImportError::damaged(at, error.to_string()),
    }
}
