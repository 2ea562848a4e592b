//! Objectives, schedules, training loops, probes and checkpoints.
#![forbid(unsafe_code)]

mod atomic;
mod checkpoint;
pub mod config;
mod error;
pub mod probe;
mod run_dir;
mod schedule;
pub mod ssl;
mod tensorboard;

pub use checkpoint::{Checkpoint, Checkpoints};
pub use config::TrainConfig;
pub use error::TrainError;
pub use run_dir::{NetworkRecord, RunDir, StepRecord};
pub use schedule::Timeline;
