//! Packed weight layouts and SIMD kernels behind one table, each equal to its scalar reference.
//!
//! [`Kernels`] is a table of functions for one CPU level ([`Isa`]). Every level returns the same
//! bytes as the scalar one: sums of products are exact in `i32`, and the rescaling `(m·acc + c) >>
//! k` is done in 64 bits on every level.
//!
//! Tensors are NHWC `u8` codes inside memory of the caller: a [`Map`] is a slice and two strides.
//! Nothing here allocates once the weights are packed. A convolution reads its padding from the
//! tensor's border, which the caller has filled with the zero point.
//!
//! ```
//! use slimbit_kernels::{ConvGeometry, Kernels, Map, MapMut, SLACK};
//! use slimbit_num::{Clip, Requant};
//!
//! // Two input channels, one output channel, 1×1: y = (3·q0 − q1) / 2, rounded half up.
//! let geometry = ConvGeometry::linear(2, 1);
//! let half = Requant { m: 1, c: 1, k: 1 };
//! let conv = Kernels::best()?.pack_conv(geometry, &[3, -1], &[half], Clip::unsigned(8))?;
//!
//! let mut input = vec![0; 2 + SLACK];
//! input[..2].copy_from_slice(&[10, 3]);
//! let mut output = [0];
//! let pixel = Map { data: &input, row_stride: 2, pixel_stride: 2 };
//! let result = MapMut { data: &mut output, row_stride: 1, pixel_stride: 1 };
//! Kernels::best()?.conv(&conv, pixel, result);
//! assert_eq!(output, [14]);
//! # Ok::<(), slimbit_kernels::KernelError>(())
//! ```
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod conv;
mod error;
mod geometry;
mod isa;
mod kernels;
mod map;
mod peak;
mod pixels;
mod scalar;
mod split;
mod team;
mod threaded;

pub use conv::PackedConv;
pub use error::KernelError;
pub use geometry::{Border, ConvGeometry, Window};
pub use isa::Isa;
pub use kernels::Kernels;
pub use map::{Map, MapMut, SLACK};
pub use peak::peak;
pub use team::Team;
pub use threaded::Threaded;
