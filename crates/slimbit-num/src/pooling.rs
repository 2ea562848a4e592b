//! Pooling on codes.
//!
//! Max pooling commutes with the quantiser, which is monotone: the largest code is the code of the largest value, and input and
//! output share one quantiser. Average pooling sums codes in an `i32` and rescales the sum with a [`Requant`](crate::Requant) that
//! is proven like that of any convolution.

use crate::{ActQuant, Affine, Interval, Rational, Solution, SolveError, solve};

/// The largest code of a window; `None` for an empty one.
pub fn max(window: impl IntoIterator<Item = u8>) -> Option<u8> {
    window.into_iter().max()
}

/// The sum of the codes of a window: what [`average`] rescales. Wraps beyond [`MAX_WINDOW`] codes.
pub fn sum(window: impl IntoIterator<Item = u8>) -> i32 {
    window
        .into_iter()
        .fold(0i32, |sum, q| sum.wrapping_add(q.into()))
}

/// The largest window whose sum of 8-bit codes fits an `i32`.
pub const MAX_WINDOW: u32 = i32::MAX as u32 / 255;

/// Every value that the sum of `count` codes of `input` can take.
pub fn sum_interval(input: ActQuant, count: u32) -> Interval {
    Interval {
        lo: 0,
        hi: i64::from(count) * i64::from(input.clip().hi),
    }
}

/// The mean of `count` codes as a map of their sum: `a = s_in/(count·s_out)`, `b = z_out − a·count·z_in`.
///
/// A border that is filled with the zero point and counted belongs to the `count` codes; one that is not counted means a map
/// of its own for the windows that touch it.
///
/// # Errors
/// [`SolveError::NotFinite`] or [`SolveError::ZeroDenominator`] for `count = 0` or a scale that is not a positive finite number.
pub fn average_affine(input: ActQuant, output: ActQuant, count: u32) -> Result<Affine, SolveError> {
    let code = Affine::requantisation(input, output)?;
    let share = Rational::new(1, count.into())?;
    Ok(Affine {
        a: &code.a * &share,
        b: code.b,
    })
}

/// The rescaling of an average (or, with `count = height·width`, a global average) over a window.
///
/// # Errors
/// As [`average_affine`] and [`solve`]; a window above [`MAX_WINDOW`] is [`SolveError::DomainTooWide`].
///
/// ```
/// use slimbit_num::{ActQuant, pooling};
/// let input = ActQuant::from_range(0.0, 1.0, 4);
/// let mean = pooling::average(input, input, 4)?.requant;
/// let sum = pooling::sum([3, 4, 4, 3]);
/// assert_eq!(mean.apply(sum, input.clip()), 4);                     // 3.5 goes up
/// # Ok::<(), slimbit_num::SolveError>(())
/// ```
pub fn average(input: ActQuant, output: ActQuant, count: u32) -> Result<Solution, SolveError> {
    solve(
        &average_affine(input, output, count)?,
        sum_interval(input, count),
        output.clip(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_average_is_exact_for_every_sum(
            s_in in 1e-3f32..1e2, s_out in 1e-3f32..1e2, z_in: u8, z_out: u8, side in 1u32..6,
        ) {
            let input = ActQuant { scale: s_in, zero_point: z_in, bits: 8 };
            let output = ActQuant { scale: s_out, zero_point: z_out, bits: 8 };
            let count = side * side;
            let requant = average(input, output, count).unwrap().requant;
            let ratio = &Rational::try_from(s_in).unwrap() * &Rational::try_from(s_out).unwrap().recip().unwrap();
            for sum in 0..=count as i32 * 255 {
                let centred = i128::from(sum) - i128::from(count) * i128::from(z_in);
                let mean = &ratio * &Rational::new(centred, count.into()).unwrap();
                let rounded = (&mean + &Rational::half()).floor() as i64 + i64::from(z_out);
                prop_assert_eq!(requant.apply(sum, output.clip()), output.clip().apply(rounded));
            }
        }
    }

    #[test]
    fn the_largest_window() {
        let quant = ActQuant::from_range(-1.0, 1.0, 8);
        let solution = average(quant, quant, MAX_WINDOW).unwrap();
        let affine = average_affine(quant, quant, MAX_WINDOW).unwrap();
        prove(
            &affine,
            sum_interval(quant, MAX_WINDOW),
            quant.clip(),
            solution.requant,
        )
        .unwrap();
        let wide = average(quant, quant, MAX_WINDOW + 1);
        assert!(matches!(wide, Err(SolveError::DomainTooWide(_))));
        assert_eq!(average(quant, quant, 0), Err(SolveError::ZeroDenominator));
    }

    #[test]
    fn windows() {
        assert_eq!(max([3, 250, 7]), Some(250));
        assert_eq!(max([]), None);
        assert_eq!(sum([255, 255, 1]), 511);
    }
}
