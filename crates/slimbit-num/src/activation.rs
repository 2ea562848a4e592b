//! Activations: unsigned codes in a byte, one scale and one zero point per tensor.

use crate::Clip;
use crate::round::ties_even;

/// The least scale: a tensor that is zero everywhere still has one.
const MIN_SCALE: f32 = 1e-12;

/// An affine quantiser: `x ≈ scale · (q − zero_point)` with `q` in `0 ..= 2^bits − 1`.
///
/// ```
/// use slimbit_num::ActQuant;
/// let quant = ActQuant::from_range(-0.5, 7.0, 4);
/// assert_eq!(quant, ActQuant { scale: 0.5, zero_point: 1, bits: 4 });
/// assert_eq!([0.0, 0.6, 9.0, -0.5].map(|x| quant.quantise(x)), [1, 2, 15, 0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActQuant {
    /// The real value of one step; positive.
    pub scale: f32,
    /// The code of zero.
    pub zero_point: u8,
    /// Bits of a code, `1..=8`.
    pub bits: u8,
}

impl ActQuant {
    /// The quantiser of an observed range, widened to contain zero: `s = (max − min)/(2^b − 1)`, `z = −round(min/s)` with ties
    /// to even, in `f32`.
    ///
    /// Not-a-number counts as zero, and infinities as half the largest float.
    ///
    /// # Panics
    /// When `bits` is not within `1..=8`.
    pub fn from_range(min: f32, max: f32, bits: u8) -> ActQuant {
        assert!(
            (1..=8).contains(&bits),
            "activations have 1 to 8 bits, not {bits}"
        );
        let levels = ((1u32 << bits) - 1) as f32;
        let finite = |end: f32| {
            if end.is_nan() {
                0.0
            } else {
                end.clamp(f32::MIN / 2.0, f32::MAX / 2.0)
            }
        };
        let (min, max) = (finite(min).min(0.0), finite(max).max(0.0));
        let scale = ((max - min) / levels).max(MIN_SCALE);
        let zero_point = ties_even(-min / scale).clamp(0, levels as i32) as u8;
        ActQuant {
            scale,
            zero_point,
            bits,
        }
    }

    /// `clamp(round(x/s) + z)`, ties to even, the quotient in `f32`. Not-a-number gives the code of zero.
    #[inline]
    pub fn quantise(self, x: f32) -> u8 {
        let code = ties_even(x / self.scale).saturating_add(self.zero_point.into());
        self.clip().apply(code.into()) as u8
    }

    /// `s·(q − z)`.
    #[inline]
    pub fn dequantise(self, q: u8) -> f32 {
        (f32::from(q) - f32::from(self.zero_point)) * self.scale
    }

    /// The range of the codes; never beyond a byte, whatever `bits` says.
    pub fn clip(self) -> Clip {
        Clip::unsigned(self.bits.min(8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_code_survives_a_round_trip(min in -9f32..9.0, max in -9f32..9.0, bits in 1u8..=8) {
            let quant = ActQuant::from_range(min, max, bits);
            for q in 0..=quant.clip().hi as u8 {
                prop_assert_eq!(quant.quantise(quant.dequantise(q)), q);
            }
            prop_assert_eq!(quant.quantise(0.0), quant.zero_point);
        }
    }

    #[test]
    fn degenerate_ranges() {
        let dead = ActQuant::from_range(0.0, 0.0, 8);
        assert_eq!((dead.zero_point, dead.quantise(0.0)), (0, 0));
        assert!(dead.scale > 0.0);
        assert_eq!(
            ActQuant::from_range(0.5, 1.0, 8),
            ActQuant::from_range(0.0, 1.0, 8)
        );
        assert_eq!(ActQuant::from_range(-1.0, -0.5, 8).zero_point, 255);
        assert_eq!(
            ActQuant::from_range(f32::NAN, 1.0, 8),
            ActQuant::from_range(0.0, 1.0, 8)
        );
        let infinite = ActQuant::from_range(f32::NEG_INFINITY, f32::INFINITY, 8);
        assert!(infinite.scale.is_finite());
        assert_eq!(
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(|x| infinite.quantise(x)),
            [128, 255, 0]
        );
    }
}
