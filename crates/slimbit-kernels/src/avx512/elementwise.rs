//! Residual addition and tables.

use super::first;
use super::rescale::{SHIFTED, to_bytes};
use crate::map::joined;
use crate::{Map, MapMut, avx2};
use slimbit_num::{AddRequant, Clip, Table};
use std::arch::x86_64::*;

/// Calls `f` with the offsets of every 64 codes of the extent in each map, and how many are left.
#[inline(always)]
fn for_each_64<const N: usize>(
    extent: [usize; 3],
    strides: [(usize, usize); N],
    mut f: impl FnMut([usize; N], usize),
) {
    let [rows, cols, channels] = joined(extent, strides);
    for row in 0..rows {
        for col in 0..cols {
            let pixel = strides.map(|(r, p)| row * r + col * p);
            for channel in (0..channels).step_by(64) {
                f(pixel.map(|offset| offset + channel), channels - channel);
            }
        }
    }
}

/// # Safety
/// The CPU has the level; the maps hold the extent, the inputs with their slack.
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
    let left = i64::from(i32::MAX) - products;
    // SAFETY: passed on from the caller; no sum leaves 32 bits in the first two cases, and the CPU
    // has AVX2.
    unsafe {
        if left < 0 || c.unsigned_abs() > left as u64 {
            (avx2::KERNELS.add)(requant, clip, a, b, out, extent);
        } else if [ma, mb].iter().all(|&m| i16::try_from(m).is_ok()) {
            add_narrow::<false>(requant, clip, a, b, out, extent);
        } else {
            add_narrow::<true>(requant, clip, a, b, out, extent);
        }
    }
}

/// `ma·a + mb·b + c` in 32 bits. `vpdpwssd` adds both products of 16-bit multipliers at once; a
/// `LONG` multiplier is `2¹⁵·high + low`, and its sum exact modulo 2³², so exact.
///
/// # Safety
/// As [`add`], and `255·(|ma| + |mb|) + |c| < 2³¹`; both multipliers have 16 bits unless `LONG`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn add_narrow<const LONG: bool>(
    requant: &AddRequant,
    clip: Clip,
    a: Map<'_>,
    b: Map<'_>,
    out: &mut MapMut<'_>,
    extent: [usize; 3],
) {
    let AddRequant { ma, mb, c, k } = *requant;
    let pair = |a: i32, b: i32| _mm512_set1_epi32(a & 0xffff | b << 16);
    let high = pair(ma >> 15, mb >> 15);
    let low = if LONG {
        pair(ma & 0x7fff, mb & 0x7fff)
    } else {
        pair(ma, mb)
    };
    let constant = _mm512_set1_epi32(c as i32);
    let shift = _mm_cvtsi32_si128(k.min(31).into());
    let zero = _mm512_setzero_si512();
    let rescale = |pairs: __m512i| {
        let start = if LONG {
            _mm512_add_epi32(
                constant,
                _mm512_slli_epi32::<15>(_mm512_madd_epi16(pairs, high)),
            )
        } else {
            constant
        };
        _mm512_sra_epi32(_mm512_dpwssd_epi32(start, pairs, low), shift)
    };
    let strides = [
        (a.row_stride, a.pixel_stride),
        (b.row_stride, b.pixel_stride),
        (out.row_stride, out.pixel_stride),
    ];
    for_each_64(extent, strides, |[at_a, at_b, at_out], n| {
        // SAFETY: the pixels lie in the maps; the last vector of an input ends within the slack,
        // that of the output is masked.
        unsafe {
            let qa = _mm512_loadu_si512(a.data.as_ptr().add(at_a).cast());
            let qb = _mm512_loadu_si512(b.data.as_ptr().add(at_b).cast());
            let (first_half, second_half) =
                (_mm512_unpacklo_epi8(qa, qb), _mm512_unpackhi_epi8(qa, qb));
            let results = [
                rescale(_mm512_unpacklo_epi8(first_half, zero)),
                rescale(_mm512_unpackhi_epi8(first_half, zero)),
                rescale(_mm512_unpacklo_epi8(second_half, zero)),
                rescale(_mm512_unpackhi_epi8(second_half, zero)),
            ];
            let to = out.data.as_mut_ptr().add(at_out).cast();
            _mm512_mask_storeu_epi8(to, first(n), to_bytes::<SHIFTED>(results, clip));
        }
    });
}

/// # Safety
/// The CPU has the level; the maps hold the extent, the input with its slack.
pub(super) unsafe fn table(
    table: &Table,
    input: Map<'_>,
    out: &mut MapMut<'_>,
    extent: [usize; 3],
) {
    // SAFETY: passed on from the caller; the CPU has the feature, or AVX2.
    unsafe {
        if is_x86_feature_detected!("avx512vbmi") {
            table_vbmi(table, input, out, extent);
        } else {
            (avx2::KERNELS.table)(table, input, out, extent);
        }
    }
}

/// `vpermi2b` looks up in half of the table at once; the top bit of a code picks the half.
///
/// # Safety
/// As [`table`], and the CPU has `avx512vbmi`.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn table_vbmi(table: &Table, input: Map<'_>, out: &mut MapMut<'_>, extent: [usize; 3]) {
    let quarters: [__m512i; 4] = std::array::from_fn(|quarter| {
        // SAFETY: the table is 256 bytes.
        unsafe { _mm512_loadu_si512(table.0.as_ptr().add(64 * quarter).cast()) }
    });
    let strides = [
        (input.row_stride, input.pixel_stride),
        (out.row_stride, out.pixel_stride),
    ];
    for_each_64(extent, strides, |[from, to], n| {
        // SAFETY: the pixels lie in the maps; the last vector of the input ends within the slack,
        // that of the output is masked.
        unsafe {
            let codes = _mm512_loadu_si512(input.data.as_ptr().add(from).cast());
            let low = _mm512_permutex2var_epi8(quarters[0], codes, quarters[1]);
            let high = _mm512_permutex2var_epi8(quarters[2], codes, quarters[3]);
            let results = _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), low, high);
            let to = out.data.as_mut_ptr().add(to).cast();
            _mm512_mask_storeu_epi8(to, first(n), results);
        }
    });
}
