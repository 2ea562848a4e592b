use crate::{Clip, Interval};
use core::fmt;

/// Why no fixed-point form was returned.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum SolveError {
    /// A coefficient is infinite or not a number.
    NotFinite {
        /// The offending coefficient.
        value: f64,
    },
    /// A rational was asked for with denominator zero.
    ZeroDenominator,
    /// The domain holds no integer.
    EmptyDomain(Interval),
    /// The domain reaches beyond a 32-bit accumulator.
    DomainTooWide(Interval),
    /// The clip holds no integer.
    EmptyClip(Clip),
    /// The code range of an operand is not a range of unsigned bytes.
    NotByteCodes(Clip),
    /// The function takes more distinct values on the domain than the solver stores.
    TooManySteps {
        /// The number of steps that the solver accepts.
        limit: usize,
    },
    /// No line passes through all the steps; happens only for [`Rounding::HalfEven`](crate::Rounding::HalfEven) with true ties.
    NoLine,
    /// The smallest shift that is exact exceeds the limit.
    ShiftTooLarge {
        /// The limit of the search.
        limit: u8,
    },
    /// The smallest multiplier that is exact has too many bits.
    MultiplierTooWide {
        /// Bits of the magnitude of the smallest exact multiplier.
        bits: u32,
        /// The limit.
        limit: u8,
        /// The shift that belongs to that multiplier.
        shift: u8,
    },
    /// `m·x + c` leaves 64 bits for every exact constant `c`.
    OffsetTooWide {
        /// The shift at which this happens.
        shift: u8,
    },
}

impl fmt::Display for SolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            SolveError::NotFinite { value } => {
                write!(
                    f,
                    "coefficient {value} is not finite; check the batch-norm statistics and the scales"
                )
            }
            SolveError::ZeroDenominator => {
                write!(f, "division by zero; scales and counts must be positive")
            }
            SolveError::EmptyDomain(Interval { lo, hi }) => {
                write!(f, "accumulator interval [{lo}, {hi}] is empty")
            }
            SolveError::DomainTooWide(Interval { lo, hi }) => write!(
                f,
                "accumulator interval [{lo}, {hi}] does not fit 32 bits; use fewer weight or activation bits"
            ),
            SolveError::EmptyClip(Clip { lo, hi }) => write!(f, "clip range [{lo}, {hi}] is empty"),
            SolveError::NotByteCodes(Clip { lo, hi }) => {
                write!(f, "operand codes [{lo}, {hi}] are not within [0, 255]")
            }
            SolveError::TooManySteps { limit } => {
                write!(
                    f,
                    "the function has more than {limit} steps on its domain; narrow the clip range"
                )
            }
            SolveError::NoLine => write!(
                f,
                "no fixed-point line reproduces the ties; round half up instead"
            ),
            SolveError::ShiftTooLarge { limit } => write!(
                f,
                "no shift up to {limit} is exact; narrow the accumulator interval or the clip range"
            ),
            SolveError::MultiplierTooWide { bits, limit, shift } => write!(
                f,
                "the smallest exact multiplier has {bits} bits (at shift {shift}), the limit is {limit}; \
                 narrow the accumulator interval or the clip range"
            ),
            SolveError::OffsetTooWide { shift } => write!(
                f,
                "m*x + c leaves 64 bits at the least exact shift {shift}; narrow the accumulator interval"
            ),
        }
    }
}

impl core::error::Error for SolveError {}
