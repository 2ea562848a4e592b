//! The parameter-free shortcut of residual networks that change their shape.

use burn::Tensor;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn_flex::FlexTensor;
use rayon::prelude::*;

#[cfg(feature = "gpu")]
use super::composite;
use super::host::{contiguous, dims, from_values, values, zeros};

/// Every `stride`-th row and column of `x` `[batch, channels, rows, columns]`, with channels of
/// zeros before and after it up to `channels`; the odd one comes after (He et al. 2016, option A,
/// zeros on both sides).
///
/// # Panics
/// If `stride` is 0 or `x` has more than `channels` channels.
pub fn pad_shortcut(x: Tensor<4>, channels: usize, stride: usize) -> Tensor<4> {
    let own = x.dims()[1];
    assert!(
        stride > 0 && own <= channels,
        "a shortcut cannot take {own} channels to {channels} with a stride of {stride}"
    );
    #[cfg(feature = "gpu")]
    if composite::needed_on(&x.device()) {
        return composite::pad_shortcut(x, channels, stride);
    }
    Tensor::from_dispatch(<Dispatch as ShortcutBackend>::pad_shortcut(
        x.into_dispatch(),
        channels,
        stride,
    ))
}

/// Where the values of a small map lie in one image of a large one.
#[derive(Clone, Copy, Debug)]
struct Picked {
    /// Channels, rows and columns of the input.
    input: [usize; 3],
    /// Rows and columns of the output.
    output: [usize; 2],
    /// Channels of the output.
    channels: usize,
    stride: usize,
}

impl Picked {
    fn new([_, own, height, width]: [usize; 4], channels: usize, stride: usize) -> Self {
        Self {
            input: [own, height, width],
            output: [height.div_ceil(stride), width.div_ceil(stride)],
            channels,
            stride,
        }
    }

    fn input_len(&self) -> usize {
        self.input.iter().product()
    }

    fn output_len(&self) -> usize {
        self.channels * self.output[0] * self.output[1]
    }

    /// Calls `f(index in the output, index in the input)` for every value of one image that is
    /// picked.
    #[inline(always)]
    fn pairs(&self, mut f: impl FnMut(usize, usize)) {
        let ([own, height, width], [rows, columns]) = (self.input, self.output);
        let before = (self.channels - own) / 2;
        for channel in 0..own {
            for row in 0..rows {
                let to = ((before + channel) * rows + row) * columns;
                let from = (channel * height + row * self.stride) * width;
                for column in 0..columns {
                    f(to + column, from + column * self.stride);
                }
            }
        }
    }
}

/// Backends with [`pad_shortcut`].
#[backend_extension(Flex, Autodiff)]
trait ShortcutBackend: Backend {
    fn pad_shortcut(x: FloatTensor<Self>, channels: usize, stride: usize) -> FloatTensor<Self>;
}

impl ShortcutBackend for Flex {
    fn pad_shortcut(x: FlexTensor, channels: usize, stride: usize) -> FlexTensor {
        let x = contiguous(x);
        let picked = Picked::new(dims(&x), channels, stride);
        forward(&x, picked)
    }
}

impl<C: CheckpointStrategy> ShortcutBackend for Autodiff<Flex, C> {
    fn pad_shortcut(x: FloatTensor<Self>, channels: usize, stride: usize) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let x = contiguous(x.into_primitive());
        let picked = Picked::new(dims(&x), channels, stride);
        let y = forward(&x, picked);
        match ShortcutBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(picked, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[derive(Debug)]
struct ShortcutBackward;

impl Backward<Flex, 1> for ShortcutBackward {
    type State = Picked;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let ([node], picked) = (ops.parents, ops.state);
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        let Some(node) = node else { return };
        let images = dims::<4>(&gradient)[0];
        let [own, height, width] = picked.input;
        let mut dx = zeros(images * picked.input_len());
        dx.par_chunks_mut(picked.input_len().max(1))
            .zip(values(&gradient).par_chunks(picked.output_len().max(1)))
            .for_each(|(dx, dy)| picked.pairs(|to, from| dx[from] = dy[to]));
        let dx = from_values(dx, [images, own, height, width]);
        grads.register::<Flex>(node.id, dx);
    }
}

fn forward(x: &FlexTensor, picked: Picked) -> FlexTensor {
    let images = dims::<4>(x)[0];
    let mut y = zeros(images * picked.output_len());
    y.par_chunks_mut(picked.output_len().max(1))
        .zip(values(x).par_chunks(picked.input_len().max(1)))
        .for_each(|(y, x)| picked.pairs(|to, from| y[to] = x[from]));
    let [rows, columns] = picked.output;
    from_values(y, [images, picked.channels, rows, columns])
}
