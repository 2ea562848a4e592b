//! The Slimbit command line.
#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod memory;
mod panics;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use slimbit::cli::Cli;
use slimbit::commands::{self, Outcome};
use slimbit::console::{self, Color};
use slimbit::machine;

/// Exit code of a command that left out what it could not read.
const INCOMPLETE: u8 = 3;

/// Exit code of a command that Ctrl-C ended after saving, as shells expect it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    panics::tell_in_a_line();
    // `slimbit ... | head` ends when `head` does, and not in a panic.
    sigpipe::reset();
    let cli = match read_arguments() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if cli.command.trains() {
        memory::keep_freed_pages();
    }
    if cli.quiet {
        console::be_quiet();
    }
    console::start_log(cli.verbose);
    match work_on_this_thread_too().and_then(|()| commands::execute(cli.command)) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Incomplete) => ExitCode::from(INCOMPLETE),
        Ok(Outcome::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            console::print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// The command line; or the exit code, after help, the version or what is wrong has been printed.
fn read_arguments() -> Result<Cli, ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Before anything is printed, thus also before the arguments are understood.
    color_of(&arguments).choose();
    Cli::try_parse_from(&arguments).map_err(|error| {
        if error.use_stderr() {
            let text = console::printable(&error.render().ansi().to_string());
            let _ = anstream::stderr().write_all(text.as_bytes());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
        let printed = error
            .print()
            .and_then(|()| std::io::stdout().flush())
            .context("cannot write to standard output");
        match printed {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                console::print_error(&error);
                ExitCode::FAILURE
            }
        }
    })
}

/// What `--color` says, if it says something that there is.
fn color_of(arguments: &[OsString]) -> Color {
    let mut words = arguments.iter().skip(1).filter_map(|word| word.to_str());
    let mut color = Color::default();
    while let Some(word) = words.next() {
        let value = match word.strip_prefix("--color") {
            _ if word == "--" => break,
            Some("") => words.next(),
            Some(value) => value.strip_prefix('='),
            None => None,
        };
        if let Some(chosen) = value.and_then(|value| Color::from_str(value, false).ok()) {
            color = chosen;
        }
    }
    color
}

/// Makes this thread one of the pool's, for it starts all parallel work: were it not, it would sleep at every operator
/// until another thread is awake and done. No other thread may wait for the pool, then: of one thread, it is this one.
fn work_on_this_thread_too() -> anyhow::Result<()> {
    machine::check_pool()?;
    let pool = rayon::ThreadPoolBuilder::new().use_current_thread();
    pool.build_global()
        .context("cannot start threads; set RAYON_NUM_THREADS to fewer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_colour_is_known_before_the_arguments_are() {
        let color = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            color_of(&words)
        };
        assert_eq!(color("slimbit run --color never a"), Color::Never);
        assert_eq!(color("slimbit --color=always run"), Color::Always);
        assert_eq!(color("slimbit --color=pink run --nothing"), Color::Auto);
        assert_eq!(color("slimbit run -- --color never"), Color::Auto);
    }
}
