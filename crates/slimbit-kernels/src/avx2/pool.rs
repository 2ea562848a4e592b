//! Pooling: channels across the lanes.

use super::rescale::{Element, Exactness, Full, Rescale16, Shifted, store_sums};
use super::{store_first, widen16};
use crate::{Border, Map, MapMut, Window};
use slimbit_num::{Clip, Requant};
use std::arch::x86_64::*;

/// Codes whose sum always fits 16 unsigned bits.
const SAFE_CODES: usize = 65535 / 255;

/// # Safety
/// The CPU has AVX2; `input` holds `border.input` and the slack, `out` holds the extent.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn max_pool(
    window: Window,
    border: Border,
    input: Map<'_>,
    out: &mut MapMut<'_>,
    [rows, cols, channels]: [usize; 3],
) {
    for row in 0..rows {
        let tap_rows = border.taps(window, 0, row);
        for col in 0..cols {
            let tap_cols = border.taps(window, 1, col);
            for channel in (0..channels).step_by(32) {
                let mut max = _mm256_setzero_si256();
                for tap_row in tap_rows.clone() {
                    for tap_col in tap_cols.clone() {
                        let tap = tap_row * input.row_stride + tap_col * input.pixel_stride;
                        // SAFETY: the tap lies in the map; its last vector ends within the slack.
                        let codes = unsafe {
                            _mm256_loadu_si256(input.data.as_ptr().add(tap + channel).cast())
                        };
                        max = _mm256_max_epu8(max, codes);
                    }
                }
                let n = channels - channel;
                // SAFETY: the caller vouches for all channels of the pixel.
                unsafe {
                    let pixel = row * out.row_stride + col * out.pixel_stride;
                    let to = out.data.as_mut_ptr().add(pixel + channel);
                    store_first(_mm256_castsi256_si128(max), to, n);
                    if n > 16 {
                        store_first(_mm256_extracti128_si256::<1>(max), to.add(16), n - 16);
                    }
                }
            }
        }
    }
}

/// # Safety
/// The CPU has AVX2; `input` holds every window and the slack, `out` holds the extent.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn sum_pool(
    window: Window,
    input: Map<'_>,
    out: &mut MapMut<'_>,
    requant: &Requant,
    clip: Clip,
    [rows, cols, channels]: [usize; 3],
) {
    let codes = (window.kernel[0] * window.kernel[1]) as i64;
    let form = Exactness::of(*requant, (0, 255 * codes));
    let rescale = Rescale16::new([*requant; 16], form);
    for row in 0..rows {
        for col in 0..cols {
            let first = row * window.stride[0] * input.row_stride
                + col * window.stride[1] * input.pixel_stride;
            let pixel = row * out.row_stride + col * out.pixel_stride;
            for channel in (0..channels).step_by(16) {
                // SAFETY: the caller vouches for the window and for all channels of the pixel.
                unsafe {
                    let sums = sum16(&input, first + channel, window.kernel);
                    let to = out.data.as_mut_ptr().add(pixel + channel);
                    let n = channels - channel;
                    if form == Exactness::Full {
                        u8::store::<Full, 1>(&rescale, &[sums], clip, [to], n);
                    } else {
                        u8::store::<Shifted, 1>(&rescale, &[sums], clip, [to], n);
                    }
                }
            }
        }
    }
}

/// # Safety
/// The CPU has AVX2; `input` holds `rows`, `cols`, a channel per number of `out`, and the slack.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn global_sum(input: Map<'_>, rows: usize, cols: usize, out: &mut [i32]) {
    for (block, out) in out.chunks_mut(16).enumerate() {
        // SAFETY: the caller vouches for the channels; `out` is as long as it says.
        unsafe {
            let sums = sum16(&input, 16 * block, [rows, cols]);
            store_sums(sums, out.as_mut_ptr(), out.len());
        }
    }
}

/// Sums of 16 channels over `rows`×`cols` pixels, in lane order.
///
/// # Safety
/// The CPU has AVX2; 16 bytes are readable at each of the pixels, of which `first` is the offset of
/// the first.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn sum16(input: &Map<'_>, first: usize, [rows, cols]: [usize; 2]) -> [__m256i; 2] {
    let zero = _mm256_setzero_si256();
    let mut acc = [zero; 2];
    let mut sums = zero;
    let mut summed = 0;
    for row in 0..rows {
        for col in 0..cols {
            let pixel = first + row * input.row_stride + col * input.pixel_stride;
            // SAFETY: the caller vouches for 16 bytes at every pixel.
            sums = _mm256_add_epi16(sums, unsafe { widen16(input.data.as_ptr().add(pixel)) });
            summed += 1;
            if summed == SAFE_CODES {
                acc = flush(acc, sums);
                (sums, summed) = (zero, 0);
            }
        }
    }
    flush(acc, sums)
}

/// Adds unsigned 16-bit sums to the accumulators.
#[target_feature(enable = "avx2")]
#[inline]
fn flush(acc: [__m256i; 2], sums: __m256i) -> [__m256i; 2] {
    let zero = _mm256_setzero_si256();
    [
        _mm256_add_epi32(acc[0], _mm256_unpacklo_epi16(sums, zero)),
        _mm256_add_epi32(acc[1], _mm256_unpackhi_epi16(sums, zero)),
    ]
}
