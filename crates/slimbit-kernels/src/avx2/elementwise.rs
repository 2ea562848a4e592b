//! Residual addition and tables.

use super::rescale::clip_to_bytes;
use super::{store_first, widen16};
use crate::map::joined;
use crate::{Map, MapMut, scalar};
use slimbit_num::{AddRequant, Clip, Table};
use std::arch::x86_64::*;

/// # Safety
/// The CPU has AVX2; the maps hold the extent, the inputs with their slack.
pub(super) unsafe fn add(
    requant: &AddRequant,
    clip: Clip,
    a: Map<'_>,
    b: Map<'_>,
    out: &mut MapMut<'_>,
    extent: [usize; 3],
) {
    let AddRequant { ma, mb, c, .. } = *requant;
    let products = 255 * (i64::from(ma).abs() + i64::from(mb).abs());
    let fits_32_bits = c.unsigned_abs() <= (i64::from(i32::MAX) - products).max(0) as u64;
    if products <= i32::MAX.into() && fits_32_bits {
        // SAFETY: passed on from the caller; no sum leaves 32 bits.
        unsafe { add_narrow(requant, clip, a, b, out, extent) };
    } else {
        scalar::add(requant, clip, a, b, out, extent);
    }
}

/// `ma·a + mb·b + c` in 32 bits. With `m = 2¹⁵·high + low` the products are two `vpmaddwd` of (a,
/// b), exact modulo 2³²; the sum itself fits, so it is exact.
///
/// # Safety
/// As [`add`], and `255·(|ma| + |mb|) + |c| < 2³¹`.
#[target_feature(enable = "avx2")]
unsafe fn add_narrow(
    requant: &AddRequant,
    clip: Clip,
    a: Map<'_>,
    b: Map<'_>,
    out: &mut MapMut<'_>,
    extent: [usize; 3],
) {
    let AddRequant { ma, mb, c, k } = *requant;
    let pair = |a: i32, b: i32| _mm256_set1_epi32(a & 0xffff | b << 16);
    let high = pair(ma >> 15, mb >> 15);
    let low = pair(ma & 0x7fff, mb & 0x7fff);
    let constant = _mm256_set1_epi32(c as i32);
    let shift = _mm_cvtsi32_si128(k.min(31).into());
    let rescale = |pairs: __m256i| {
        let upper = _mm256_slli_epi32::<15>(_mm256_madd_epi16(pairs, high));
        let sum = _mm256_add_epi32(upper, _mm256_madd_epi16(pairs, low));
        _mm256_sra_epi32(_mm256_add_epi32(sum, constant), shift)
    };
    let strides = [
        (a.row_stride, a.pixel_stride),
        (b.row_stride, b.pixel_stride),
        (out.row_stride, out.pixel_stride),
    ];
    let [rows, cols, channels] = joined(extent, strides);
    for row in 0..rows {
        for col in 0..cols {
            let [a_pixel, b_pixel, out_pixel] = strides.map(|(r, p)| row * r + col * p);
            for channel in (0..channels).step_by(16) {
                // SAFETY: the pixels lie in the maps; the last vector of an input ends within the
                // slack.
                unsafe {
                    let qa = widen16(a.data.as_ptr().add(a_pixel + channel));
                    let qb = widen16(b.data.as_ptr().add(b_pixel + channel));
                    let sums = _mm256_packs_epi32(
                        rescale(_mm256_unpacklo_epi16(qa, qb)),
                        rescale(_mm256_unpackhi_epi16(qa, qb)),
                    );
                    let to = out.data.as_mut_ptr().add(out_pixel + channel);
                    let codes = clip_to_bytes(sums, sums, clip);
                    store_first(_mm256_castsi256_si128(codes), to, channels - channel);
                }
            }
        }
    }
}

/// # Safety
/// The CPU has AVX2; the maps hold the extent, the input with its slack.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn table(
    table: &Table,
    input: Map<'_>,
    out: &mut MapMut<'_>,
    extent: [usize; 3],
) {
    let strides = [
        (input.row_stride, input.pixel_stride),
        (out.row_stride, out.pixel_stride),
    ];
    let [rows, cols, channels] = joined(extent, strides);
    for row in 0..rows {
        for col in 0..cols {
            let [from, to] = strides.map(|(r, p)| row * r + col * p);
            for channel in (0..channels).step_by(32) {
                // SAFETY: the pixels lie in the maps; the last vector of the input ends within the
                // slack.
                unsafe {
                    let codes = input.data.as_ptr().add(from + channel);
                    let results = look_up(table, _mm256_loadu_si256(codes.cast()));
                    let to = out.data.as_mut_ptr().add(to + channel);
                    let n = channels - channel;
                    store_first(_mm256_castsi256_si128(results), to, n);
                    if n > 16 {
                        let rest = _mm256_extracti128_si256::<1>(results);
                        store_first(rest, to.add(16), n - 16);
                    }
                }
            }
        }
    }
}

/// The low nibble picks from 16 parts of the table at once, then each bit of the high nibble halves
/// the candidates.
#[target_feature(enable = "avx2")]
#[inline]
fn look_up(table: &Table, codes: __m256i) -> __m256i {
    let low = _mm256_and_si256(codes, _mm256_set1_epi8(0x0f));
    let mut candidates = [_mm256_setzero_si256(); 16];
    for (part, candidate) in table.0.as_chunks::<16>().0.iter().zip(&mut candidates) {
        // SAFETY: a part is 16 bytes.
        let part = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(part.as_ptr().cast()) });
        *candidate = _mm256_shuffle_epi8(part, low);
    }
    // `vpblendvb` looks at the top bit of a byte; shifts of words bring bits 4 to 6 there.
    let bits = [
        _mm256_slli_epi16::<3>(codes),
        _mm256_slli_epi16::<2>(codes),
        _mm256_slli_epi16::<1>(codes),
        codes,
    ];
    let mut count = 16;
    for bit in bits {
        count /= 2;
        for i in 0..count {
            candidates[i] = _mm256_blendv_epi8(candidates[2 * i], candidates[2 * i + 1], bit);
        }
    }
    candidates[0]
}
