use serde::{Deserialize, Serialize};

use crate::Channels;

/// A pointwise non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x · relu6(x + 3) / 6`.
    HardSwish,
}

impl Activation {
    /// The function in real numbers.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            Self::Relu | Self::Relu6 => {
                let [lo, hi] = self.clamp_ends().expect("both are clamps");
                x.clamp(lo, hi)
            }
            Self::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        }
    }

    /// The ends of a function that is a clamp, which the requantisation of its producer does for
    /// free; nothing for any other.
    pub fn clamp_ends(self) -> Option<[f64; 2]> {
        match self {
            Self::Relu => Some([0.0, f64::INFINITY]),
            Self::Relu6 => Some([0.0, 6.0]),
            Self::HardSwish => None,
        }
    }

    /// Whether the function is a clamp.
    pub fn is_clamp(self) -> bool {
        self.clamp_ends().is_some()
    }
}

/// How a convolution's input channels are split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Groups {
    /// This many groups at every width.
    Fixed(usize),
    /// One group per channel at every width; output channels equal input channels.
    Depthwise,
}

/// A two-dimensional convolution. Weight `[out, in / groups, kernel rows, kernel columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv2d {
    /// Output channels. Ignored where `groups` is depthwise.
    pub out: Channels,
    /// Kernel rows and columns.
    pub kernel: [usize; 2],
    /// Step in rows and columns.
    pub stride: [usize; 2],
    /// Zeros added at the top, left, bottom and right.
    pub padding: [usize; 4],
    /// Distance between taps in rows and columns.
    pub dilation: [usize; 2],
    /// Channel groups.
    pub groups: Groups,
    /// Whether a bias `[out]` is added.
    pub bias: bool,
}

impl Conv2d {
    /// A square convolution of odd `kernel` that keeps the size at stride 1, without a bias.
    pub fn same(out: Channels, kernel: usize, stride: usize) -> Self {
        Self {
            out,
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [kernel / 2; 4],
            dilation: [1; 2],
            groups: Groups::Fixed(1),
            bias: false,
        }
    }

    /// The number of groups for `channels` input channels.
    pub fn group_count(&self, channels: usize) -> usize {
        match self.groups {
            Groups::Fixed(n) => n,
            Groups::Depthwise => channels,
        }
    }
}

/// A fully connected layer. Weight `[out, in]`; a map is flattened channels first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// Output features.
    pub out: Channels,
    /// Whether a bias `[out]` is added.
    pub bias: bool,
}

/// A pooling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Window rows and columns.
    pub kernel: [usize; 2],
    /// Step in rows and columns.
    pub stride: [usize; 2],
    /// Border at the top, left, bottom and right, which never wins a maximum. Average pooling
    /// takes none.
    pub padding: [usize; 4],
}

/// An operator. One variant per row of the table that an interpreter implements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// The image.
    Input {
        /// Channels (1 grey, 3 colour).
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// Convolution.
    Conv2d(Conv2d),
    /// Batch normalisation over the channel dimension, with `weight` (gamma) and `bias` (beta).
    BatchNorm {
        /// Added to the variance.
        eps: f32,
    },
    /// A pointwise non-linearity.
    Activation(Activation),
    /// Sum of two tensors of one shape.
    Add,
    /// Concatenation along the channels.
    Concat,
    /// Maximum over a window.
    MaxPool(Pool),
    /// Mean over a window.
    AvgPool(Pool),
    /// Mean over the whole map; gives a vector.
    GlobalAvgPool,
    /// A map seen as a vector, channels first.
    Flatten,
    /// Fully connected layer.
    Linear(Linear),
    /// The parameter-free shortcut of CIFAR ResNets (option A): every `stride`-th row and column,
    /// and zero channels added, half before and half after.
    PadShortcut {
        /// Output channels.
        out: Channels,
        /// Step in rows and columns.
        stride: usize,
    },
}

impl Op {
    /// The channel dimension that the operator itself decides.
    pub(crate) fn channels(&self) -> Option<Channels> {
        match self {
            Self::Conv2d(conv) => Some(conv.out),
            Self::Linear(linear) => Some(linear.out),
            Self::PadShortcut { out, .. } => Some(*out),
            _ => None,
        }
    }

    /// The operator's name in messages and listings.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Input { .. } => "input",
            Self::Conv2d(_) => "conv2d",
            Self::BatchNorm { .. } => "batch_norm",
            Self::Activation(Activation::Relu) => "relu",
            Self::Activation(Activation::Relu6) => "relu6",
            Self::Activation(Activation::HardSwish) => "hard_swish",
            Self::Add => "add",
            Self::Concat => "concat",
            Self::MaxPool(_) => "max_pool",
            Self::AvgPool(_) => "avg_pool",
            Self::GlobalAvgPool => "global_avg_pool",
            Self::Flatten => "flatten",
            Self::Linear(_) => "linear",
            Self::PadShortcut { .. } => "pad_shortcut",
        }
    }
}
