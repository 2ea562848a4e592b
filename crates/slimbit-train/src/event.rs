use std::path::PathBuf;
use std::time::Duration;

use crate::run_dir::StepRecord;
use crate::watch::Finding;

/// What a run reports while it trains.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An iteration is done.
    Step {
        /// What it did.
        record: StepRecord,
        /// Iterations of the whole run.
        steps: u64,
        /// Time to the end at the recent pace.
        remaining: Duration,
    },
    /// The first few iterations have shown how long the run will take. Told once each time that it is started.
    Paced {
        /// Time of one iteration.
        per_step: Duration,
        /// Iterations from here to the end.
        steps_left: u64,
        /// Time to the end; later iterations may train smaller networks than the first ones.
        remaining: Duration,
    },
    /// A checkpoint is on the disk.
    Saved {
        /// Iterations done.
        step: u64,
        /// The file.
        path: PathBuf,
    },
    /// The representation collapsed.
    Collapsed(Finding),
    /// The run was rolled back, and continues at a lower rate.
    RolledBack {
        /// Iterations done now.
        step: u64,
        /// Factor on the learning rate from here on.
        lr_factor: f32,
    },
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All iterations are done.
    Finished,
    /// The stop flag was raised; a checkpoint was saved.
    Interrupted,
}
