//! Runs of the program, and what they print.

use std::path::Path;
use std::process::{Command, Output, Stdio};

pub(crate) fn slimbit(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slimbit"));
    command.args(arguments).stdin(Stdio::null());
    command
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    slimbit(arguments).output().unwrap()
}

pub(crate) fn succeeds(arguments: &[&str]) -> String {
    let output = run(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "slimbit {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail with exit code 1 or 2, and gives its message.
pub(crate) fn fails(arguments: &[&str]) -> String {
    message(&run(arguments), arguments)
}

pub(crate) fn message(output: &Output, what: &[&str]) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        matches!(output.status.code(), Some(1 | 2)),
        "{what:?}: {:?} {error}",
        output.status
    );
    assert!(
        error.contains("error:") && !error.contains("panicked"),
        "{what:?}: {error}"
    );
    error
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn json(output: &str) -> serde_json::Value {
    serde_json::from_str(output).unwrap_or_else(|e| panic!("{e}: {output}"))
}
