//! The fixed-point form of an affine map, and the proof that both agree.

use crate::staircase::Staircase;
use crate::{Affine, Clip, Interval, Rounding};
use core::fmt;

/// `y = clip((m·x + c) >> k)`: one multiply, one add, one arithmetic shift, in 64 bits.
///
/// ```
/// use slimbit_num::{Clip, Requant};
/// let third = Requant { m: 85, c: 42, k: 8 };            // floor(x / 3) on [-128, 127]
/// assert!((-128..128).all(|x: i32| third.apply(x, Clip::signed(8)) == x.div_euclid(3)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Requant {
    /// The multiplier.
    pub m: i32,
    /// The constant: bias, batch-norm shift, zero points and the half of the rounding, in units of `2^-k`.
    pub c: i64,
    /// The shift, at most 62 from the solvers.
    pub k: u8,
}

impl Requant {
    /// `clip((m·x + c) >> k)`. The shift is arithmetic: it rounds towards minus infinity.
    ///
    /// [`prove`] guarantees for its domain that the sum does not overflow; outside of it the sum wraps.
    #[inline]
    pub fn apply(self, x: i32, clip: Clip) -> i32 {
        let sum = (i64::from(self.m) * i64::from(x)).wrapping_add(self.c);
        clip.apply(sum >> self.k.min(63))
    }

    /// The same function with a larger shift, so that all channels of a layer can share one (Theorem 5 of the specification).
    ///
    /// `None` when `k` is smaller than the present shift, above 62, or when `m` or `c` would overflow.
    pub fn with_shift(self, k: u8) -> Option<Requant> {
        let factor = 1i64 << k.checked_sub(self.k).filter(|_| k <= 62)?;
        let m = i64::from(self.m).checked_mul(factor)?;
        Some(Requant {
            m: i32::try_from(m).ok()?,
            c: self.c.checked_mul(factor)?,
            k,
        })
    }

    /// The function of `x + offset` that equals this function of `x`: folds the input's zero point into the constant.
    ///
    /// A kernel that accumulates `Σ w·q` instead of `Σ w·(q − z)` sees every value increased by `offset = z·Σw`. The sum
    /// `m·x + c` is the same number as before, so a proof of the original holds for the result. `None` on overflow.
    pub fn with_input_offset(self, offset: i64) -> Option<Requant> {
        let c = self.c.checked_sub(i64::from(self.m).checked_mul(offset)?)?;
        Some(Requant { c, ..self })
    }
}

/// An accumulator value that refutes a fixed-point form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Counterexample {
    /// The two functions differ.
    Differs {
        /// The accumulator value.
        x: i64,
        /// The code of the exact function.
        expected: i32,
        /// The code of the fixed-point form.
        found: i32,
    },
    /// `m·x + c` leaves 64 bits, or the shift is not below 64.
    Overflow {
        /// The accumulator value.
        x: i64,
    },
    /// The domain contains a value that is not an `i32`.
    NotAnI32 {
        /// The accumulator value.
        x: i64,
    },
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Counterexample::Differs { x, expected, found } => {
                write!(
                    f,
                    "accumulator {x} gives code {found} instead of {expected}"
                )
            }
            Counterexample::Overflow { x } => {
                write!(f, "accumulator {x} overflows the 64-bit rescaling")
            }
            Counterexample::NotAnI32 { x } => write!(f, "accumulator {x} does not fit 32 bits"),
        }
    }
}

impl core::error::Error for Counterexample {}

/// Proves that `requant` equals `affine` for **every** integer of the domain, and that nothing overflows on it.
///
/// Both functions are monotone. So they are equal on a run of the exact function as soon as they are equal at its two ends;
/// the cost is that of two evaluations per output code, however wide the domain. An empty domain is proven trivially.
///
/// # Errors
/// One accumulator value where the forms differ or overflow.
///
/// ```
/// use slimbit_num::{Affine, Clip, Counterexample, Interval, Rational, Requant, prove};
/// let truth = Affine { a: Rational::new(1, 10)?, b: Rational::from(0) };
/// let domain = Interval { lo: 0, hi: 255 };
/// prove(&truth, domain, Clip::unsigned(8), Requant { m: 51, c: 307, k: 9 }).unwrap();
/// let refuted = prove(&truth, domain, Clip::unsigned(8), Requant { m: 51, c: 306, k: 9 });
/// assert_eq!(refuted, Err(Counterexample::Differs { x: 255, expected: 26, found: 25 }));
/// # Ok::<(), slimbit_num::SolveError>(())
/// ```
pub fn prove(
    affine: &Affine,
    domain: Interval,
    clip: Clip,
    requant: Requant,
) -> Result<(), Counterexample> {
    prove_with(affine, domain, clip, requant, Rounding::HalfUp)
}

/// As [`prove`] with another rounding rule of the exact function.
///
/// # Errors
/// As [`prove`].
pub fn prove_with(
    affine: &Affine,
    domain: Interval,
    clip: Clip,
    requant: Requant,
    rounding: Rounding,
) -> Result<(), Counterexample> {
    if domain.lo > domain.hi {
        return Ok(());
    }
    for x in [domain.lo, domain.hi] {
        if !Interval::I32.contains(x) {
            return Err(Counterexample::NotAnI32 { x });
        }
        let sum = i128::from(requant.m) * i128::from(x) + i128::from(requant.c);
        if i64::try_from(sum).is_err() || requant.k > 63 {
            return Err(Counterexample::Overflow { x });
        }
    }
    let stairs = Staircase::new(affine, rounding);
    let (stairs, domain, sign) = if stairs.is_decreasing() {
        (stairs.mirrored(), domain.mirrored(), -1)
    } else {
        (stairs, domain, 1)
    };
    for run in stairs.runs(domain, clip) {
        for x in [sign * run.first, sign * run.last] {
            let found = requant.apply(x as i32, clip);
            if found != run.value {
                return Err(Counterexample::Differs {
                    x,
                    expected: run.value,
                    found,
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rational;

    fn identity() -> Affine {
        Affine {
            a: Rational::from(1),
            b: Rational::from(0),
        }
    }

    #[test]
    fn overflow_and_width_are_part_of_the_proof() {
        let clip = Clip::unsigned(1);
        let far = Affine {
            a: Rational::from(1),
            b: Rational::from(i64::MAX),
        };
        let requant = Requant {
            m: 1,
            c: i64::MAX,
            k: 0,
        };
        let domain = Interval { lo: 0, hi: 1 };
        assert_eq!(
            prove(&far, domain, clip, requant),
            Err(Counterexample::Overflow { x: 1 })
        );
        let domain = Interval { lo: 0, hi: 1 << 31 };
        let requant = Requant { m: 1, c: 0, k: 0 };
        assert_eq!(
            prove(&identity(), domain, clip, requant),
            Err(Counterexample::NotAnI32 { x: 1 << 31 })
        );
        let domain = Interval { lo: 0, hi: 1 };
        let requant = Requant { m: 0, c: 0, k: 64 };
        assert_eq!(
            prove(&identity(), domain, clip, requant),
            Err(Counterexample::Overflow { x: 0 })
        );
    }

    #[test]
    fn a_larger_shift_is_the_same_function() {
        let requant = Requant {
            m: -21,
            c: 36,
            k: 6,
        };
        let wider = requant.with_shift(20).unwrap();
        let clip = Clip::signed(8);
        assert!((-999..999).all(|x| requant.apply(x, clip) == wider.apply(x, clip)));
        assert_eq!(requant.with_shift(5), None);
        assert_eq!(
            requant.with_shift(40),
            None,
            "the multiplier would need more than 31 bits"
        );
        assert_eq!(requant.with_shift(63), None);
    }

    #[test]
    fn an_input_offset_folds_into_the_constant() {
        let requant = Requant {
            m: 819,
            c: 4505,
            k: 13,
        };
        let raw = requant.with_input_offset(-1234).unwrap();
        let clip = Clip::unsigned(8);
        assert!((-2048..2048).all(|x| requant.apply(x, clip) == raw.apply(x - 1234, clip)));
        assert_eq!(
            Requant { m: 2, c: 0, k: 0 }.with_input_offset(i64::MAX),
            None
        );
    }
}
