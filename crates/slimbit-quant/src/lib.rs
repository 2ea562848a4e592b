//! Calibration per point and lowering of a trained network to a .slim file.
#![forbid(unsafe_code)]

mod error;
mod formula;
mod input;
mod lower;
mod quantisers;
pub mod simulate;
mod solver;
mod weights;

pub use error::QuantError;
pub use input::{input_codes, input_values};
pub use lower::{Progress, Settings, lower};
