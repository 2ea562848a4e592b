//! Views of NHWC codes in memory of the caller.

/// Bytes that must be readable in a slice after the last element that a kernel needs.
///
/// Kernels load whole vectors. What lies in these bytes never reaches a result.
pub const SLACK: usize = 64;

/// An NHWC map of codes, to read.
///
/// `data[0]` is the first channel of the first pixel that the kernel reads; for a convolution with
/// padding that is a pixel of the border. The slice goes on for [`SLACK`] bytes after the last code
/// that the kernel needs.
#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    /// The codes, and whatever lies between them.
    pub data: &'a [u8],
    /// Bytes from a pixel to the one below.
    pub row_stride: usize,
    /// Bytes from a pixel to its right neighbour; more than the channels when the map is part of a
    /// wider one.
    pub pixel_stride: usize,
}

/// An NHWC map of codes, to write. Exactly the channels of its pixels are written, nothing between
/// or after them.
#[derive(Debug)]
pub struct MapMut<'a> {
    /// The codes, and whatever lies between them.
    pub data: &'a mut [u8],
    /// Bytes from a pixel to the one below.
    pub row_stride: usize,
    /// Bytes from a pixel to its right neighbour.
    pub pixel_stride: usize,
}

impl Map<'_> {
    /// Panics unless `extent` (rows, columns, channels) and the slack lie within the slice.
    #[track_caller]
    pub(crate) fn assert_holds(&self, extent: [usize; 3]) {
        let needed = span(extent, self.row_stride, self.pixel_stride).saturating_add(SLACK);
        assert!(
            needed <= self.data.len(),
            "input of {} bytes is shorter than the {needed} that {extent:?} codes and the slack need",
            self.data.len()
        );
    }
}

impl MapMut<'_> {
    /// Panics unless `extent` (rows, columns, channels) lies within the slice.
    #[track_caller]
    pub(crate) fn assert_holds(&self, extent: [usize; 3]) {
        let needed = span(extent, self.row_stride, self.pixel_stride);
        assert!(
            needed <= self.data.len(),
            "output of {} bytes is shorter than the {needed} that {extent:?} codes need",
            self.data.len()
        );
    }

    /// The channels of the pixel at (`row`, `col`).
    pub(crate) fn pixel(&mut self, row: usize, col: usize, channels: usize) -> &mut [u8] {
        let start = row * self.row_stride + col * self.pixel_stride;
        &mut self.data[start..start + channels]
    }
}

/// Bytes from the first code to the end of the last; saturates, so that no product can wrap around
/// a bound.
fn span([rows, cols, channels]: [usize; 3], row_stride: usize, pixel_stride: usize) -> usize {
    if rows == 0 || cols == 0 || channels == 0 {
        return 0;
    }
    let to_last_row = (rows - 1).saturating_mul(row_stride);
    let to_last_pixel = (cols - 1).saturating_mul(pixel_stride);
    to_last_row
        .saturating_add(to_last_pixel)
        .saturating_add(channels)
}

/// The extent (rows, columns, channels) as one row of one long pixel, or one pixel per row, wherever nothing lies between.
pub(crate) fn joined<const N: usize>(
    [rows, cols, channels]: [usize; 3],
    strides: [(usize, usize); N],
) -> [usize; 3] {
    if strides.iter().any(|&(_, pixel)| pixel != channels) {
        [rows, cols, channels]
    } else if strides.iter().any(|&(row, _)| row != cols * channels) {
        [rows, 1, cols * channels]
    } else {
        [1, 1, rows * cols * channels]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_ends_with_the_last_channel_and_never_wraps() {
        assert_eq!(span([2, 3, 4], 100, 10), 124);
        assert_eq!(span([0, 3, 4], 100, 10), 0);
        assert_eq!(span([usize::MAX, 2, 1], usize::MAX, 8), usize::MAX);
    }

    #[test]
    #[should_panic(expected = "input of 187 bytes is shorter than the 188")]
    fn the_slack_is_part_of_an_input() {
        let data = vec![0; 187];
        let map = Map {
            data: &data,
            row_stride: 100,
            pixel_stride: 10,
        };
        map.assert_holds([2, 3, 4]);
    }
}
