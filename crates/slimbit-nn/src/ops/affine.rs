//! A given scale and shift per channel and an activation: batch-norm in evaluation.

use burn::Tensor;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn_flex::FlexTensor;

use super::activation::{Activation, clamp, gate};
use super::channels::Map;
#[cfg(feature = "gpu")]
use super::composite;
use super::host::{contiguous, from_values, values};

/// `act(x * scale + shift)` for `x` `[batch, channels, ...]` with `scale` and `shift` `[channels]`.
///
/// `scale` and `shift` are constants: only `x` receives a gradient.
///
/// # Panics
/// If `scale` or `shift` do not have one entry per channel.
pub fn affine_act<const D: usize>(
    x: Tensor<D>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    activation: Activation,
) -> Tensor<D> {
    #[cfg(feature = "gpu")]
    if composite::needed_on(&x.device()) {
        return composite::affine_act(x, scale, shift, activation);
    }
    Tensor::from_dispatch(<Dispatch as AffineBackend>::affine_act(
        x.into_dispatch(),
        scale.into_dispatch(),
        shift.into_dispatch(),
        activation,
    ))
}

/// Backends with [`affine_act`].
#[backend_extension(Flex, Autodiff)]
trait AffineBackend: Backend {
    fn affine_act(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self>;
}

impl AffineBackend for Flex {
    fn affine_act(
        x: FlexTensor,
        scale: FlexTensor,
        shift: FlexTensor,
        activation: Activation,
    ) -> FlexTensor {
        let (x, scale, shift) = (contiguous(x), contiguous(scale), contiguous(shift));
        affine(&x, values(&scale), values(&shift), activation)
    }
}

impl<C: CheckpointStrategy> AffineBackend for Autodiff<Flex, C> {
    fn affine_act(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let (x, scale, shift) = (
            contiguous(x.into_primitive()),
            contiguous(scale.into_primitive()),
            contiguous(shift.into_primitive()),
        );
        let y = affine(&x, values(&scale), values(&shift), activation);
        match AffineBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((x, scale, shift, activation), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[derive(Debug)]
struct AffineBackward;

impl Backward<Flex, 1> for AffineBackward {
    type State = (FlexTensor, FlexTensor, FlexTensor, Activation);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [node] = ops.parents;
        let (x, scale, shift, activation) = ops.state;
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        if let Some(node) = node {
            let (map, bounds) = (Map::new(x.shape().as_slice()), activation.bounds());
            let coefficients = pair_up(values(&scale), values(&shift));
            let dx = map.zip(
                values(&x),
                values(&gradient),
                &coefficients,
                move |x, dy, [a, b]| a * gate(dy, x * a + b, bounds),
            );
            grads.register::<Flex>(node.id, from_values(dx, x.shape()));
        }
    }
}

/// `act(x * scale + shift)`, channel by channel.
pub(super) fn affine(
    x: &FlexTensor,
    scale: &[f32],
    shift: &[f32],
    activation: Activation,
) -> FlexTensor {
    let shape = x.shape();
    let map = Map::new(shape.as_slice());
    assert!(
        scale.len() == map.channels && shift.len() == map.channels,
        "affine: {} scales and {} shifts for {} channels",
        scale.len(),
        shift.len(),
        map.channels
    );
    let (x, bounds) = (values(x), activation.bounds());
    let y = map.zip(x, x, &pair_up(scale, shift), move |x, _, [a, b]| {
        clamp(x * a + b, bounds)
    });
    from_values(y, shape)
}

fn pair_up(scale: &[f32], shift: &[f32]) -> Vec<[f32; 2]> {
    scale.iter().zip(shift).map(|(&a, &b)| [a, b]).collect()
}
