//! An affine map, rounded: an integer function that is constant between its steps.

use crate::int::Int;
use crate::{Affine, Clip, Interval, Rounding};

/// `x ↦ round((p·x + q·b)/q)` in integers. `floor` and `ceil` bracket `q·b` (with the half of the rounding inside); they
/// differ only if `q·b` is not an integer, and then no tie can occur.
#[derive(Clone, Debug)]
pub(crate) struct Staircase {
    rounding: Rounding,
    line: Line,
}

#[derive(Clone, Debug)]
enum Line {
    Narrow(Narrow),
    Wide([Int; 4]),
}

/// The coefficients when no intermediate result can leave `i128`.
#[derive(Clone, Copy, Debug)]
struct Narrow {
    p: i128,
    q: i128,
    floor: i128,
    ceil: i128,
    /// `log2(q)` if `q` is a power of two, as it is for every float: spares the division.
    shift: Option<u32>,
}

impl Narrow {
    /// Bounds such that `p·x + b` and `t·q - b + 1` fit for every `x` of an `i64` and every level `t` of an `i32`.
    fn new([p, q, floor, ceil]: &[Int; 4]) -> Option<Narrow> {
        let within =
            |value: &Int, bits: u32| value.to_i128().filter(|v| v.unsigned_abs() >> bits == 0);
        let (p, q) = (within(p, 62)?, within(q, 93)?);
        let (floor, ceil) = (within(floor, 125)?, within(ceil, 125)?);
        let shift = (q & (q - 1) == 0).then(|| q.trailing_zeros());
        Some(Narrow {
            p,
            q,
            floor,
            ceil,
            shift,
        })
    }

    /// Quotient and "divides exactly" of `n / q`.
    fn div_floor(&self, n: i128) -> (i128, bool) {
        match self.shift {
            Some(shift) => (n >> shift, n & (self.q - 1) == 0),
            None => (n.div_euclid(self.q), n.rem_euclid(self.q) == 0),
        }
    }
}

/// A maximal range of accumulators on which the clipped function has one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) value: i32,
}

impl Staircase {
    pub(crate) fn new(affine: &Affine, rounding: Rounding) -> Staircase {
        let line = affine.over_slope_denominator(rounding);
        let line = Narrow::new(&line).map_or(Line::Wide(line), Line::Narrow);
        Staircase { rounding, line }
    }

    pub(crate) fn is_decreasing(&self) -> bool {
        match &self.line {
            Line::Narrow(line) => line.p < 0,
            Line::Wide([p, ..]) => p.is_negative(),
        }
    }

    /// The function `x ↦ f(-x)`.
    pub(crate) fn mirrored(mut self) -> Staircase {
        match &mut self.line {
            Line::Narrow(line) => line.p = -line.p,
            Line::Wide([p, ..]) => *p = -&*p,
        }
        self
    }

    pub(crate) fn eval(&self, x: i64, clip: Clip) -> i32 {
        let (value, tie) = match &self.line {
            Line::Narrow(line) => {
                let (value, exact) = line.div_floor(line.p * i128::from(x) + line.floor);
                (value, exact && line.floor == line.ceil)
            }
            Line::Wide([p, q, floor, ceil]) => {
                let n = &(p * &Int::from(i128::from(x))) + floor;
                let (value, rest) = n.div_rem_floor(q);
                (value.to_i128_saturating(), rest.is_zero() && floor == ceil)
            }
        };
        let to_even = self.rounding == Rounding::HalfEven && tie && value & 1 != 0;
        clip.apply((value - i128::from(to_even)).clamp(i64::MIN.into(), i64::MAX.into()) as i64)
    }

    /// The least `x` with `f(x) >= level`, for a function that increases; nothing if it is flat.
    fn threshold(&self, level: i64) -> Option<i64> {
        // A tie below an odd level rounds down to the even one: the inequality becomes strict.
        let strict = self.rounding == Rounding::HalfEven && level & 1 != 0;
        let threshold = match &self.line {
            Line::Narrow(line) => {
                let offset = if strict { line.ceil - 1 } else { line.floor };
                let target = i128::from(level) * line.q - offset;
                (line.p > 0).then(|| -(-target).div_euclid(line.p))
            }
            Line::Wide([p, q, floor, ceil]) => {
                let offset = if strict {
                    ceil - &Int::from(1)
                } else {
                    floor.clone()
                };
                let negated = &offset - &(q * &Int::from(i128::from(level)));
                let increasing = !p.is_zero() && !p.is_negative();
                increasing.then(|| {
                    negated
                        .div_rem_floor(p)
                        .0
                        .to_i128_saturating()
                        .saturating_neg()
                })
            }
        };
        threshold.map(|x| x.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
    }

    /// The runs of the clipped function on the domain, in increasing order; the function must not decrease.
    pub(crate) fn runs(&self, domain: Interval, clip: Clip) -> impl Iterator<Item = Run> + '_ {
        let mut next = Some(domain.lo).filter(|&lo| lo <= domain.hi);
        core::iter::from_fn(move || {
            let first = next?;
            let value = self.eval(first, clip);
            let step = if value < clip.hi {
                self.threshold(i64::from(value) + 1)
            } else {
                None
            };
            next = step.filter(|&x| x <= domain.hi);
            Some(Run {
                first,
                last: next.map_or(domain.hi, |x| x - 1),
                value,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rational;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn rounding() -> impl Strategy<Value = Rounding> {
        prop_oneof![
            Just(Rounding::HalfUp),
            Just(Rounding::Floor),
            Just(Rounding::HalfEven)
        ]
    }

    /// The definition, by comparison of rationals.
    fn round(value: &Rational, rounding: Rounding) -> i128 {
        let floor = value.floor();
        let rest = value - &Rational::new(floor, 1).unwrap();
        let half = Rational::half();
        match rounding {
            Rounding::Floor => floor,
            Rounding::HalfUp => floor + i128::from(rest >= half),
            Rounding::HalfEven => {
                floor + i128::from(rest > half || (rest == half && floor & 1 == 1))
            }
        }
    }

    proptest! {
        #[test]
        fn runs_cover_the_domain_with_the_defined_values(
            num in 0i128..40, den in 1i128..40, b in -60i128..60, b_den in 1i128..9,
            lo in -60i64..60, len in 0i64..80, q_lo in -12i32..6, q_len in 0i32..20, rule in rounding(), wide: bool,
        ) {
            let affine = Affine {
                a: Rational::new(num, den).unwrap(),
                b: Rational::new(b, b_den).unwrap(),
            };
            let clip = Clip { lo: q_lo, hi: q_lo + q_len };
            let mut stairs = Staircase::new(&affine, rule);
            if wide {
                stairs.line = Line::Wide(affine.over_slope_denominator(rule));
            }
            let runs: Vec<Run> = stairs.runs(Interval { lo, hi: lo + len }, clip).collect();
            prop_assert!(runs.windows(2).all(|w| w[0].last + 1 == w[1].first && w[0].value < w[1].value));
            prop_assert_eq!((runs[0].first, runs[runs.len() - 1].last), (lo, lo + len));
            for run in runs {
                for x in run.first..=run.last {
                    let exact = round(&(&(&affine.a * &Rational::from(x)) + &affine.b), rule);
                    prop_assert_eq!(run.value, clip.apply(exact as i64));
                }
            }
        }
    }
}
