//! The Slimbit command line.
#![deny(unsafe_code)]

mod memory;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use slimbit::cli::Cli;
use slimbit::commands::{self, Outcome};

/// Exit code of a command that Ctrl-C ended after saving, as shells expect it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    memory::keep_freed_pages();
    // `slimbit ... | head` ends when `head` does, and not in a panic.
    sigpipe::reset();
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level))
        .format_target(false)
        .init();
    match work_on_this_thread_too().and_then(|()| commands::execute(cli.command)) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("error: {}", message(&error));
            ExitCode::FAILURE
        }
    }
}

/// Makes this thread one of the pool's, for it starts all parallel work: were it not, it would sleep at every operator
/// until another thread is awake and done. No other thread may wait for the pool, then: of one thread, it is this one.
fn work_on_this_thread_too() -> anyhow::Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().use_current_thread();
    pool.build_global()
        .context("cannot start threads; set RAYON_NUM_THREADS to fewer")
}

/// The error and its causes; one that an outer message already quotes is not repeated.
fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text = if text.is_empty() {
                cause
            } else {
                format!("{text}: {cause}")
            };
        }
    }
    text
}
