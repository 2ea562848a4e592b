//! The `.slim` file, the integer reference, the plan, the arena and the session.
//!
//! A [`Model`] is what a `.slim` file holds: one network in integers, at every width and bit-width
//! for which it was exported. [`reference::run`] defines what each of its points computes;
//! a [`Session`] computes the same bytes with SIMD kernels, in memory that it takes once;
//! [`prove::prove`] re-checks from the model alone that its integers equal the real functions they
//! stand for. A [`Preprocess`] makes a photo of any size the pixels that the session takes, the same
//! bytes as the command line's.
//!
//! ```
//! use std::{error::Error, sync::Arc};
//! use slimbit_engine::{Image, Model, Preprocess, Session};
//!
//! /// The features of a photo at two points. `rgb` has three bytes for each pixel, row by row, as any decoder gives them.
//! fn features(height: usize, width: usize, rgb: Vec<u8>) -> Result<[Vec<f32>; 2], Box<dyn Error>> {
//!     let model = Arc::new(Model::open("model.slim")?);
//!     let preprocess = Preprocess::from_model(&model)?; // the resize, crop and channels that the network wants
//!     let mut session = Session::new(model, "0.5x W4A8".parse()?)?;
//!
//!     let pixels = preprocess.codes(&Image::new(3, height, width, rgb)?);
//!     let large = session.run(&pixels)?.get("features").ok_or("no such output")?.to_f32();
//!     session.set_point("0.25x W2A4".parse()?)?; // the same session, a smaller network
//!     let small = session.run(&pixels)?.get("features").ok_or("no such output")?.to_f32();
//!     Ok([large, small])
//! }
//! ```
#![deny(unsafe_code)]

mod arena;
mod batch;
mod error;
mod form;
mod format;
mod image;
mod layout;
mod mmap;
mod model;
mod outputs;
mod plan;
mod preprocess;
pub mod prove;
pub mod reference;
mod replace;
pub mod resample;
mod session;
mod trace;
mod validate;
mod weights;

pub use arena::{ALIGNMENT, Lifetime, Placement, largest_live_set, place};
pub use batch::Batch;
pub use error::EngineError;
pub use image::{Image, SettingError, luma};
pub use layout::{Layout, layouts, weight_shape};
pub use model::{
    AddTruth, Arithmetic, ChannelRequant, InputCodes, Model, OutputQuant, PointModel, StageModel,
    weight_bits,
};
pub use outputs::{Outputs, WideTensor};
pub use plan::{Plan, StagePlan};
pub use preprocess::{Normaliser, PREPROCESS, Preprocess, Resize};
pub use replace::replace_file;
pub use resample::Filter;
pub use session::Session;
pub use trace::{Difference, StageTrace, Trace};
pub use validate::code_range;
pub use weights::{ChannelCodes, CodeArray, Codes, Weights};
