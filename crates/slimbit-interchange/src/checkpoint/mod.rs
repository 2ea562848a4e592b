//! Readers of foreign checkpoints: safetensors, PyTorch's zip format and its older pickled format.
//!
//! All give [`Tensors`]: plain arrays by name. Nothing that a file says is executed, and nothing
//! that it claims is allocated before the file has the bytes for it: reading takes at most 20 times the file's
//! size and 64 MiB, and for an ordinary checkpoint two to three times its size.

mod dtype;
mod legacy;
mod numpy;
mod pickle;
pub(crate) mod role;
mod safetensors;
mod state_dict;
mod strided;
mod zip;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use slimbit_graph::Array;

use self::dtype::Dtype;
use self::state_dict::{Found, Leaf};
use self::strided::Budget;
use crate::{FileKind, ImportError};

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

/// Which weights to take from a checkpoint that holds those of the network and an average of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// The network's own; of a `student` and a `teacher`, the teacher's, which is what self-distillation deploys.
    #[default]
    Auto,
    /// The network's own, a student's where there is a teacher.
    Model,
    /// The average: EMA, SWA, a momentum encoder, a teacher.
    Average,
}

/// The tensors of a checkpoint, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensors {
    /// The kind of file they came from.
    pub format: Format,
    /// Tensors of a float type, as `f32`.
    pub floats: BTreeMap<String, Array>,
    /// Other tensors (such as `num_batches_tracked`): their element type, or what kind of tensor they are.
    pub others: BTreeMap<String, String>,
    /// Python objects among them, which nothing here can rebuild: their class.
    pub objects: BTreeMap<String, String>,
    /// Which weights were asked for.
    pub weights: Weights,
    /// Whether these are an average of the network's weights, as their place in the file says.
    pub averaged: bool,
    /// What was chosen of the file, a sentence each.
    pub notes: Vec<String>,
}

impl Tensors {
    /// Reads a checkpoint of any of the [`Format`]s, which its content tells apart.
    ///
    /// # Errors
    /// As [`Tensors::from_bytes`], and [`ImportError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ImportError> {
        Self::open_with(path, Weights::Auto)
    }

    /// The same, with a choice of weights.
    ///
    /// # Errors
    /// As [`Tensors::open`].
    pub fn open_with(path: impl AsRef<Path>, weights: Weights) -> Result<Self, ImportError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| ImportError::io(path, source))?;
        Self::from_bytes_with(&bytes, weights)
    }

    /// Reads a checkpoint from the bytes of its file.
    ///
    /// Prefixes `module.` and `_orig_mod.` that all names share, which training on several devices
    /// and compilation leave, are taken off.
    ///
    /// # Errors
    /// [`ImportError::Kind`] for another kind of file, [`ImportError::Refused`] for a tensor or a state dict that
    /// only running Python could rebuild, [`ImportError::Invalid`] for a file without weights or one that asks for
    /// too much memory, [`ImportError::Damaged`] naming the tensor, the entry or the byte where bytes contradict
    /// one another.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ImportError> {
        Self::from_bytes_with(bytes, Weights::Auto)
    }

    /// The same, with a choice of weights.
    ///
    /// # Errors
    /// As [`Tensors::from_bytes`].
    pub fn from_bytes_with(bytes: &[u8], weights: Weights) -> Result<Self, ImportError> {
        let mut tensors = match FileKind::of_bytes(bytes) {
            FileKind::TorchZip => zip::read(bytes, weights)?,
            FileKind::TorchLegacy => legacy::read(bytes, weights)?,
            FileKind::SafeTensors => safetensors::read(bytes, weights)?,
            // Our own files are safetensors, too.
            FileKind::Slim | FileKind::Network | FileKind::TrainingCheckpoint => {
                safetensors::read(bytes, weights)?
            }
            kind => {
                let wanted = "neither safetensors nor a checkpoint of PyTorch";
                return Err(ImportError::Kind { kind, wanted });
            }
        };
        while ["module.", "_orig_mod."]
            .into_iter()
            .any(|prefix| tensors.strip(prefix))
        {}
        Ok(tensors)
    }

    /// Only the tensors whose names begin with `prefix`, without it.
    ///
    /// # Errors
    /// [`ImportError::Invalid`] where there are none.
    pub fn below(mut self, prefix: &str) -> Result<Self, ImportError> {
        let prefix = format!("{}.", prefix.trim_end_matches('.'));
        self.floats.retain(|name, _| name.starts_with(&prefix));
        self.others.retain(|name, _| name.starts_with(&prefix));
        self.objects.retain(|name, _| name.starts_with(&prefix));
        if self.floats.is_empty() {
            let what = format!("no tensor's name begins with `{prefix}`");
            return Err(ImportError::invalid("checkpoint", what));
        }
        self.strip(&prefix);
        Ok(self)
    }

    fn new(format: Format, weights: Weights) -> Self {
        Self {
            format,
            floats: BTreeMap::new(),
            others: BTreeMap::new(),
            objects: BTreeMap::new(),
            weights,
            averaged: false,
            notes: Vec::new(),
        }
    }

    /// Takes what a pickle holds, but for the tensors that lie in storages, which it gives back.
    fn take<'l, 'a>(
        &mut self,
        found: Found<'l, 'a>,
        budget: &mut Budget,
    ) -> Result<Vec<(String, &'l pickle::TensorRef<'a>)>, ImportError> {
        self.notes = found.notes;
        self.averaged = found.averaged;
        let mut stored = Vec::new();
        for (name, leaf) in found.leaves {
            match leaf {
                Leaf::Tensor(tensor) => match strided::plain(&name, tensor)? {
                    dtype if dtype.is_float() => stored.push((name, tensor)),
                    dtype => self.other(name, dtype),
                },
                Leaf::Array(array) => match array.dtype {
                    Some(dtype) if dtype.is_float() => {
                        let array = numpy::read(&name, array, dtype, budget)?;
                        self.floats.insert(name, array);
                    }
                    Some(dtype) => self.other(name, dtype),
                    None => {
                        let what = "an array of no plain, little-endian numbers".to_owned();
                        self.others.insert(name, what);
                    }
                },
                Leaf::Special(what) => {
                    self.others.insert(name, what.to_owned());
                }
                Leaf::Object(class) => {
                    self.objects.insert(name, class);
                }
            }
        }
        Ok(stored)
    }

    fn other(&mut self, name: String, dtype: Dtype) {
        self.others.insert(name, dtype.name().to_owned());
    }

    /// Takes a prefix off all names, if all have it.
    fn strip(&mut self, prefix: &str) -> bool {
        let mut names = self.floats.keys().chain(self.others.keys());
        if self.floats.is_empty() || !names.all(|name| name.starts_with(prefix)) {
            return false;
        }
        let short = |name: String| name[prefix.len()..].to_owned();
        let floats = std::mem::take(&mut self.floats).into_iter();
        self.floats = floats.map(|(name, array)| (short(name), array)).collect();
        let others = std::mem::take(&mut self.others).into_iter();
        self.others = others.map(|(name, dtype)| (short(name), dtype)).collect();
        let objects = std::mem::take(&mut self.objects).into_iter();
        let objects = objects.filter(|(name, _)| name.starts_with(prefix));
        self.objects = objects.map(|(name, class)| (short(name), class)).collect();
        true
    }
}
