use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::GraphError;

/// Rounds a channel count to a multiple of 8 without losing more than a tenth of it (US3L,
/// `specs` section 3.1). Never below 8 for `v >= 4`.
///
/// ```
/// # use slimbit_graph::round8;
/// assert_eq!(round8(64.0 * 0.3), 24);
/// assert_eq!(round8(24.0 * 0.25), 8);
/// assert_eq!(round8(320.0 * 0.3), 96);
/// ```
pub fn round8(v: f64) -> usize {
    let n = ((v + 4.0).max(0.0) as usize / 8 * 8).max(8);
    if (n as f64) < 0.9 * v { n + 8 } else { n }
}

/// A width multiplier in `(0, 1]`: the fraction of the channels of every slim dimension in use.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Width(f64);

impl Width {
    /// The whole network.
    pub const FULL: Width = Width(1.0);

    /// Checks and wraps a multiplier.
    ///
    /// # Errors
    /// [`GraphError::Width`] unless `0 < multiplier <= 1`.
    pub fn new(multiplier: f64) -> Result<Self, GraphError> {
        if multiplier > 0.0 && multiplier <= 1.0 {
            Ok(Self(multiplier))
        } else {
            Err(GraphError::Width(multiplier.to_string()))
        }
    }

    /// The multiplier.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Width {
    type Error = GraphError;
    fn try_from(value: f64) -> Result<Self, GraphError> {
        Self::new(value)
    }
}

impl From<Width> for f64 {
    fn from(width: Width) -> f64 {
        width.0
    }
}

impl fmt::Display for Width {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x", self.0)
    }
}

impl FromStr for Width {
    type Err = GraphError;
    fn from_str(s: &str) -> Result<Self, GraphError> {
        let number = s.strip_suffix('x').unwrap_or(s);
        number
            .parse()
            .map_err(|_| GraphError::Width(s.to_owned()))
            .and_then(|v: f64| Width::new(v).map_err(|_| GraphError::Width(s.to_owned())))
    }
}

/// A channel dimension: fixed, or scaling with the width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// The same at every width.
    Fixed(usize),
    /// `round8(max·w / ratio) · ratio` channels at width `w`; the leading ones of `max`.
    Slim {
        /// Channels at full width.
        max: usize,
        /// Expansion ratio: the inner width of an inverted residual is exactly `ratio` times its
        /// slimmed input. 1 elsewhere.
        ratio: usize,
    },
}

impl Channels {
    /// A slim dimension with expansion ratio 1.
    pub fn slim(max: usize) -> Self {
        Self::Slim { max, ratio: 1 }
    }

    /// Channels in use at `width`.
    pub fn at(self, width: Width) -> usize {
        match self {
            Self::Fixed(n) => n,
            Self::Slim { max, .. } if width == Width::FULL => max,
            Self::Slim { max, ratio } => {
                (round8(max as f64 * width.get() / ratio as f64) * ratio).min(max)
            }
        }
    }

    /// Whether the arithmetic of [`Channels::at`] is safe: a ratio that divides a bounded maximum.
    pub(crate) fn is_sane(self, limit: usize) -> bool {
        match self {
            Self::Fixed(n) => n <= limit,
            Self::Slim { max, ratio } => max <= limit && ratio > 0 && max.is_multiple_of(ratio),
        }
    }

    /// Channels at full width.
    pub fn max(self) -> usize {
        match self {
            Self::Fixed(n) | Self::Slim { max: n, .. } => n,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// U1: the table of spec section 3.1.
    #[test]
    fn round8_table() {
        let widths = [0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1.0];
        let table: [(usize, [usize; 10]); 9] = [
            (16, [8, 8, 8, 8, 16, 16, 16, 16, 16, 16]),
            (24, [8, 8, 16, 16, 16, 16, 24, 24, 24, 24]),
            (32, [8, 16, 16, 16, 24, 24, 24, 24, 32, 32]),
            (64, [16, 24, 24, 32, 40, 48, 48, 48, 56, 64]),
            (96, [24, 32, 40, 48, 56, 64, 72, 80, 88, 96]),
            (128, [32, 40, 48, 64, 80, 88, 96, 104, 112, 128]),
            (256, [64, 80, 104, 128, 152, 176, 192, 208, 232, 256]),
            (512, [128, 152, 208, 256, 304, 360, 384, 408, 464, 512]),
            (
                2048,
                [512, 616, 816, 1024, 1232, 1432, 1536, 1640, 1840, 2048],
            ),
        ];
        for (max, row) in table {
            for (w, expected) in widths.into_iter().zip(row) {
                let width = Width::new(w).unwrap();
                assert_eq!(Channels::slim(max).at(width), expected, "{max} at {w}");
            }
        }
    }

    #[test]
    fn expansion_keeps_the_inner_width_a_multiple_of_the_outer() {
        for w in 25..=100 {
            let width = Width::new(w as f64 / 100.0).unwrap();
            let outer = Channels::slim(24).at(width);
            let inner = Channels::Slim { max: 144, ratio: 6 }.at(width);
            assert_eq!(inner, 6 * outer);
        }
    }

    #[test]
    fn a_width_outside_its_range_is_refused() {
        for bad in ["0", "1.01", "-0.5", "NaN", "half", ""] {
            assert!(bad.parse::<Width>().is_err(), "{bad}");
        }
        assert_eq!("0.5x".parse::<Width>().unwrap().to_string(), "0.5x");
    }
}
