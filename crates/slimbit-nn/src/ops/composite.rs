//! The operators in Burn's own tensor operations, which have their gradients on every device: what
//! runs where the operators that are written for the CPU cannot.
//!
//! Each has the values and the gradients of its namesake up to rounding: sums are added in another
//! order, and a GPU may divide less exactly than the CPU does, so that a value right between two
//! codes can get the other one.

use burn::Tensor;
use burn::backend::DispatchDevice;
use burn::tensor::module::conv2d as convolve;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, TensorData, s};

use super::activation::Activation;
use super::batch_norm::BatchNorm;
use super::conv2d::Conv;
use super::fake_quant_activation::Grid;
use super::fake_quant_weight::{Codes, Quantiser};
use crate::params::to_vec;

/// Whether tensors on `device` need this module: everywhere but on the CPU.
pub(crate) fn needed_on(device: &Device) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Flex(_) => false,
        DispatchDevice::Autodiff(inner) => !matches!(**inner, DispatchDevice::Flex(_)),
        _ => true,
    }
}

pub(super) fn conv2d(x: Tensor<4>, w: Tensor<4>, conv: Conv) -> Tensor<4> {
    let [top, left, bottom, right] = conv.padding;
    let padding = [(top, bottom), (left, right)];
    let options = ConvOptions::new_with_padding(conv.stride, padding, conv.dilation, conv.groups);
    convolve(x, w, None, options)
}

pub(super) fn batch_norm_act<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    eps: f32,
    activation: Activation,
) -> BatchNorm<D> {
    let dims = x.dims();
    let (x, channels) = by_channel(x);
    let mean_of = |x: Tensor<3>| x.mean_dim(2).mean_dim(0);
    let mean = mean_of(x.clone());
    let centred = x - mean.clone();
    let variance = mean_of(centred.clone().square());
    let scale = gamma.reshape([1, channels, 1]) / (variance.clone() + eps).sqrt();
    let output = bounded(
        centred * scale + beta.reshape([1, channels, 1]),
        activation.bounds(),
    );
    let constant = |x: Tensor<3>| x.reshape([channels]).without_autodiff();
    BatchNorm {
        output: output.reshape(dims),
        mean: constant(mean),
        variance: constant(variance),
        count: dims.iter().product::<usize>() / channels.max(1),
    }
}

pub(super) fn affine_act<const D: usize>(
    x: Tensor<D>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    activation: Activation,
) -> Tensor<D> {
    let dims = x.dims();
    let (x, channels) = by_channel(x);
    let [scale, shift] = [scale, shift].map(|v| v.detach().reshape([1, channels, 1]));
    bounded(x * scale + shift, activation.bounds()).reshape(dims)
}

pub(super) fn fake_quant_activation<const D: usize>(x: Tensor<D>, grid: Grid) -> Tensor<D> {
    let code = (x.clone().detach() / grid.scale).round() + grid.zero_point;
    let below = code.clone().lower_elem(0.0);
    let above = code.clone().greater_elem(grid.last);
    let code = (code.mask_fill(below.clone(), 0.0)).mask_fill(above.clone(), grid.last);
    let value = (code - grid.zero_point) * grid.scale;
    let passed = x.mask_fill(below.bool_or(above), 0.0);
    with_gradient_of(value, passed)
}

pub(super) fn fake_quant_weight<const D: usize>(w: Tensor<D>, quantiser: Quantiser) -> Tensor<D> {
    let dims = w.dims();
    let row = dims[1..].iter().product::<usize>().max(1);
    let w = w.reshape([dims[0], row]);
    let fixed = w.clone().detach();
    let max_abs = fixed.clone().abs().max_dim(1);
    // The numeric contract gives the scales: a GPU's division might miss them by a bit.
    let channels: Vec<Codes> = to_vec(&max_abs)
        .into_iter()
        .map(|max_abs| quantiser.codes(max_abs))
        .collect();
    let column = |of: fn(&Codes) -> f32| {
        let values: Vec<f32> = channels.iter().map(of).collect();
        Tensor::<2>::from_data(TensorData::new(values, [dims[0], 1]), &fixed.device())
    };
    // All but the two scales is the same in every channel.
    let codes = quantiser.codes(1.0);
    let rounded = (fixed.clone() / column(|c| c.scale)).round();
    let code = rounded.clone().clamp(-codes.last - 1.0, codes.last);
    let upper = ((code.clone() + codes.round) * codes.keep).floor();
    let kept = upper.clone().clamp_max(codes.kept_last);
    let moved = code
        .not_equal(rounded)
        .bool_or(kept.clone().not_equal(upper));
    let value = (kept * codes.times + codes.plus) * column(|c| c.unit);
    let passed = w.clone().mask_fill(moved, 0.0);
    let quantised = with_gradient_of(value.clone(), passed.clone());
    if quantiser.detach_scale {
        return quantised.reshape(dims);
    }
    let zero = max_abs.clone().equal_elem(0.0);
    let by_scale = (value - passed.detach()) / max_abs.mask_fill(zero, 1.0);
    let largest = largest_magnitude(w);
    let none = largest.clone() - largest.detach();
    (quantised + by_scale * none).reshape(dims)
}

pub(super) fn min_max<const D: usize>(x: Tensor<D>) -> (f32, f32) {
    let count = x.dims().iter().product::<usize>();
    if count == 0 {
        return (f32::INFINITY, f32::NEG_INFINITY);
    }
    let x = x.without_autodiff().reshape([count]);
    let nan = x.clone().is_nan();
    let low = x.clone().mask_fill(nan.clone(), f32::INFINITY).min();
    let high = x.mask_fill(nan, f32::NEG_INFINITY).max();
    // One transfer for both.
    let both = to_vec(&Tensor::cat(vec![low, high], 0));
    (both[0], both[1])
}

pub(super) fn pad_shortcut(x: Tensor<4>, channels: usize, stride: usize) -> Tensor<4> {
    let picked = x.slice(s![.., .., ..;stride as isize, ..;stride as isize]);
    let [images, own, rows, columns] = picked.dims();
    let before = (channels - own) / 2;
    let zeros = |channels| Tensor::zeros([images, channels, rows, columns], &picked.device());
    let around = [before, channels - own - before];
    let [before, after] = around.map(|channels| (channels > 0).then(|| zeros(channels)));
    let parts = [before, Some(picked), after].into_iter().flatten();
    Tensor::cat(parts.collect(), 1)
}

/// `x` as `[batch, channels, positions]`, and its channels.
fn by_channel<const D: usize>(x: Tensor<D>) -> (Tensor<3>, usize) {
    let dims = x.dims();
    let positions = dims[2..].iter().product();
    (x.reshape([dims[0], dims[1], positions]), dims[1])
}

/// Clamps. Burn's own clamps let the gradient pass at the bounds themselves.
fn bounded<const D: usize>(z: Tensor<D>, (low, high): (f32, f32)) -> Tensor<D> {
    let mut z = z;
    if low.is_finite() {
        let below = z.clone().lower_equal_elem(low);
        z = z.mask_fill(below, low);
    }
    if high.is_finite() {
        let above = z.clone().greater_equal_elem(high);
        z = z.mask_fill(above, high);
    }
    z
}

/// Exactly `value`, with the gradient of `x`.
fn with_gradient_of<const D: usize>(value: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
    value.detach() + (x.clone() - x.detach())
}

/// The largest magnitude of each row, whose gradient goes to the first of equals, and half each to
/// the smallest and the largest element where both have it.
fn largest_magnitude(w: Tensor<2>) -> Tensor<2> {
    let fixed = w.clone().detach();
    let lowest = w.clone().gather(1, fixed.clone().argmin(1)).abs();
    let highest = w.gather(1, fixed.argmax(1)).abs();
    let tie = lowest.clone().equal(highest.clone());
    let share = lowest.clone().greater(highest.clone()).float();
    let share = share.mask_fill(tie, 0.5).detach();
    lowest * share.clone() + highest * (-share + 1.0)
}
