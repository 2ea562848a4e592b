//! Ctrl-C and termination requests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use slimbit_train::Saved;

use crate::console::note;

/// Exit code of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// How long a step that is under way may take to end. With the time to save, it makes less than two seconds.
const GRACE: Duration = Duration::from_millis(1200);

/// A flag that Ctrl-C (or a termination request) raises, for work that is cut into short parts and keeps what is done. A
/// second one ends the process at once.
pub(super) fn flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED);
        }
        note!("\nStopping after this part; press Ctrl-C again to stop now");
    })
    .context("installing the Ctrl-C handler")?;
    Ok(flag)
}

/// What is being trained, while it is.
struct Work {
    saved: Arc<Saved>,
    /// The command that continues it.
    resume: String,
    /// Gives the terminal back, where a screen has taken it.
    restore: Option<fn()>,
}

/// What Ctrl-C does: a step that ends within [`GRACE`] is saved, a longer one is dropped, and a second Ctrl-C ends the
/// process at once. While nothing is trained, the first one ends it. Files are replaced atomically, so nothing is ever
/// half-written.
#[derive(Clone)]
pub(super) struct Interrupt {
    raised: Arc<AtomicBool>,
    work: Arc<Mutex<Option<Work>>>,
}

impl Interrupt {
    /// Takes Ctrl-C (and a termination request) over, for the rest of the process.
    pub(super) fn install() -> Result<Self> {
        let interrupt = Self {
            raised: Arc::default(),
            work: Arc::default(),
        };
        let own = interrupt.clone();
        ctrlc::set_handler(move || own.request()).context("installing the Ctrl-C handler")?;
        Ok(interrupt)
    }

    /// Whether training is to stop after this step.
    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// Ctrl-C ends training from here on, until the guard is dropped.
    pub(super) fn during(
        &self,
        saved: Arc<Saved>,
        resume: String,
        restore: Option<fn()>,
    ) -> Training<'_> {
        *self.work() = Some(Work {
            saved,
            resume,
            restore,
        });
        Training(self)
    }

    /// What Ctrl-C does; also what a key of the dashboard does.
    pub(super) fn request(&self) {
        let again = self.raised.swap(true, Ordering::SeqCst);
        let work = self.work();
        let Some(training) = work.as_ref() else {
            std::process::exit(INTERRUPTED);
        };
        if again {
            training.end();
        }
        if training.restore.is_none() {
            note!(
                "\nStopping: a step that takes more than a second longer is dropped. Press Ctrl-C again to stop now."
            );
        }
        drop(work);
        let own = self.clone();
        std::thread::spawn(move || {
            std::thread::sleep(GRACE);
            // Training that has ended meanwhile says itself how to go on.
            if let Some(training) = own.work().as_ref() {
                training.end();
            }
        });
    }

    fn work(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    /// Ends the process in the middle of a step. A checkpoint that is being written is waited for.
    fn end(&self) -> ! {
        let step = self.saved.hold();
        if let Some(restore) = self.restore {
            restore();
        }
        note!(
            "\nStopped. The run resumes at iteration {step}; what was done after it is dropped. Continue with: {}",
            self.resume
        );
        std::process::exit(INTERRUPTED)
    }
}

/// Training that Ctrl-C can stop.
pub(super) struct Training<'a>(&'a Interrupt);

impl Drop for Training<'_> {
    fn drop(&mut self) {
        *self.0.work() = None;
    }
}
