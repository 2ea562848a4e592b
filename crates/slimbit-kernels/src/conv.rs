//! Convolutions with packed weights.

use crate::{ConvGeometry, Isa, KernelError, Map, MapMut};
use slimbit_num::{Clip, Requant, SignedSums};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

/// The weights of a convolution in the layout of one CPU level, with the constants of its
/// rescaling.
///
/// Made by [`Kernels::pack_conv`](crate::Kernels::pack_conv), run by
/// [`Kernels::conv`](crate::Kernels::conv).
pub struct PackedConv {
    pub(crate) isa: Isa,
    pub(crate) geometry: ConvGeometry,
    pub(crate) clip: Clip,
    pub(crate) kernel: Box<dyn ConvKernel>,
}

impl PackedConv {
    /// The shape.
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// Bytes that the packed weights and rescaling constants take.
    pub fn bytes(&self) -> usize {
        self.kernel.bytes()
    }

    /// The name of the kernel chosen when packing, such as `dense8` or `depthwise`.
    pub fn kernel_name(&self) -> &'static str {
        self.kernel.name()
    }
}

impl fmt::Debug for PackedConv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedConv")
            .field("isa", &self.isa)
            .field("kernel", &self.kernel_name())
            .field("geometry", &self.geometry)
            .field("clip", &self.clip)
            .field("bytes", &self.bytes())
            .finish()
    }
}

/// What a level packs: all lengths agree with the geometry, no accumulator can overflow.
pub(crate) struct ConvWeights<'a> {
    pub(crate) geometry: ConvGeometry,
    /// `[O][KH][KW][I/groups]`.
    pub(crate) weights: &'a [i8],
    pub(crate) requant: &'a [Requant],
    pub(crate) clip: Clip,
    /// By output channel.
    sums: Vec<SignedSums>,
}

impl<'a> ConvWeights<'a> {
    pub(crate) fn new(
        geometry: ConvGeometry,
        weights: &'a [i8],
        requant: &'a [Requant],
        clip: Clip,
    ) -> Result<ConvWeights<'a>, KernelError> {
        let expected = geometry.checked_weights()?;
        if weights.len() != expected {
            return Err(KernelError::Weights {
                expected,
                found: weights.len(),
            });
        }
        if requant.len() != geometry.out_channels {
            return Err(KernelError::Requants {
                expected: geometry.out_channels,
                found: requant.len(),
            });
        }
        if clip.lo > clip.hi || clip.lo < i16::MIN.into() || clip.hi > i16::MAX.into() {
            return Err(KernelError::Clip(clip));
        }
        let packable = ConvWeights {
            geometry,
            weights,
            requant,
            clip,
            sums: weights
                .chunks_exact(geometry.taps())
                .map(SignedSums::of)
                .collect(),
        };
        let overflows = |&channel: &usize| {
            let (lo, hi) = packable.accumulator(channel);
            lo < i32::MIN.into() || hi > i32::MAX.into()
        };
        match (0..geometry.out_channels).find(overflows) {
            Some(channel) => Err(KernelError::Accumulator { channel }),
            None => Ok(packable),
        }
    }

    /// `[KH][KW][I/groups]` of one output channel.
    pub(crate) fn channel(&self, channel: usize) -> &'a [i8] {
        let taps = self.geometry.taps();
        &self.weights[channel * taps..][..taps]
    }

    /// The least and greatest accumulator of a channel over all inputs.
    pub(crate) fn accumulator(&self, channel: usize) -> (i64, i64) {
        let SignedSums { positive, negative } = self.sums[channel];
        (255 * negative, 255 * positive)
    }
}

/// Where the results of a convolution go.
#[derive(Clone, Copy)]
pub(crate) enum Output<'a> {
    /// One byte each.
    Codes(Target<'a, u8>),
    /// One `i32` each, pixels and channels without gaps.
    Wide(Target<'a, i32>),
}

/// A map to write that several threads share, each for a [`Part`] of its own.
///
/// It is a pointer because parts interleave in memory where channels are split, which no two `&mut`
/// slices can.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a, T> {
    first: *mut T,
    /// Elements from a pixel to the one below.
    pub(crate) row_stride: usize,
    /// Elements from a pixel to its right neighbour.
    pub(crate) pixel_stride: usize,
    map: PhantomData<&'a mut [T]>,
}

// SAFETY: a target stands for a `&mut [T]`; the contract of `ConvKernel::run` keeps threads to
// disjoint elements of it.
unsafe impl<T: Send> Send for Target<'_, T> {}
// SAFETY: as for `Send`; nothing is read through a target.
unsafe impl<T: Send> Sync for Target<'_, T> {}

impl<'a, T> Target<'a, T> {
    pub(crate) fn new(data: &'a mut [T], row_stride: usize, pixel_stride: usize) -> Target<'a, T> {
        Target {
            first: data.as_mut_ptr(),
            row_stride,
            pixel_stride,
            map: PhantomData,
        }
    }

    /// The first channel of the pixel at (`row`, `col`).
    ///
    /// # Safety
    /// The map has this pixel.
    #[inline(always)]
    pub(crate) unsafe fn pixel(&self, row: usize, col: usize) -> *mut T {
        // SAFETY: the caller vouches for the pixel.
        unsafe {
            self.first
                .add(row * self.row_stride + col * self.pixel_stride)
        }
    }
}

impl<'a> From<MapMut<'a>> for Target<'a, u8> {
    fn from(map: MapMut<'a>) -> Target<'a, u8> {
        Target::new(map.data, map.row_stride, map.pixel_stride)
    }
}

/// What one call of a kernel computes: some rows of some panels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Rows of the output.
    pub(crate) rows: Range<usize>,
    /// Panels as the kernel counts them, see [`ConvKernel::panels`].
    pub(crate) panels: Range<usize>,
}

/// Packed weights together with the code that understands them.
pub(crate) trait ConvKernel: Send + Sync {
    /// The number of panels: runs of output channels that can be computed apart from the others,
    /// in the order of the channels, and of about equal work. At least 1.
    fn panels(&self, geometry: &ConvGeometry) -> usize;

    /// Computes `part` of the output, and writes to nothing else. Both maps are those of the whole
    /// convolution.
    ///
    /// # Safety
    /// The CPU has the level for which the weights were packed. `geometry` is the one that was
    /// packed. The part lies within `geometry.out_rows` and [`panels`](ConvKernel::panels).
    /// `input` holds `geometry.input_extent(part.rows.end)` and the slack; `output` holds
    /// `part.rows.end` rows, and nobody else reads or writes the elements of this part.
    unsafe fn run(&self, geometry: &ConvGeometry, part: &Part, input: Map<'_>, output: Output<'_>);

    fn bytes(&self) -> usize;

    fn name(&self) -> &'static str;
}
