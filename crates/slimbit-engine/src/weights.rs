use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use slimbit_num::WeightGrid;

use crate::mmap::FileBytes;

/// The weights of one convolution or linear stage, at full width and at every bit-width.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Output channels, kernel rows, kernel columns, input channels per group. A linear stage is
    /// a convolution whose kernel is its whole operand.
    pub shape: [usize; 4],
    /// The integers, output channels outermost and input channels innermost.
    pub codes: Codes,
}

/// How the integers of several bit-widths are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Codes {
    /// One array of 8-bit codes, from which every narrower bit-width is derived.
    Nested(ChannelCodes),
    /// One array per bit-width, each with scales of its own.
    MinMax(BTreeMap<u8, ChannelCodes>),
}

/// Integers, and what gives each output channel's a scale.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelCodes {
    /// The magnitude that the largest code of each output channel stands for. The channel's largest
    /// weight, unless the quantiser chose to clip (below it) or to leave headroom (above it).
    pub max_abs: Vec<f32>,
    /// The integers.
    pub codes: CodeArray,
}

impl Codes {
    /// The stored array that a bit-width is read from.
    ///
    /// # Panics
    /// Where `bits` is not stored.
    pub fn of_bits(&self, bits: u8) -> &ChannelCodes {
        match self {
            Self::Nested(codes) => codes,
            Self::MinMax(by_bits) => &by_bits[&bits],
        }
    }
}

impl Weights {
    /// The integers that the kernels multiply by, for the leading block `shape` of the full
    /// weights, in the order of [`Weights::shape`].
    ///
    /// # Panics
    /// Where `shape` exceeds the full shape, or `bits` is not stored. A [`Model`](crate::Model)
    /// has checked both for every point that it holds.
    pub fn at(&self, grid: WeightGrid, bits: u8, shape: [usize; 4]) -> Vec<i8> {
        self.block(grid, bits, shape).into_owned()
    }

    /// As [`Weights::at`], without a copy where the stored integers are the answer.
    pub(crate) fn block(&self, grid: WeightGrid, bits: u8, shape: [usize; 4]) -> Cow<'_, [i8]> {
        let within = shape
            .iter()
            .zip(&self.shape)
            .all(|(part, full)| part <= full);
        assert!(within, "block {shape:?} of weights {:?}", self.shape);
        let stored: &[i8] = &self.codes.of_bits(bits).codes;
        let mut block = cut(stored, self.shape, shape);
        if let (Codes::Nested(_), true) = (&self.codes, bits != 8) {
            let narrow: [i8; 256] =
                std::array::from_fn(|code| grid.narrow((code as u8).cast_signed(), bits));
            for code in block.to_mut() {
                *code = narrow[usize::from(code.cast_unsigned())];
            }
        }
        block
    }

    /// The real value of one unit of an output channel's integers.
    pub fn scale(&self, grid: WeightGrid, bits: u8, channel: usize) -> f32 {
        grid.scale(self.codes.of_bits(bits).max_abs[channel], bits)
    }
}

/// The leading block of this `shape` of all codes.
fn cut(codes: &[i8], full: [usize; 4], shape: [usize; 4]) -> Cow<'_, [i8]> {
    let [_, rows, columns, inputs] = full;
    let [o, kh, kw, i] = shape;
    if full[1..] == shape[1..] {
        return Cow::Borrowed(&codes[..o * kh * kw * i]);
    }
    let mut block = Vec::with_capacity(o * kh * kw * i);
    for channel in 0..o {
        for row in 0..kh {
            for column in 0..kw {
                let start = ((channel * rows + row) * columns + column) * inputs;
                block.extend_from_slice(&codes[start..start + i]);
            }
        }
    }
    Cow::Owned(block)
}

/// Signed 8-bit integers: a vector, or a part of a mapped file that is never copied.
#[derive(Clone)]
pub struct CodeArray {
    bytes: Arc<FileBytes>,
    range: Range<usize>,
}

impl CodeArray {
    /// A part of a file; the range lies within it.
    pub(crate) fn of_file(bytes: Arc<FileBytes>, range: Range<usize>) -> Self {
        debug_assert!(range.end <= bytes.len());
        Self { bytes, range }
    }
}

impl Deref for CodeArray {
    type Target = [i8];

    fn deref(&self) -> &[i8] {
        bytemuck::cast_slice(&self.bytes[self.range.clone()])
    }
}

impl From<Vec<i8>> for CodeArray {
    fn from(codes: Vec<i8>) -> Self {
        let bytes: Vec<u8> = codes.into_iter().map(i8::cast_unsigned).collect();
        let range = 0..bytes.len();
        Self::of_file(Arc::new(FileBytes::Owned(bytes)), range)
    }
}

impl PartialEq for CodeArray {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl fmt::Debug for CodeArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CodeArray({} codes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(codes: Vec<i8>) -> Codes {
        Codes::Nested(ChannelCodes {
            max_abs: vec![1.0; 2],
            codes: codes.into(),
        })
    }

    #[test]
    fn a_leading_block_is_narrowed_after_it_is_cut() {
        let weights = Weights {
            shape: [2, 1, 2, 3],
            codes: nested((-60..-48).collect()),
        };
        let block = weights.at(WeightGrid::Nested, 8, [2, 1, 1, 2]);
        assert_eq!(block, [-60, -59, -54, -53]);
        let narrow = weights.at(WeightGrid::Nested, 4, [1, 1, 2, 3]);
        let expected: Vec<i8> = (-60..-54)
            .map(|c| WeightGrid::Nested.narrow(c, 4))
            .collect();
        assert_eq!(narrow, expected);
    }

    #[test]
    #[should_panic(expected = "block [3, 1, 1, 1]")]
    fn a_block_beyond_the_weights_is_refused() {
        let weights = Weights {
            shape: [2, 1, 1, 1],
            codes: nested(vec![1, 2]),
        };
        weights.at(WeightGrid::Nested, 8, [3, 1, 1, 1]);
    }
}
