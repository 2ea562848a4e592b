//! The .slim file, the integer reference, the plan, the arena and the session.
#![deny(unsafe_code)]

mod error;
mod form;
mod format;
mod layout;
mod mmap;
mod model;
mod plan;
mod validate;
mod weights;

pub use error::EngineError;
pub use layout::{Layout, layouts, weight_shape};
pub use model::{
    AddTruth, Arithmetic, ChannelRequant, InputCodes, Model, OutputQuant, PointModel, StageModel,
    weight_bits,
};
pub use validate::code_range;
pub use weights::{CodeArray, Codes, Weights};
