//! Signed integers of any size: just enough to keep every float, however large or tiny, exact.
//!
//! The solvers run in `i128`; this type carries what does not fit (a subnormal scale needs 1,074 fractional bits) and is
//! therefore written for brevity, not speed.

use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;
use core::ops::{Add, Mul, Neg, Sub};

/// Sign and magnitude; little-endian limbs without leading zeros, and zero is never negative.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Int {
    negative: bool,
    limbs: Vec<u64>,
}

impl Int {
    fn new(negative: bool, mut limbs: Vec<u64>) -> Self {
        while limbs.last() == Some(&0) {
            limbs.pop();
        }
        Int {
            negative: negative && !limbs.is_empty(),
            limbs,
        }
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.limbs.is_empty()
    }

    pub(crate) fn is_negative(&self) -> bool {
        self.negative
    }

    pub(crate) fn abs(&self) -> Int {
        Int {
            negative: false,
            limbs: self.limbs.clone(),
        }
    }

    /// `self · 2^shift`.
    pub(crate) fn shl(&self, shift: u32) -> Int {
        let mut limbs = vec![0; (shift / 64) as usize];
        let shift = shift % 64;
        let mut carry = 0;
        for &limb in &self.limbs {
            limbs.push(limb << shift | carry);
            carry = if shift == 0 { 0 } else { limb >> (64 - shift) };
        }
        limbs.push(carry);
        Int::new(self.negative, limbs)
    }

    pub(crate) fn to_i128(&self) -> Option<i128> {
        let magnitude = self.magnitude_u128()?;
        if self.negative {
            0i128.checked_sub_unsigned(magnitude)
        } else {
            i128::try_from(magnitude).ok()
        }
    }

    /// The nearest `i128`.
    pub(crate) fn to_i128_saturating(&self) -> i128 {
        let bound = if self.negative { i128::MIN } else { i128::MAX };
        self.to_i128().unwrap_or(bound)
    }

    /// Quotient rounded towards minus infinity, and the remainder in `[0, divisor)`; the divisor must be positive.
    pub(crate) fn div_rem_floor(&self, divisor: &Int) -> (Int, Int) {
        debug_assert!(!divisor.negative && !divisor.is_zero());
        let (quotient, remainder) = self.abs().div_rem_magnitude(divisor);
        match (self.negative, remainder.is_zero()) {
            (false, _) => (quotient, remainder),
            (true, true) => (-&quotient, remainder),
            (true, false) => (-&(&quotient + &Int::from(1)), divisor - &remainder),
        }
    }

    pub(crate) fn gcd(&self, other: &Int) -> Int {
        let (mut a, mut b) = (self.abs(), other.abs());
        while !b.is_zero() {
            let remainder = a.div_rem_magnitude(&b).1;
            a = core::mem::replace(&mut b, remainder);
        }
        a
    }

    fn magnitude_u128(&self) -> Option<u128> {
        match *self.limbs {
            [] => Some(0),
            [low] => Some(u128::from(low)),
            [low, high] => Some(u128::from(high) << 64 | u128::from(low)),
            _ => None,
        }
    }

    fn from_magnitude(magnitude: u128) -> Int {
        Int::new(false, vec![magnitude as u64, (magnitude >> 64) as u64])
    }

    fn div_rem_magnitude(&self, divisor: &Int) -> (Int, Int) {
        if let (Some(n), Some(d)) = (self.magnitude_u128(), divisor.magnitude_u128()) {
            return (Int::from_magnitude(n / d), Int::from_magnitude(n % d));
        }
        let mut quotient = vec![0u64; self.limbs.len()];
        let mut remainder = Int::from(0);
        for (index, &limb) in self.limbs.iter().enumerate().rev() {
            for bit in (0..64).rev() {
                remainder = remainder.shl(1);
                if limb >> bit & 1 == 1 {
                    remainder = &remainder + &Int::from(1);
                }
                if remainder.cmp_magnitude(divisor).is_ge() {
                    remainder = &remainder - divisor;
                    quotient[index] |= 1 << bit;
                }
            }
        }
        (Int::new(false, quotient), remainder)
    }

    fn cmp_magnitude(&self, other: &Int) -> Ordering {
        let by_length = self.limbs.len().cmp(&other.limbs.len());
        by_length.then_with(|| self.limbs.iter().rev().cmp(other.limbs.iter().rev()))
    }

    fn add_magnitude(&self, other: &Int) -> Vec<u64> {
        let (long, short) = if self.limbs.len() >= other.limbs.len() {
            (&self.limbs, &other.limbs)
        } else {
            (&other.limbs, &self.limbs)
        };
        let mut sum = Vec::with_capacity(long.len() + 1);
        let mut carry = 0u128;
        for (index, &limb) in long.iter().enumerate() {
            let other = short.get(index).copied().unwrap_or(0);
            carry += u128::from(limb) + u128::from(other);
            sum.push(carry as u64);
            carry >>= 64;
        }
        sum.push(carry as u64);
        sum
    }

    /// `|self| - |other|`, for `|self| >= |other|`.
    fn sub_magnitude(&self, other: &Int) -> Vec<u64> {
        let mut borrow = false;
        let difference = |(index, &limb): (usize, &u64)| {
            let other = other.limbs.get(index).copied().unwrap_or(0);
            let (partial, first) = limb.overflowing_sub(other);
            let (limb, second) = partial.overflowing_sub(u64::from(borrow));
            borrow = first || second;
            limb
        };
        self.limbs.iter().enumerate().map(difference).collect()
    }
}

impl From<i128> for Int {
    fn from(value: i128) -> Int {
        let magnitude = Int::from_magnitude(value.unsigned_abs());
        if value < 0 { -&magnitude } else { magnitude }
    }
}

impl Neg for &Int {
    type Output = Int;
    fn neg(self) -> Int {
        Int::new(!self.negative, self.limbs.clone())
    }
}

impl Add for &Int {
    type Output = Int;
    fn add(self, other: &Int) -> Int {
        if self.negative == other.negative {
            Int::new(self.negative, self.add_magnitude(other))
        } else if self.cmp_magnitude(other).is_ge() {
            Int::new(self.negative, self.sub_magnitude(other))
        } else {
            Int::new(other.negative, other.sub_magnitude(self))
        }
    }
}

impl Sub for &Int {
    type Output = Int;
    fn sub(self, other: &Int) -> Int {
        self + &-other
    }
}

impl Mul for &Int {
    type Output = Int;
    fn mul(self, other: &Int) -> Int {
        let mut product = vec![0u64; self.limbs.len() + other.limbs.len()];
        for (i, &a) in self.limbs.iter().enumerate() {
            let mut carry = 0u128;
            for (j, &b) in other.limbs.iter().enumerate() {
                carry += u128::from(a) * u128::from(b) + u128::from(product[i + j]);
                product[i + j] = carry as u64;
                carry >>= 64;
            }
            product[i + other.limbs.len()] = carry as u64;
        }
        Int::new(self.negative != other.negative, product)
    }
}

impl PartialOrd for Int {
    fn partial_cmp(&self, other: &Int) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Int {
    fn cmp(&self, other: &Int) -> Ordering {
        match (self.negative, other.negative) {
            (false, false) => self.cmp_magnitude(other),
            (true, true) => other.cmp_magnitude(self),
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
        }
    }
}

impl fmt::Display for Int {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: u64 = 1_000_000_000_000_000_000;
        let radix = Int::from(i128::from(DIGITS));
        let mut groups = Vec::new();
        let mut rest = self.abs();
        while !rest.is_zero() {
            let (quotient, group) = rest.div_rem_magnitude(&radix);
            groups.push(group.limbs.first().copied().unwrap_or(0));
            rest = quotient;
        }
        let mut text = alloc::format!("{}", groups.pop().unwrap_or(0));
        for group in groups.iter().rev() {
            text += &alloc::format!("{group:018}");
        }
        f.pad_integral(!self.negative, "", &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    fn int(value: i128) -> Int {
        Int::from(value)
    }

    proptest! {
        #[test]
        fn agrees_with_i128(a in any::<i64>(), b in any::<i64>(), shift in 0u32..60) {
            let (x, y) = (i128::from(a), i128::from(b));
            prop_assert_eq!(&int(x) + &int(y), int(x + y));
            prop_assert_eq!(&int(x) - &int(y), int(x - y));
            prop_assert_eq!(&int(x) * &int(y), int(x * y));
            prop_assert_eq!(int(x).shl(shift), int(x << shift));
            prop_assert_eq!(int(x).cmp(&int(y)), x.cmp(&y));
            prop_assert_eq!(int(x).to_string(), x.to_string());
            prop_assert_eq!(int(x).to_i128(), Some(x));
        }

        #[test]
        fn long_division_inverts_multiplication(
            a in any::<i128>(), b in any::<i128>(), d in 1..i128::MAX, r in any::<i128>(), shift in 0u32..300,
        ) {
            let quotient = &int(a).shl(shift) * &int(b);
            let divisor = int(d).shl(shift / 2);
            let remainder = int(r.rem_euclid(d));
            let (q, rest) = (&(&quotient * &divisor) + &remainder).div_rem_floor(&divisor);
            prop_assert_eq!(q, quotient);
            prop_assert_eq!(rest, remainder);
        }

        #[test]
        fn gcd_divides_both(a in 1..i128::MAX, b in 1..i128::MAX, c in 1..i128::MAX) {
            let (x, y) = (&int(a) * &int(c), &int(b) * &int(c));
            let gcd = x.gcd(&y);
            prop_assert!(x.div_rem_floor(&gcd).1.is_zero() && y.div_rem_floor(&gcd).1.is_zero());
            prop_assert!(gcd.div_rem_floor(&int(c)).1.is_zero());
        }
    }

    #[test]
    fn edges_of_i128() {
        assert_eq!(int(i128::MIN).to_i128(), Some(i128::MIN));
        assert_eq!((&int(i128::MIN) - &int(1)).to_i128(), None);
        assert_eq!((&int(i128::MIN) - &int(1)).to_i128_saturating(), i128::MIN);
        assert_eq!((&int(i128::MAX) + &int(1)).to_i128_saturating(), i128::MAX);
        assert_eq!(int(1).shl(200).to_string().len(), 61);
    }
}
