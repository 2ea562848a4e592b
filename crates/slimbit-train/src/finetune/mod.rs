//! Fine-tuning of a pre-trained network with labels (spec sections 3.10 and 4.7): a classifier on top, and as much of
//! the backbone as one wants, in float at one width. What comes out is quantised afterwards.
//!
//! A [`FineTuner`] keeps its settings, a line per step and checkpoints in a folder of its own, from which a killed one
//! resumes to bit-identical weights.

mod classes;
mod classifier;
mod config;
mod examples;
mod folder;
mod layers;
mod tuner;

pub use config::{FineTuneConfig, Freeze};
pub use folder::FineTuneRecord;
pub use tuner::{FineTuner, Tuned};
