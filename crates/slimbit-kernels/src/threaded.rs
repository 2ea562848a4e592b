//! Operators on a team of threads: bounds are checked once, then every thread computes a part.

use std::ops::Range;

use slimbit_num::{AddRequant, Clip, Requant, Table};

use crate::conv::{Output, Part, Target};
use crate::split::{
    CHANNELS, Corner, Grid, Parts, below, by_channels, codes, share, share_channels, useful_threads,
};
use crate::{Border, ConvGeometry, Kernels, Map, MapMut, PackedConv, Team, Window};

/// The kernels of a level on a team of threads; made by [`Kernels::on`].
///
/// Results are the same bytes for every number of threads: a part is computed as the whole is.
/// Nothing is allocated.
///
/// Methods panic on maps too short for what is asked of them: that is a mistake of the caller's
/// plan and never depends on the codes.
pub struct Threaded<'a> {
    kernels: &'a Kernels,
    team: &'a mut Team,
}

impl Kernels {
    /// These kernels, with every call shared by the threads of a team.
    pub fn on<'a>(&'a self, team: &'a mut Team) -> Threaded<'a> {
        Threaded {
            kernels: self,
            team,
        }
    }
}

impl Threaded<'_> {
    /// Runs a convolution.
    ///
    /// # Panics
    /// When a map is too short for the geometry, the clip is not within `[0, 255]`, or another
    /// level packed the weights.
    pub fn conv(&mut self, conv: &PackedConv, input: Map<'_>, output: MapMut<'_>) {
        assert!(
            conv.clip.lo >= 0 && conv.clip.hi <= 255,
            "clip {:?} does not fit a byte; run the convolution wide",
            conv.clip
        );
        let geometry = &conv.geometry;
        output.assert_holds([geometry.out_rows, geometry.out_cols, geometry.out_channels]);
        self.run_conv(conv, input, Output::Codes(output.into()));
    }

    /// Runs a convolution whose results stay `i32`, clipped to at most 16 bits:
    /// `[rows][cols][out_channels]`.
    ///
    /// # Panics
    /// When a slice is too short for the geometry, or another level packed the weights.
    pub fn conv_wide(&mut self, conv: &PackedConv, input: Map<'_>, output: &mut [i32]) {
        let ConvGeometry {
            out_rows,
            out_cols,
            out_channels,
            ..
        } = conv.geometry;
        let needed = out_rows * out_cols * out_channels;
        assert!(
            needed <= output.len(),
            "output of {} numbers is shorter than the {needed} of the convolution",
            output.len()
        );
        let target = Target::new(output, out_cols * out_channels, out_channels);
        self.run_conv(conv, input, Output::Wide(target));
    }

    fn run_conv(&mut self, conv: &PackedConv, input: Map<'_>, output: Output<'_>) {
        let geometry = &conv.geometry;
        assert!(
            conv.isa == self.kernels.isa,
            "weights packed for {} cannot run on {}",
            conv.isa,
            self.kernels.isa
        );
        input.assert_holds(geometry.input_extent(geometry.out_rows));
        let panels = conv.kernel.panels(geometry);
        let run = |part: &Part| {
            // SAFETY: this table exists, so the CPU has the level; the bounds were checked here
            // and by the callers, whose exclusive borrow of the output ends after this; cells of a
            // grid are disjoint.
            unsafe { conv.kernel.run(geometry, part, input, output) }
        };
        let grid = Grid::of(conv, panels, self.team.threads());
        if grid.cells() == 1 {
            return run(&grid.cell(0, geometry.out_rows, panels));
        }
        self.team.run(|thread| {
            if thread < grid.cells() {
                run(&grid.cell(thread, geometry.out_rows, panels));
            }
        });
    }

    /// `out = clip((ma·a + mb·b + c) >> k)` on `extent` (rows, columns, channels).
    ///
    /// # Panics
    /// When a map is too short, or the clip is not within `[0, 255]`.
    pub fn add(
        &mut self,
        requant: &AddRequant,
        clip: Clip,
        a: Map<'_>,
        b: Map<'_>,
        out: MapMut<'_>,
        extent: [usize; 3],
    ) {
        assert_byte_clip(clip);
        a.assert_holds(extent);
        b.assert_holds(extent);
        let add = self.kernels.add;
        self.pointwise(out, extent, |corner, mut out, extent| {
            // SAFETY: this table exists, so the CPU has the level; the maps hold the extent, and so
            // their parts do.
            unsafe { add(requant, clip, corner.of(a), corner.of(b), &mut out, extent) }
        });
    }

    /// Looks every code of `extent` (rows, columns, channels) up.
    ///
    /// # Panics
    /// When a map is too short.
    pub fn table(&mut self, table: &Table, input: Map<'_>, out: MapMut<'_>, extent: [usize; 3]) {
        input.assert_holds(extent);
        let look_up = self.kernels.table;
        self.pointwise(out, extent, |corner, mut out, extent| {
            // SAFETY: this table exists, so the CPU has the level; the maps hold the extent, and so
            // their parts do.
            unsafe { look_up(table, corner.of(input), &mut out, extent) }
        });
    }

    /// Max-pooling to an output of `extent` (rows, columns, channels).
    ///
    /// `input.data[0]` is the first pixel of the map itself: taps in the padding are left out, so
    /// the border may hold anything. A window wholly outside the map gives 0.
    ///
    /// # Panics
    /// When a map is too short, or a window dimension is zero.
    pub fn max_pool(
        &mut self,
        window: Window,
        border: Border,
        input: Map<'_>,
        out: MapMut<'_>,
        extent: [usize; 3],
    ) {
        let [rows, cols, channels] = extent;
        // Bounds the window's own arithmetic too.
        let [reach_rows, reach_cols, _] = window.input_extent(extent);
        assert!(
            reach_rows < usize::MAX && reach_cols < usize::MAX,
            "{window:?} on {rows}×{cols} outputs overflows"
        );
        let [input_rows, input_cols] = border.input;
        input.assert_holds([input_rows, input_cols, channels]);
        let max_pool = self.kernels.max_pool;
        let work = codes(extent).saturating_mul(window.kernel[0].saturating_mul(window.kernel[1]));
        self.bands(out, extent, work, |rows, mut out, extent| {
            let (skipped, border) = border.below(rows.start.saturating_mul(window.stride[0]));
            // SAFETY: this table exists, so the CPU has the level; the maps hold the extents, and
            // so their bands do.
            unsafe { max_pool(window, border, below(input, skipped), &mut out, extent) }
        });
    }

    /// Average pooling to an output of `extent` (rows, columns, channels): `requant` of the sum of
    /// each window's codes.
    ///
    /// As for a convolution, `input.data[0]` is the first pixel of the first window, and the border
    /// holds the zero point.
    ///
    /// # Panics
    /// When a map is too short, the window is empty or covers more than 2²³ pixels, or the clip is
    /// not within `[0, 255]`.
    pub fn sum_pool(
        &mut self,
        window: Window,
        input: Map<'_>,
        out: MapMut<'_>,
        requant: &Requant,
        clip: Clip,
        extent: [usize; 3],
    ) {
        assert_byte_clip(clip);
        assert_summable(window.kernel);
        input.assert_holds(window.input_extent(extent));
        let sum_pool = self.kernels.sum_pool;
        let work = codes(extent).saturating_mul(window.kernel[0] * window.kernel[1]);
        let pool = |input: Map<'_>, mut out: MapMut<'_>, extent: [usize; 3]| {
            // SAFETY: this table exists, so the CPU has the level; the maps hold the extents, and
            // so their parts do.
            unsafe { sum_pool(window, input, &mut out, requant, clip, extent) }
        };
        let [rows, cols, channels] = extent;
        if rows == 1 && cols == 1 {
            out.assert_holds(extent);
            let MapMut {
                data,
                row_stride,
                pixel_stride,
            } = out;
            self.channels(&mut data[..channels], work, |channels, data| {
                let pixel = MapMut {
                    data,
                    row_stride,
                    pixel_stride,
                };
                let extent = [1, 1, channels.len()];
                let corner = Corner {
                    channel: channels.start,
                    ..Corner::default()
                };
                pool(corner.of(input), pixel, extent);
            });
            return;
        }
        self.bands(out, extent, work, |rows, out, extent| {
            pool(below(input, rows.start * window.stride[0]), out, extent);
        });
    }

    /// The sum of the codes of each channel over the whole map.
    ///
    /// # Panics
    /// When the map or `out` is too short, or the map has more than 2²³ pixels.
    pub fn global_sum(
        &mut self,
        input: Map<'_>,
        rows: usize,
        cols: usize,
        channels: usize,
        out: &mut [i32],
    ) {
        assert_summable([rows, cols]);
        let extent = [rows, cols, channels];
        input.assert_holds(extent);
        assert!(
            channels <= out.len(),
            "output of {} numbers is shorter than {channels} channels",
            out.len()
        );
        let global_sum = self.kernels.global_sum;
        let out = &mut out[..channels];
        self.channels(out, codes(extent), |channels, out| {
            let corner = Corner {
                channel: channels.start,
                ..Corner::default()
            };
            let input = corner.of(input);
            // SAFETY: this table exists, so the CPU has the level; the map and the output hold the
            // channels.
            unsafe { global_sum(input, rows, cols, out) }
        });
    }

    /// Calls `work` with bands of rows of `out` and their extents, for an operator that reads
    /// `codes`.
    pub(crate) fn bands(
        &mut self,
        out: MapMut<'_>,
        extent: [usize; 3],
        codes: usize,
        work: impl Fn(Range<usize>, MapMut<'_>, [usize; 3]) + Sync,
    ) {
        out.assert_holds(extent);
        let rows = extent[0];
        let threads = useful_threads(self.team.threads(), rows, codes);
        if threads == 1 {
            return work(0..rows, out, extent);
        }
        match Parts::new(out, extent) {
            Ok(parts) => self.team.run(|thread| {
                if thread < threads {
                    let rows = share(rows, threads, thread);
                    // SAFETY: there are at least as many rows as threads, and every thread has
                    // rows of its own.
                    let (out, extent) = unsafe { parts.band(&rows) };
                    work(rows, out, extent);
                }
            }),
            Err(out) => work(0..rows, out, extent),
        }
    }

    /// Calls `work` with parts of `out`, where they begin and their extents, for an operator that
    /// makes each code from those at the same place.
    fn pointwise(
        &mut self,
        out: MapMut<'_>,
        extent: [usize; 3],
        work: impl Fn(Corner, MapMut<'_>, [usize; 3]) + Sync,
    ) {
        out.assert_holds(extent);
        let [rows, cols, channels] = extent;
        let threads = useful_threads(self.team.threads(), usize::MAX, codes(extent));
        if threads == 1 || !by_channels(extent, threads) {
            let start = |row: usize| Corner {
                row,
                ..Corner::default()
            };
            return self.bands(out, extent, codes(extent), |rows, out, extent| {
                work(start(rows.start), out, extent);
            });
        }
        match Parts::new(out, extent) {
            Ok(parts) => self.team.run(|thread| {
                let range = share_channels(channels, threads, thread);
                for (row, col) in (0..rows * cols).map(|pixel| (pixel / cols, pixel % cols)) {
                    let corner = Corner {
                        row,
                        col,
                        channel: range.start,
                    };
                    // SAFETY: within the extent, and every thread has channels of its own.
                    let out = unsafe { parts.pixel(row, col, &range) };
                    work(corner, out, [1, 1, range.len()]);
                }
            }),
            Err(out) => work(Corner::default(), out, extent),
        }
    }

    /// Calls `work` with ranges of channels and their part of `out`, for an operator that reads
    /// `codes`.
    fn channels<T: Send>(
        &mut self,
        out: &mut [T],
        codes: usize,
        work: impl Fn(Range<usize>, &mut [T]) + Sync,
    ) {
        let channels = out.len();
        let threads = useful_threads(self.team.threads(), channels.div_ceil(CHANNELS), codes);
        if threads == 1 {
            return work(0..channels, out);
        }
        let target = Target::new(out, 0, 1);
        self.team.run(|thread| {
            if thread < threads {
                let range = share_channels(channels, threads, thread);
                // SAFETY: the range is within the slice, and every thread has another one.
                let part = unsafe {
                    std::slice::from_raw_parts_mut(target.pixel(0, range.start), range.len())
                };
                work(range, part);
            }
        });
    }
}

#[track_caller]
fn assert_byte_clip(clip: Clip) {
    assert!(
        0 <= clip.lo && clip.lo <= clip.hi && clip.hi <= 255,
        "clip {clip:?} is not a range of bytes"
    );
}

/// 2²³ · 255 still fits an `i32`.
#[track_caller]
fn assert_summable([rows, cols]: [usize; 2]) {
    assert!(
        rows.saturating_mul(cols) <= 1 << 23,
        "a sum over {rows}×{cols} codes may overflow 32 bits"
    );
}
