//! `clip((m·acc + c) >> k)` of 16 channels, in 64 bits.
//!
//! `vpmuldq` multiplies the even lanes; the odd ones take a shift first. If every shift is by 32,
//! the results are the upper halves of the sums, and one shuffle puts both into their lanes: six
//! instructions. Almost all channels can be brought to that form, see [`Form`].

use super::first;
use slimbit_num::{Clip, Requant};
use std::arch::x86_64::*;

/// How the results of a convolution are taken from its 64-bit sums; the cheapest that is exact for
/// all of its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// All shifts are by 32, and saturation to a byte is the clip.
    Upper,
    /// All shifts are by 32 or more: the upper half takes the rest of the shift.
    Shifted,
    /// Any shifts, in 64 bits to the end.
    Full,
}

impl Form {
    /// The form for channels with these ranges of accumulators.
    pub(super) fn of(
        mut channels: impl Iterator<Item = (Requant, (i64, i64))>,
        clip: Clip,
    ) -> Form {
        let widest = channels.try_fold(32, |widest, (requant, range)| {
            Some(lift(requant, range)?.k.max(widest))
        });
        match widest {
            Some(32) if clip == Clip::unsigned(8) => Form::Upper,
            Some(_) => Form::Shifted,
            None => Form::Full,
        }
    }
}

/// The same function on the range with a shift of at least 32; `None` if the sum would leave 64
/// bits or a constant its type. Sums are monotone in the accumulator, so the ends decide.
fn lift(requant: Requant, (lo, hi): (i64, i64)) -> Option<Requant> {
    let k = requant.k.min(63);
    if k >= 32 {
        // Even where sums wrap around: the reference shifts what is left of them.
        return Some(Requant { k, ..requant });
    }
    let missing = 32 - k;
    let m = i64::from(requant.m) << missing;
    let c = i128::from(requant.c) << missing;
    let fits = [lo, hi]
        .iter()
        .all(|&acc| i64::try_from(i128::from(m) * i128::from(acc) + c).is_ok());
    fits.then_some(Requant {
        m: m.try_into().ok()?,
        c: c.try_into().ok()?,
        k: 32,
    })
}

/// The rescaling constants of 16 lanes.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Rescale16 {
    /// Of the even, and of the odd lanes.
    m: [[i64; 8]; 2],
    c: [[i64; 8]; 2],
    /// What is left of the shift after 32, except for [`Form::Full`].
    k: [i32; 16],
}

impl Rescale16 {
    /// The constants of up to 16 lanes, with their ranges of accumulators; absent ones give 0.
    pub(super) fn new(
        form: Form,
        lane: impl Fn(usize) -> Option<(Requant, (i64, i64))>,
    ) -> Rescale16 {
        let constants: [Requant; 16] = std::array::from_fn(|i| match lane(i) {
            None => Requant { m: 0, c: 0, k: 0 },
            Some((requant, _)) if form == Form::Full => Requant {
                k: requant.k.min(63),
                ..requant
            },
            Some((requant, range)) => {
                let lifted = lift(requant, range).expect("no channel asked for the full form");
                Requant {
                    k: lifted.k - 32,
                    ..lifted
                }
            }
        });
        let sides = |f: fn(Requant) -> i64| {
            [0, 1].map(|side| std::array::from_fn(|i| f(constants[2 * i + side])))
        };
        Rescale16 {
            m: sides(|r| r.m.into()),
            c: sides(|r| r.c),
            k: constants.map(|r| r.k.into()),
        }
    }

    /// 16 results, not clipped yet unless `F` is [`FULL`].
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn apply<const F: u8>(&self, acc: __m512i, clip: Clip) -> __m512i {
        let sum = |acc: __m512i, side: usize| {
            let product = _mm512_mul_epi32(acc, load(&self.m[side]));
            _mm512_add_epi64(product, load(&self.c[side]))
        };
        let [even, odd] = [sum(acc, 0), sum(_mm512_srli_epi64::<32>(acc), 1)];
        if F == FULL {
            let k = load(&self.k);
            let k_even = _mm512_and_si512(k, _mm512_set1_epi64(0xff));
            let even = clip64(_mm512_srav_epi64(even, k_even), clip);
            let odd = clip64(_mm512_srav_epi64(odd, _mm512_srli_epi64::<32>(k)), clip);
            return _mm512_mask_shuffle_epi32::<0b10_10_00_00>(even, 0xaaaa, odd);
        }
        let upper = _mm512_mask_shuffle_epi32::<0b11_11_01_01>(odd, 0x5555, even);
        if F == SHIFTED {
            _mm512_srav_epi32(upper, load(&self.k))
        } else {
            upper
        }
    }

    /// Stores the first `n` of 16 results.
    ///
    /// # Safety
    /// The CPU has the level; `n` numbers are writable at `out`.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) unsafe fn store_wide<const F: u8>(
        &self,
        acc: __m512i,
        clip: Clip,
        out: *mut i32,
        n: usize,
    ) {
        let (lo, hi) = (_mm512_set1_epi32(clip.lo), _mm512_set1_epi32(clip.hi));
        let results = _mm512_max_epi32(self.apply::<F>(acc, clip), lo);
        let mask = first(n.min(16)) as __mmask16;
        // SAFETY: the caller vouches for `n` numbers; the mask has no more.
        unsafe { _mm512_mask_storeu_epi32(out, mask, _mm512_min_epi32(results, hi)) };
    }
}

/// [`Form`] as a parameter of functions.
pub(super) const UPPER: u8 = Form::Upper as u8;
pub(super) const SHIFTED: u8 = Form::Shifted as u8;
pub(super) const FULL: u8 = Form::Full as u8;

/// Four times 16 results as bytes. Each 128-bit lane of the result holds four results of that lane
/// of each vector, the first vector's first.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn to_bytes<const F: u8>(results: [__m512i; 4], clip: Clip) -> __m512i {
    // Saturation on the way changes no result, because the clip lies within a byte.
    let [a, b, c, d] = results;
    let bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
    if F == UPPER {
        return bytes;
    }
    let above = _mm512_max_epu8(bytes, _mm512_set1_epi8(clip.lo as i8));
    _mm512_min_epu8(above, _mm512_set1_epi8(clip.hi as i8))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn clip64(value: __m512i, clip: Clip) -> __m512i {
    let above = _mm512_max_epi64(value, _mm512_set1_epi64(clip.lo.into()));
    _mm512_min_epi64(above, _mm512_set1_epi64(clip.hi.into()))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load<T, const N: usize>(lanes: &[T; N]) -> __m512i {
    const { assert!(size_of::<[T; N]>() == 64) };
    // SAFETY: the array is 64 bytes of integers.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTE: Clip = Clip { lo: 0, hi: 255 };

    fn form(requant: Requant, range: (i64, i64), clip: Clip) -> Form {
        Form::of([(requant, range)].into_iter(), clip)
    }

    #[test]
    fn a_form_is_chosen_only_where_it_is_exact() {
        let small = (-1000, 1000);
        let requant = |m, c, k| Requant { m, c, k };
        assert_eq!(form(requant(3, -5, 8), small, BYTE), Form::Upper);
        let clip = Clip { lo: 0, hi: 15 };
        assert_eq!(form(requant(3, -5, 8), small, clip), Form::Shifted);
        assert_eq!(form(requant(3, -5, 33), small, BYTE), Form::Shifted);
        // Sums that wrap around keep their upper half.
        assert_eq!(form(requant(3, i64::MAX, 32), small, BYTE), Form::Upper);
        assert_eq!(form(requant(1 << 30, 0, 31), small, BYTE), Form::Full);
        assert_eq!(form(requant(1 << 29, 0, 31), small, BYTE), Form::Upper);
        assert_eq!(form(requant(1, 1 << 62, 31), small, BYTE), Form::Full);
        let long = (0, i64::from(i32::MAX));
        assert_eq!(form(requant(-1, 0, 1), long, BYTE), Form::Upper);
        let near_the_bound = |c| form(requant(1, c, 2), (-7, 7), BYTE);
        assert_eq!(near_the_bound((1 << 33) - 8), Form::Upper);
        assert_eq!(near_the_bound((1 << 33) - 7), Form::Full);
    }

    #[test]
    fn a_lifted_function_is_the_same() {
        let requant = Requant {
            m: -21,
            c: 900,
            k: 6,
        };
        let lifted = lift(requant, (-500, 500)).unwrap();
        assert_eq!(lifted.k, 32);
        let clip = Clip::signed(8);
        assert!((-500..=500).all(|acc| requant.apply(acc, clip) == lifted.apply(acc, clip)));
    }
}
