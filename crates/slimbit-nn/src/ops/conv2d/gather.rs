//! Copying the operands of consecutive pixels into rows: the columns of im2col, a few at a time.

use std::ops::Range;

/// Floats copied at a time.
const STEP: usize = 8;
/// Floats that a row needs beyond its pixels, because runs are copied in whole steps.
pub(super) const ROW_SLACK: usize = STEP;

/// How the pixels of a grid, counted through images, lie in staged images.
#[derive(Clone, Copy)]
pub(super) struct Runs {
    /// Rows and columns of the grid.
    pub(super) size: [usize; 2],
    /// Floats from a staged row to the next.
    pub(super) pitch: usize,
    /// Floats from a staged image to the next.
    pub(super) image: usize,
}

impl Runs {
    /// Copies `pixels` at each of `offsets` to a row of `row_len` floats.
    ///
    /// What a run copies too much, the run to its right overwrites; after the last one it lands in
    /// the row's slack.
    #[inline(always)]
    pub(super) fn gather(
        &self,
        staged: &[f32],
        offsets: &[usize],
        pixels: Range<usize>,
        rows: &mut [f32],
        row_len: usize,
    ) {
        let [grid_rows, width] = self.size;
        let mut pixel = pixels.start;
        while pixel < pixels.end {
            let (row, column) = (pixel / width, pixel % width);
            let from = row / grid_rows * self.image + row % grid_rows * self.pitch + column;
            let length = (width - column).min(pixels.end - pixel);
            for step in (0..length).step_by(STEP) {
                let source = &staged[from + step..];
                let target = pixel - pixels.start + step;
                for (row, &offset) in rows.chunks_exact_mut(row_len).zip(offsets) {
                    row[target..target + STEP].copy_from_slice(&source[offset..offset + STEP]);
                }
            }
            pixel += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_continue_across_rows_and_images() {
        // Two images of 3 rows, 4 floats apart, of which a 2 x 3 grid is read.
        let staged: Vec<f32> = (0..24 + STEP).map(|v| v as f32).collect();
        let runs = Runs {
            size: [2, 3],
            pitch: 4,
            image: 12,
        };
        let row_len = 8 + ROW_SLACK;
        let mut rows = vec![-1.0; 2 * row_len];
        runs.gather(&staged, &[0, 5], 2..10, &mut rows, row_len);
        let expected = [2.0, 4.0, 5.0, 6.0, 12.0, 13.0, 14.0, 16.0];
        assert_eq!(rows[..8], expected);
        assert_eq!(rows[row_len..row_len + 8], expected.map(|v| v + 5.0));
    }
}
