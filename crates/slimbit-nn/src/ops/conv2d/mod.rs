//! Two-dimensional convolution with fast CPU gradients.

mod dense;
mod depthwise;
mod gather;
mod geometry;
mod pointwise;
mod weight_gradient;
mod winograd;

use burn::Tensor;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::FloatDType;
use burn_flex::FlexTensor;

use self::dense::Channels;
pub use self::geometry::Conv;
use self::geometry::{Correlation, Sizes};
#[cfg(feature = "gpu")]
use super::composite;
use super::host::{contiguous, dims, from_values, values};

/// Convolves `x` `[images, in, rows, columns]` with `w` `[out, in / groups, kernel rows, kernel
/// columns]` into `[images, out, rows, columns]`, without a bias.
///
/// Grouped convolutions run group by group; one channel per group (depthwise) has its own path.
///
/// On a plain device all products are added up directly, so that sums of integers are exact as long
/// as `f32` holds them. On an autodiff device, 3 x 3 kernels at stride 1 take a faster way whose
/// rounding errors are a few times larger.
///
/// # Panics
/// If the channels of `x` and `w` do not fit the groups, or the kernel exceeds the padded input.
///
/// # Example
/// ```
/// use burn::tensor::{Device, Tensor};
/// use slimbit_nn::ops::{Conv, conv2d};
///
/// let device = Device::flex();
/// let x = Tensor::<4>::ones([1, 2, 5, 5], &device);
/// let w = Tensor::<4>::ones([3, 2, 3, 3], &device);
/// let y = conv2d(x, w, Conv::same(3, 2));
/// assert_eq!(y.dims(), [1, 3, 3, 3]);
/// assert_eq!(y.max().into_scalar::<f32>(), 18.0);
/// ```
pub fn conv2d(x: Tensor<4>, w: Tensor<4>, conv: Conv) -> Tensor<4> {
    #[cfg(feature = "gpu")]
    if composite::needed_on(&x.device()) {
        return composite::conv2d(x, w, conv);
    }
    let (x, w) = (x.into_dispatch(), w.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ConvBackend>::conv2d_nchw(
        x,
        w,
        conv,
        Sums::Direct,
    ))
}

/// As [`conv2d`], by the faster way on plain devices too.
pub(crate) fn conv2d_fast(x: Tensor<4>, w: Tensor<4>, conv: Conv) -> Tensor<4> {
    #[cfg(feature = "gpu")]
    if composite::needed_on(&x.device()) {
        return composite::conv2d(x, w, conv);
    }
    let (x, w) = (x.into_dispatch(), w.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ConvBackend>::conv2d_nchw(
        x,
        w,
        conv,
        Sums::Any,
    ))
}

/// As [`conv2d`], multiplying 16-bit floats, on a device that has them. Gradients pass through 16-bit
/// floats too.
pub(crate) fn conv2d_half(x: Tensor<4>, w: Tensor<4>, conv: Conv) -> Tensor<4> {
    let y = conv2d(x.cast(FloatDType::F16), w.cast(FloatDType::F16), conv);
    y.cast(FloatDType::F32)
}

/// Backends with [`conv2d`].
#[backend_extension(Flex, Autodiff)]
trait ConvBackend: Backend {
    /// With `plain`, how a plain device adds up products.
    fn conv2d_nchw(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        conv: Conv,
        plain: Sums,
    ) -> FloatTensor<Self>;
}

impl ConvBackend for Flex {
    fn conv2d_nchw(x: FlexTensor, w: FlexTensor, conv: Conv, plain: Sums) -> FlexTensor {
        forward(&contiguous(x), &contiguous(w), &conv, plain)
    }
}

impl<C: CheckpointStrategy> ConvBackend for Autodiff<Flex, C> {
    fn conv2d_nchw(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        conv: Conv,
        _plain: Sums,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), w.node()];
        let (x, w) = (
            contiguous(x.into_primitive()),
            contiguous(w.into_primitive()),
        );
        let y = forward(&x, &w, &conv, Sums::Any);
        match ConvBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, w, conv), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

#[derive(Debug)]
struct ConvBackward;

impl Backward<Flex, 2> for ConvBackward {
    type State = (FlexTensor, FlexTensor, Conv);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [x_node, w_node] = ops.parents;
        let (x, w, conv) = ops.state;
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let wanted = [x_node.is_some(), w_node.is_some()];
        let [dx, dw] = gradients(&x, &w, &dy, &conv, wanted);
        if let (Some(node), Some(dx)) = (x_node, dx) {
            grads.register::<Flex>(node.id, dx);
        }
        if let (Some(node), Some(dw)) = (w_node, dw) {
            grads.register::<Flex>(node.id, dw);
        }
    }
}

/// How products may be added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sums {
    /// One product after the other: exact where every partial sum is, as those of small integers.
    Direct,
    /// Whatever is fastest.
    Any,
}

fn forward(x: &FlexTensor, w: &FlexTensor, conv: &Conv, sums: Sums) -> FlexTensor {
    let sizes = Sizes::new(dims(x), dims(w), conv);
    let plan = Correlation::forward(&sizes, conv);
    let (x, w) = (values(x), values(w));
    let y = if sums == Sums::Any && winograd::pays(&sizes, conv) {
        winograd::forward(&sizes, conv, x, w)
    } else if pointwise::applies(&sizes, conv) {
        let ins = sizes.in_channels;
        let channels = [ins, sizes.out_channels];
        pointwise::correlate(x, sizes.in_plane(), channels, |out, channel| {
            w[out * ins + channel]
        })
    } else if sizes.is_depthwise() {
        depthwise::correlate(&plan, x, w, sizes.images, sizes.in_channels)
    } else {
        let channels = Channels {
            groups: sizes.groups,
            source_per_group: sizes.in_per_group(),
            target_per_group: sizes.out_per_group(),
        };
        let (ins, outs, taps) = (sizes.in_per_group(), sizes.out_per_group(), sizes.taps());
        dense::correlate(
            &plan,
            channels,
            x,
            sizes.images,
            |group, out, channel, tap| w[((group * outs + out) * ins + channel) * taps + tap],
        )
    };
    from_values(
        y,
        [
            sizes.images,
            sizes.out_channels,
            sizes.output[0],
            sizes.output[1],
        ],
    )
}

/// The gradients of `x` and of `w`, each if it is wanted.
fn gradients(
    x: &FlexTensor,
    w: &FlexTensor,
    dy: &FlexTensor,
    conv: &Conv,
    wanted: [bool; 2],
) -> [Option<FlexTensor>; 2] {
    let [wants_x, wants_w] = wanted;
    let sizes = Sizes::new(dims(x), dims(w), conv);
    if !winograd::pays(&sizes, conv) {
        let dx = wants_x.then(|| input_gradient(x, w, dy, conv));
        return [dx, wants_w.then(|| weight_gradient(x, w, dy, conv))];
    }
    let operands = [values(x), values(w), values(dy)];
    let [dx, dw] = winograd::gradients(&sizes, conv, operands, wanted);
    [
        wants_x.then(|| from_values(dx, dims::<4>(x))),
        wants_w.then(|| from_values(dw, dims::<4>(w))),
    ]
}

fn input_gradient(x: &FlexTensor, w: &FlexTensor, dy: &FlexTensor, conv: &Conv) -> FlexTensor {
    let sizes = Sizes::new(dims(x), dims(w), conv);
    let plan = Correlation::input_gradient(&sizes, conv);
    let (w, dy) = (values(w), values(dy));
    let dx = if pointwise::applies(&sizes, conv) {
        let ins = sizes.in_channels;
        let channels = [sizes.out_channels, ins];
        pointwise::correlate(dy, sizes.in_plane(), channels, |channel, out| {
            w[out * ins + channel]
        })
    } else if sizes.is_depthwise() {
        depthwise::correlate(&plan, dy, w, sizes.images, sizes.in_channels)
    } else {
        let channels = Channels {
            groups: sizes.groups,
            source_per_group: sizes.out_per_group(),
            target_per_group: sizes.in_per_group(),
        };
        let (ins, outs, taps) = (sizes.in_per_group(), sizes.out_per_group(), sizes.taps());
        dense::correlate(
            &plan,
            channels,
            dy,
            sizes.images,
            |group, channel, out, tap| w[((group * outs + out) * ins + channel) * taps + tap],
        )
    };
    from_values(dx, dims::<4>(x))
}

fn weight_gradient(x: &FlexTensor, w: &FlexTensor, dy: &FlexTensor, conv: &Conv) -> FlexTensor {
    let sizes = Sizes::new(dims(x), dims(w), conv);
    let plan = Correlation::forward(&sizes, conv);
    let (x, dy) = (values(x), values(dy));
    let dw = if pointwise::applies(&sizes, conv) {
        pointwise::weight_gradient(&sizes, x, dy)
    } else if sizes.is_depthwise() {
        depthwise::weight_gradient(&plan, &sizes, x, dy)
    } else {
        weight_gradient::weight_gradient(&plan, &sizes, x, dy)
    };
    from_values(dw, dims::<4>(w))
}
