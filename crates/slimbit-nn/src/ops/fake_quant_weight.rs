//! Weight fake-quantisation per output channel, with a differentiable scale.

use burn::Tensor;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn_flex::FlexTensor;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use slimbit_num::WeightGrid;

#[cfg(feature = "gpu")]
use super::composite;
use super::elementwise::MinMax;
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
    #[cfg(feature = "gpu")]
    if composite::needed_on(&w.device()) {
        return composite::fake_quant_weight(w, quantiser);
    }
    let v = <Dispatch as WeightQuantiser>::fake_quant_weight(w.into_dispatch(), quantiser);
    Tensor::from_dispatch(v)
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Quantiser {
    bits: u8,
    grid: WeightGrid,
    pub(super) detach_scale: bool,
}

impl Quantiser {
    pub(super) fn codes(self, max_abs: f32) -> Codes {
        let last = |bits: u8| ((1u32 << (bits - 1)) - 1) as f32;
        if self.bits > 8 {
            let half_range = ((1u32 << self.bits) - 1) as f32 / 2.0;
            let scale = (max_abs / half_range).max(MIN_SCALE);
            return Codes::whole(scale, last(self.bits));
        }
        if self.grid == WeightGrid::MinMax || self.bits == 8 {
            return Codes::whole(self.grid.scale(max_abs, self.bits), last(self.bits));
        }
        let dropped = (1u32 << (8 - self.bits)) as f32;
        let odd = self.grid.is_odd_at(self.bits);
        Codes {
            scale: self.grid.scale(max_abs, 8),
            last: last(8),
            round: if odd { 0.0 } else { dropped / 2.0 },
            keep: 1.0 / dropped,
            kept_last: last(self.bits),
            times: if odd { 2.0 } else { 1.0 },
            plus: if odd { 1.0 } else { 0.0 },
            unit: self.grid.scale(max_abs, self.bits),
        }
    }
}

/// The least scale of a channel, as in `slimbit_num`.
const MIN_SCALE: f32 = 1e-12;

/// The codes of one channel on any grid, in a form without branches: the code at full precision,
/// of which the upper part is kept. Codes are integers in `f32`, so every step is exact.
#[derive(Clone, Copy)]
pub(super) struct Codes {
    /// Value of one unit of the code at full precision, and the largest such code.
    pub(super) scale: f32,
    pub(super) last: f32,
    /// Added before the lower part is dropped.
    pub(super) round: f32,
    /// One over the number of codes that become one.
    pub(super) keep: f32,
    /// The largest code that is left.
    pub(super) kept_last: f32,
    /// The multiplier is `times * code + plus`.
    pub(super) times: f32,
    pub(super) plus: f32,
    /// Value of one unit of the multiplier.
    pub(super) unit: f32,
}

impl Codes {
    /// A grid of which nothing is dropped.
    fn whole(scale: f32, last: f32) -> Self {
        let (round, keep, times, plus) = (0.0, 1.0, 1.0, 0.0);
        Self {
            scale,
            last,
            round,
            keep,
            kept_last: last,
            times,
            plus,
            unit: scale,
        }
    }

    /// The quantised value, and 1 if no clamp moved the rounded code, else 0.
    #[inline(always)]
    fn quantise(self, w: f32) -> (f32, f32) {
        let rounded = (w / self.scale).round_ties_even();
        let code = if rounded > self.last {
            self.last
        } else {
            rounded
        };
        let code = if code < -self.last - 1.0 {
            -self.last - 1.0
        } else {
            code
        };
        let upper = ((code + self.round) * self.keep).floor();
        let kept = if upper > self.kept_last {
            self.kept_last
        } else {
            upper
        };
        let passes = if code == rounded && kept == upper {
            1.0
        } else {
            0.0
        };
        ((self.times * kept + self.plus) * self.unit, passes)
    }
}

/// Quantises one channel.
struct Forward<'a> {
    quantiser: Quantiser,
    w: &'a [f32],
    v: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (low, high) = MinMax { x: self.w }.with_simd(simd);
        let codes = self.quantiser.codes(low.abs().max(high.abs()));
        for (v, &w) in self.v.iter_mut().zip(self.w) {
            *v = codes.quantise(w).0;
        }
    }
}

/// The gradient of one channel.
struct Gradient<'a> {
    quantiser: Quantiser,
    w: &'a [f32],
    dv: &'a [f32],
    dw: &'a mut [f32],
}

impl WithSimd for Gradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        const LANES: usize = 16;
        let Self {
            quantiser,
            w,
            dv,
            dw,
        } = self;
        let (low, high) = MinMax { x: w }.with_simd(simd);
        let max_abs = low.abs().max(high.abs());
        let codes = quantiser.codes(max_abs);
        let mut by_scale = [0.0f64; LANES];
        for ((dw, w), dv) in dw
            .chunks_mut(LANES)
            .zip(w.chunks(LANES))
            .zip(dv.chunks(LANES))
        {
            for (((dw, &w), &dv), by_scale) in dw.iter_mut().zip(w).zip(dv).zip(&mut by_scale) {
                let (v, passes) = codes.quantise(w);
                *dw = dv * passes;
                *by_scale += f64::from(dv) * (f64::from(v) - f64::from(passes * w));
            }
        }
        if !quantiser.detach_scale && max_abs > 0.0 {
            let by_max = by_scale.iter().sum::<f64>() / f64::from(max_abs);
            for (k, share) in Extremes::new((low, high), w).shares() {
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
    fn new((low, high): (f32, f32), w: &[f32]) -> Self {
        let first = |value: f32| w.iter().position(|&w| w == value).unwrap_or(0);
        Self {
            smallest: (first(low), low),
            largest: (first(high), high),
        }
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
            OpsKind::Tracked(prep) => prep.finish((w, quantiser), v),
            OpsKind::UnTracked(prep) => prep.finish(v),
        }
    }
}

#[derive(Debug)]
struct WeightBackward;

impl Backward<Flex, 1> for WeightBackward {
    type State = (FlexTensor, Quantiser);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [node] = ops.parents;
        let (w, quantiser) = ops.state;
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        if let Some(node) = node {
            let channel = channel_len(&w);
            let mut dw = vec![0.0; w.shape().num_elements()];
            dw.par_chunks_mut(channel)
                .zip(
                    values(&w)
                        .par_chunks(channel)
                        .zip(values(&gradient).par_chunks(channel)),
                )
                .for_each(|(dw, (w, dv))| {
                    Arch::new().dispatch(Gradient {
                        quantiser,
                        w,
                        dv,
                        dw,
                    });
                });
            grads.register::<Flex>(node.id, from_values(dw, w.shape()));
        }
    }
}

fn forward(w: &FlexTensor, quantiser: Quantiser) -> FlexTensor {
    let channel = channel_len(w);
    let mut v = vec![0.0; w.shape().num_elements()];
    v.par_chunks_mut(channel)
        .zip(values(w).par_chunks(channel))
        .for_each(|(v, w)| Arch::new().dispatch(Forward { quantiser, w, v }));
    from_values(v, w.shape())
}

/// Elements per output channel.
fn channel_len(w: &FlexTensor) -> usize {
    w.shape().as_slice()[1..].iter().product::<usize>().max(1)
}
