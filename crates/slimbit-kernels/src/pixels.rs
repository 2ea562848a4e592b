//! From the bytes of an image to codes.

use crate::{MapMut, Threaded};
use slimbit_num::Table;

impl Threaded<'_> {
    /// Looks the bytes of an image of `extent` (rows, columns, channels) up, each channel in a table
    /// of its own. Without tables the bytes are the codes.
    ///
    /// `pixels`: `[rows][columns][channels]`.
    ///
    /// # Panics
    /// When the map is too short, or there are not as many pixels or tables.
    pub fn pixels(&mut self, tables: &[Table], pixels: &[u8], out: MapMut<'_>, extent: [usize; 3]) {
        let [rows, cols, channels] = extent;
        let row_len = cols * channels;
        assert!(
            pixels.len() == rows * row_len,
            "{} pixels for an image of {extent:?}",
            pixels.len()
        );
        assert!(
            tables.is_empty() || tables.len() == channels,
            "{} tables for {channels} channels",
            tables.len()
        );
        self.bands(out, extent, pixels.len(), |rows, mut out, _| {
            for (row, pixels) in pixels[rows.start * row_len..][..rows.len() * row_len]
                .chunks_exact(row_len.max(1))
                .enumerate()
            {
                if out.pixel_stride == channels {
                    look_up(tables, pixels, out.pixel(row, 0, row_len));
                } else {
                    for (col, pixel) in pixels.chunks_exact(channels).enumerate() {
                        look_up(tables, pixel, out.pixel(row, col, channels));
                    }
                }
            }
        });
    }
}

fn look_up(tables: &[Table], pixels: &[u8], codes: &mut [u8]) {
    match tables {
        [] => codes.copy_from_slice(pixels),
        [a] => interleaved([a], pixels, codes),
        [a, b, c] => interleaved([a, b, c], pixels, codes),
        _ => {
            let pixels = pixels.chunks_exact(tables.len());
            for (codes, pixels) in codes.chunks_exact_mut(tables.len()).zip(pixels) {
                for ((code, &pixel), table) in codes.iter_mut().zip(pixels).zip(tables) {
                    *code = table.apply(pixel);
                }
            }
        }
    }
}

/// With the number of channels known, no lookup checks a bound.
fn interleaved<const N: usize>(tables: [&Table; N], pixels: &[u8], codes: &mut [u8]) {
    let (pixels, codes) = (pixels.as_chunks::<N>().0, codes.as_chunks_mut::<N>().0);
    for (codes, pixels) in codes.iter_mut().zip(pixels) {
        *codes = std::array::from_fn(|channel| tables[channel].apply(pixels[channel]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kernels, Team};

    #[test]
    fn every_channel_has_its_table_on_every_thread() {
        let [rows, cols] = [97, 701];
        for channels in 0..6 {
            let tables: Vec<Table> = (0..channels)
                .map(|c| Table(std::array::from_fn(|p| (p * 7 + 40 * c) as u8)))
                .collect();
            // No tables: three channels as they are.
            let channels = if channels == 0 { 3 } else { channels };
            let extent = [rows, cols, channels];
            let pixels: Vec<u8> = (0..rows * cols * channels)
                .map(|i| (i * 31) as u8)
                .collect();
            for (threads, gap) in [(1, 0), (3, 0), (3, 2)] {
                let mut data = vec![9; rows * cols * (channels + gap)];
                let out = MapMut {
                    data: &mut data,
                    row_stride: cols * (channels + gap),
                    pixel_stride: channels + gap,
                };
                let mut team = Team::new(threads).unwrap();
                let kernels = Kernels::best().unwrap();
                kernels.on(&mut team).pixels(&tables, &pixels, out, extent);
                for (found, pixel) in data
                    .chunks_exact(channels + gap)
                    .zip(pixels.chunks_exact(channels))
                {
                    for (c, &byte) in pixel.iter().enumerate() {
                        let expected = tables.get(c).map_or(byte, |table| table.apply(byte));
                        assert_eq!(found[c], expected);
                    }
                    assert!(found[channels..].iter().all(|&byte| byte == 9));
                }
            }
        }
    }
}
