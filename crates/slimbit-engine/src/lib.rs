//! The `.slim` file, the integer reference, the plan, the arena and the session.
//!
//! A [`Model`] is what a `.slim` file holds: one network in integers, at every width and bit-width
//! for which it was exported. [`reference::run`] defines what each of its points computes;
//! a [`Session`] computes the same bytes with SIMD kernels, in memory that it takes once;
//! [`prove::prove`] re-checks from the model alone that its integers equal the real functions they
//! stand for.
//!
//! ```no_run
//! use std::sync::Arc;
//! use slimbit_engine::{Model, Session};
//!
//! let model = Arc::new(Model::open("fashion.slim")?);
//! let mut session = Session::new(model.clone(), "0.5x W4A8".parse()?)?;
//! let image = vec![0; 28 * 28];
//! let features = session.run(&image)?.get("features").unwrap().to_f32();
//! session.set_point("0.25x W2A4".parse()?)?; // the same session, a smaller network
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

mod arena;
mod batch;
mod error;
mod form;
mod format;
mod layout;
mod mmap;
mod model;
mod outputs;
mod plan;
pub mod prove;
pub mod reference;
mod replace;
mod session;
mod trace;
mod validate;
mod weights;

pub use arena::{ALIGNMENT, Lifetime, Placement, largest_live_set, place};
pub use batch::Batch;
pub use error::EngineError;
pub use layout::{Layout, layouts, weight_shape};
pub use model::{
    AddTruth, Arithmetic, ChannelRequant, InputCodes, Model, OutputQuant, PointModel, StageModel,
    weight_bits,
};
pub use outputs::{Outputs, WideTensor};
pub use plan::{Plan, StagePlan};
pub use replace::replace_file;
pub use session::Session;
pub use trace::{Difference, StageTrace, Trace};
pub use validate::code_range;
pub use weights::{ChannelCodes, CodeArray, Codes, Weights};
