//! Progress bars on standard error, so that `--json` output stays clean.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over a known number of steps.
pub(super) fn steps(what: &'static str, length: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64).with_prefix(what);
    bar.set_style(style(
        "{prefix:12} [{elapsed_precise}] {bar:30} {pos}/{len} (eta {eta}) {msg}",
    ));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("a template of this file")
        .progress_chars("=> ")
}

/// A bar over training iterations, `done` of which an earlier session did.
pub(super) fn training(done: u64, steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps)
        .with_position(done)
        .with_prefix("training");
    bar.set_style(style(
        "{prefix:12} [{elapsed_precise}] {bar:20} {pos}/{len} (eta {eta}) {wide_msg}",
    ));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar.reset_eta();
    bar
}
