//! The training operators: one binary, so that Burn is linked once.

mod batch_norm;
mod conv2d;
mod fake_quant;
#[cfg(feature = "gpu")]
mod gpu;
mod shortcut;

use burn::tensor::TensorData;

/// Reproducible values in about (-1, 1).
fn noise<const D: usize>(shape: [usize; D], seed: u64) -> TensorData {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = std::iter::repeat_with(next)
        .take(shape.iter().product())
        .collect();
    TensorData::new(values, shape)
}
