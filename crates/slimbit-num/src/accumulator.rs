//! What an accumulator can hold: exact bounds from the weights alone.

use crate::{Clip, Interval};
use core::fmt;

/// A channel whose sum could leave a 32-bit accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccumulatorOverflow {
    /// The interval of the offending sum.
    pub interval: Interval,
    /// Whether it is the kernel's raw sum `Σ w·q`, before the zero point is taken off.
    pub raw: bool,
}

impl fmt::Display for AccumulatorOverflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Interval { lo, hi }, sum) = (self.interval, if self.raw { "raw" } else { "centred" });
        write!(
            f,
            "the {sum} accumulator reaches [{lo}, {hi}], beyond 32 bits; use fewer weight or activation bits"
        )
    }
}

impl core::error::Error for AccumulatorOverflow {}

/// The exact interval of `Σ w·(q − z)` of one output channel over all inputs `q` with codes in `input`.
///
/// Every positive weight takes the code at one end and every negative weight that at the other, so both ends are reached.
/// `weights` are the kernel integers that meet an input: of a padded convolution all of them, the border being filled with `z`.
/// With `zero_point = 0` this is the interval of the kernel's raw sum.
///
/// # Errors
/// [`AccumulatorOverflow`] when the interval exceeds an `i32`, or when the raw sum `Σ w·q` could: any part of it, in any order
/// of summation, so that SIMD lanes are covered as well.
///
/// ```
/// use slimbit_num::{Clip, Interval, accumulator_interval};
/// let interval = accumulator_interval([3, -2, 0, 5], Clip::unsigned(4), 0).unwrap();
/// assert_eq!(interval, Interval { lo: -2 * 15, hi: 8 * 15 });
/// let centred = accumulator_interval([3, -2, 0, 5], Clip::unsigned(4), 7).unwrap();
/// assert_eq!(centred, Interval { lo: -2 * 8 - 8 * 7, hi: 8 * 8 + 2 * 7 });
/// ```
pub fn accumulator_interval(
    weights: impl IntoIterator<Item = i8>,
    input: Clip,
    zero_point: u8,
) -> Result<Interval, AccumulatorOverflow> {
    let mut sums = SignedSums::default();
    for weight in weights {
        let part = if weight > 0 {
            &mut sums.positive
        } else {
            &mut sums.negative
        };
        *part = part.saturating_add(weight.into());
    }
    sums.interval(input, zero_point)
}

/// All that an accumulator's interval depends on: a channel's weights, added up by sign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignedSums {
    /// The sum of the positive weights.
    pub positive: i64,
    /// The sum of the negative weights.
    pub negative: i64,
}

impl SignedSums {
    /// Adds the weights of a channel up, eight at a time: a network is loaded in milliseconds.
    pub fn of(weights: &[i8]) -> Self {
        // Every other byte of eight, as four sums of 16 bits.
        const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
        // 2 · 255 · 128 is the most that such a sum holds.
        const WORDS: usize = 128;
        let pairs = |bytes: u64| (bytes & EVEN).wrapping_add((bytes >> 8) & EVEN);
        let lanes = |sums: u64| -> i64 {
            let lanes = [0, 16, 32, 48].map(|shift| (sums >> shift) as u16);
            lanes.into_iter().map(i64::from).sum()
        };
        let mut sums = Self::default();
        for chunk in weights.chunks(8 * WORDS) {
            let (words, rest) = chunk.as_chunks::<8>();
            let (mut positive, mut total) = (0u64, 0u64);
            for word in words {
                let word = u64::from_le_bytes(word.map(i8::cast_unsigned));
                let signs = (word >> 7) & 0x0101_0101_0101_0101;
                let without_negative = word & !(signs << 8).wrapping_sub(signs);
                let shifted_by_128 = word ^ 0x8080_8080_8080_8080;
                positive = positive.wrapping_add(pairs(without_negative));
                total = total.wrapping_add(pairs(shifted_by_128));
            }
            let (positive, total) = (lanes(positive), lanes(total) - 128 * 8 * words.len() as i64);
            sums.positive += positive;
            sums.negative += total - positive;
            for &weight in rest {
                sums.positive += i64::from(weight.max(0));
                sums.negative += i64::from(weight.min(0));
            }
        }
        sums
    }

    /// The sum of all weights.
    pub fn total(self) -> i64 {
        self.positive + self.negative
    }

    /// As [`accumulator_interval`].
    ///
    /// # Errors
    /// As there.
    pub fn interval(self, input: Clip, zero_point: u8) -> Result<Interval, AccumulatorOverflow> {
        let Self { positive, negative } = self;
        let sum = |lo: i64, hi: i64| {
            let ends = |a: i64, b: i64| {
                positive
                    .saturating_mul(a)
                    .saturating_add(negative.saturating_mul(b))
            };
            Interval {
                lo: ends(lo, hi),
                hi: ends(hi, lo),
            }
        };
        let (lo, hi) = (i64::from(input.lo), i64::from(input.hi));
        let raw = sum(lo.min(0), hi.max(0));
        if !raw.fits_i32() {
            return Err(AccumulatorOverflow {
                interval: raw,
                raw: true,
            });
        }
        let zero_point = i64::from(zero_point);
        let centred = sum(lo - zero_point, hi - zero_point);
        if !centred.fits_i32() {
            return Err(AccumulatorOverflow {
                interval: centred,
                raw: false,
            });
        }
        Ok(centred)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_ends_are_reached(
            weights in proptest::collection::vec(any::<i8>(), 0..5), lo in 0i32..3, len in 0i32..3, z in 0u8..5,
        ) {
            let codes = lo..=lo + len;
            let mut sums: Vec<i64> = Vec::from([0]);
            for &w in &weights {
                let term = |q: i32| i64::from(w) * i64::from(q - i32::from(z));
                sums = sums.iter().flat_map(|s| codes.clone().map(move |q| s + term(q))).collect();
            }
            let clip = Clip { lo, hi: lo + len };
            let signed = SignedSums::of(&weights);
            prop_assert_eq!(signed.total(), weights.iter().map(|&w| i64::from(w)).sum::<i64>());
            prop_assert_eq!(signed.interval(clip, z), accumulator_interval(weights.clone(), clip, z));
            let interval = accumulator_interval(weights, clip, z).unwrap();
            prop_assert_eq!(Some(&interval.lo), sums.iter().min());
            prop_assert_eq!(Some(&interval.hi), sums.iter().max());
        }
    }

    #[test]
    fn sums_by_sign_hold_the_most_extreme_weights() {
        for weight in [-128, -127, -1, 0, 1, 127] {
            for length in [0, 1, 7, 8, 9, 1023, 1024, 1025, 5000] {
                let sums = SignedSums::of(&alloc::vec![weight; length]);
                let total = i64::from(weight) * length as i64;
                assert_eq!((sums.positive, sums.negative), (total.max(0), total.min(0)));
            }
        }
    }

    #[test]
    fn the_largest_reduction_that_fits() {
        // 255 · 127 · 66,311 is the last multiple below 2^31.
        let fits = |n| accumulator_interval(core::iter::repeat_n(127, n), Clip::unsigned(8), 0);
        assert_eq!(fits(66_311).unwrap().hi, 2_147_481_735);
        assert!(fits(66_312).unwrap_err().raw);
        // The zero point makes the centred sum reach further than the raw one.
        let signs = || [127, -127].into_iter().cycle().take(100_000);
        assert!(accumulator_interval(signs(), Clip::unsigned(8), 0).is_ok());
        assert!(
            accumulator_interval(core::iter::repeat_n(-128, 66_000), Clip::unsigned(8), 255)
                .is_err()
        );
    }
}
