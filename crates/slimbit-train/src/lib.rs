//! Objectives, schedules, training loops, probes and checkpoints.
//!
//! A [`TrainConfig`] says what is trained on what; a [`Trainer`] does it, in a [run directory](RunDir) from which a
//! killed run resumes to bit-identical weights; a [`Checkpoint`] gives the trained network to what follows. The
//! [`probe`]s tell how good features are, whoever computed them.
//!
//! ```no_run
//! use slimbit_train::{Event, TrainConfig, Trainer};
//!
//! let config = TrainConfig::from_toml("epochs = 10", &["data.path=photos", "batch=64"])?;
//! let mut trainer = Trainer::new(config, "runs/first".as_ref())?;
//! trainer.run(&mut |event| {
//!     if let Event::Step { record, steps, .. } = event {
//!         println!("{} of {steps}: {:.3}", record.step + 1, record.networks[0].loss);
//!     }
//! })?;
//! let params = trainer.checkpoint().params();
//! # assert!(!params.0.is_empty());
//! # Ok::<(), slimbit_train::TrainError>(())
//! ```
#![forbid(unsafe_code)]

mod atomic;
mod checkpoint;
mod choice;
pub mod config;
mod cost;
mod error;
mod event;
pub mod finetune;
mod images;
mod lock;
mod machine;
mod pace;
pub mod probe;
mod resume;
mod run_dir;
mod saved;
mod schedule;
pub mod ssl;
mod tensorboard;
mod trainer;
mod watch;
mod weights;

pub use checkpoint::{Checkpoint, Checkpoints};
pub use choice::Choice;
pub use config::TrainConfig;
pub use error::TrainError;
pub use event::{Event, Outcome};
pub use lock::RunLock;
pub use resume::Resume;
pub use run_dir::{NetworkRecord, RoundingError, RunDir, StepRecord};
pub use saved::Saved;
pub use schedule::Timeline;
pub use trainer::Trainer;
pub use watch::Finding;
