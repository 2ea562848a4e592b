use std::collections::BTreeMap;

use ::safetensors::{Dtype as FileDtype, SafeTensors};
use slimbit_graph::Array;

use super::dtype::Dtype;
use super::{Format, Tensors};
use crate::ImportError;

/// Reads a safetensors file.
pub(super) fn read(bytes: &[u8]) -> Result<Tensors, ImportError> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| ImportError::damaged("header", error.to_string()))?;
    let mut tensors = Tensors {
        format: Format::SafeTensors,
        floats: BTreeMap::new(),
        others: BTreeMap::new(),
    };
    for (name, view) in file.tensors() {
        let dtype = match view.dtype() {
            FileDtype::F64 => Dtype::F64,
            FileDtype::F32 => Dtype::F32,
            FileDtype::F16 => Dtype::F16,
            FileDtype::BF16 => Dtype::Bf16,
            other => {
                tensors.others.insert(name, format!("{other:?}"));
                continue;
            }
        };
        let array = Array {
            shape: view.shape().to_vec(),
            data: dtype.decode(view.data()),
        };
        tensors.floats.insert(name, array);
    }
    Ok(tensors)
}
