//! Pointwise functions of one code, tabulated once at export.

use crate::round::half_up;
use crate::{ActQuant, Clip};

/// A function from codes to codes.
///
/// The entries, not the formula they came from, are the contract: they are stored in the file, so no device evaluates a
/// transcendental function in its own floating point.
///
/// ```
/// use slimbit_num::{ActQuant, Table};
/// let input = ActQuant { scale: 0.5, zero_point: 100, bits: 8 };
/// let output = ActQuant { scale: 0.2, zero_point: 0, bits: 8 };
/// let relu = Table::from_fn(input, output, |x| x.max(0.0));
/// assert_eq!([0, 100, 101, 102, 255].map(|q| relu.apply(q)), [0, 0, 2, 5, 255]);     // 2.5 went down: 0.2f32 > 0.2
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Table(pub [u8; 256]);

impl Table {
    /// `q ↦ clip(round(f(s_in·(q − z_in))/s_out) + z_out)`, half up.
    ///
    /// The arguments of `f` are exact, its values and their quotient by `s_out` are `f64`. Codes that the input does not
    /// have (above `2^bits − 1`) repeat the last entry. A value of `f` that is not a number gives the code of zero.
    pub fn from_fn(input: ActQuant, output: ActQuant, f: impl Fn(f64) -> f64) -> Table {
        let (last, clip) = (input.clip().hi, output.clip());
        Table(core::array::from_fn(|q| {
            let steps = (q as i32).min(last) - i32::from(input.zero_point);
            let value = f(f64::from(steps) * f64::from(input.scale));
            let code =
                half_up(value / f64::from(output.scale)).saturating_add(output.zero_point.into());
            clip.apply(code) as u8
        }))
    }

    /// The change of quantiser: `q ↦ clip(floor((q − z_in)·s_in/s_out + z_out + 1/2))`.
    ///
    /// Exact, although in `f64`: the product has at most 33 significant bits and the divisor 24, so a quotient of code size
    /// that is not a tie differs from every tie by more than its rounding error.
    pub fn requantise(input: ActQuant, output: ActQuant) -> Table {
        Table::from_fn(input, output, |x| x)
    }

    /// The output code of an input code.
    #[inline]
    pub fn apply(&self, q: u8) -> u8 {
        self.0[usize::from(q)]
    }

    /// Whether every byte maps to itself.
    pub fn is_identity(&self) -> bool {
        self.is_identity_on(Clip::unsigned(8))
    }

    /// Whether every code of the range maps to itself, so that the table can be left out after a tensor of that range.
    pub fn is_identity_on(&self, input: Clip) -> bool {
        (0..=u8::MAX)
            .filter(|&q| input.contains(q.into()))
            .all(|q| self.apply(q) == q)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Affine;
    use proptest::prelude::*;

    fn quant() -> impl Strategy<Value = ActQuant> {
        let scale = prop_oneof![1e-6f32..1e3, (-12i32..12).prop_map(|e| (e as f32).exp2())];
        (scale, any::<u8>(), 1u8..=8).prop_map(|(scale, zero_point, bits)| {
            let zero_point = zero_point & Clip::unsigned(bits).hi as u8;
            ActQuant {
                scale,
                zero_point,
                bits,
            }
        })
    }

    proptest! {
        #[test]
        fn requantisation_is_exact(input in quant(), output in quant()) {
            let (table, truth) = (Table::requantise(input, output), Affine::requantisation(input, output).unwrap());
            for q in 0..=input.clip().hi {
                prop_assert_eq!(i32::from(table.apply(q as u8)), truth.eval(q.into(), output.clip()));
            }
        }

        #[test]
        fn the_same_quantiser_is_the_identity(quant in quant()) {
            let table = Table::requantise(quant, quant);
            prop_assert!(table.is_identity_on(quant.clip()));
            prop_assert_eq!(table.is_identity(), quant.bits == 8);
        }
    }

    #[test]
    fn unusual_values_saturate() {
        let quant = ActQuant {
            scale: 0.5,
            zero_point: 100,
            bits: 8,
        };
        let of = |value: f64| Table::from_fn(quant, quant, |_| value).apply(0);
        assert_eq!(
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(of),
            [100, 255, 0]
        );
        assert_eq!(
            [0.25, 0.2499999, -0.25, -0.2500001].map(of),
            [101, 100, 100, 99]
        );
    }
}
