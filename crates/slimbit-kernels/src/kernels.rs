//! The table of functions of a CPU level, and the checks in front of it.

use crate::conv::{ConvKernel, ConvWeights, Output, Part, Target};
use crate::peak::Probe;
use crate::{Border, ConvGeometry, Isa, KernelError, Map, MapMut, PackedConv, Window, scalar};
use slimbit_num::{AddRequant, Clip, Requant, Table};
use std::sync::OnceLock;

/// The kernels of one CPU level, all set together.
///
/// Methods check their bounds and then make one indirect call. They panic on maps too short for
/// what is asked of them: that is a mistake of the caller's plan and never depends on the codes.
pub struct Kernels {
    pub(crate) isa: Isa,
    pub(crate) pack_conv: PackConv,
    pub(crate) add: Add,
    pub(crate) table: Lookup,
    pub(crate) max_pool: MaxPool,
    pub(crate) sum_pool: SumPool,
    pub(crate) global_sum: GlobalSum,
    pub(crate) probe: Probe,
}

// The safety contract of all the pointers: the CPU has the level of the table that holds them, and
// the maps hold what the extents ask for. `Kernels::of` ensures the first, the public methods the
// second.
pub(crate) type PackConv = fn(&ConvWeights<'_>) -> Box<dyn ConvKernel>;
pub(crate) type Add =
    unsafe fn(&AddRequant, Clip, Map<'_>, Map<'_>, &mut MapMut<'_>, extent: [usize; 3]);
pub(crate) type Lookup = unsafe fn(&Table, Map<'_>, &mut MapMut<'_>, extent: [usize; 3]);
pub(crate) type MaxPool = unsafe fn(Window, Border, Map<'_>, &mut MapMut<'_>, extent: [usize; 3]);
pub(crate) type SumPool =
    unsafe fn(Window, Map<'_>, &mut MapMut<'_>, &Requant, Clip, extent: [usize; 3]);
pub(crate) type GlobalSum = unsafe fn(Map<'_>, rows: usize, cols: usize, &mut [i32]);

impl Kernels {
    /// The kernels of a level.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`] when this CPU lacks it.
    pub fn of(isa: Isa) -> Result<&'static Kernels, KernelError> {
        match isa.require()? {
            Isa::Scalar => Ok(&scalar::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Ok(&crate::avx2::KERNELS),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 => Err(KernelError::Unsupported { isa }),
        }
    }

    /// The kernels of the best level, or of the one that `SLIMBIT_ISA` names; decided once per
    /// process.
    ///
    /// # Errors
    /// [`KernelError::UnknownIsa`] or [`KernelError::Unsupported`] for a value of `SLIMBIT_ISA`
    /// that cannot be had.
    pub fn best() -> Result<&'static Kernels, KernelError> {
        static BEST: OnceLock<Result<&'static Kernels, KernelError>> = OnceLock::new();
        BEST.get_or_init(|| Kernels::of(Isa::from_env()?)).clone()
    }

    /// The level.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Packs the weights of a convolution: dense, 1×1, linear (1×1 on one pixel), grouped or
    /// depthwise.
    ///
    /// * `weights`: `[O][KH][KW][I/groups]`.
    /// * `requant`: one per output channel, applied to the raw sum `Σ w·q` (the input's zero point
    ///   is already folded into its constant, see [`Requant::with_input_offset`]).
    /// * `clip`: within `[0, 255]` for [`conv`](Kernels::conv), within `i16` for
    ///   [`conv_wide`](Kernels::conv_wide).
    ///
    /// # Errors
    /// A [`KernelError`] when lengths and geometry disagree, the clip is out of range, or 255 in
    /// every input could overflow an accumulator.
    pub fn pack_conv(
        &self,
        geometry: ConvGeometry,
        weights: &[i8],
        requant: &[Requant],
        clip: Clip,
    ) -> Result<PackedConv, KernelError> {
        let packable = ConvWeights::new(geometry, weights, requant, clip)?;
        let kernel = (self.pack_conv)(&packable);
        Ok(PackedConv {
            isa: self.isa,
            geometry,
            clip,
            kernel,
        })
    }

    /// Runs a convolution.
    ///
    /// # Panics
    /// When a map is too short for the geometry, the clip is not within `[0, 255]`, or another
    /// level packed the weights.
    pub fn conv(&self, conv: &PackedConv, input: Map<'_>, output: MapMut<'_>) {
        self.conv_rows(conv, conv.geometry.out_rows, input, output);
    }

    /// The first `rows` output rows of a convolution: with both maps moved down, any band of it, on
    /// any thread.
    ///
    /// # Panics
    /// As [`conv`](Kernels::conv), and when there are not so many rows.
    pub fn conv_rows(&self, conv: &PackedConv, rows: usize, input: Map<'_>, output: MapMut<'_>) {
        assert!(
            conv.clip.lo >= 0 && conv.clip.hi <= 255,
            "clip {:?} does not fit a byte; run the convolution wide",
            conv.clip
        );
        assert!(
            rows <= conv.geometry.out_rows,
            "{rows} rows of a convolution that has {}",
            conv.geometry.out_rows
        );
        output.assert_holds([rows, conv.geometry.out_cols, conv.geometry.out_channels]);
        self.run(conv, rows, input, Output::Codes(output.into()));
    }

    /// Runs a convolution whose results stay `i32`, clipped to at most 16 bits:
    /// `[rows][cols][out_channels]`.
    ///
    /// # Panics
    /// When a slice is too short for the geometry, or another level packed the weights.
    pub fn conv_wide(&self, conv: &PackedConv, input: Map<'_>, output: &mut [i32]) {
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
        self.run(conv, out_rows, input, Output::Wide(target));
    }

    fn run(&self, conv: &PackedConv, rows: usize, input: Map<'_>, output: Output<'_>) {
        let geometry = &conv.geometry;
        assert!(
            conv.isa == self.isa,
            "weights packed for {} cannot run on {}",
            conv.isa,
            self.isa
        );
        input.assert_holds(geometry.input_extent(rows));
        let part = Part {
            rows: 0..rows,
            panels: 0..conv.kernel.panels(geometry),
        };
        // SAFETY: this table exists, so the CPU has the level; the bounds were checked here and by
        // the callers, whose exclusive borrow of the output ends after this call.
        unsafe { conv.kernel.run(geometry, &part, input, output) }
    }

    /// `out = clip((ma·a + mb·b + c) >> k)` on `extent` (rows, columns, channels).
    ///
    /// # Panics
    /// When a map is too short, or the clip is not within `[0, 255]`.
    pub fn add(
        &self,
        requant: &AddRequant,
        clip: Clip,
        a: Map<'_>,
        b: Map<'_>,
        mut out: MapMut<'_>,
        extent: [usize; 3],
    ) {
        assert_byte_clip(clip);
        a.assert_holds(extent);
        b.assert_holds(extent);
        out.assert_holds(extent);
        // SAFETY: this table exists, so the CPU has the level; the maps hold the extent.
        unsafe { (self.add)(requant, clip, a, b, &mut out, extent) }
    }

    /// Looks every code of `extent` (rows, columns, channels) up.
    ///
    /// # Panics
    /// When a map is too short.
    pub fn table(&self, table: &Table, input: Map<'_>, mut out: MapMut<'_>, extent: [usize; 3]) {
        input.assert_holds(extent);
        out.assert_holds(extent);
        // SAFETY: this table exists, so the CPU has the level; the maps hold the extent.
        unsafe { (self.table)(table, input, &mut out, extent) }
    }

    /// Max-pooling to an output of `extent` (rows, columns, channels).
    ///
    /// `input.data[0]` is the first pixel of the map itself: taps in the padding are left out, so
    /// the border may hold anything. A window wholly outside the map gives 0.
    ///
    /// # Panics
    /// When a map is too short, or a window dimension is zero.
    pub fn max_pool(
        &self,
        window: Window,
        border: Border,
        input: Map<'_>,
        mut out: MapMut<'_>,
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
        out.assert_holds(extent);
        // SAFETY: this table exists, so the CPU has the level; the maps hold the extents.
        unsafe { (self.max_pool)(window, border, input, &mut out, extent) }
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
        &self,
        window: Window,
        input: Map<'_>,
        mut out: MapMut<'_>,
        requant: &Requant,
        clip: Clip,
        extent: [usize; 3],
    ) {
        assert_byte_clip(clip);
        assert_summable(window.kernel);
        input.assert_holds(window.input_extent(extent));
        out.assert_holds(extent);
        // SAFETY: this table exists, so the CPU has the level; the maps hold the extents.
        unsafe { (self.sum_pool)(window, input, &mut out, requant, clip, extent) }
    }

    /// The sum of the codes of each channel over the whole map.
    ///
    /// # Panics
    /// When the map or `out` is too short, or the map has more than 2²³ pixels.
    pub fn global_sum(
        &self,
        input: Map<'_>,
        rows: usize,
        cols: usize,
        channels: usize,
        out: &mut [i32],
    ) {
        assert_summable([rows, cols]);
        input.assert_holds([rows, cols, channels]);
        assert!(
            channels <= out.len(),
            "output of {} numbers is shorter than {channels} channels",
            out.len()
        );
        // SAFETY: this table exists, so the CPU has the level; the map and the output hold the
        // channels.
        unsafe { (self.global_sum)(input, rows, cols, &mut out[..channels]) }
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
