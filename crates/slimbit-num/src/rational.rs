//! Exact rational numbers: what a float *is*, and what products and quotients of floats would be without rounding.

use crate::SolveError;
use crate::int::Int;
use core::cmp::Ordering;
use core::fmt;
use core::ops::{Add, Mul, Neg, Sub};

/// An exact rational number of any size, in lowest terms with a positive denominator.
///
/// ```
/// use slimbit_num::Rational;
/// let tenth = Rational::try_from(0.1f32)?;               // the binary32 value, not the decimal one
/// assert_eq!(tenth, Rational::new(13421773, 134217728)?);
/// assert_eq!(&tenth * &Rational::from(3), Rational::new(40265319, 134217728)?);
/// assert!(Rational::try_from(f64::NAN).is_err());
/// # Ok::<(), slimbit_num::SolveError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rational {
    num: Int,
    den: Int,
}

impl Rational {
    /// `num / den`.
    ///
    /// # Errors
    /// [`SolveError::ZeroDenominator`] when `den` is zero.
    pub fn new(num: i128, den: i128) -> Result<Rational, SolveError> {
        Rational::reduced(&Int::from(num), &Int::from(den))
    }

    /// `1 / self`.
    ///
    /// # Errors
    /// [`SolveError::ZeroDenominator`] when the number is zero.
    pub fn recip(&self) -> Result<Rational, SolveError> {
        Rational::reduced(&self.den, &self.num)
    }

    /// Whether the number is below zero.
    pub fn is_negative(&self) -> bool {
        self.num.is_negative()
    }

    /// Whether the number is zero.
    pub fn is_zero(&self) -> bool {
        self.num.is_zero()
    }

    /// `self · 2^exponent`.
    pub fn scale_by_power_of_two(&self, exponent: i32) -> Rational {
        let shift = exponent.unsigned_abs();
        let (num, den) = if exponent >= 0 {
            (self.num.shl(shift), self.den.clone())
        } else {
            (self.num.clone(), self.den.shl(shift))
        };
        Rational::lowest_terms(&num, &den)
    }

    /// The largest integer not above the number, clamped to the range of an `i128`.
    ///
    /// ```
    /// # use slimbit_num::Rational;
    /// assert_eq!(Rational::new(-7, 2)?.floor(), -4);
    /// # Ok::<(), slimbit_num::SolveError>(())
    /// ```
    pub fn floor(&self) -> i128 {
        self.num.div_rem_floor(&self.den).0.to_i128_saturating()
    }

    /// One half, without a denominator to check.
    pub(crate) fn half() -> Rational {
        Rational {
            num: Int::from(1),
            den: Int::from(2),
        }
    }

    pub(crate) fn num(&self) -> &Int {
        &self.num
    }

    pub(crate) fn den(&self) -> &Int {
        &self.den
    }

    fn reduced(num: &Int, den: &Int) -> Result<Rational, SolveError> {
        if den.is_zero() {
            return Err(SolveError::ZeroDenominator);
        }
        Ok(if den.is_negative() {
            Rational::lowest_terms(&-num, &-den)
        } else {
            Rational::lowest_terms(num, den)
        })
    }

    fn lowest_terms(num: &Int, den: &Int) -> Rational {
        let gcd = num.gcd(den);
        Rational {
            num: num.div_rem_floor(&gcd).0,
            den: den.div_rem_floor(&gcd).0,
        }
    }
}

impl From<i64> for Rational {
    fn from(value: i64) -> Rational {
        Rational {
            num: Int::from(i128::from(value)),
            den: Int::from(1),
        }
    }
}

impl From<i32> for Rational {
    fn from(value: i32) -> Rational {
        Rational::from(i64::from(value))
    }
}

impl TryFrom<f64> for Rational {
    type Error = SolveError;

    /// The exact value of a finite float; [`SolveError::NotFinite`] otherwise.
    fn try_from(value: f64) -> Result<Rational, SolveError> {
        const FRACTION_BITS: u32 = 52;
        const EXPONENT_OF_UNIT_FRACTION: i32 = 1075;
        if !value.is_finite() {
            return Err(SolveError::NotFinite { value });
        }
        let bits = value.to_bits();
        let fraction = bits & ((1 << FRACTION_BITS) - 1);
        let (significand, exponent) = match (bits >> FRACTION_BITS & 0x7ff) as i32 {
            0 => (fraction, 1 - EXPONENT_OF_UNIT_FRACTION),
            biased => (
                fraction | 1 << FRACTION_BITS,
                biased - EXPONENT_OF_UNIT_FRACTION,
            ),
        };
        if significand == 0 {
            return Ok(Rational::from(0));
        }
        let zeros = significand.trailing_zeros();
        let exponent = exponent + zeros as i32;
        let odd = Int::from(i128::from(significand >> zeros));
        let odd = if value.is_sign_negative() { -&odd } else { odd };
        let power = Int::from(1).shl(exponent.unsigned_abs());
        Ok(if exponent >= 0 {
            Rational {
                num: &odd * &power,
                den: Int::from(1),
            }
        } else {
            Rational {
                num: odd,
                den: power,
            }
        })
    }
}

impl TryFrom<f32> for Rational {
    type Error = SolveError;

    /// The exact value of a finite float; [`SolveError::NotFinite`] otherwise.
    fn try_from(value: f32) -> Result<Rational, SolveError> {
        Rational::try_from(f64::from(value))
    }
}

impl Neg for &Rational {
    type Output = Rational;
    fn neg(self) -> Rational {
        Rational {
            num: -&self.num,
            den: self.den.clone(),
        }
    }
}

impl Add for &Rational {
    type Output = Rational;
    fn add(self, other: &Rational) -> Rational {
        let num = &(&self.num * &other.den) + &(&other.num * &self.den);
        Rational::lowest_terms(&num, &(&self.den * &other.den))
    }
}

impl Sub for &Rational {
    type Output = Rational;
    fn sub(self, other: &Rational) -> Rational {
        self + &-other
    }
}

impl Mul for &Rational {
    type Output = Rational;
    fn mul(self, other: &Rational) -> Rational {
        Rational::lowest_terms(&(&self.num * &other.num), &(&self.den * &other.den))
    }
}

impl PartialOrd for Rational {
    fn partial_cmp(&self, other: &Rational) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rational {
    fn cmp(&self, other: &Rational) -> Ordering {
        (&self.num * &other.den).cmp(&(&other.num * &self.den))
    }
}

impl fmt::Display for Rational {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.den == Int::from(1) {
            write!(f, "{}", self.num)
        } else {
            write!(f, "{}/{}", self.num, self.den)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn floats_are_exact() {
        let exact = |x: f64| Rational::try_from(x).unwrap();
        assert_eq!(exact(-0.75), Rational::new(-3, 4).unwrap());
        assert_eq!(exact(1e22), Rational::new(10i128.pow(22), 1).unwrap());
        assert_eq!(exact(-0.0), Rational::from(0));
        let smallest = exact(f64::from_bits(1));
        assert_eq!(smallest.scale_by_power_of_two(1074), Rational::from(1));
        let largest = exact(f64::MAX).scale_by_power_of_two(-971);
        assert_eq!(largest, Rational::from((1i64 << 53) - 1));
        assert!(Rational::try_from(f32::INFINITY).is_err());
    }

    #[test]
    fn field_operations() {
        let q = |n, d| Rational::new(n, d).unwrap();
        assert_eq!(&q(1, 3) + &q(1, 6), q(1, 2));
        assert_eq!(&q(1, 3) - &q(1, 2), q(-1, 6));
        assert_eq!(&q(2, -3) * &q(9, 4), q(-3, 2));
        assert_eq!(q(-2, 3).recip().unwrap(), q(-3, 2));
        assert_eq!(Rational::from(0).recip(), Err(SolveError::ZeroDenominator));
        assert!(q(-1, 2) < q(-1, 3) && q(7, 3) > q(9, 4));
        assert_eq!(q(-7, 21).to_string(), "-1/3");
    }
}
