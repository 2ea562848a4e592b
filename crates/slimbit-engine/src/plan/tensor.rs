use std::ops::Range;

use slimbit_kernels::{Map, MapMut, SLACK};

use crate::Layout;

/// A tensor's place in the arena: an HWC map inside a border of zero points, the widest that any
/// convolution reading it asks for, and the slack that kernels may read beyond the end.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) layout: Layout,
    /// Rows above, columns to the left, rows below, columns to the right.
    pub(crate) border: [usize; 4],
    pub(crate) zero_point: u8,
    /// Bytes of the arena.
    pub(crate) range: Range<usize>,
    /// Whether others write to the same bytes, so that each run has to restore the border.
    pub(crate) shared: bool,
}

impl Tensor {
    pub(crate) fn row_stride(&self) -> usize {
        let [_, left, _, right] = self.border;
        (left + self.layout.width + right) * self.layout.channels
    }

    /// Bytes with border and slack; nothing if that is more than a `usize`.
    pub(crate) fn bytes(layout: Layout, border: [usize; 4]) -> Option<usize> {
        let [top, left, bottom, right] = border;
        let rows = layout.height.checked_add(top)?.checked_add(bottom)?;
        let columns = layout.width.checked_add(left)?.checked_add(right)?;
        let codes = rows.checked_mul(columns)?.checked_mul(layout.channels)?;
        codes.checked_add(SLACK)
    }

    pub(crate) fn has_border(&self) -> bool {
        self.border != [0; 4]
    }

    /// The tensor from `padding` (rows above, columns to the left) before its first code on.
    ///
    /// `padding` is no more than the border.
    pub(crate) fn view(&self, padding: [usize; 2]) -> View {
        let [top, left, ..] = self.border;
        let row_stride = self.row_stride();
        let channels = self.layout.channels;
        View {
            range: self.range.clone(),
            start: (top - padding[0]) * row_stride + (left - padding[1]) * channels,
            row_stride,
            pixel_stride: channels,
            extent: [self.layout.height, self.layout.width, channels],
        }
    }

    /// Writes the zero point all around the map. `bytes` are those of `range`.
    pub(crate) fn fill_border(&self, bytes: &mut [u8]) {
        let [top, left, bottom, right] = self.border;
        let (rows, channels) = (self.layout.height, self.layout.channels);
        let stride = self.row_stride();
        let zero = self.zero_point;
        bytes[..top * stride].fill(zero);
        bytes[(top + rows) * stride..(top + rows + bottom) * stride].fill(zero);
        for row in bytes[top * stride..(top + rows) * stride].chunks_exact_mut(stride) {
            row[..left * channels].fill(zero);
            row[stride - right * channels..].fill(zero);
        }
    }
}

/// A rectangle of codes inside a tensor.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// The tensor's bytes of the arena.
    pub(crate) range: Range<usize>,
    /// The first code, from the start of the range.
    pub(crate) start: usize,
    pub(crate) row_stride: usize,
    pub(crate) pixel_stride: usize,
    /// Rows, columns, channels.
    pub(crate) extent: [usize; 3],
}

impl View {
    /// `channels` of them from `first` on.
    pub(crate) fn channels(mut self, first: usize, channels: usize) -> Self {
        self.start += first;
        self.extent[2] = channels;
        self
    }

    /// `bytes` are those of `range`.
    pub(crate) fn map<'a>(&self, bytes: &'a [u8]) -> Map<'a> {
        Map {
            data: &bytes[self.start..],
            row_stride: self.row_stride,
            pixel_stride: self.pixel_stride,
        }
    }

    /// `bytes` are those of `range`.
    pub(crate) fn map_mut<'a>(&self, bytes: &'a mut [u8]) -> MapMut<'a> {
        MapMut {
            data: &mut bytes[self.start..],
            row_stride: self.row_stride,
            pixel_stride: self.pixel_stride,
        }
    }

    /// The codes of every pixel, in order; `bytes` are those of `range`.
    pub(crate) fn pixels<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let View {
            start,
            row_stride,
            pixel_stride,
            extent: [rows, columns, channels],
            ..
        } = *self;
        (0..rows * columns).map(move |p| {
            let at = start + p / columns * row_stride + p % columns * pixel_stride;
            &bytes[at..at + channels]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_border_is_everything_but_the_map() {
        let layout = Layout {
            height: 2,
            width: 3,
            channels: 2,
        };
        let border = [1, 2, 3, 1];
        let bytes = Tensor::bytes(layout, border).unwrap();
        let tensor = Tensor {
            layout,
            border,
            zero_point: 7,
            range: 0..bytes,
            shared: true,
        };
        let mut memory = vec![0; bytes];
        tensor.fill_border(&mut memory);
        assert_eq!(bytes - SLACK, 6 * 6 * 2);
        let zeros = memory[..bytes - SLACK].iter().filter(|&&b| b == 0).count();
        assert_eq!(zeros, layout.elements());
        let view = tensor.view([0, 0]);
        assert!(view.pixels(&memory).flatten().all(|&code| code == 0));
        assert_eq!(tensor.view([1, 2]).start, 0);
    }
}
