//! Depthwise convolutions: channels across the lanes, taps two at a time.
//!
//! Products are summed up in 16 bits alone. Large weights are two digits, `w = 16·high + low`, each
//! with a sum of its own. A sum is exact modulo 2¹⁶, so it is exact if it can take at most 2¹⁶
//! different values and starts from the right constant; the constants leave with the rescaling.

use super::rescale::{Exactness, Form, Full, Rescale16, Shifted, Upper, clip_words};
use super::store_first;
use crate::conv::{ConvKernel, ConvWeights, Output, Part, Target};
use crate::{ConvGeometry, Map};
use slimbit_num::{Clip, Requant};
use std::arch::x86_64::*;

/// Taps whose offsets fit on the stack; larger kernels run as grouped convolutions.
const MAX_TAPS: usize = 128;

/// Channels of a block, which are computed together.
const CHANNELS: usize = 32;

/// Bytes of input that stay in the first level of the cache while blocks take turns on them.
const CACHED: usize = 16 << 10;

/// The greatest sum of the magnitudes of the digits of a channel: 255 · 257 = 2¹⁶ - 1.
const GREATEST: i32 = 257;

/// The channel, among 32, that each lane of four accumulators holds: what `vpunpck{l,h}bw` and
/// `vpunpck{l,h}wd` make of 32 codes, and what `vpackssdw` and `vpackuswb` put back in order.
const LANES: [[usize; 16]; 2] = {
    let mut lanes = [[0; 16]; 2];
    let mut lane = 0;
    while lane < 32 {
        lanes[lane / 16][lane % 16] =
            8 * (lane / 16) + 4 * (lane / 8 % 2) + 16 * (lane / 4 % 2) + lane % 4;
        lane += 1;
    }
    lanes
};

/// `None` if the convolution is not depthwise, its kernel is too large, or even digits sum up to
/// more than 16 bits.
pub(super) fn pack(packable: &ConvWeights<'_>) -> Option<Box<dyn ConvKernel>> {
    if !packable.geometry.is_depthwise() || packable.geometry.taps() > MAX_TAPS {
        return None;
    }
    let fits = |digit: Digit| {
        (0..packable.geometry.out_channels).all(|channel| {
            let digits = packable.channel(channel).iter().map(|&w| digit(w));
            digits.clone().map(|d| i32::from(d).abs()).sum::<i32>() <= GREATEST
                && digits.clone().all(|d| d.unsigned_abs() <= 64)
        })
    };
    if fits(whole) {
        Some(Box::new(Depthwise::new(packable, [whole])))
    } else if fits(high) && fits(low) {
        Some(Box::new(Depthwise::new(packable, [high, low])))
    } else {
        None
    }
}

type Digit = fn(i8) -> i8;

fn whole(w: i8) -> i8 {
    w
}

/// The upper digit of `w = 16·high + low` with `low` in `[-8, 7]`, and so `high` in `[-8, 8]`.
fn high(w: i8) -> i8 {
    ((i16::from(w) + 8) >> 4) as i8
}

fn low(w: i8) -> i8 {
    (i16::from(w) - 16 * i16::from(high(w))) as i8
}

/// Weights of `D` digits: 1 or 2.
struct Depthwise<const D: usize> {
    /// `[block][pair of taps]`; the second tap of an odd number is the last one again, with a
    /// weight of 0.
    pairs: Vec<Pair<D>>,
    blocks: Vec<Block<D>>,
    clip: Clip,
    form: Exactness,
}

/// Two taps side by side, as `vpunpck{l,h}bw` order channels.
type Pair<const D: usize> = [[Lanes<i8, 32>; 2]; D];

/// What a block of 32 channels starts from and ends with.
struct Block<const D: usize> {
    start: [[Lanes<i16, 16>; 2]; D],
    rescale: [Rescale16; 2],
}

/// A register in memory.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Lanes<T, const N: usize>([T; N]);

impl<T, const N: usize> Lanes<T, N> {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn load(&self) -> __m256i {
        const { assert!(size_of::<Self>() == 32) };
        // SAFETY: the lanes are 32 bytes of integers, and aligned.
        unsafe { _mm256_load_si256((&raw const self.0).cast()) }
    }
}

/// The channel of a lane of the lower (0) or upper (1) half of interleaved codes.
fn channel_of(half: usize, lane: usize) -> usize {
    8 * half + lane / 8 * 16 + lane % 8
}

impl<const D: usize> Depthwise<D> {
    fn new(packable: &ConvWeights<'_>, digits: [Digit; D]) -> Depthwise<D> {
        let geometry = &packable.geometry;
        let absent = Requant { m: 0, c: 0, k: 0 };
        let mut form = Exactness::Upper;
        let (mut pairs, mut starts, mut requants) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..geometry.out_channels).step_by(CHANNELS) {
            let channels = first..geometry.out_channels.min(first + CHANNELS);
            let weight = |channel: usize, tap: usize| match first + channel {
                channel if channels.contains(&channel) && tap < geometry.taps() => {
                    packable.channel(channel)[tap]
                }
                _ => 0,
            };
            for tap in (0..geometry.taps()).step_by(2) {
                pairs.push(digits.map(|digit| {
                    [0, 1].map(|half| {
                        Lanes(std::array::from_fn(|i| {
                            digit(weight(channel_of(half, i / 2), tap + i % 2))
                        }))
                    })
                }));
            }
            let start = |channel: usize| {
                digits.map(|digit| {
                    let weights = (0..geometry.taps()).map(|tap| digit(weight(channel, tap)));
                    centre(weights.map(|w| 255 * i32::from(w)))
                })
            };
            let by_channel: [[i16; D]; CHANNELS] = std::array::from_fn(start);
            starts.push(std::array::from_fn(|digit| {
                [0, 1].map(|half| {
                    Lanes(std::array::from_fn(|i| {
                        by_channel[channel_of(half, i)][digit]
                    }))
                })
            }));
            let mut adjusted = [absent; CHANNELS];
            for ((channel, requant), start) in channels.zip(&mut adjusted).zip(by_channel) {
                let offset = match *start.as_slice() {
                    [high, low] => 16 * i64::from(high) + i64::from(low),
                    _ => i64::from(start[0]),
                };
                let Requant { m, c, k } = packable.requant[channel];
                // Sums wrap around in the reference too.
                let c = c.wrapping_sub(i64::from(m) * offset);
                *requant = Requant { m, c, k };
                let (lo, hi) = packable.accumulator(channel);
                form = form.max(Exactness::of(*requant, (lo + offset, hi + offset)));
            }
            requants.push(adjusted);
        }
        let blocks = starts
            .into_iter()
            .zip(requants)
            .map(|(start, requants)| Block {
                start,
                rescale: LANES
                    .map(|lanes| Rescale16::new(lanes.map(|channel| requants[channel]), form)),
            });
        Depthwise {
            pairs,
            blocks: blocks.collect(),
            clip: packable.clip,
            form,
        }
    }

    /// `PAIRS` is the number of pairs of taps, or 0 for any.
    ///
    /// # Safety
    /// As [`ConvKernel::run`], with the form that the constants were made for.
    #[target_feature(enable = "avx2")]
    unsafe fn sweep<F: Form, E: Element, const PAIRS: usize>(
        &self,
        geometry: &ConvGeometry,
        part: &Part,
        input: &Map<'_>,
        output: &Target<'_, E>,
    ) {
        let taps = Taps::new(geometry, input);
        let pairs = if PAIRS == 0 { taps.pairs } else { PAIRS };
        let step = geometry.stride[1] * input.pixel_stride;
        let band = (CACHED / (geometry.stride[0] * input.row_stride).max(1)).max(1);
        for start in part.rows.clone().step_by(band) {
            for index in part.panels.clone() {
                let first = CHANNELS * index;
                let weights = &self.pairs[index * pairs..][..pairs];
                let block = &self.blocks[index];
                let n = (geometry.out_channels - first).min(CHANNELS);
                for row in start..part.rows.end.min(start + band) {
                    let windows = row * geometry.stride[0] * input.row_stride + first;
                    let windows = input.data[windows..].as_ptr();
                    for col in 0..geometry.out_cols {
                        // SAFETY: the window lies in the input, and its last vector ends within the
                        // slack; the caller vouches for all channels of the pixel.
                        unsafe {
                            let window = windows.add(col * step);
                            let acc = block.accumulate::<PAIRS>(window, &taps, weights);
                            let out = output.pixel(row, col).add(first);
                            E::store::<F>(&block.rescale, acc, self.clip, out, n);
                        }
                    }
                }
            }
        }
    }

    /// # Safety
    /// As [`sweep`](Depthwise::sweep).
    unsafe fn run_codes<F: Form>(
        &self,
        geometry: &ConvGeometry,
        part: &Part,
        input: &Map<'_>,
        output: &Target<'_, u8>,
    ) {
        // SAFETY: passed on from the caller.
        unsafe {
            match geometry.taps().div_ceil(2) {
                5 => self.sweep::<F, _, 5>(geometry, part, input, output),
                13 => self.sweep::<F, _, 13>(geometry, part, input, output),
                _ => self.sweep::<F, _, 0>(geometry, part, input, output),
            }
        }
    }
}

/// The constant that brings every partial sum's final value into 16 bits, from the extremes of its
/// terms.
fn centre(extremes: impl Iterator<Item = i32>) -> i16 {
    let (lo, hi) = extremes.fold((0, 0), |(lo, hi), w| (lo + w.min(0), hi + w.max(0)));
    let up = (i32::from(i16::MIN) - lo).max(0);
    let down = (i32::from(i16::MAX) - hi).min(0);
    (up + down) as i16
}

impl<const D: usize> ConvKernel for Depthwise<D> {
    /// 32 channels each.
    fn panels(&self, _: &ConvGeometry) -> usize {
        self.blocks.len()
    }

    unsafe fn run(&self, geometry: &ConvGeometry, part: &Part, input: Map<'_>, output: Output<'_>) {
        // SAFETY: passed on from the caller.
        unsafe {
            match (&output, self.form) {
                (Output::Codes(to), Exactness::Upper) => {
                    self.run_codes::<Upper>(geometry, part, &input, to);
                }
                (Output::Codes(to), Exactness::Shifted) => {
                    self.run_codes::<Shifted>(geometry, part, &input, to);
                }
                (Output::Codes(to), Exactness::Full) => {
                    self.run_codes::<Full>(geometry, part, &input, to);
                }
                (Output::Wide(to), _) => {
                    self.sweep::<Full, _, 0>(geometry, part, &input, to);
                }
            }
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.pairs) + size_of_val(&*self.blocks)
    }

    fn name(&self) -> &'static str {
        if D == 1 { "depthwise8" } else { "depthwise8x2" }
    }
}

/// Offsets of the taps from the first; an odd number ends with its last tap twice.
struct Taps {
    offsets: [[usize; 2]; MAX_TAPS / 2],
    pairs: usize,
}

impl Taps {
    fn new(geometry: &ConvGeometry, input: &Map<'_>) -> Taps {
        let offset = |tap: usize| {
            let tap = tap.min(geometry.taps() - 1);
            let (row, col) = (tap / geometry.kernel[1], tap % geometry.kernel[1]);
            row * geometry.dilation[0] * input.row_stride
                + col * geometry.dilation[1] * input.pixel_stride
        };
        let mut taps = Taps {
            offsets: [[0; 2]; MAX_TAPS / 2],
            pairs: geometry.taps().div_ceil(2),
        };
        for (pair, offsets) in taps.offsets.iter_mut().enumerate().take(taps.pairs) {
            *offsets = [offset(2 * pair), offset(2 * pair + 1)];
        }
        taps
    }
}

impl<const D: usize> Block<D> {
    /// Sums of all taps, in the order of [`LANES`], increased by what they start from.
    ///
    /// # Safety
    /// The CPU has AVX2; 32 bytes are readable at every tap of `window`; there are `PAIRS` pairs, or
    /// as many as `weights` holds if that is 0.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn accumulate<const PAIRS: usize>(
        &self,
        window: *const u8,
        taps: &Taps,
        weights: &[Pair<D>],
    ) -> [[__m256i; 2]; 2] {
        let pairs = if PAIRS == 0 { weights.len() } else { PAIRS };
        let mut sums = [[_mm256_setzero_si256(); 2]; D];
        for digit in 0..D {
            for half in 0..2 {
                sums[digit][half] = self.start[digit][half].load();
            }
        }
        for pair in 0..pairs {
            // SAFETY: the caller vouches for the pairs and the codes at their taps.
            let (weights, a, b) = unsafe {
                let [a, b] = *taps.offsets.get_unchecked(pair);
                (
                    weights.get_unchecked(pair),
                    _mm256_loadu_si256(window.add(a).cast()),
                    _mm256_loadu_si256(window.add(b).cast()),
                )
            };
            let sides = [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)];
            for digit in 0..D {
                for half in 0..2 {
                    let products = _mm256_maddubs_epi16(sides[half], weights[digit][half].load());
                    sums[digit][half] = _mm256_add_epi16(sums[digit][half], products);
                }
            }
        }
        let mut acc = [[_mm256_setzero_si256(); 2]; 2];
        for half in 0..2 {
            // Pairs of words that `vpmaddwd` joins: both digits, or a sum and nothing.
            let (upper, lower, radix) = if D == 2 {
                (sums[0][half], sums[D - 1][half], 1 << 16 | 16)
            } else {
                (sums[0][half], _mm256_setzero_si256(), 1)
            };
            let radix = _mm256_set1_epi32(radix);
            acc[half] = [
                _mm256_madd_epi16(_mm256_unpacklo_epi16(upper, lower), radix),
                _mm256_madd_epi16(_mm256_unpackhi_epi16(upper, lower), radix),
            ];
        }
        acc
    }
}

/// What results of a block are stored as.
trait Element: Copy {
    /// Stores the first `n` of 32 channels.
    ///
    /// # Safety
    /// The CPU has AVX2; `n` elements are writable at `out`; the constants were made for the form.
    unsafe fn store<F: Form>(
        rescale: &[Rescale16; 2],
        acc: [[__m256i; 2]; 2],
        clip: Clip,
        out: *mut Self,
        n: usize,
    );
}

impl Element for u8 {
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn store<F: Form>(
        rescale: &[Rescale16; 2],
        acc: [[__m256i; 2]; 2],
        clip: Clip,
        out: *mut u8,
        n: usize,
    ) {
        // SAFETY: passed on from the caller.
        unsafe {
            let first = rescale[0].words::<F>(acc[0], clip);
            let codes = clip_words(first, rescale[1].words::<F>(acc[1], clip), clip);
            if n == CHANNELS {
                _mm256_storeu_si256(out.cast(), codes);
                return;
            }
            store_first(_mm256_castsi256_si128(codes), out, n);
            if n > 16 {
                store_first(_mm256_extracti128_si256::<1>(codes), out.add(16), n - 16);
            }
        }
    }
}

impl Element for i32 {
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn store<F: Form>(
        rescale: &[Rescale16; 2],
        acc: [[__m256i; 2]; 2],
        clip: Clip,
        out: *mut i32,
        n: usize,
    ) {
        for (half, lanes) in LANES.iter().enumerate() {
            let mut numbers = [0i32; 16];
            // SAFETY: passed on from the caller; the array holds both registers.
            unsafe {
                let results = rescale[half].apply::<F>(acc[half], clip);
                let to = numbers.as_mut_ptr().cast::<__m256i>();
                _mm256_storeu_si256(to, results[0]);
                _mm256_storeu_si256(to.add(1), results[1]);
            }
            for (&channel, &number) in lanes.iter().zip(&numbers) {
                if channel < n {
                    // SAFETY: the caller vouches for `n` numbers.
                    unsafe { out.add(channel).write(clip.apply(number.into())) };
                }
            }
        }
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

    #[test]
    fn sums_of_sixteen_bits_start_where_they_stay() {
        for (positive, negative) in [
            (257, 0),
            (0, 257),
            (128, 129),
            (129, 128),
            (100, 20),
            (0, 0),
        ] {
            let (hi, lo) = (255 * positive, -255 * negative);
            let start = i32::from(centre([hi, lo].into_iter()));
            assert!(hi + start <= i16::MAX.into() && lo + start >= i16::MIN.into());
        }
        assert_eq!(centre([255 * 128, -255 * 128].into_iter()), 0);
    }
}
