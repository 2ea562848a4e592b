//! The table of functions of a CPU level, and the checks in front of it.

use crate::conv::{ConvKernel, ConvWeights};
use crate::peak::Probe;
use crate::{
    Border, ConvGeometry, Isa, KernelError, Map, MapMut, PackedConv, Team, Window, scalar,
};
use slimbit_num::{AddRequant, Clip, Requant, Table};
use std::sync::OnceLock;

/// The kernels of one CPU level, all set together.
///
/// The methods run on the calling thread; [`Kernels::on`] gives the same ones on several.
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
// the maps hold what the extents ask for. `Kernels::of` ensures the first, the methods of `Threaded`
// the second.
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
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Ok(&crate::avx512::KERNELS),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512Vnni => Err(KernelError::Unsupported { isa }),
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

    /// [`Threaded::conv`](crate::Threaded::conv) on the calling thread alone.
    ///
    /// # Panics
    /// As there.
    pub fn conv(&self, conv: &PackedConv, input: Map<'_>, output: MapMut<'_>) {
        self.on(&mut Team::solo()).conv(conv, input, output);
    }

    /// [`Threaded::conv_wide`](crate::Threaded::conv_wide) on the calling thread alone.
    ///
    /// # Panics
    /// As there.
    pub fn conv_wide(&self, conv: &PackedConv, input: Map<'_>, output: &mut [i32]) {
        self.on(&mut Team::solo()).conv_wide(conv, input, output);
    }

    /// [`Threaded::add`](crate::Threaded::add) on the calling thread alone.
    ///
    /// # Panics
    /// As there.
    pub fn add(
        &self,
        requant: &AddRequant,
        clip: Clip,
        a: Map<'_>,
        b: Map<'_>,
        out: MapMut<'_>,
        extent: [usize; 3],
    ) {
        self.on(&mut Team::solo())
            .add(requant, clip, a, b, out, extent);
    }

    /// [`Threaded::table`](crate::Threaded::table) on the calling thread alone.
    ///
    /// # Panics
    /// As there.
    pub fn table(&self, table: &Table, input: Map<'_>, out: MapMut<'_>, extent: [usize; 3]) {
        self.on(&mut Team::solo()).table(table, input, out, extent);
    }

    /// [`Threaded::max_pool`](crate::Threaded::max_pool) on the calling thread alone.
    ///
    /// # Panics
    /// As there.
    pub fn max_pool(
        &self,
        window: Window,
        border: Border,
        input: Map<'_>,
        out: MapMut<'_>,
        extent: [usize; 3],
    ) {
        self.on(&mut Team::solo())
            .max_pool(window, border, input, out, extent);
    }

    /// [`Threaded::sum_pool`](crate::Threaded::sum_pool) on the calling thread alone.
    ///
    /// # Panics
    /// As there.
    pub fn sum_pool(
        &self,
        window: Window,
        input: Map<'_>,
        out: MapMut<'_>,
        requant: &Requant,
        clip: Clip,
        extent: [usize; 3],
    ) {
        self.on(&mut Team::solo())
            .sum_pool(window, input, out, requant, clip, extent);
    }

    /// [`Threaded::global_sum`](crate::Threaded::global_sum) on the calling thread alone.
    ///
    /// # Panics
    /// As there.
    pub fn global_sum(
        &self,
        input: Map<'_>,
        rows: usize,
        cols: usize,
        channels: usize,
        out: &mut [i32],
    ) {
        self.on(&mut Team::solo())
            .global_sum(input, rows, cols, channels, out);
    }
}
