//! Numbers on the command line, refused in the words of the help instead of Rust's.

use std::str::FromStr;

/// A whole number from 0.
pub(super) fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    parse(text, "expected a whole number of at least 0", |_| true)
}

/// A whole number from 1.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    let wanted = "expected a whole number of at least 1";
    parse(text, wanted, |&number| number > 0)
}

/// Passes over the images.
pub(super) fn epochs(text: &str) -> Result<u64, String> {
    let wanted = "expected a number of epochs of at least 1";
    parse(text, wanted, |&epochs| epochs > 0)
}

/// A batch whose statistics mean something.
pub(super) fn at_least_two(text: &str) -> Result<usize, String> {
    let wanted = "expected a whole number of at least 2";
    parse(text, wanted, |&number| number > 1)
}

/// The bits of a weight, or none.
pub(super) fn up_to_eight(text: &str) -> Result<u8, String> {
    parse(text, "expected a whole number from 0 to 8", |&bits| {
        bits <= 8
    })
}

/// A number that is not infinite.
pub(super) fn single_precision(text: &str) -> Result<f32, String> {
    parse(text, "expected a number", |number: &f32| number.is_finite())
}

pub(super) fn number(text: &str) -> Result<f64, String> {
    parse(text, "expected a number", |number: &f64| number.is_finite())
}

/// A positive number.
pub(super) fn above_zero(text: &str) -> Result<f64, String> {
    let above = |number: &f64| *number > 0.0 && number.is_finite();
    parse(text, "expected a number above 0", above)
}

fn parse<T: FromStr>(text: &str, wanted: &str, fits: impl Fn(&T) -> bool) -> Result<T, String> {
    let number = text.parse().ok().filter(fits);
    number.ok_or_else(|| wanted.to_owned())
}
