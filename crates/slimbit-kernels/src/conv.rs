//! Convolutions with packed weights.

use crate::{ConvGeometry, Isa, KernelError, Map, MapMut};
use slimbit_num::{Clip, Requant};
use std::fmt;

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

    /// The name of the kernel chosen when packing, such as `dense16` or `depthwise`.
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
#[derive(Clone, Copy)]
pub(crate) struct ConvWeights<'a> {
    pub(crate) geometry: ConvGeometry,
    /// `[O][KH][KW][I/groups]`.
    pub(crate) weights: &'a [i8],
    pub(crate) requant: &'a [Requant],
    pub(crate) clip: Clip,
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
        let weights = self.channel(channel).iter();
        weights.fold((0, 0), |(lo, hi), &w| {
            let extreme = 255 * i64::from(w);
            (lo + extreme.min(0), hi + extreme.max(0))
        })
    }
}

/// Where the results of a convolution go.
pub(crate) enum Output<'a> {
    /// One byte each.
    Codes(MapMut<'a>),
    /// One `i32` each, pixels and channels without gaps.
    Wide(&'a mut [i32]),
}

/// Packed weights together with the code that understands them.
pub(crate) trait ConvKernel: Send + Sync {
    /// Computes the first `rows` rows of the output.
    ///
    /// # Safety
    /// The CPU has the level for which the weights were packed. `input` holds
    /// `geometry.input_extent(rows)` and the slack; `output` holds `rows` rows. `geometry` is
    /// the one that was packed.
    unsafe fn run(&self, geometry: &ConvGeometry, rows: usize, input: Map<'_>, output: Output<'_>);

    fn bytes(&self) -> usize;

    fn name(&self) -> &'static str;
}
