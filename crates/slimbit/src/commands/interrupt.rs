use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

use crate::console::note;

/// Exit code of a second Ctrl-C, which does not wait.
const INTERRUPTED: i32 = 130;

/// A flag that Ctrl-C (or a termination request) raises. A second one ends the process at once;
/// files are replaced atomically, so nothing is half-written then either.
pub(super) fn flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED);
        }
        note!("\nstopping after this step; once more to stop at once");
    })
    .context("installing the Ctrl-C handler")?;
    Ok(flag)
}
