use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{GraphError, Width};

/// A deployment point: how much of the network runs, and on how many bits.
///
/// Written `0.5x W4A8`. Stages of fixed precision (the stem, classifiers, addends) keep 8 bits at
/// every point; see [`Precision`](crate::Precision).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Point {
    /// Width multiplier.
    pub width: Width,
    /// Bits of a weight, 2..=8.
    pub weight_bits: u8,
    /// Bits of an activation, 2..=8.
    pub act_bits: u8,
}

impl Point {
    /// Checks the bit-widths and makes a point.
    ///
    /// # Errors
    /// [`GraphError::Bits`] unless both are 2 to 8.
    pub fn new(width: Width, weight_bits: u8, act_bits: u8) -> Result<Self, GraphError> {
        if (2..=8).contains(&weight_bits) && (2..=8).contains(&act_bits) {
            Ok(Self {
                width,
                weight_bits,
                act_bits,
            })
        } else {
            Err(GraphError::Bits {
                weight_bits,
                act_bits,
            })
        }
    }

    /// Every combination of `widths` and `(weight, activation)` bits, widths outermost.
    ///
    /// # Errors
    /// As [`Point::new`].
    pub fn grid(widths: &[Width], bits: &[(u8, u8)]) -> Result<Vec<Self>, GraphError> {
        let pairs = widths
            .iter()
            .flat_map(|&w| bits.iter().map(move |&(b, a)| (w, b, a)));
        pairs.map(|(w, b, a)| Self::new(w, b, a)).collect()
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{} W{}A{}", self.width, self.weight_bits, self.act_bits);
        f.pad(&text)
    }
}

impl From<Point> for String {
    fn from(point: Point) -> String {
        point.to_string()
    }
}

impl TryFrom<String> for Point {
    type Error = GraphError;
    fn try_from(text: String) -> Result<Self, GraphError> {
        text.parse()
    }
}

impl FromStr for Point {
    type Err = GraphError;

    /// Reads `0.5x W4A8`, also `0.5xW4A8`, `0.5 w4a8` and `0.5,4,8`.
    fn from_str(s: &str) -> Result<Self, GraphError> {
        let bad = || GraphError::Point(s.to_owned());
        let text = s.trim().to_ascii_lowercase();
        let fields: Vec<&str> = text
            .split(|c: char| matches!(c, 'x' | 'w' | 'a' | ',') || c.is_whitespace())
            .filter(|field| !field.is_empty())
            .collect();
        let [width, weight, act] = fields[..] else {
            return Err(bad());
        };
        let width = width.parse::<Width>()?;
        let weight = weight.parse().map_err(|_| bad())?;
        let act = act.parse().map_err(|_| bad())?;
        Self::new(width, weight, act)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_reads_what_it_writes() {
        let point = Point::new(Width::new(0.5).unwrap(), 4, 8).unwrap();
        for text in [
            "0.5x W4A8",
            "0.5xW4A8",
            "0.5 w4a8",
            "0.5,4,8",
            " 0.5x  W4A8 ",
        ] {
            assert_eq!(text.parse::<Point>().unwrap(), point, "{text}");
        }
        assert_eq!(point.to_string(), "0.5x W4A8");
    }

    #[test]
    fn a_point_outside_the_grid_is_refused() {
        for bad in [
            "0.5x W1A8",
            "0.5x W4A1",
            "0.5x W9A8",
            "1.5x W8A8",
            "W8A8",
            "0.5x",
            "x W A",
        ] {
            assert!(bad.parse::<Point>().is_err(), "{bad}");
        }
    }
}
