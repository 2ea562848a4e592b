//! Float rounding, which `core` does not have. Exact for every input; not-a-number becomes zero, infinities saturate.

/// To nearest, ties to even.
pub(crate) fn ties_even(value: f32) -> i32 {
    // From 2^23 on every f32 is an integer. Below it, adding 2^23 leaves no fraction bit, so that the addition itself
    // rounds, and IEEE 754 rounds ties to even.
    const INTEGERS_ONLY: f32 = (1 << 23) as f32;
    if value.abs() >= INTEGERS_ONLY {
        return value as i32;
    }
    ((value.abs() + INTEGERS_ONLY) - INTEGERS_ONLY).copysign(value) as i32
}

/// To nearest, ties up: `floor(value + 1/2)` as a real number. (In floats that sum would take 0.49999999999999994 to 1.)
pub(crate) fn half_up(value: f64) -> i64 {
    const INTEGERS_ONLY: f64 = (1i64 << 52) as f64;
    if value.is_nan() || value.abs() >= INTEGERS_ONLY {
        return value as i64;
    }
    let truncated = value as i64;
    let floor = if truncated as f64 > value {
        truncated - 1
    } else {
        truncated
    };
    if value - floor as f64 >= 0.5 {
        floor.saturating_add(1)
    } else {
        floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rational;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ties_even_equals_the_standard_library(value: f32, small in -1000f32..1000.0, half in -999i32..999) {
            for x in [value, small, half as f32 / 2.0] {
                prop_assert_eq!(ties_even(x), std::primitive::f32::round_ties_even(x) as i32);
            }
        }

        #[test]
        fn half_up_equals_the_rational_definition(bits in 0x3c00u64..0x4330, low: u64, negative: bool) {
            let magnitude = f64::from_bits(bits << 48 | low >> 16);
            let value = if negative { -magnitude } else { magnitude };
            let shifted = &Rational::try_from(value).unwrap() + &Rational::half();
            prop_assert_eq!(i128::from(half_up(value)), shifted.floor());
        }
    }

    #[test]
    fn edges() {
        assert_eq!([0.5, 1.5, 2.5, -0.5, -1.5].map(ties_even), [0, 2, 2, 0, -2]);
        assert_eq!(
            [f32::NAN, f32::INFINITY, -1e30].map(ties_even),
            [0, i32::MAX, i32::MIN]
        );
        assert_eq!(
            [0.5, -0.5, -1.5, 0.49999999999999994].map(half_up),
            [1, 0, -1, 0]
        );
        assert_eq!(
            [-0.49999999999999994, -0.5000000000000001, -1e-300].map(half_up),
            [0, -1, 0]
        );
        assert_eq!(
            [f64::NAN, f64::INFINITY, -1e30].map(half_up),
            [0, i64::MAX, i64::MIN]
        );
    }
}
