//! `clip((m·acc + c) >> k)` of 16 channels, in 64 bits.

use super::{LANES, store_first};
use slimbit_num::{Clip, Requant};
use std::arch::x86_64::*;

/// The rescaling constants of 16 channels.
///
/// AVX2 has no arithmetic 64-bit shift. With `s = m·acc + c` in wrapping 64 bits and `u = s + 2⁶³`
/// read as unsigned, `u >> k = floor((s + 2⁶³) / 2ᵏ) = floor(s / 2ᵏ) + 2⁶³⁻ᵏ` for every `k ≤ 63`: a
/// logical shift, and a constant to take away again. The `2⁶³` is part of `c` here.
#[derive(Clone)]
#[repr(C, align(32))]
pub(super) struct Rescale16 {
    /// By quarters: even and odd lanes of the first accumulator, even and odd lanes of the second.
    m: [[i64; 4]; 4],
    c: [[i64; 4]; 4],
    k: [[i64; 4]; 4],
    /// The low halves of `2⁶³⁻ᵏ`, in the order in which the quarters are merged.
    excess: [[i32; 8]; 2],
}

impl Rescale16 {
    /// The constants of up to 16 channels; absent ones give 0.
    pub(super) fn new(channels: &[Requant]) -> Rescale16 {
        let absent = Requant { m: 0, c: 0, k: 0 };
        let lane = |lane: usize| channels.get(LANES[lane]).copied().unwrap_or(absent);
        let quarter = |q: usize, i: usize| lane(8 * (q / 2) + 2 * i + q % 2);
        let by_quarters = |f: fn(Requant) -> i64| {
            std::array::from_fn(|q| std::array::from_fn(|i| f(quarter(q, i))))
        };
        let merged = |half: usize, i: usize| quarter(2 * half + i / 2 % 2, i % 2 + 2 * (i / 4));
        Rescale16 {
            m: by_quarters(|r| r.m.into()),
            c: by_quarters(|r| r.c.wrapping_add(i64::MIN)),
            k: by_quarters(|r| r.k.min(63).into()),
            excess: std::array::from_fn(|half| {
                std::array::from_fn(|i| (1u64 << 63 >> merged(half, i).k.min(63)) as i32)
            }),
        }
    }

    /// Whether the narrow form is exact for a channel: for accumulators in `[lo, hi]`, `m·acc + c`
    /// does not wrap and its shifted value fits 32 bits. Both are monotone in the accumulator,
    /// so the ends decide.
    pub(super) fn is_narrow(requant: Requant, (lo, hi): (i64, i64)) -> bool {
        [lo, hi].into_iter().all(|acc| {
            let sum = i128::from(requant.m) * i128::from(acc) + i128::from(requant.c);
            i64::try_from(sum).is_ok_and(|sum| i32::try_from(sum >> requant.k.min(63)).is_ok())
        })
    }

    /// 16 results as `i32`, with the middle two of every four lanes exchanged.
    ///
    /// `NARROW` skips the 64-bit clip, for layers where [`is_narrow`](Self::is_narrow) holds; the
    /// caller still clips.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn apply<const NARROW: bool>(&self, acc: [__m256i; 2], clip: Clip) -> [__m256i; 2] {
        let quarter = |acc: __m256i, q: usize| {
            let product = _mm256_mul_epi32(acc, load(&self.m[q]));
            let sum = _mm256_add_epi64(product, load(&self.c[q]));
            let shifted = _mm256_srlv_epi64(sum, load(&self.k[q]));
            if NARROW {
                shifted
            } else {
                clip64(shifted, load(&self.k[q]), clip)
            }
        };
        let half = |half: usize| {
            let even = quarter(acc[half], 2 * half);
            let odd = quarter(_mm256_srli_epi64::<32>(acc[half]), 2 * half + 1);
            let merged = _mm256_shuffle_ps::<0b10_00_10_00>(
                _mm256_castsi256_ps(even),
                _mm256_castsi256_ps(odd),
            );
            let merged = _mm256_castps_si256(merged);
            if NARROW {
                _mm256_sub_epi32(merged, load(&self.excess[half]))
            } else {
                merged
            }
        };
        [half(0), half(1)]
    }

    /// Stores the first `n` channels as codes.
    ///
    /// # Safety
    /// `n` bytes are writable at `out`.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) unsafe fn store_codes<const NARROW: bool>(
        &self,
        acc: [__m256i; 2],
        clip: Clip,
        out: *mut u8,
        n: usize,
    ) {
        let [first, second] = self.apply::<NARROW>(acc, clip);
        let codes = clip_to_bytes(_mm256_packs_epi32(first, second), clip);
        let in_order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
        // SAFETY: the caller vouches for `n` bytes.
        unsafe { store_first(_mm_shuffle_epi8(codes, in_order), out, n) };
    }

    /// Stores the first `n` channels as `i32`.
    ///
    /// # Safety
    /// `n` numbers are writable at `out`.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) unsafe fn store_wide<const NARROW: bool>(
        &self,
        acc: [__m256i; 2],
        clip: Clip,
        out: *mut i32,
        n: usize,
    ) {
        let (lo, hi) = (_mm256_set1_epi32(clip.lo), _mm256_set1_epi32(clip.hi));
        let results = self.apply::<NARROW>(acc, clip).map(|merged| {
            let in_order = _mm256_shuffle_epi32::<0b11_01_10_00>(merged);
            _mm256_min_epi32(_mm256_max_epi32(in_order, lo), hi)
        });
        // SAFETY: the caller vouches for `n` numbers.
        unsafe { store_sums(results, out, n) };
    }
}

/// Stores the first `n` of 16 numbers in lane order.
///
/// # Safety
/// `n` numbers are writable at `out`.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn store_sums([first, second]: [__m256i; 2], out: *mut i32, n: usize) {
    let mut numbers = [0i32; 16];
    // SAFETY: the array holds both registers; the caller vouches for `n` numbers at `out`.
    unsafe {
        let halves = numbers.as_mut_ptr().cast::<__m256i>();
        _mm256_storeu_si256(halves, _mm256_permute2x128_si256::<0x20>(first, second));
        _mm256_storeu_si256(
            halves.add(1),
            _mm256_permute2x128_si256::<0x31>(first, second),
        );
        std::ptr::copy_nonoverlapping(numbers.as_ptr(), out, n.min(16));
    }
}

/// 16 numbers of 16 bits, clipped to a range of bytes, in natural order.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn clip_to_bytes(numbers: __m256i, clip: Clip) -> __m128i {
    // Saturation to 16 bits came before: it changes no result, because the clip lies within a byte.
    let above = _mm256_max_epi16(numbers, _mm256_set1_epi16(clip.lo as i16));
    let clipped = _mm256_min_epi16(above, _mm256_set1_epi16(clip.hi as i16));
    let low = _mm256_castsi256_si128(clipped);
    _mm_packus_epi16(low, _mm256_extracti128_si256::<1>(clipped))
}

/// Takes the excess of the shift away and clips, all in 64 bits.
#[target_feature(enable = "avx2")]
#[inline]
fn clip64(shifted: __m256i, k: __m256i, clip: Clip) -> __m256i {
    let excess = _mm256_srlv_epi64(_mm256_set1_epi64x(i64::MIN), k);
    let value = _mm256_sub_epi64(shifted, excess);
    let (lo, hi) = (
        _mm256_set1_epi64x(clip.lo.into()),
        _mm256_set1_epi64x(clip.hi.into()),
    );
    let value = _mm256_blendv_epi8(value, hi, _mm256_cmpgt_epi64(value, hi));
    _mm256_blendv_epi8(value, lo, _mm256_cmpgt_epi64(lo, value))
}

#[target_feature(enable = "avx2")]
#[inline]
fn load<T, const N: usize>(lanes: &[T; N]) -> __m256i {
    const { assert!(size_of::<[T; N]>() == 32) };
    // SAFETY: the array is 32 bytes of integers.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}
