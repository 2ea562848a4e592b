use std::sync::{Mutex, MutexGuard, PoisonError};

/// How far a run is saved, for whoever may have to end the process in the middle of an iteration.
///
/// The trainer holds it while it writes a checkpoint. So whoever holds it knows that none is being written, and from
/// which iteration the run would go on.
#[derive(Debug, Default)]
pub struct Saved(Mutex<u64>);

impl Saved {
    pub(crate) fn at(step: u64) -> Self {
        Self(Mutex::new(step))
    }

    /// Iterations that the newest checkpoint has. Waits for one that is being written; none is, as long as the guard
    /// lives.
    pub fn hold(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
