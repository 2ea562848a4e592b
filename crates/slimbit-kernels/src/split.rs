//! Who computes what: parts of an output for a number of threads, known before any of them starts.

use std::ops::Range;

use crate::conv::{PackedConv, Part, Target};
use crate::{ConvGeometry, Map, MapMut};

/// Multiply-accumulates below which a convolution is over before other threads have joined in.
const SMALL_CONV: f64 = 100_000.0;

/// As [`SMALL_CONV`], for the codes that other operators read.
const SMALL_MAP: usize = 64 << 10;

/// Pixels that kernels compute together; a thread pays for whole tiles.
const TILE: usize = 6;

/// Multiply-accumulates in the time that a byte takes from another core's cache, or a shared one.
const MACS_PER_BYTE: f64 = 4.0;

/// Maps of fewer pixels are mostly cut by channels, larger ones by rows. All operators keep to
/// that, so that what a core reads is mostly what it wrote.
const SMALL_PIXELS: usize = 400;

/// Channels that stay together: a cache line, and the widest vector.
pub(crate) const CHANNELS: usize = 64;

/// The output of a convolution cut into bands of rows and runs of panels, one cell per thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    bands: usize,
    runs: usize,
}

impl Grid {
    /// The grid whose slowest cell is the fastest.
    ///
    /// All bands need all the weights, runs need their own: early layers have long columns and few
    /// weights, late ones the reverse, and there each core then keeps its weights in its own cache.
    pub(crate) fn of(conv: &PackedConv, panels: usize, threads: usize) -> Grid {
        let geometry = &conv.geometry;
        let taps = geometry.taps() as f64;
        let [rows, cols] = [geometry.out_rows, geometry.out_cols];
        let macs = rows as f64 * cols as f64 * geometry.out_channels as f64 * taps;
        let whole = Grid { bands: 1, runs: 1 };
        if threads == 1 || macs < SMALL_CONV {
            return whole;
        }
        let tile = if geometry.is_depthwise() { 1 } else { TILE };
        let channels_per_panel = geometry.out_channels as f64 / panels as f64;
        let weights = conv.kernel.bytes() as f64;
        let cost = |grid: &Grid| {
            let pixels = (rows.div_ceil(grid.bands) * cols).next_multiple_of(tile);
            let channels = panels.div_ceil(grid.runs) as f64 * channels_per_panel;
            let bytes = weights / grid.runs as f64 + grid.remote(geometry);
            pixels as f64 * channels * taps + MACS_PER_BYTE * bytes
        };
        let grids = (1..=threads.min(rows)).map(|bands| Grid {
            bands,
            runs: (threads / bands).min(panels),
        });
        grids
            .min_by(|a, b| cost(a).total_cmp(&cost(b)))
            .unwrap_or(whole)
    }

    /// Bytes of the input that a cell reads and another core wrote.
    fn remote(self, geometry: &ConvGeometry) -> f64 {
        let extent = geometry.input_extent(geometry.out_rows);
        let input: f64 = extent.map(|n| n as f64).iter().product();
        let [bands, runs, cells] = [self.bands, self.runs, self.cells()].map(|n| n as f64);
        let runs = if geometry.is_depthwise() { runs } else { 1.0 };
        let own = if extent[0].saturating_mul(extent[1]) < SMALL_PIXELS {
            input / bands / cells
        } else {
            input / runs / cells
        };
        input / bands / runs - own
    }

    pub(crate) fn cells(self) -> usize {
        self.bands * self.runs
    }

    /// Cells are disjoint, and together they are all `rows` and `panels`.
    pub(crate) fn cell(self, index: usize, rows: usize, panels: usize) -> Part {
        Part {
            rows: share(rows, self.bands, index % self.bands),
            panels: share(panels, self.runs, index / self.bands),
        }
    }
}

/// The part with this index of `length` cut into `parts` that differ by at most one.
pub(crate) fn share(length: usize, parts: usize, index: usize) -> Range<usize> {
    // Without products, which could overflow.
    let (each, longer) = (length / parts, length % parts);
    let start = |index: usize| each * index + index.min(longer);
    start(index)..start(index + 1)
}

/// As [`share`], in whole cache lines of channels.
pub(crate) fn share_channels(channels: usize, parts: usize, index: usize) -> Range<usize> {
    let lines = share(channels.div_ceil(CHANNELS), parts, index);
    (lines.start * CHANNELS).min(channels)..(lines.end * CHANNELS).min(channels)
}

/// Threads worth having for an operator that reads `codes`, of which up to `parts` can have work.
pub(crate) fn useful_threads(threads: usize, parts: usize, codes: usize) -> usize {
    if codes < SMALL_MAP {
        1
    } else {
        threads.min(parts).max(1)
    }
}

/// Whether an operator without weights is cut by channels, for at least so many threads: only where
/// no two of them write to the same cache line at every pixel.
pub(crate) fn by_channels([rows, cols, channels]: [usize; 3], threads: usize) -> bool {
    rows.saturating_mul(cols) < SMALL_PIXELS
        && channels.is_multiple_of(CHANNELS)
        && channels / CHANNELS >= threads
}

/// A map to write in parts that do not overlap.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    map: Target<'a, u8>,
    len: usize,
    extent: [usize; 3],
}

impl<'a> Parts<'a> {
    /// The map itself if its rows or pixels overlap in memory. It holds the extent.
    pub(crate) fn new(map: MapMut<'a>, extent: [usize; 3]) -> Result<Parts<'a>, MapMut<'a>> {
        let [_, cols, channels] = extent;
        let row = cols.saturating_sub(1).saturating_mul(map.pixel_stride);
        if channels > map.pixel_stride || row.saturating_add(channels) > map.row_stride {
            return Err(map);
        }
        Ok(Parts {
            len: map.data.len(),
            map: map.into(),
            extent,
        })
    }

    /// A band of rows, and its extent.
    ///
    /// # Safety
    /// The rows are not empty, lie within the extent, and nobody else uses them.
    pub(crate) unsafe fn band(&self, rows: &Range<usize>) -> (MapMut<'a>, [usize; 3]) {
        let [all_rows, cols, channels] = self.extent;
        let start = rows.start * self.map.row_stride;
        let end = if rows.end < all_rows {
            rows.end * self.map.row_stride
        } else {
            self.len
        };
        // SAFETY: the map holds all rows, and a row ends before the next begins, so these bytes are
        // within the slice and nobody else's.
        let data =
            unsafe { std::slice::from_raw_parts_mut(self.map.pixel(rows.start, 0), end - start) };
        (self.with(data), [rows.len(), cols, channels])
    }

    /// Some channels of one pixel.
    ///
    /// # Safety
    /// The pixel and its channels lie within the extent, and nobody else uses them.
    pub(crate) unsafe fn pixel(
        &self,
        row: usize,
        col: usize,
        channels: &Range<usize>,
    ) -> MapMut<'a> {
        // SAFETY: the map holds the pixel, and it ends before the next begins.
        self.with(unsafe {
            let first = self.map.pixel(row, col).add(channels.start);
            std::slice::from_raw_parts_mut(first, channels.len())
        })
    }

    fn with(&self, data: &'a mut [u8]) -> MapMut<'a> {
        MapMut {
            data,
            row_stride: self.map.row_stride,
            pixel_stride: self.map.pixel_stride,
        }
    }
}

/// Where a part of a map begins.
#[derive(Clone, Copy, Default)]
pub(crate) struct Corner {
    pub(crate) row: usize,
    pub(crate) col: usize,
    pub(crate) channel: usize,
}

impl Corner {
    /// The map from here on.
    pub(crate) fn of(self, map: Map<'_>) -> Map<'_> {
        let start = self.row * map.row_stride + self.col * map.pixel_stride + self.channel;
        Map {
            data: &map.data[start..],
            ..map
        }
    }
}

/// The map from a row on.
pub(crate) fn below(map: Map<'_>, row: usize) -> Map<'_> {
    let start = row.saturating_mul(map.row_stride).min(map.data.len());
    Map {
        data: &map.data[start..],
        ..map
    }
}

/// Codes of an extent.
pub(crate) fn codes(extent: [usize; 3]) -> usize {
    extent.into_iter().fold(1, usize::saturating_mul)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConvGeometry, Kernels};
    use slimbit_num::{Clip, Requant};

    #[test]
    fn shares_are_even_and_complete() {
        for length in 0..40 {
            for parts in 1..7 {
                let mut end = 0;
                for index in 0..parts {
                    let part = share(length, parts, index);
                    assert_eq!(part.start, end);
                    assert!(part.len() == length / parts || part.len() == length / parts + 1);
                    end = part.end;
                }
                assert_eq!(end, length);
            }
        }
        assert_eq!(share_channels(130, 2, 0), 0..128);
        assert_eq!(share_channels(130, 2, 1), 128..130);
        assert_eq!(share(usize::MAX, 2, 1).end, usize::MAX);
    }

    #[test]
    fn early_layers_are_cut_by_rows_and_late_ones_by_panels() {
        let grid = |size: usize, inputs: usize, outputs: usize, kernel: usize, threads: usize| {
            let geometry = ConvGeometry {
                out_rows: size,
                out_cols: size,
                kernel: [kernel; 2],
                ..ConvGeometry::linear(inputs, outputs)
            };
            let weights = vec![1; kernel * kernel * inputs * outputs];
            let requant = vec![Requant { m: 1, c: 0, k: 8 }; outputs];
            let conv = Kernels::of(crate::Isa::Scalar)
                .unwrap()
                .pack_conv(geometry, &weights, &requant, Clip::unsigned(8))
                .unwrap();
            let Grid { bands, runs } = Grid::of(&conv, outputs.div_ceil(64), threads);
            (bands, runs)
        };
        assert_eq!(grid(56, 64, 64, 3, 2), (2, 1));
        assert_eq!(grid(7, 512, 512, 3, 2), (1, 2));
        assert_eq!(grid(1, 512, 1000, 1, 2), (1, 2));
        assert_eq!(grid(14, 256, 256, 3, 8), (2, 4));
        assert_eq!(grid(56, 64, 64, 3, 1), (1, 1));
        assert_eq!(grid(1, 64, 10, 1, 2), (1, 1));
    }
}
