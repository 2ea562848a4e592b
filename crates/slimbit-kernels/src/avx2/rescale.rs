//! `clip((m·acc + c) >> k)` of 16 channels, in 64 bits.

use super::store_first;
use crate::conv::ConvWeights;
use slimbit_num::{Clip, Requant};
use std::arch::x86_64::*;

/// The cheapest form that is exact for some channels; later ones are exact where earlier ones are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Exactness {
    /// [`Upper`].
    Upper,
    /// [`Shifted`].
    Shifted,
    /// [`Full`].
    Full,
}

impl Exactness {
    /// Of a channel whose accumulators lie in `[lo, hi]`: with a shift of at least 32, `m·acc + c`
    /// must not wrap. It is monotone in the accumulator, so the ends decide.
    pub(super) fn of(requant: Requant, (lo, hi): (i64, i64)) -> Exactness {
        let fits = |Requant { m, c, .. }: &Requant| {
            [lo, hi]
                .into_iter()
                .all(|acc| i64::try_from(i128::from(*m) * i128::from(acc) + i128::from(*c)).is_ok())
        };
        match raised(requant).filter(fits) {
            Some(Requant { k: 32, .. }) => Exactness::Upper,
            Some(_) => Exactness::Shifted,
            None => Exactness::Full,
        }
    }

    /// Of all channels of a convolution.
    pub(super) fn of_all(packable: &ConvWeights<'_>) -> Exactness {
        let channels = packable.requant.iter().enumerate();
        channels
            .map(|(o, &requant)| Exactness::of(requant, packable.accumulator(o)))
            .max()
            .unwrap_or(Exactness::Upper)
    }
}

/// The rescaling constants of 16 channels.
#[derive(Clone)]
#[repr(C, align(32))]
pub(super) struct Rescale16 {
    /// By quarters: even and odd lanes of the first accumulator, even and odd lanes of the second.
    m: [[i64; 4]; 4],
    c: [[i64; 4]; 4],
    k: [[i64; 4]; 4],
    /// What the [`Shifted`] form still has to shift by, in lane order.
    shift: [[i32; 8]; 2],
}

impl Rescale16 {
    /// The constants of each lane, for a form that is exact for all of them.
    pub(super) fn new(lanes: [Requant; 16], form: Exactness) -> Rescale16 {
        let lane = |lane: usize| match raised(lanes[lane]) {
            Some(raised) if form != Exactness::Full => raised,
            _ => lanes[lane],
        };
        let by_quarters = |f: fn(Requant) -> i64| {
            std::array::from_fn(|q| std::array::from_fn(|i| f(lane(8 * (q / 2) + 2 * i + q % 2))))
        };
        Rescale16 {
            m: by_quarters(|r| r.m.into()),
            c: by_quarters(|r| r.c),
            k: by_quarters(|r| r.k.min(63).into()),
            shift: std::array::from_fn(|half| {
                std::array::from_fn(|i| i32::from(lane(8 * half + i).k.min(63)) - 32)
            }),
        }
    }

    /// The 64-bit sums `m·acc + c` of an accumulator: of its even and of its odd lanes.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn sums(&self, half: usize, acc: __m256i) -> [__m256i; 2] {
        // `vpmuldq` reads the even lanes alone.
        let odd = _mm256_shuffle_epi32::<0b11_11_01_01>(acc);
        [
            _mm256_add_epi64(
                _mm256_mul_epi32(acc, load(&self.m[2 * half])),
                load(&self.c[2 * half]),
            ),
            _mm256_add_epi64(
                _mm256_mul_epi32(odd, load(&self.m[2 * half + 1])),
                load(&self.c[2 * half + 1]),
            ),
        ]
    }

    /// Results of both accumulators, in lane order.
    ///
    /// # Safety
    /// As [`Form::apply`].
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) unsafe fn apply<F: Form>(&self, acc: [__m256i; 2], clip: Clip) -> [__m256i; 2] {
        // SAFETY: passed on from the caller.
        unsafe {
            [
                F::apply(self, 0, acc[0], clip),
                F::apply(self, 1, acc[1], clip),
            ]
        }
    }

    /// Results saturated to 16 bits, as `vpackssdw` orders the lanes.
    ///
    /// # Safety
    /// As [`Form::apply`].
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) unsafe fn words<F: Form>(&self, acc: [__m256i; 2], clip: Clip) -> __m256i {
        // SAFETY: passed on from the caller.
        let [first, second] = unsafe { self.apply::<F>(acc, clip) };
        _mm256_packs_epi32(first, second)
    }
}

/// What results are stored as.
pub(super) trait Element: Copy {
    /// Stores the first `n` of 16 channels of `R` pixels, from accumulators in lane order.
    ///
    /// # Safety
    /// The CPU has AVX2; `n` elements are writable at each of `out`; the constants were made for
    /// the form.
    unsafe fn store<F: Form, const R: usize>(
        rescale: &Rescale16,
        acc: &[[__m256i; 2]; R],
        clip: Clip,
        out: [*mut Self; R],
        n: usize,
    );
}

impl Element for u8 {
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn store<F: Form, const R: usize>(
        rescale: &Rescale16,
        acc: &[[__m256i; 2]; R],
        clip: Clip,
        out: [*mut u8; R],
        n: usize,
    ) {
        let mut pixel = 0;
        // SAFETY: passed on from the caller.
        unsafe {
            while pixel + 2 <= R {
                let first = rescale.words::<F>(acc[pixel], clip);
                let second = rescale.words::<F>(acc[pixel + 1], clip);
                let codes = clip_to_bytes(first, second, clip);
                store_first(_mm256_castsi256_si128(codes), out[pixel], n);
                store_first(_mm256_extracti128_si256::<1>(codes), out[pixel + 1], n);
                pixel += 2;
            }
            if pixel < R {
                let codes = rescale.words::<F>(acc[pixel], clip);
                let codes = clip_to_bytes(codes, codes, clip);
                store_first(_mm256_castsi256_si128(codes), out[pixel], n);
            }
        }
    }
}

impl Element for i32 {
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn store<F: Form, const R: usize>(
        rescale: &Rescale16,
        acc: &[[__m256i; 2]; R],
        clip: Clip,
        out: [*mut i32; R],
        n: usize,
    ) {
        let (lo, hi) = (_mm256_set1_epi32(clip.lo), _mm256_set1_epi32(clip.hi));
        let clipped = |result| _mm256_min_epi32(_mm256_max_epi32(result, lo), hi);
        for pixel in 0..R {
            // SAFETY: passed on from the caller.
            unsafe {
                let [first, second] = rescale.apply::<F>(acc[pixel], clip);
                store_sums([clipped(first), clipped(second)], out[pixel], n);
            }
        }
    }
}

/// The same function with a shift of at least 32, if it can be had.
fn raised(requant: Requant) -> Option<Requant> {
    requant.with_shift(requant.k.max(32))
}

/// How `(m·acc + c) >> k` of one accumulator is computed, exactly.
pub(super) trait Form {
    /// Results in the lanes of the accumulator, not yet clipped; those of [`Full`] are.
    ///
    /// # Safety
    /// The CPU has AVX2; the constants were made for this form.
    unsafe fn apply(constants: &Rescale16, half: usize, acc: __m256i, clip: Clip) -> __m256i;
}

/// With a shift of 32: the upper halves of the sums.
pub(super) struct Upper;

impl Form for Upper {
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn apply(constants: &Rescale16, half: usize, acc: __m256i, _: Clip) -> __m256i {
        let [even, odd] = constants.sums(half, acc);
        let even = _mm256_shuffle_epi32::<0b11_11_01_01>(even);
        _mm256_blend_epi32::<0b1010_1010>(even, odd)
    }
}

/// With a shift of at least 32: the upper halves of the sums, shifted by the rest.
pub(super) struct Shifted;

impl Form for Shifted {
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn apply(constants: &Rescale16, half: usize, acc: __m256i, clip: Clip) -> __m256i {
        // SAFETY: the forms differ in the shift alone.
        let upper = unsafe { Upper::apply(constants, half, acc, clip) };
        _mm256_srav_epi32(upper, load(&constants.shift[half]))
    }
}

/// Any constants: clipped in 64 bits.
pub(super) struct Full;

impl Form for Full {
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn apply(constants: &Rescale16, half: usize, acc: __m256i, clip: Clip) -> __m256i {
        let [even, odd] = constants.sums(half, acc);
        let even = shift_and_clip(even, load(&constants.k[2 * half]), clip);
        let odd = shift_and_clip(odd, load(&constants.k[2 * half + 1]), clip);
        _mm256_blend_epi32::<0b1010_1010>(even, _mm256_slli_epi64::<32>(odd))
    }
}

/// `clip(sum >> k)` in 64 bits.
///
/// AVX2 has no arithmetic 64-bit shift. `sum + 2⁶³` read as unsigned, shifted, is `floor(sum / 2ᵏ) +
/// 2⁶³⁻ᵏ` for every `k ≤ 63`: a logical shift, and a constant to take away again.
#[target_feature(enable = "avx2")]
#[inline]
fn shift_and_clip(sum: __m256i, k: __m256i, clip: Clip) -> __m256i {
    let top = _mm256_set1_epi64x(i64::MIN);
    let shifted = _mm256_srlv_epi64(_mm256_xor_si256(sum, top), k);
    let value = _mm256_sub_epi64(shifted, _mm256_srlv_epi64(top, k));
    let (lo, hi) = (
        _mm256_set1_epi64x(clip.lo.into()),
        _mm256_set1_epi64x(clip.hi.into()),
    );
    let value = _mm256_blendv_epi8(value, hi, _mm256_cmpgt_epi64(value, hi));
    _mm256_blendv_epi8(value, lo, _mm256_cmpgt_epi64(lo, value))
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

/// Twice 16 numbers of 16 bits, clipped to a range of bytes, one after the other.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn clip_to_bytes(first: __m256i, second: __m256i, clip: Clip) -> __m256i {
    _mm256_permute4x64_epi64::<0b11_01_10_00>(clip_words(first, second, clip))
}

/// Twice 16 numbers of 16 bits, clipped to a range of bytes, as `vpackuswb` orders them.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) fn clip_words(first: __m256i, second: __m256i, clip: Clip) -> __m256i {
    // Saturation, to 16 bits before and to bytes here, changes no result: the clip lies within a
    // byte.
    let codes = _mm256_packus_epi16(first, second);
    let above = _mm256_max_epu8(codes, _mm256_set1_epi8(clip.lo as i8));
    _mm256_min_epu8(above, _mm256_set1_epi8(clip.hi as i8))
}

#[target_feature(enable = "avx2")]
#[inline]
fn load<T, const N: usize>(lanes: &[T; N]) -> __m256i {
    const { assert!(size_of::<[T; N]>() == 32) };
    // SAFETY: the array is 32 bytes of integers.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}
