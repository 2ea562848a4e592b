//! Depthwise convolutions: channels across the lanes, taps two at a time.

use super::rescale::{Element, Exactness, Form, Full, Rescale16, Shifted, Upper};
use super::{LANES, widen16};
use crate::conv::{ConvKernel, ConvWeights, Output, Part, Target};
use crate::{ConvGeometry, Map};
use slimbit_num::{Clip, Requant};
use std::arch::x86_64::*;

/// Taps whose offsets fit on the stack; larger kernels run as grouped convolutions.
const MAX_TAPS: usize = 128;

/// `None` if the convolution is not depthwise, or its kernel is too large.
pub(super) fn pack(packable: &ConvWeights<'_>) -> Option<Box<dyn ConvKernel>> {
    if !packable.geometry.is_depthwise() || packable.geometry.taps() > MAX_TAPS {
        return None;
    }
    let constants = Constants::new(packable);
    let whole = |w: i8| w;
    let kernel: Box<dyn ConvKernel> = if sums_fit_16_bits(packable, whole) {
        Box::new(Small {
            taps: small_pairs(packable, [whole]),
            constants,
        })
    } else if sums_fit_16_bits(packable, high) && sums_fit_16_bits(packable, low) {
        Box::new(Split {
            taps: small_pairs(packable, [high, low]),
            constants,
        })
    } else {
        Box::new(Exact {
            taps: exact_pairs(packable),
            constants,
        })
    };
    Some(kernel)
}

/// The digits of `w = 16·high + low` with `low` in `[-8, 7]`, and so `high` in `[-8, 8]`.
fn high(w: i8) -> i8 {
    ((i16::from(w) + 8) >> 4) as i8
}

fn low(w: i8) -> i8 {
    (i16::from(w) - 16 * i16::from(high(w))) as i8
}

/// Whether `Σ digit·q` over the taps fits 16 bits for all codes and channels; every partial sum
/// then does.
fn sums_fit_16_bits(packable: &ConvWeights<'_>, digit: fn(i8) -> i8) -> bool {
    (0..packable.geometry.out_channels).all(|channel| {
        let extremes = packable
            .channel(channel)
            .iter()
            .map(|&w| 255 * i64::from(digit(w)));
        let (lo, hi) = extremes.fold((0, 0), |(lo, hi), w| (lo + w.min(0), hi + w.max(0)));
        lo >= i16::MIN.into() && hi <= i16::MAX.into()
    })
}

/// The weight of a tap, 0 for absent channels and for the second tap of the last pair of an odd
/// number.
fn weight(packable: &ConvWeights<'_>, channel: usize, tap: usize) -> i8 {
    let geometry = &packable.geometry;
    if channel < geometry.out_channels && tap < geometry.taps() {
        packable.channel(channel)[tap]
    } else {
        0
    }
}

/// `[16 channels][pair of taps]`: for each accumulator, 8 channels in lane order with both taps
/// side by side.
fn exact_pairs(packable: &ConvWeights<'_>) -> Vec<[[i16; 16]; 2]> {
    let pairs = packable.geometry.taps().div_ceil(2);
    let blocks = (0..packable.geometry.out_channels).step_by(16);
    let places = blocks.flat_map(|block| (0..pairs).map(move |pair| (block, pair)));
    let pack = |(block, pair): (usize, usize)| {
        std::array::from_fn(|half| {
            std::array::from_fn(|i| {
                let channel = block + LANES[8 * half + i / 2];
                weight(packable, channel, 2 * pair + i % 2).into()
            })
        })
    };
    places.map(pack).collect()
}

/// `[32 channels][pair of taps]`: per digit, the interleaved bytes as `vpunpcklbw` and `vpunpckhbw`
/// order channels.
fn small_pairs<const D: usize>(
    packable: &ConvWeights<'_>,
    digits: [fn(i8) -> i8; D],
) -> Vec<[[[i8; 32]; 2]; D]> {
    let pairs = packable.geometry.taps().div_ceil(2);
    let blocks = (0..packable.geometry.out_channels).step_by(32);
    let places = blocks.flat_map(|block| (0..pairs).map(move |pair| (block, pair)));
    let pack = |(block, pair): (usize, usize)| {
        digits.map(|digit| {
            std::array::from_fn(|half| {
                std::array::from_fn(|i| {
                    let channel = block + i / 16 * 16 + 8 * half + i % 16 / 2;
                    digit(weight(packable, channel, 2 * pair + i % 2))
                })
            })
        })
    };
    places.map(pack).collect()
}

struct Constants {
    rescale: Vec<Rescale16>,
    form: Exactness,
    clip: Clip,
}

impl Constants {
    fn new(packable: &ConvWeights<'_>) -> Constants {
        let form = Exactness::of_all(packable);
        let rescale = |channels: &[Requant]| Rescale16::new(channels, form);
        Constants {
            rescale: packable.requant.chunks(16).map(rescale).collect(),
            form,
            clip: packable.clip,
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.rescale)
    }
}

/// Offsets of the taps from the first; an odd number ends with its last tap twice, whose weight is
/// 0.
struct Taps {
    offsets: [usize; MAX_TAPS],
    pairs: usize,
}

impl Taps {
    fn new(geometry: &ConvGeometry, input: &Map<'_>) -> Taps {
        let [kernel_rows, kernel_cols] = geometry.kernel;
        let mut offsets = [0; MAX_TAPS];
        let mut taps = 0;
        for row in 0..kernel_rows {
            for col in 0..kernel_cols {
                offsets[taps] = row * geometry.dilation[0] * input.row_stride
                    + col * geometry.dilation[1] * input.pixel_stride;
                taps += 1;
            }
        }
        if !taps.is_multiple_of(2) {
            offsets[taps] = offsets[taps - 1];
        }
        Taps {
            offsets,
            pairs: taps.div_ceil(2),
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, [usize; 2])> {
        let (pairs, _) = self.offsets.as_chunks::<2>();
        pairs.iter().copied().take(self.pairs).enumerate()
    }
}

/// The sums of a block of channels at one pixel.
trait Accumulate: Send + Sync {
    /// Vectors of 16 channels per block.
    const VECTORS: usize;
    const NAME: &'static str;

    fn constants(&self) -> &Constants;

    fn weight_bytes(&self) -> usize;

    /// Sums of the block of `16 · VECTORS` channels whose first codes are at `window`; unused
    /// vectors are arbitrary.
    ///
    /// # Safety
    /// The CPU has AVX2; `16 · VECTORS` bytes are readable at every tap of `window`; the block
    /// exists.
    unsafe fn accumulate(&self, window: *const u8, taps: &Taps, block: usize) -> [[__m256i; 2]; 2];
}

/// # Safety
/// As [`ConvKernel::run`], with the form that the constants were made for.
#[target_feature(enable = "avx2")]
unsafe fn sweep<K: Accumulate, F: Form, E: Element>(
    kernel: &K,
    geometry: &ConvGeometry,
    part: &Part,
    input: &Map<'_>,
    output: &Target<'_, E>,
) {
    let taps = Taps::new(geometry, input);
    let Constants { rescale, clip, .. } = kernel.constants();
    let channels = geometry.out_channels;
    for row in part.rows.clone() {
        for block in part.panels.clone() {
            for col in 0..geometry.out_cols {
                let first = 16 * K::VECTORS * block;
                let window = row * geometry.stride[0] * input.row_stride
                    + col * geometry.stride[1] * input.pixel_stride
                    + first;
                // SAFETY: the window lies in the input, and its last vector ends within the slack.
                let sums =
                    unsafe { kernel.accumulate(input.data.as_ptr().add(window), &taps, block) };
                for vector in 0..K::VECTORS {
                    let channel = first + 16 * vector;
                    if channel >= channels {
                        break;
                    }
                    let rescale = &rescale[channel / 16];
                    let (acc, n) = (sums[vector], channels - channel);
                    // SAFETY: the caller vouches for all channels of the pixel.
                    unsafe {
                        let out = output.pixel(row, col).add(channel);
                        E::store::<F, 1>(rescale, &[acc], *clip, [out], n);
                    }
                }
            }
        }
    }
}

impl<K: Accumulate> ConvKernel for K {
    fn panels(&self, geometry: &ConvGeometry) -> usize {
        geometry.out_channels.div_ceil(16 * K::VECTORS)
    }

    unsafe fn run(&self, geometry: &ConvGeometry, part: &Part, input: Map<'_>, output: Output<'_>) {
        // SAFETY: passed on from the caller.
        unsafe {
            match (&output, self.constants().form) {
                (Output::Codes(to), Exactness::Upper) => {
                    sweep::<K, Upper, _>(self, geometry, part, &input, to);
                }
                (Output::Codes(to), Exactness::Shifted) => {
                    sweep::<K, Shifted, _>(self, geometry, part, &input, to);
                }
                (Output::Codes(to), Exactness::Full) => {
                    sweep::<K, Full, _>(self, geometry, part, &input, to);
                }
                (Output::Wide(to), _) => sweep::<K, Full, _>(self, geometry, part, &input, to),
            }
        }
    }

    fn bytes(&self) -> usize {
        self.weight_bytes() + self.constants().bytes()
    }

    fn name(&self) -> &'static str {
        K::NAME
    }
}

/// Any weights: codes widened to 16 bits, two taps side by side, `vpmaddwd`.
struct Exact {
    taps: Vec<[[i16; 16]; 2]>,
    constants: Constants,
}

impl Accumulate for Exact {
    const VECTORS: usize = 1;
    const NAME: &'static str = "depthwise16";

    fn constants(&self) -> &Constants {
        &self.constants
    }

    fn weight_bytes(&self) -> usize {
        size_of_val(&*self.taps)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn accumulate(&self, window: *const u8, taps: &Taps, block: usize) -> [[__m256i; 2]; 2] {
        let mut acc = [_mm256_setzero_si256(); 2];
        // SAFETY: the caller vouches for the block and for 16 codes at every tap; weights are 32
        // bytes each.
        unsafe {
            let weights = self.taps.as_ptr().add(block * taps.pairs).cast::<__m256i>();
            for (pair, offsets) in taps.pairs() {
                let [a, b] = offsets.map(|offset| widen16(window.add(offset)));
                let sides = [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)];
                for half in 0..2 {
                    let w = _mm256_loadu_si256(weights.add(2 * pair + half));
                    acc[half] = _mm256_add_epi32(acc[half], _mm256_madd_epi16(sides[half], w));
                }
            }
        }
        [acc; 2]
    }
}

/// Sums of one digit of the weights in 16 bits: two registers, in the order of `vpunpck{l,h}bw`, as
/// `[0..16, 16..32]`.
///
/// # Safety
/// The CPU has AVX2; 32 bytes are readable at every tap, and `weights` holds the pairs, `D` digits
/// each.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn small_sums<const D: usize>(
    window: *const u8,
    taps: &Taps,
    weights: *const [[[i8; 32]; 2]; D],
) -> [[__m256i; 2]; D] {
    let mut sums = [[_mm256_setzero_si256(); 2]; D];
    for (pair, offsets) in taps.pairs() {
        // SAFETY: the caller vouches for the codes and the weights.
        unsafe {
            let [a, b] = offsets.map(|offset| _mm256_loadu_si256(window.add(offset).cast()));
            let sides = [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)];
            for digit in 0..D {
                for half in 0..2 {
                    let w = weights.add(pair).cast::<__m256i>().add(2 * digit + half);
                    let products = _mm256_maddubs_epi16(sides[half], _mm256_loadu_si256(w));
                    sums[digit][half] = _mm256_add_epi16(sums[digit][half], products);
                }
            }
        }
    }
    sums.map(|[l, h]| {
        [
            _mm256_permute2x128_si256::<0x20>(l, h),
            _mm256_permute2x128_si256::<0x31>(l, h),
        ]
    })
}

/// Weights so small that the sum over all taps fits 16 bits: `vpmaddubsw` alone.
struct Small {
    taps: Vec<[[[i8; 32]; 2]; 1]>,
    constants: Constants,
}

impl Accumulate for Small {
    const VECTORS: usize = 2;
    const NAME: &'static str = "depthwise8";

    fn constants(&self) -> &Constants {
        &self.constants
    }

    fn weight_bytes(&self) -> usize {
        size_of_val(&*self.taps)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn accumulate(&self, window: *const u8, taps: &Taps, block: usize) -> [[__m256i; 2]; 2] {
        // SAFETY: the caller vouches for the block and for 32 codes at every tap.
        let [sums] =
            unsafe { small_sums(window, taps, self.taps.as_ptr().add(block * taps.pairs)) };
        sums.map(|sums| {
            let sign = _mm256_srai_epi16::<15>(sums);
            [
                _mm256_unpacklo_epi16(sums, sign),
                _mm256_unpackhi_epi16(sums, sign),
            ]
        })
    }
}

/// Weights as two digits, each so small that its sum fits 16 bits; `vpmaddwd` with (16, 1) joins
/// the sums.
struct Split {
    taps: Vec<[[[i8; 32]; 2]; 2]>,
    constants: Constants,
}

impl Accumulate for Split {
    const VECTORS: usize = 2;
    const NAME: &'static str = "depthwise8x2";

    fn constants(&self) -> &Constants {
        &self.constants
    }

    fn weight_bytes(&self) -> usize {
        size_of_val(&*self.taps)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn accumulate(&self, window: *const u8, taps: &Taps, block: usize) -> [[__m256i; 2]; 2] {
        // SAFETY: the caller vouches for the block and for 32 codes at every tap.
        let [high, low] =
            unsafe { small_sums(window, taps, self.taps.as_ptr().add(block * taps.pairs)) };
        let radix = _mm256_set1_epi32(1 << 16 | 16);
        let mut acc = [[_mm256_setzero_si256(); 2]; 2];
        for vector in 0..2 {
            let (high, low) = (high[vector], low[vector]);
            acc[vector] = [
                _mm256_madd_epi16(_mm256_unpacklo_epi16(high, low), radix),
                _mm256_madd_epi16(_mm256_unpackhi_epi16(high, low), radix),
            ];
        }
        acc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_small_digits_make_a_weight() {
        for w in i8::MIN..=i8::MAX {
            assert_eq!(16 * i16::from(high(w)) + i16::from(low(w)), w.into());
            assert!((-8..=8).contains(&high(w)) && (-8..8).contains(&low(w)));
        }
    }
}
