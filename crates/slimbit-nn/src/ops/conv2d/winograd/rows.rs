//! Planes of one channel each, and rows of pixels with their channels side by side.
//!
//! A row holds the pixels of its columns 0, 4, 8, …, then those of 1, 5, 9, …, and so on: what the
//! tiles of a row have at the same place is then one run of floats.

use super::transforms::OUTPUTS;

/// Channels that are copied together.
pub(super) const CHANNELS: usize = 8;
/// Pixels that are copied together.
const PIXELS: usize = 4;

/// Where the pixels of an image lie in its rows.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    /// Rows and columns of the image.
    size: [usize; 2],
    channels: usize,
    /// Zeros above the image.
    top: usize,
    /// Rows, those of zeros included.
    rows: usize,
    /// Columns of each remainder modulo 4.
    columns: usize,
    /// Floats from a pixel to the next.
    pitch: usize,
    /// Where each column of the image lies in its row.
    offsets: Vec<usize>,
}

impl Rows {
    /// Images of `channels` planes of `size`, with `[top, left]` zeros before them, in rows that hold
    /// `columns` columns of each remainder, `pitch` floats a pixel.
    pub(super) fn new(
        size: [usize; 2],
        channels: usize,
        [top, left]: [usize; 2],
        [rows, columns]: [usize; 2],
        pitch: usize,
    ) -> Self {
        let place = |column: usize| (column % OUTPUTS * columns + column / OUTPUTS) * pitch;
        Self {
            size,
            channels,
            top,
            rows,
            columns,
            pitch,
            offsets: (left..left + size[1]).map(place).collect(),
        }
    }

    /// Floats of a row.
    pub(super) fn row(&self) -> usize {
        OUTPUTS * self.columns * self.pitch
    }

    /// Floats of the columns with one remainder.
    pub(super) fn phase(&self) -> usize {
        self.columns * self.pitch
    }

    /// Floats of all rows.
    pub(super) fn image(&self) -> usize {
        self.rows * self.row()
    }

    /// Floats of an image's planes.
    pub(super) fn planes(&self) -> usize {
        self.channels * self.size[0] * self.size[1]
    }

    /// Copies planes to `rows`. What lies outside the image and beyond its channels stays.
    #[inline(always)]
    pub(super) fn interleave(&self, planes: &[f32], rows: &mut [f32]) {
        let [height, width] = self.size;
        let plane = height * width;
        for (block, planes) in planes.chunks(CHANNELS * plane).enumerate() {
            for y in 0..height {
                let row = &mut rows[(self.top + y) * self.row() + block * CHANNELS..];
                let mut done = 0;
                if planes.len() == CHANNELS * plane {
                    let offsets = self.offsets.as_chunks::<PIXELS>().0;
                    for (x, offsets) in offsets.iter().enumerate() {
                        let mut square = [[0.0; PIXELS]; CHANNELS];
                        for (channel, line) in square.iter_mut().enumerate() {
                            let from = channel * plane + y * width + x * PIXELS;
                            line.copy_from_slice(&planes[from..from + PIXELS]);
                        }
                        for (pixel, &offset) in offsets.iter().enumerate() {
                            let target = &mut row[offset..offset + CHANNELS];
                            for channel in 0..CHANNELS {
                                target[channel] = square[channel][pixel];
                            }
                        }
                    }
                    done = offsets.len() * PIXELS;
                }
                for (x, &offset) in self.offsets.iter().enumerate().skip(done) {
                    let pixel = planes[y * width + x..].iter().step_by(plane);
                    for (target, &value) in row[offset..].iter_mut().zip(pixel) {
                        *target = value;
                    }
                }
            }
        }
    }

    /// Copies the image back to planes.
    #[inline(always)]
    pub(super) fn separate(&self, rows: &[f32], planes: &mut [f32]) {
        let [height, width] = self.size;
        let plane = height * width;
        for (block, planes) in planes.chunks_mut(CHANNELS * plane).enumerate() {
            for y in 0..height {
                let row = &rows[(self.top + y) * self.row() + block * CHANNELS..];
                let mut done = 0;
                if planes.len() == CHANNELS * plane {
                    let offsets = self.offsets.as_chunks::<PIXELS>().0;
                    for (x, offsets) in offsets.iter().enumerate() {
                        let mut square = [[0.0; CHANNELS]; PIXELS];
                        for (pixel, &offset) in square.iter_mut().zip(offsets) {
                            pixel.copy_from_slice(&row[offset..offset + CHANNELS]);
                        }
                        for channel in 0..CHANNELS {
                            let from = channel * plane + y * width + x * PIXELS;
                            let line = &mut planes[from..from + PIXELS];
                            for pixel in 0..PIXELS {
                                line[pixel] = square[pixel][channel];
                            }
                        }
                    }
                    done = offsets.len() * PIXELS;
                }
                for (x, &offset) in self.offsets.iter().enumerate().skip(done) {
                    let pixel = planes[y * width + x..].iter_mut().step_by(plane);
                    for (target, &value) in pixel.zip(&row[offset..]) {
                        *target = value;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_survive_their_way_through_rows() {
        for (channels, [height, width]) in [(3, [2usize, 5usize]), (8, [3, 4]), (19, [4, 9])] {
            let left = 2;
            let columns = (width + left).div_ceil(OUTPUTS);
            let layout = Rows::new(
                [height, width],
                channels,
                [1, left],
                [height + 1, columns],
                24,
            );
            let planes: Vec<f32> = (0..layout.planes()).map(|v| v as f32 + 1.0).collect();
            let mut rows = vec![0.0; layout.image()];
            layout.interleave(&planes, &mut rows);
            assert_eq!(rows.iter().filter(|&&v| v != 0.0).count(), planes.len());
            let column = left + width - 1;
            let last = layout.row() * height + column % OUTPUTS * layout.phase();
            let last = last + column / OUTPUTS * 24 + channels - 1;
            assert_eq!(rows[last], planes.len() as f32);
            let mut back = vec![0.0; planes.len()];
            layout.separate(&rows, &mut back);
            assert_eq!(back, planes);
        }
    }
}
