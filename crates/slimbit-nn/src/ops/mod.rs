//! Training operators with hand-written gradients.
//!
//! Burn's CPU backend computes convolution gradients through transposed convolutions and batch-norm
//! through a chain of elementwise operations. The operators here do the same arithmetic in one or
//! two passes over memory, and add the fake quantisers that Burn does not have. They take and give
//! ordinary [`Tensor`](burn::tensor::Tensor)s, on a plain device or an autodiff one.
//!
//! Every operator gives the same bits from run to run and for any number of threads: work is cut
//! by shape alone, and partial sums are added in a fixed order.
//!
//! With the feature `gpu` they take tensors on a GPU too, in the form that `composite` has of them:
//! the same values and gradients up to rounding.
//!
//! Shapes that do not fit together are a programming error and panic, as in Burn itself.

mod activation;
mod affine;
mod batch_norm;
mod channels;
#[cfg(feature = "gpu")]
mod composite;
mod conv2d;
mod elementwise;
mod fake_quant_activation;
mod fake_quant_weight;
mod host;
mod range;
mod register_tile;
mod shortcut;

pub use activation::Activation;
pub use affine::affine_act;
pub use batch_norm::{BatchNorm, batch_norm_act};
#[cfg(feature = "gpu")]
pub(crate) use composite::needed_on as needs_composites;
pub use conv2d::{Conv, conv2d};
pub(crate) use conv2d::{conv2d_fast, conv2d_half};
pub use fake_quant_activation::fake_quant_activation;
pub use fake_quant_weight::fake_quant_weight;
pub use range::min_max;
pub use shortcut::pad_shortcut;
