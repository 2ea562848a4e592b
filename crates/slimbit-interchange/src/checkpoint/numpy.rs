use slimbit_graph::Array;

use super::dtype::Dtype;
use super::pickle::{ArrayData, ArrayRef};
use super::strided::{Budget, dense};
use crate::ImportError;

/// The values of a NumPy array of floats.
///
/// # Errors
/// [`ImportError::Damaged`] where its bytes are not as many as its shape says.
pub(super) fn read(
    name: &str,
    array: &ArrayRef,
    dtype: Dtype,
    budget: &mut Budget,
) -> Result<Array, ImportError> {
    let fault = |what: String| ImportError::damaged(format!("array `{name}`"), what);
    let shape = &array.shape;
    let elements = shape
        .iter()
        .try_fold(1_usize, |all, &size| all.checked_mul(size));
    let Some(elements) = elements else {
        return Err(fault(format!("shape {shape:?} is not an array")));
    };
    budget.take(name, elements)?;
    let decoded;
    let bytes = match array.data {
        ArrayData::Bytes(bytes) => bytes,
        ArrayData::Latin1(text) => {
            let bytes: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
            decoded = bytes.map_err(|_| fault("holds characters that are not bytes".to_owned()))?;
            &decoded[..]
        }
    };
    if bytes.len() != elements * dtype.size() {
        return Err(fault(format!(
            "{} bytes for shape {shape:?} of {}",
            bytes.len(),
            dtype.name()
        )));
    }
    let data = if array.fortran && shape.len() > 1 && elements > 0 {
        let strides: Vec<usize> = (0..shape.len())
            .map(|axis| shape[..axis].iter().product())
            .collect();
        dtype.decode(&dense(shape, &strides, dtype.size(), bytes, elements))
    } else {
        dtype.decode(bytes)
    };
    Ok(Array {
        shape: shape.clone(),
        data,
    })
}
