//! Networks in and out: foreign checkpoints become a [`Network`], the float form that every later
//! step of Slimbit starts from.
//!
//! A [`Network`] is one safetensors file with the graph, the parameters and the running batch-norm
//! statistics. Nothing in this crate executes code that a file brings along.
//!
//! ```no_run
//! use slimbit_interchange::{checkpoint::Tensors, names};
//!
//! let tensors = Tensors::open("mobilenet_v2.pth")?;
//! let architecture = names::guess(&tensors)?;
//! let imported = names::import(&tensors, &architecture, [224, 224])?;
//! imported.network.write("mobilenet_v2.safetensors")?;
//! # Ok::<(), slimbit_interchange::ImportError>(())
//! ```
#![forbid(unsafe_code)]

pub mod checkpoint;
mod error;
mod kind;
pub mod names;
mod network;
pub mod onnx;

pub use error::{ImportError, plain};
pub use kind::{FileKind, Foreign};
pub use network::{Network, Norms};
