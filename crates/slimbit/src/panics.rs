//! A panic is a bug of ours. The user learns in one line what it was and what to do about it.

use std::io::Write;
use std::panic;

use slimbit::console::printable;
use slimbit::page::quoted;
use slimbit::version;

/// Where bugs are reported.
const ISSUES: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/issues");

/// From here on a panic prints one line, after which the process ends with exit code 101 as ever. With
/// RUST_BACKTRACE set, the backtrace comes first.
pub(crate) fn tell_in_a_line() {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            default(info);
        }
        let message = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map(ToString::to_string);
        let command: Vec<String> = std::env::args_os()
            .map(|word| quoted(&word.to_string_lossy()))
            .collect();
        let line = describe(message, place.as_deref(), &command.join(" "));
        // A panic while this is printed would end the process at once.
        let _ = anstream::stderr().write_all(line.as_bytes());
    }));
}

fn describe(message: &str, place: Option<&str>, command: &str) -> String {
    let message = message.lines().collect::<Vec<_>>().join(" ");
    let line = format!(
        "error: this is a bug in slimbit {}: {message}, at {}; please report it at {ISSUES} with the command `{command}`",
        version::SHORT,
        place.unwrap_or("an unknown place"),
    );
    printable(&line).replace('\n', " ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_one_line_with_version_place_and_command() {
        let line = describe("left\nright \x07", Some("a.rs:3:4"), "slimbit bench 'a b'");
        assert_eq!(line.matches('\n').count(), 1);
        for part in [
            "left right \\x07",
            "a.rs:3:4",
            "slimbit bench 'a b'",
            "0.1.0",
            "/issues",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }
}
