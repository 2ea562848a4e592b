//! Readers of foreign checkpoints: safetensors, PyTorch's zip format and its older pickled format.
//!
//! All give [`Tensors`]: plain arrays by name. Nothing that a file says is executed, and nothing
//! that it claims is allocated before the file has the bytes for it.

mod dtype;
mod legacy;
mod pickle;
mod safetensors;
mod state_dict;
mod strided;
mod zip;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use slimbit_graph::Array;

use crate::ImportError;

/// The kind of file that a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// safetensors.
    SafeTensors,
    /// `torch.save` since PyTorch 1.6: a zip archive of a pickle and one entry per storage.
    TorchZip,
    /// `torch.save` before that: pickles, then the storages.
    TorchLegacy,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SafeTensors => "safetensors",
            Self::TorchZip => "PyTorch checkpoint (zip)",
            Self::TorchLegacy => "PyTorch checkpoint (legacy)",
        })
    }
}

/// The tensors of a checkpoint, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensors {
    /// The kind of file they came from.
    pub format: Format,
    /// Tensors of a float type, as `f32`.
    pub floats: BTreeMap<String, Array>,
    /// Other tensors (such as `num_batches_tracked`): their element type.
    pub others: BTreeMap<String, String>,
}

impl Tensors {
    /// Reads a checkpoint of any of the [`Format`]s, which the first bytes tell apart.
    ///
    /// # Errors
    /// As [`Tensors::from_bytes`], and [`ImportError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ImportError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| ImportError::io(path, source))?;
        Self::from_bytes(&bytes)
    }

    /// Reads a checkpoint from the bytes of its file.
    ///
    /// A prefix `module.` or `_orig_mod.` that all names share, which training on several devices
    /// and compilation leave, is taken off.
    ///
    /// # Errors
    /// [`ImportError::Refused`] for a pickle that names anything but tensors and containers,
    /// [`ImportError::Damaged`] naming the tensor, the entry or the byte for all else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ImportError> {
        let mut tensors = if bytes.starts_with(b"PK\x03\x04") {
            zip::read(bytes)?
        } else if legacy::is_legacy(bytes) {
            legacy::read(bytes)?
        } else if bytes.get(8) == Some(&b'{') {
            safetensors::read(bytes)?
        } else {
            return Err(ImportError::invalid(
                "file",
                "neither safetensors nor a checkpoint of PyTorch; convert it with Python to one of them",
            ));
        };
        for prefix in ["module.", "_orig_mod.", "module."] {
            tensors.strip(prefix);
        }
        Ok(tensors)
    }

    fn strip(&mut self, prefix: &str) {
        let mut names = self.floats.keys().chain(self.others.keys());
        if !names.all(|name| name.starts_with(prefix)) {
            return;
        }
        let short = |name: String| name[prefix.len()..].to_owned();
        let floats = std::mem::take(&mut self.floats).into_iter();
        self.floats = floats.map(|(name, array)| (short(name), array)).collect();
        let others = std::mem::take(&mut self.others).into_iter();
        self.others = others.map(|(name, dtype)| (short(name), dtype)).collect();
    }
}
