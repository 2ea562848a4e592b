//! Weight fake-quantisation per output channel, with a differentiable scale.

use burn::Tensor;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use slimbit_num::WeightGrid;

use super::host::{contiguous, from_values, values};

/// Rounds every output channel (axis 0) of `w` to `bits` bits of `grid` and back. The result is
/// exactly `grid.code(w, M, bits) * grid.scale(M, bits)` with `M` the channel's largest magnitude.
///
/// With upstream gradient `g`, quantised value `v` and `I = 1` where no clamp moved the rounded
/// code, the gradient (SSQL, straight-through with a differentiable scale) is
///
/// ```text
/// dL/dw_k = g_k I_k + [k = k*] sign(w_k*) / M * sum_j g_j (v_j - I_j w_j)
/// ```
///
/// where `k*` is the element that attains `M`: the first of equals on one side, and half each where
/// the largest and smallest element are equal in magnitude. It holds for every grid whose scale is
/// proportional to `M`. `detach_scale` drops the second term.
///
/// `bits == 0` returns `w` itself. 9 to 16 bits use the min-max formula, whatever the grid. A
/// channel that is zero everywhere does not switch the others off, as it does in SSQL's reference.
///
/// # Panics
/// If `bits` is 1 or exceeds 16.
///
/// # Example
/// ```
/// use burn::tensor::{Device, Tensor};
/// use slimbit_nn::ops::fake_quant_weight;
/// use slimbit_num::WeightGrid;
///
/// let w = Tensor::<2>::from_floats([[0.30, -0.70, 0.11, 0.52]], &Device::flex());
/// let v = fake_quant_weight(w, 3, WeightGrid::MinMax, false).into_data();
/// assert_eq!(v.as_slice::<f32>().unwrap(), [0.4, -0.8, 0.2, 0.6].map(|v: f32| (v / 0.2).round() * 0.2));
/// ```
pub fn fake_quant_weight<const D: usize>(
    w: Tensor<D>,
    bits: u8,
    grid: WeightGrid,
    detach_scale: bool,
) -> Tensor<D> {
    assert!(
        bits == 0 || (2..=16).contains(&bits),
        "weights have 2 to 16 bits, not {bits}"
    );
    if bits == 0 {
        return w;
    }
    let quantiser = Quantiser {
        bits,
        grid,
        detach_scale,
    };
    let v = <Dispatch as WeightQuantiser>::fake_quant_weight(w.into_dispatch(), quantiser);
    Tensor::from_dispatch(v)
}

#[derive(Clone, Copy, Debug)]
struct Quantiser {
    bits: u8,
    grid: WeightGrid,
    detach_scale: bool,
}

impl Quantiser {
    fn quantise(self, w: &[f32], v: &mut [f32]) {
        let max_abs = w.iter().fold(0f32, |max, w| max.max(w.abs()));
        if self.bits > 8 {
            let (scale, half) = self.wide_grid(max_abs);
            for (v, w) in v.iter_mut().zip(w) {
                *v = (w / scale).round_ties_even().clamp(-half, half - 1.0) * scale;
            }
            return;
        }
        let scale = self.grid.scale(max_abs, self.bits);
        for (v, &w) in v.iter_mut().zip(w) {
            *v = f32::from(self.grid.code(w, max_abs, self.bits)) * scale;
        }
    }

    /// Scale and half the number of codes of the min-max grid at any bit-width.
    fn wide_grid(self, max_abs: f32) -> (f32, f32) {
        let levels = 1u32 << self.bits;
        (
            (max_abs / ((levels - 1) as f32 / 2.0)).max(1e-12),
            (levels / 2) as f32,
        )
    }

    /// Whether the clamps leave the rounded code of a weight as it is.
    fn passes(self, w: f32, max_abs: f32) -> bool {
        let within = |code: i32, bits: u8| {
            let half = 1 << (bits - 1);
            (-half..half).contains(&code)
        };
        let rounded = |scale: f32| (w / scale).round_ties_even() as i32;
        if self.bits > 8 {
            return within(rounded(self.wide_grid(max_abs).0), self.bits);
        }
        if self.grid == WeightGrid::MinMax || self.bits == 8 {
            return within(rounded(self.grid.scale(max_abs, self.bits)), self.bits);
        }
        let code = rounded(self.grid.scale(max_abs, 8));
        let dropped = 8 - self.bits;
        within(code, 8)
            && (self.grid.is_odd_at(self.bits)
                || within((code + (1 << (dropped - 1))) >> dropped, self.bits))
    }

    fn gradient(self, w: &[f32], v: &[f32], dv: &[f32], dw: &mut [f32]) {
        let extremes = Extremes::new(w);
        let max_abs = extremes.max_abs();
        let mut by_scale = 0.0;
        for (k, dw) in dw.iter_mut().enumerate() {
            let kept = if self.passes(w[k], max_abs) { 1.0 } else { 0.0 };
            *dw = dv[k] * kept;
            by_scale += f64::from(dv[k]) * (f64::from(v[k]) - f64::from(kept * w[k]));
        }
        if !self.detach_scale && max_abs > 0.0 {
            let by_max = by_scale / f64::from(max_abs);
            for (k, share) in extremes.shares() {
                dw[k] += (share * by_max * f64::from(w[k].signum())) as f32;
            }
        }
    }
}

/// The first smallest and the first largest element of a channel.
struct Extremes {
    smallest: (usize, f32),
    largest: (usize, f32),
}

impl Extremes {
    fn new(w: &[f32]) -> Self {
        let (mut smallest, mut largest) = ((0, f32::INFINITY), (0, f32::NEG_INFINITY));
        for (k, &w) in w.iter().enumerate() {
            if w < smallest.1 {
                smallest = (k, w);
            }
            if w > largest.1 {
                largest = (k, w);
            }
        }
        Self { smallest, largest }
    }

    fn max_abs(&self) -> f32 {
        self.smallest.1.abs().max(self.largest.1.abs())
    }

    /// How the gradient of the largest magnitude is shared out.
    fn shares(&self) -> [(usize, f64); 2] {
        let (low, high) = (self.smallest.1.abs(), self.largest.1.abs());
        let share = if low > high {
            1.0
        } else if low < high {
            0.0
        } else {
            0.5
        };
        [(self.smallest.0, share), (self.largest.0, 1.0 - share)]
    }
}

/// Backends with [`fake_quant_weight`].
#[backend_extension(Flex, Autodiff)]
trait WeightQuantiser: Backend {
    fn fake_quant_weight(w: FloatTensor<Self>, quantiser: Quantiser) -> FloatTensor<Self>;
}

impl WeightQuantiser for Flex {
    fn fake_quant_weight(w: FlexTensor, quantiser: Quantiser) -> FlexTensor {
        forward(&contiguous(w), quantiser)
    }
}

impl<C: CheckpointStrategy> WeightQuantiser for Autodiff<Flex, C> {
    fn fake_quant_weight(w: FloatTensor<Self>, quantiser: Quantiser) -> FloatTensor<Self> {
        let nodes = [w.node()];
        let w = contiguous(w.into_primitive());
        let v = forward(&w, quantiser);
        match WeightBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((w, v.clone(), quantiser), v),
            OpsKind::UnTracked(prep) => prep.finish(v),
        }
    }
}

#[derive(Debug)]
struct WeightBackward;

impl Backward<Flex, 1> for WeightBackward {
    type State = (FlexTensor, FlexTensor, Quantiser);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [node] = ops.parents;
        let (w, v, quantiser) = ops.state;
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        if let Some(node) = node {
            let channel = channel_len(&w);
            let mut dw = vec![0.0; w.shape().num_elements()];
            dw.par_chunks_mut(channel)
                .zip(values(&w).par_chunks(channel))
                .zip(
                    values(&v)
                        .par_chunks(channel)
                        .zip(values(&gradient).par_chunks(channel)),
                )
                .for_each(|((dw, w), (v, dv))| quantiser.gradient(w, v, dv, dw));
            grads.register::<Flex>(node.id, from_values(dw, w.shape()));
        }
    }
}

fn forward(w: &FlexTensor, quantiser: Quantiser) -> FlexTensor {
    let channel = channel_len(w);
    let mut v = vec![0.0; w.shape().num_elements()];
    v.par_chunks_mut(channel)
        .zip(values(w).par_chunks(channel))
        .for_each(|(v, w)| quantiser.quantise(w, v));
    from_values(v, w.shape())
}

/// Elements per output channel.
fn channel_len(w: &FlexTensor) -> usize {
    w.shape().as_slice()[1..].iter().product::<usize>().max(1)
}
