//! Flex tensors as contiguous `f32` slices, and back.

use burn::backend::TensorMetadata;
use burn::tensor::{Shape, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// Zeros per task.
const ZEROS: usize = 1 << 16;

/// `tensor` itself where its elements are one contiguous run, a packed copy otherwise.
pub(super) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.as_slice::<f32>().is_some() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// The elements of a [`contiguous`] tensor, in row-major order.
pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    match tensor.as_slice::<f32>() {
        Some(values) => values,
        None => panic!("expected contiguous f32 values, got {tensor:?}"),
    }
}

/// `count` zeros, written by all threads: on large maps a pass like any other.
pub(super) fn zeros(count: usize) -> Vec<f32> {
    if count <= ZEROS {
        return vec![0.0; count];
    }
    let zeros = rayon::iter::repeat_n(0.0, count);
    zeros.with_min_len(ZEROS).collect()
}

/// Makes a buffer at least `length` long; new floats are zero.
pub(super) fn grow(buffer: &mut Vec<f32>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
}

/// A tensor that owns `values`.
pub(super) fn from_values(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The shape of a tensor of known rank.
pub(super) fn dims<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.shape().dims()
}
