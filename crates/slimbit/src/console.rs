//! What is printed: results on standard output; everything else on standard error, past the progress.
//!
//! `println!` panics where its stream is full, and `eprintln!` too; nothing here does.

use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anstream::ColorChoice;
use anyhow::{Context, Result};
use clap::ValueEnum;
use clap::builder::styling::{AnsiColor, Style};
use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;

/// Characters of a line of an error beyond which its middle is left out: a damaged file may name a tensor with
/// a megabyte.
const LONGEST_LINE: usize = 1000;

/// When output is coloured.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Colours output so from here on.
    pub fn choose(self) {
        let choice = match self {
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::Always,
            Self::Never => ColorChoice::Never,
        };
        choice.write_global();
    }
}

static QUIET: AtomicBool = AtomicBool::new(false);

/// The progress bars; what else goes to standard error is written above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(|| {
    MultiProgress::with_draw_target(match is_quiet() {
        true => ProgressDrawTarget::hidden(),
        false => ProgressDrawTarget::stderr(),
    })
});

/// From here on only results and errors are printed.
pub fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether progress and notes are left out.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// The progress bars of the process.
pub(crate) fn bars() -> &'static MultiProgress {
    &BARS
}

/// Log lines in the style of the errors, written past the progress.
pub fn start_log(verbose: u8) {
    let level = match (is_quiet(), verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info",
        _ => "debug",
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level))
        .format(|buffer, record| {
            let (name, style) = match record.level() {
                log::Level::Error => ("error", bold(AnsiColor::Red)),
                log::Level::Warn => ("warning", bold(AnsiColor::Yellow)),
                log::Level::Info => ("info", bold(AnsiColor::Green)),
                log::Level::Debug => ("debug", bold(AnsiColor::Blue)),
                log::Level::Trace => ("trace", bold(AnsiColor::Cyan)),
            };
            let text = record.args().to_string();
            writeln!(buffer, "{style}{name}:{style:#} {}", printable(&text))
        })
        .write_style(env_logger::WriteStyle::Always)
        .target(env_logger::Target::Pipe(Box::new(PastProgress)))
        .init();
}

/// Standard error, above the progress bars and without colours where there are to be none.
struct PastProgress;

impl Write for PastProgress {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| anstream::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn bold(color: AnsiColor) -> Style {
    Style::new().bold().fg_color(Some(color.into()))
}

/// Prints a line for a reader.
///
/// # Errors
/// Where standard output is full or closed: what was computed is then lost, and the command must fail.
pub(crate) fn print_line(text: fmt::Arguments<'_>) -> Result<()> {
    let text = printable(&text.to_string()) + "\n";
    written(&mut anstream::stdout().lock(), text.as_bytes())
}

/// Prints a value for a program, as JSON.
///
/// # Errors
/// As [`print_line`].
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    print_exactly(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Prints text for a program, to the byte.
///
/// # Errors
/// As [`print_line`].
pub(crate) fn print_exactly(text: &str) -> Result<()> {
    written(&mut io::stdout().lock(), text.as_bytes())
}

fn written(out: &mut impl Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}

/// Tells something besides the result, unless the command is to be quiet. What cannot be told is left out.
pub(crate) fn note_line(text: fmt::Arguments<'_>) {
    if !is_quiet() {
        let _ = PastProgress.write(format!("{}\n", printable(&text.to_string())).as_bytes());
    }
}

/// Prints an error and its causes on standard error; a cause that an outer message already quotes is not
/// repeated. Where standard error is full, the exit code is all that can tell.
pub fn print_error(error: &anyhow::Error) {
    let style = bold(AnsiColor::Red);
    let line = format!("{style}error:{style:#} {}\n", message(error));
    let _ = PastProgress.write(line.as_bytes());
}

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
    let lines: Vec<String> = text.lines().map(shortened).collect();
    printable(&lines.join("\n"))
}

fn shortened(line: &str) -> String {
    let length = line.chars().count();
    if length <= LONGEST_LINE {
        return line.to_owned();
    }
    let (head, tail) = (LONGEST_LINE * 3 / 4, LONGEST_LINE / 4);
    let start: String = line.chars().take(head).collect();
    let end: String = line.chars().skip(length - tail).collect();
    let left_out = length - head - tail;
    format!("{start} … ({left_out} characters left out) … {end}")
}

/// A number of things: `1 image`, `2 classes`.
pub fn count(number: usize, thing: &str) -> String {
    match (number, thing.ends_with('s')) {
        (1, _) => format!("1 {thing}"),
        (_, true) => format!("{number} {thing}es"),
        (_, false) => format!("{number} {thing}s"),
    }
}

/// The text with its control characters spelt out, so that the name of a file cannot move the cursor. Line ends,
/// tabs and styles stay.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        match char {
            '\n' | '\t' => shown.push(char),
            '\x1b' => {
                let style = style_length(rest.as_str());
                match style {
                    Some(length) => {
                        shown.push(char);
                        shown.extend(rest.by_ref().take(length));
                    }
                    None => shown.push_str("\\x1b"),
                }
            }
            _ if char.is_control() => {
                let _ = write!(shown, "\\x{:02x}", char as u32);
            }
            _ => shown.push(char),
        }
    }
    shown
}

/// Characters of an ANSI style after its escape character.
fn style_length(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix('[')?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some(end + 2)
}

/// Prints a line of a result for a reader: `say!("{count} images")?`.
macro_rules! say {
    ($($argument:tt)*) => { $crate::console::print_line(format_args!($($argument)*)) };
}

/// Tells something besides the result on standard error: `note!("continuing")`.
macro_rules! note {
    ($($argument:tt)*) => { $crate::console::note_line(format_args!($($argument)*)) };
}

pub(crate) use {note, say};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelt_out_and_styles_stay() {
        assert_eq!(printable("a\tb\nc"), "a\tb\nc");
        assert_eq!(printable("\x07\r\u{9b}"), "\\x07\\x0d\\x9b");
        assert_eq!(printable("\x1b[1;31mred\x1b[0m"), "\x1b[1;31mred\x1b[0m");
        assert_eq!(printable("\x1b]0;title\x1b[2J"), "\\x1b]0;title\\x1b[2J");
    }

    #[test]
    fn one_is_not_many() {
        let counts = [(0, "image"), (1, "class"), (2, "class")];
        let texts = counts.map(|(number, thing)| count(number, thing));
        assert_eq!(texts, ["0 images", "1 class", "2 classes"]);
    }

    #[test]
    fn a_message_is_short_and_says_nothing_twice() {
        let error = anyhow::anyhow!("no file").context("reading: no file");
        assert_eq!(message(&error), "reading: no file");
        let long = "é".repeat(300_000) + "\nnext";
        let shown = message(&anyhow::anyhow!(long));
        assert!(shown.chars().count() < 1100 && shown.ends_with("\nnext"));
        assert!(shown.contains("299000 characters left out"));
    }
}
