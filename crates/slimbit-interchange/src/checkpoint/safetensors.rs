use ::safetensors::{Dtype as FileDtype, SafeTensors};
use slimbit_graph::Array;

use super::dtype::Dtype;
use super::strided::Budget;
use super::{Format, Tensors, Weights};
use crate::ImportError;

/// Reads a safetensors file.
pub(super) fn read(bytes: &[u8], weights: Weights) -> Result<Tensors, ImportError> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| ImportError::damaged("header", error.to_string()))?;
    let mut tensors = Tensors::new(Format::SafeTensors, weights);
    let mut budget = Budget::of(bytes.len());
    for (name, view) in file.tensors() {
        let dtype = match view.dtype() {
            FileDtype::F64 => Dtype::F64,
            FileDtype::F32 => Dtype::F32,
            FileDtype::F16 => Dtype::F16,
            FileDtype::BF16 => Dtype::Bf16,
            FileDtype::F8_E4M3 => Dtype::F8E4m3,
            FileDtype::F8_E5M2 => Dtype::F8E5m2,
            other => {
                tensors.others.insert(name, format!("{other:?}"));
                continue;
            }
        };
        budget.take(&name, view.data().len() / dtype.size())?;
        let array = Array {
            shape: view.shape().to_vec(),
            data: dtype.decode(view.data()),
        };
        tensors.floats.insert(name, array);
    }
    Ok(tensors)
}
