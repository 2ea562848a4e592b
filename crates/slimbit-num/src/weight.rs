//! Weights: signed codes, symmetric about zero, one scale per output channel.

use crate::round::ties_even;
use core::fmt;
use core::str::FromStr;

/// The least scale of a channel. It gives an all-zero channel zero codes (SSQL's reference would leave the tensor unquantised).
const MIN_SCALE: f32 = 1e-12;

/// How the codes of a channel at each bit-width come from its float weights.
///
/// All grids are defined by the channel's largest magnitude `M`, over the **full** width: a narrower network's codes are the
/// leading part of the full network's codes.
///
/// | grid | integer at `b` bits | value of one unit |
/// |---|---|---|
/// | `MinMax` | `clamp(round(w/s_b), −2^(b−1), 2^(b−1)−1)`, ties to even | `s_b = M / ((2^b − 1)/2)` |
/// | `Nested` | `clamp((q_8 + 2^(7−b)) >> (8−b), −2^(b−1), 2^(b−1)−1)` | `s_8 · 2^(8−b)` |
/// | `NestedOdd`, b ≤ 3 | `2·(q_8 >> (8−b)) + 1` | `s_8 · 2^(7−b)` |
/// | `NestedOdd`, b ≥ 4 | as `Nested` | as `Nested` |
///
/// `q_8` is the `MinMax` code at 8 bits, so one stored 8-bit copy serves every bit-width of the nested grids.
///
/// The odd grid has no zero: a weight of zero becomes plus half a step. In particular an all-zero channel gets codes of `+1`, whose
/// value (at most 3.2e-11 each) is far below any output step; its 8-bit codes stay zero.
///
/// ```
/// use slimbit_num::WeightGrid;
/// let mut codes = [0; 4];
/// let scale = WeightGrid::MinMax.quantise_channel(&[0.30, -0.70, 0.11, 0.52], 3, &mut codes);
/// assert_eq!((codes, scale), ([2, -4, 1, 3], 0.2));
///
/// let code8 = WeightGrid::Nested.code(-0.41, 0.70, 8);
/// assert_eq!(code8, -75);
/// assert_eq!((2..=8).map(|b| WeightGrid::Nested.narrow(code8, b)).collect::<Vec<_>>(), [-1, -2, -5, -9, -19, -37, -75]);
/// assert_eq!(WeightGrid::NestedOdd.narrow(code8, 2), -3);         // −3 · s_8·32 = −0.527; −1 · s_8·64 = −0.351
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WeightGrid {
    /// SSQL's grid: a scale of its own for every bit-width.
    MinMax,
    /// Rounded-off upper part of the 8-bit code; the default of the file format.
    #[default]
    Nested,
    /// As `Nested`, with odd integers at 2 and 3 bits: symmetric, no zero level, smaller error.
    NestedOdd,
}

impl WeightGrid {
    /// The integer by which the kernel multiplies, for a weight of a channel whose largest magnitude is `max_abs`.
    ///
    /// In `f32`, in this order: scale = max divided by the constant, weight divided by scale, round. Not-a-number gives 0.
    ///
    /// # Panics
    /// When `bits` is not within `2..=8`.
    pub fn code(self, w: f32, max_abs: f32, bits: u8) -> i8 {
        match self {
            WeightGrid::MinMax => minmax_code(w, minmax_scale(max_abs, bits), bits),
            WeightGrid::Nested | WeightGrid::NestedOdd => {
                self.narrow(minmax_code(w, minmax_scale(max_abs, 8), 8), bits)
            }
        }
    }

    /// The real value of one unit of [`code`](Self::code); positive also for an all-zero channel.
    ///
    /// # Panics
    /// When `bits` is not within `2..=8`.
    pub fn scale(self, max_abs: f32, bits: u8) -> f32 {
        check_bits(bits);
        match self {
            WeightGrid::MinMax => minmax_scale(max_abs, bits),
            WeightGrid::Nested | WeightGrid::NestedOdd => {
                let doublings = 8 - bits - u8::from(self.is_odd_at(bits));
                minmax_scale(max_abs, 8) * (1u32 << doublings) as f32
            }
        }
    }

    /// The integer at `bits` from the stored 8-bit code.
    ///
    /// # Panics
    /// When `bits` is not within `2..=8`, or is not 8 for `MinMax`, whose codes are not nested.
    #[inline]
    pub fn narrow(self, code8: i8, bits: u8) -> i8 {
        check_bits(bits);
        if bits == 8 {
            return code8;
        }
        assert!(
            self != WeightGrid::MinMax,
            "the min-max grid has no narrower codes; quantise at {bits} bits"
        );
        let dropped = 8 - bits;
        if self.is_odd_at(bits) {
            return 2 * (code8 >> dropped) + 1;
        }
        let rounded = (i32::from(code8) + (1 << (dropped - 1))) >> dropped;
        rounded.min((1 << (bits - 1)) - 1) as i8
    }

    /// Quantises one output channel into `out` and returns the scale.
    ///
    /// # Panics
    /// When the slices differ in length or `bits` is not within `2..=8`.
    pub fn quantise_channel(self, w: &[f32], bits: u8, out: &mut [i8]) -> f32 {
        assert_eq!(w.len(), out.len(), "one code per weight");
        let max_abs = w.iter().fold(0f32, |max, w| max.max(w.abs()));
        for (code, &w) in out.iter_mut().zip(w) {
            *code = self.code(w, max_abs, bits);
        }
        self.scale(max_abs, bits)
    }

    /// Whether the integers at this bit-width are the odd ones.
    pub fn is_odd_at(self, bits: u8) -> bool {
        self == WeightGrid::NestedOdd && bits <= 3
    }
}

fn check_bits(bits: u8) {
    assert!(
        (2..=8).contains(&bits),
        "weights have 2 to 8 bits, not {bits}"
    );
}

fn minmax_scale(max_abs: f32, bits: u8) -> f32 {
    check_bits(bits);
    let half_range = ((1u32 << bits) - 1) as f32 / 2.0;
    (max_abs / half_range).max(MIN_SCALE)
}

fn minmax_code(w: f32, scale: f32, bits: u8) -> i8 {
    let half = 1i32 << (bits - 1);
    ties_even(w / scale).clamp(-half, half - 1) as i8
}

/// A name that is not a weight grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseGridError;

impl fmt::Display for ParseGridError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "unknown weight grid; it is one of minmax, nested, nested-odd"
        )
    }
}

impl core::error::Error for ParseGridError {}

impl FromStr for WeightGrid {
    type Err = ParseGridError;
    fn from_str(name: &str) -> Result<WeightGrid, ParseGridError> {
        match name {
            "minmax" => Ok(WeightGrid::MinMax),
            "nested" => Ok(WeightGrid::Nested),
            "nested-odd" => Ok(WeightGrid::NestedOdd),
            _ => Err(ParseGridError),
        }
    }
}

impl fmt::Display for WeightGrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            WeightGrid::MinMax => "minmax",
            WeightGrid::Nested => "nested",
            WeightGrid::NestedOdd => "nested-odd",
        })
    }
}
