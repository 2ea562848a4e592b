//! Activation fake-quantisation: integer codes simulated in floating point.

use burn::Tensor;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn_flex::FlexTensor;

#[cfg(feature = "gpu")]
use super::composite;
use super::elementwise;
use super::host::{contiguous, from_values, values};

/// Rounds `x` to the grid of an affine quantiser and back:
/// `q = clamp(round(x/scale) + zero_point, 0, 2^bits - 1)`, `(q - zero_point) * scale`, ties to
/// even (SSQL, activation quantiser). The codes are those of `slimbit_num::ActQuant`.
///
/// The gradient passes where the rounded value lies within the codes, bounds included, and is zero
/// elsewhere; scale and zero point receive none. `bits == 0` or `scale == 0` leaves `x` as it is.
///
/// # Panics
/// If `bits` exceeds 16.
///
/// # Example
/// ```
/// use burn::tensor::{Device, Tensor};
/// use slimbit_nn::ops::fake_quant_activation;
///
/// let x = Tensor::<1>::from_floats([-0.2, 0.3, 0.9, 1.4], &Device::flex());
/// let y = fake_quant_activation(x, 0.5, 0, 2).into_data();
/// assert_eq!(y.as_slice::<f32>().unwrap(), [0.0, 0.5, 1.0, 1.5]);
/// ```
pub fn fake_quant_activation<const D: usize>(
    x: Tensor<D>,
    scale: f32,
    zero_point: i32,
    bits: u8,
) -> Tensor<D> {
    assert!(bits <= 16, "activations have at most 16 bits, not {bits}");
    if bits == 0 || scale == 0.0 {
        return x;
    }
    let grid = Grid {
        scale,
        zero_point: zero_point as f32,
        last: ((1u32 << bits) - 1) as f32,
    };
    #[cfg(feature = "gpu")]
    if composite::needed_on(&x.device()) {
        return composite::fake_quant_activation(x, grid);
    }
    let y = <Dispatch as ActivationQuantiser>::fake_quant_activation(x.into_dispatch(), grid);
    Tensor::from_dispatch(y)
}

/// An affine grid. All codes of up to 16 bits are exact in `f32`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) scale: f32,
    pub(super) zero_point: f32,
    pub(super) last: f32,
}

impl Grid {
    #[inline(always)]
    fn code(self, x: f32) -> f32 {
        (x / self.scale).round_ties_even() + self.zero_point
    }

    #[inline(always)]
    fn apply(self, x: f32) -> f32 {
        let code = self.code(x);
        // Two comparisons rather than `clamp`: NaN stays NaN.
        let code = if code < 0.0 { 0.0 } else { code };
        let code = if code > self.last { self.last } else { code };
        (code - self.zero_point) * self.scale
    }

    #[inline(always)]
    fn gradient(self, x: f32, dy: f32) -> f32 {
        let code = self.code(x);
        if code >= 0.0 && code <= self.last {
            dy
        } else {
            0.0
        }
    }
}

/// Backends with [`fake_quant_activation`].
#[backend_extension(Flex, Autodiff)]
trait ActivationQuantiser: Backend {
    fn fake_quant_activation(x: FloatTensor<Self>, grid: Grid) -> FloatTensor<Self>;
}

impl ActivationQuantiser for Flex {
    fn fake_quant_activation(x: FlexTensor, grid: Grid) -> FlexTensor {
        forward(&contiguous(x), grid)
    }
}

impl<C: CheckpointStrategy> ActivationQuantiser for Autodiff<Flex, C> {
    fn fake_quant_activation(x: FloatTensor<Self>, grid: Grid) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let x = contiguous(x.into_primitive());
        let y = forward(&x, grid);
        match ActivationBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((x, grid), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[derive(Debug)]
struct ActivationBackward;

impl Backward<Flex, 1> for ActivationBackward {
    type State = (FlexTensor, Grid);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [node] = ops.parents;
        let (x, grid) = ops.state;
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        if let Some(node) = node {
            let dx = elementwise::zip(values(&x), values(&gradient), move |x, dy| {
                grid.gradient(x, dy)
            });
            grads.register::<Flex>(node.id, from_values(dx, x.shape()));
        }
    }
}

fn forward(x: &FlexTensor, grid: Grid) -> FlexTensor {
    from_values(
        elementwise::map(values(x), move |x| grid.apply(x)),
        x.shape(),
    )
}
