//! Batch normalisation with batch statistics, fused with the activation behind it.

use burn::Tensor;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension,
};
use burn_flex::FlexTensor;
use pulp::Simd;

use super::activation::{Activation, gate};
use super::affine::affine;
use super::channels::{LANES, Map, Terms, lanes};
#[cfg(feature = "gpu")]
use super::composite;
use super::host::{contiguous, from_values, values};

/// A normalised batch and the statistics that normalised it.
#[derive(Clone, Debug)]
pub struct BatchNorm<const D: usize> {
    /// `act(gamma * (x - mean) / sqrt(variance + eps) + beta)`.
    pub output: Tensor<D>,
    /// Mean per channel over the batch and all positions. Carries no gradient.
    pub mean: Tensor<1>,
    /// Biased variance per channel (divided by [`count`](Self::count)). Carries no gradient.
    pub variance: Tensor<1>,
    /// Values per channel.
    pub count: usize,
}

impl<const D: usize> BatchNorm<D> {
    /// Variance per channel divided by `count - 1`, as running statistics use it. With a single
    /// value per channel it equals the biased one, which is zero.
    pub fn unbiased_variance(&self) -> Tensor<1> {
        let count = self.count as f64;
        self.variance.clone() * (count / (count - 1.0).max(1.0))
    }
}

/// Normalises every channel of `x` `[batch, channels]` or `[batch, channels, rows, columns]` by the
/// statistics of this batch, scales by `gamma`, shifts by `beta` (both `[channels]`) and applies
/// `activation`.
///
/// The gradient flows through the statistics, to `x`, `gamma` and `beta`; at the bounds of the
/// activation it is zero.
///
/// # Panics
/// If `gamma` or `beta` do not have one entry per channel, or `x` has fewer than two dimensions.
pub fn batch_norm_act<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    eps: f32,
    activation: Activation,
) -> BatchNorm<D> {
    #[cfg(feature = "gpu")]
    if composite::needed_on(&x.device()) {
        return composite::batch_norm_act(x, gamma, beta, eps, activation);
    }
    let dims = x.dims();
    let count = dims.iter().product::<usize>() / dims[1].max(1);
    let (output, mean, variance) = <Dispatch as BatchNormBackend>::batch_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        eps,
        activation,
    );
    BatchNorm {
        output: Tensor::from_dispatch(output),
        mean: Tensor::from_dispatch(mean).without_autodiff(),
        variance: Tensor::from_dispatch(variance).without_autodiff(),
        count,
    }
}

/// Backends with [`batch_norm_act`].
#[backend_extension(Flex, Autodiff)]
trait BatchNormBackend: Backend {
    fn batch_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f32,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl BatchNormBackend for Flex {
    fn batch_norm(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        eps: f32,
        activation: Activation,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (x, gamma, beta) = (contiguous(x), contiguous(gamma), contiguous(beta));
        let (output, moments) = forward(&x, &gamma, &beta, eps, activation);
        let channels = moments.mean.len();
        (
            output,
            from_values(moments.mean, [channels]),
            from_values(moments.variance, [channels]),
        )
    }
}

impl<C: CheckpointStrategy> BatchNormBackend for Autodiff<Flex, C> {
    fn batch_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f32,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [x.node(), gamma.node(), beta.node()];
        let (x, gamma, beta) = (
            contiguous(x.into_primitive()),
            contiguous(gamma.into_primitive()),
            contiguous(beta.into_primitive()),
        );
        let (output, moments) = forward(&x, &gamma, &beta, eps, activation);
        let channels = moments.mean.len();
        let [mean, variance] = [&moments.mean, &moments.variance]
            .map(|values| Self::from_inner(from_values(values.clone(), [channels])));
        let output = match BatchNormBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(
                Saved {
                    x,
                    gamma,
                    beta,
                    moments,
                    eps,
                    activation,
                },
                output,
            ),
            OpsKind::UnTracked(prep) => prep.finish(output),
        };
        (output, mean, variance)
    }
}

#[derive(Clone, Debug)]
struct Saved {
    x: FlexTensor,
    gamma: FlexTensor,
    beta: FlexTensor,
    moments: Moments,
    eps: f32,
    activation: Activation,
}

#[derive(Debug)]
struct BatchNormBackward;

impl Backward<Flex, 3> for BatchNormBackward {
    type State = Saved;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [x_node, gamma_node, beta_node] = ops.parents;
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        let backward = ChannelGradients::new(&ops.state, &gradient);
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, backward.input(&ops.state, &gradient));
        }
        let channels = backward.gamma.len();
        if let Some(node) = gamma_node {
            grads.register::<Flex>(node.id, from_values(backward.gamma, [channels]));
        }
        if let Some(node) = beta_node {
            grads.register::<Flex>(node.id, from_values(backward.beta, [channels]));
        }
    }
}

/// The values themselves.
#[derive(Clone, Copy)]
struct Values;

impl Terms<1> for Values {
    #[inline(always)]
    fn of<S: Simd>(self, _simd: S, _lane: usize, x: S::f32s, _y: S::f32s) -> [S::f32s; 1] {
        [x]
    }
}

/// Squares of what values deviate from these centres.
#[derive(Clone, Copy)]
struct SquaredDeviations([f32; LANES]);

impl Terms<1> for SquaredDeviations {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, lane: usize, x: S::f32s, _y: S::f32s) -> [S::f32s; 1] {
        let deviation = simd.sub_f32s(x, lanes::<S>(&self.0, lane));
        [simd.mul_f32s(deviation, deviation)]
    }
}

/// The output's gradients `y` that pass the activation, and their products with what `x` deviates
/// from the mean.
#[derive(Clone, Copy)]
struct GatedGradients {
    scale: [f32; LANES],
    shift: [f32; LANES],
    mean: [f32; LANES],
    bounds: (f32, f32),
}

impl Terms<2> for GatedGradients {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, lane: usize, x: S::f32s, y: S::f32s) -> [S::f32s; 2] {
        let scaled = simd.mul_f32s(x, lanes::<S>(&self.scale, lane));
        let z = simd.add_f32s(scaled, lanes::<S>(&self.shift, lane));
        let above = simd.greater_than_f32s(z, simd.splat_f32s(self.bounds.0));
        let below = simd.less_than_f32s(z, simd.splat_f32s(self.bounds.1));
        let inside = simd.and_m32s(above, below);
        let g = simd.select_f32s(inside, y, simd.splat_f32s(0.0));
        let deviation = simd.sub_f32s(x, lanes::<S>(&self.mean, lane));
        [g, simd.mul_f32s(g, deviation)]
    }
}

/// Mean and biased variance per channel.
#[derive(Clone, Debug)]
struct Moments {
    mean: Vec<f32>,
    variance: Vec<f32>,
}

impl Moments {
    /// The squares are of deviations from the mean, so that no large sums cancel.
    fn new(map: Map, x: &[f32]) -> Self {
        let count = (map.outer * map.inner) as f64;
        let moments = map.per_channel(|block| {
            let sums = block.sums(x, x, Values);
            let mean: [f64; LANES] = std::array::from_fn(|lane| sums[lane][0] / count);
            let centre: [f32; LANES] = std::array::from_fn(|lane| mean[lane] as f32);
            let squares = block.sums(x, x, SquaredDeviations(block.spread(centre)));
            std::array::from_fn(|lane| {
                // The deviations are from the rounded mean.
                let off = mean[lane] - f64::from(centre[lane]);
                let variance = squares[lane][0] / count - off * off;
                [centre[lane], variance.max(0.0) as f32]
            })
        });
        let (mean, variance) = moments
            .into_iter()
            .map(|[mean, variance]| (mean, variance))
            .unzip();
        Self { mean, variance }
    }

    fn inverse_deviation(&self, eps: f32) -> Vec<f32> {
        self.variance
            .iter()
            .map(|v| 1.0 / (v + eps).sqrt())
            .collect()
    }

    /// Scale and shift that normalise and then apply `gamma` and `beta`.
    fn affine(&self, gamma: &[f32], beta: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>) {
        let scale: Vec<f32> = self
            .inverse_deviation(eps)
            .iter()
            .zip(gamma)
            .map(|(d, g)| d * g)
            .collect();
        let shift = beta
            .iter()
            .zip(&self.mean)
            .zip(&scale)
            .map(|((b, m), s)| b - m * s)
            .collect();
        (scale, shift)
    }
}

fn forward(
    x: &FlexTensor,
    gamma: &FlexTensor,
    beta: &FlexTensor,
    eps: f32,
    activation: Activation,
) -> (FlexTensor, Moments) {
    let map = Map::new(x.shape().as_slice());
    let (gamma, beta) = (values(gamma), values(beta));
    assert!(
        gamma.len() == map.channels && beta.len() == map.channels,
        "batch_norm_act: {} gammas and {} betas for {} channels",
        gamma.len(),
        beta.len(),
        map.channels
    );
    let moments = Moments::new(map, values(x));
    let (scale, shift) = moments.affine(gamma, beta, eps);
    (affine(x, &scale, &shift, activation), moments)
}

/// Gradients per channel; those of gamma and beta are also the means that the input gradient needs.
struct ChannelGradients {
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl ChannelGradients {
    fn new(saved: &Saved, gradient: &FlexTensor) -> Self {
        let map = Map::new(saved.x.shape().as_slice());
        let (x, dy) = (values(&saved.x), values(gradient));
        let (scale, shift) =
            saved
                .moments
                .affine(values(&saved.gamma), values(&saved.beta), saved.eps);
        let deviation = saved.moments.inverse_deviation(saved.eps);
        let mean = &saved.moments.mean;
        let sums = map.per_channel(|block| {
            let terms = GatedGradients {
                scale: block.coefficients(&scale),
                shift: block.coefficients(&shift),
                mean: block.coefficients(mean),
                bounds: saved.activation.bounds(),
            };
            let sums = block.sums(x, dy, terms);
            let deviation = block.coefficients(&deviation);
            std::array::from_fn(|lane| {
                let [beta, gamma] = sums[lane];
                [beta as f32, (gamma * f64::from(deviation[lane])) as f32]
            })
        });
        let (beta, gamma) = sums.into_iter().map(|[beta, gamma]| (beta, gamma)).unzip();
        Self { gamma, beta }
    }

    /// `scale * (g - mean(g) - normalised x * mean(g * normalised x))`, as `a*g + b*x + c`.
    fn input(&self, saved: &Saved, gradient: &FlexTensor) -> FlexTensor {
        let shape = saved.x.shape();
        let map = Map::new(shape.as_slice());
        let (x, dy) = (values(&saved.x), values(gradient));
        let (scale, shift) =
            saved
                .moments
                .affine(values(&saved.gamma), values(&saved.beta), saved.eps);
        let deviation = saved.moments.inverse_deviation(saved.eps);
        let count = (map.outer * map.inner) as f32;
        let coefficients: Vec<[f32; 4]> = (0..map.channels)
            .map(|c| {
                let by_x = -scale[c] * deviation[c] * self.gamma[c] / count;
                let constant = -scale[c] * self.beta[c] / count - by_x * saved.moments.mean[c];
                [scale[c], shift[c], by_x, constant]
            })
            .collect();
        let bounds = saved.activation.bounds();
        let dx = map.zip(
            x,
            dy,
            &coefficients,
            move |x, dy, [scale, shift, by_x, constant]| {
                scale * gate(dy, x * scale + shift, bounds) + (by_x * x + constant)
            },
        );
        from_values(dx, shape)
    }
}
