//! The residual add: two tensors of codes with different scales, one rescaled sum.

use crate::staircase::Staircase;
use crate::{ActQuant, Affine, Clip, Rational, Rounding, SolveError};
use alloc::vec::Vec;
use core::fmt;

/// The real function `a·q_a + b·q_b + c` of two codes; the output code is `clip(floor(a·q_a + b·q_b + c + 1/2))`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddAffine {
    /// The slope in the first operand.
    pub a: Rational,
    /// The slope in the second operand.
    pub b: Rational,
    /// The constant, all zero points included.
    pub c: Rational,
}

impl AddAffine {
    /// The map whose coefficients are exactly these floats.
    ///
    /// # Errors
    /// [`SolveError::NotFinite`] when one is infinite or not a number.
    pub fn from_floats(a: f32, b: f32, c: f64) -> Result<AddAffine, SolveError> {
        Ok(AddAffine {
            a: Rational::try_from(a)?,
            b: Rational::try_from(b)?,
            c: Rational::try_from(c)?,
        })
    }

    /// The sum of two quantised tensors in the quantiser of a third, without any rounding:
    /// `a = s_a/s_y`, `b = s_b/s_y`, `c = z_y − a·z_a − b·z_b`.
    ///
    /// # Errors
    /// [`SolveError::NotFinite`] or [`SolveError::ZeroDenominator`] when a scale is not a positive finite number.
    pub fn of_quantisers(
        a: ActQuant,
        b: ActQuant,
        output: ActQuant,
    ) -> Result<AddAffine, SolveError> {
        let first = Affine::requantisation(a, output)?;
        let second = Affine::requantisation(
            b,
            ActQuant {
                zero_point: 0,
                ..output
            },
        )?;
        Ok(AddAffine {
            a: first.a,
            b: second.a,
            c: &first.b + &second.b,
        })
    }

    /// `clip(floor(a·qa + b·qb + c + 1/2))`, exactly.
    pub fn eval(&self, qa: u8, qb: u8, clip: Clip) -> i32 {
        self.row(qb.into()).eval(qa.into(), clip)
    }

    /// The function of the first operand for one code of the second.
    fn row(&self, qb: i32) -> Staircase {
        let b = &(&self.b * &Rational::from(qb)) + &self.c;
        Staircase::new(
            &Affine {
                a: self.a.clone(),
                b,
            },
            Rounding::HalfUp,
        )
    }
}

/// `y = clip((ma·qa + mb·qb + c) >> k)` on `u8` codes, in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddRequant {
    /// The multiplier of the first operand.
    pub ma: i32,
    /// The multiplier of the second operand.
    pub mb: i32,
    /// The constant, in units of `2^-k`.
    pub c: i64,
    /// The shift, at most 62 from the solver.
    pub k: u8,
}

impl AddRequant {
    /// `clip((ma·qa + mb·qb + c) >> k)` with an arithmetic shift; the sum wraps if it leaves 64 bits, which
    /// [`prove_add`] excludes.
    #[inline]
    pub fn apply(self, qa: u8, qb: u8, clip: Clip) -> i32 {
        let products = i64::from(self.ma) * i64::from(qa) + i64::from(self.mb) * i64::from(qb);
        clip.apply(products.wrapping_add(self.c) >> self.k.min(63))
    }
}

/// A pair of codes that refutes a fixed-point add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddCounterexample {
    /// The two functions differ.
    Differs {
        /// The code of the first operand.
        qa: u8,
        /// The code of the second operand.
        qb: u8,
        /// The code of the exact function.
        expected: i32,
        /// The code of the fixed-point form.
        found: i32,
    },
    /// The sum can leave 64 bits, or the shift is not below 64.
    Overflow,
    /// The code range of an operand is not within `[0, 255]`.
    NotByteCodes(Clip),
}

impl fmt::Display for AddCounterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            AddCounterexample::Differs {
                qa,
                qb,
                expected,
                found,
            } => {
                write!(
                    f,
                    "codes {qa} and {qb} give code {found} instead of {expected}"
                )
            }
            AddCounterexample::Overflow => write!(f, "the rescaled sum can overflow 64 bits"),
            AddCounterexample::NotByteCodes(Clip { lo, hi }) => {
                write!(f, "operand codes [{lo}, {hi}] are not within [0, 255]")
            }
        }
    }
}

impl core::error::Error for AddCounterexample {}

/// Proves by full enumeration that `requant` equals the truth on every pair of codes, and that nothing overflows on them.
///
/// # Errors
/// The first pair that differs, or what makes the enumeration impossible.
pub fn prove_add(
    truth: &AddAffine,
    clip_a: Clip,
    clip_b: Clip,
    clip: Clip,
    requant: AddRequant,
) -> Result<(), AddCounterexample> {
    let (Some(codes_a), Some(codes_b)) = (byte_codes(clip_a), byte_codes(clip_b)) else {
        let bad = if byte_codes(clip_a).is_none() {
            clip_a
        } else {
            clip_b
        };
        return Err(AddCounterexample::NotByteCodes(bad));
    };
    // The products stay within 2^40, so only the constant can bring the sum to the ends of 64 bits.
    if requant.c.unsigned_abs() > i64::MAX as u64 - (1 << 41) || requant.k > 63 {
        return Err(AddCounterexample::Overflow);
    }
    for qb in codes_b {
        let row = truth.row(qb.into());
        for qa in codes_a.clone() {
            let (expected, found) = (row.eval(qa.into(), clip), requant.apply(qa, qb, clip));
            if expected != found {
                return Err(AddCounterexample::Differs {
                    qa,
                    qb,
                    expected,
                    found,
                });
            }
        }
    }
    Ok(())
}

/// Finds a fixed-point form that equals the truth on **every** pair of codes.
///
/// For `k = 0, 1, …` the multipliers next to `a·2^k` and `b·2^k` (at most one off) are tried, nearest first, and for each pair all
/// constants at once: the admissible ones are an interval whose ends are an extremum over the pairs of codes. The result has
/// the least `k` for which one of these fits, and the least constant.
///
/// # Errors
/// When a range is empty or the operands are not bytes, or when no multipliers of 31 bits or no shift suffices.
///
/// ```
/// use slimbit_num::{ActQuant, AddAffine, prove_add, solve_add};
/// let (a, b) = (ActQuant::from_range(0.0, 3.1, 8), ActQuant::from_range(-2.0, 2.3, 8));
/// let sum = ActQuant::from_range(0.0, 4.5, 8);
/// let truth = AddAffine::of_quantisers(a, b, sum)?;
/// let add = solve_add(&truth, a.clip(), b.clip(), sum.clip())?;
/// prove_add(&truth, a.clip(), b.clip(), sum.clip(), add).unwrap();
/// # Ok::<(), slimbit_num::SolveError>(())
/// ```
pub fn solve_add(
    truth: &AddAffine,
    clip_a: Clip,
    clip_b: Clip,
    clip: Clip,
) -> Result<AddRequant, SolveError> {
    let mut surface = Surface::new(truth, clip_a, clip_b, clip)?;
    if let Some(value) = surface.constant() {
        return Ok(AddRequant {
            ma: 0,
            mb: 0,
            c: value.into(),
            k: 0,
        });
    }
    let magnitude = clip.lo.unsigned_abs().max(clip.hi.unsigned_abs());
    // Keeps (level + 1)·2^k below 2^62.
    let max_shift = magnitude.leading_zeros() as u8 + 29;
    let steepest = [&truth.a, &truth.b]
        .map(|slope| slope.floor().unsigned_abs())
        .into_iter()
        .max();
    // Slopes beyond the range of the codes only say where to saturate: they may be scaled down below a shift of zero.
    let scale_down = steepest.map_or(0, |slope| (u128::BITS - slope.leading_zeros()) as i32);
    for exponent in -scale_down..=i32::from(max_shift) {
        let k = exponent.max(0) as u8;
        let nearest = |slope: &Rational| {
            let scaled = slope.scale_by_power_of_two(exponent);
            (&scaled + &Rational::half()).floor()
        };
        let (ma, mb) = (nearest(&truth.a), nearest(&truth.b));
        let bits = u128::BITS - ma.unsigned_abs().max(mb.unsigned_abs()).leading_zeros();
        if bits > 30 {
            return Err(SolveError::MultiplierTooWide {
                bits,
                limit: 30,
                shift: k,
            });
        }
        for (da, db) in NEIGHBOURS {
            let (ma, mb) = (ma as i64 + da, mb as i64 + db);
            if let Some(c) = surface.least_constant(ma, mb, k) {
                return Ok(AddRequant {
                    ma: ma as i32,
                    mb: mb as i32,
                    c,
                    k,
                });
            }
        }
    }
    Err(SolveError::ShiftTooLarge { limit: max_shift })
}

/// Offsets from the nearest pair of multipliers, nearest first.
const NEIGHBOURS: [(i64, i64); 9] = [
    (0, 0),
    (-1, 0),
    (1, 0),
    (0, -1),
    (0, 1),
    (-1, -1),
    (1, 1),
    (-1, 1),
    (1, -1),
];

fn byte_codes(clip: Clip) -> Option<core::ops::RangeInclusive<u8>> {
    Some(u8::try_from(clip.lo).ok()?..=u8::try_from(clip.hi).ok()?)
}

/// The exact output of every pair of codes.
struct Surface {
    first_a: i64,
    first_b: i64,
    width: usize,
    clip: Clip,
    codes: Vec<i32>,
    /// Pairs (as indices into `codes`) that refuted earlier candidates: they refute most later ones, and spare full passes.
    refuters: Vec<usize>,
}

/// The constants that a set of pairs admits, and the pairs that bind.
struct Room {
    c_min: i64,
    c_max: i64,
    binding: [usize; 2],
}

impl Surface {
    fn new(
        truth: &AddAffine,
        clip_a: Clip,
        clip_b: Clip,
        clip: Clip,
    ) -> Result<Surface, SolveError> {
        if clip.lo > clip.hi {
            return Err(SolveError::EmptyClip(clip));
        }
        for operand in [clip_a, clip_b] {
            if byte_codes(operand).is_none() {
                return Err(SolveError::NotByteCodes(operand));
            }
            if operand.lo > operand.hi {
                return Err(SolveError::EmptyClip(operand));
            }
        }
        let width = (clip_a.hi - clip_a.lo + 1) as usize;
        let mut codes = Vec::with_capacity(width * (clip_b.hi - clip_b.lo + 1) as usize);
        for qb in clip_b.lo..=clip_b.hi {
            let row = truth.row(qb);
            codes.extend((clip_a.lo..=clip_a.hi).map(|qa| row.eval(qa.into(), clip)));
        }
        let (first_a, first_b) = (clip_a.lo.into(), clip_b.lo.into());
        Ok(Surface {
            first_a,
            first_b,
            width,
            clip,
            codes,
            refuters: Vec::new(),
        })
    }

    fn constant(&self) -> Option<i32> {
        let first = self.codes[0];
        self.codes
            .iter()
            .all(|&code| code == first)
            .then_some(first)
    }

    fn least_constant(&mut self, ma: i64, mb: i64, k: u8) -> Option<i64> {
        let room = self.room(self.refuters.iter().copied(), ma, mb, k);
        if room.c_min > room.c_max {
            return None;
        }
        let room = self.room(0..self.codes.len(), ma, mb, k);
        if room.c_min <= room.c_max {
            return Some(room.c_min);
        }
        self.refuters.extend(room.binding);
        None
    }

    /// `code·2^k <= ma·qa + mb·qb + c < (code + 1)·2^k`, less the side on which the code is saturated.
    fn room(&self, pairs: impl Iterator<Item = usize>, ma: i64, mb: i64, k: u8) -> Room {
        let mut room = Room {
            c_min: i64::MIN,
            c_max: i64::MAX,
            binding: [0, 0],
        };
        for index in pairs {
            let code = self.codes[index];
            let qa = self.first_a + (index % self.width) as i64;
            let qb = self.first_b + (index / self.width) as i64;
            let least = (i64::from(code) << k) - ma * qa - mb * qb;
            if code > self.clip.lo && least > room.c_min {
                (room.c_min, room.binding[0]) = (least, index);
            }
            let greatest = least + ((1i64 << k) - 1);
            if code < self.clip.hi && greatest < room.c_max {
                (room.c_max, room.binding[1]) = (greatest, index);
            }
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_ranges_it_cannot_serve() {
        let truth = AddAffine::from_floats(0.5, 0.25, 0.0).unwrap();
        let (byte, none) = (Clip::unsigned(8), Clip { lo: 1, hi: 0 });
        let signed = Clip::signed(8);
        assert_eq!(
            solve_add(&truth, signed, byte, byte),
            Err(SolveError::NotByteCodes(signed))
        );
        assert_eq!(
            solve_add(&truth, byte, none, byte),
            Err(SolveError::EmptyClip(none))
        );
        assert_eq!(
            solve_add(&truth, byte, byte, none),
            Err(SolveError::EmptyClip(none))
        );
        assert!(AddAffine::from_floats(f32::NAN, 0.0, 0.0).is_err());
    }

    #[test]
    fn the_proof_covers_overflow_and_operand_ranges() {
        let truth = AddAffine::from_floats(0.5, 0.25, 0.0).unwrap();
        let byte = Clip::unsigned(8);
        let exact = AddRequant {
            ma: 2,
            mb: 1,
            c: 2,
            k: 2,
        };
        assert_eq!(prove_add(&truth, byte, byte, byte, exact), Ok(()));
        let shifted = AddRequant { c: 1, ..exact };
        let differs = AddCounterexample::Differs {
            qa: 1,
            qb: 0,
            expected: 1,
            found: 0,
        };
        assert_eq!(prove_add(&truth, byte, byte, byte, shifted), Err(differs));
        let far = AddRequant {
            c: i64::MAX,
            ..exact
        };
        assert_eq!(
            prove_add(&truth, byte, byte, byte, far),
            Err(AddCounterexample::Overflow)
        );
        let wide = Clip { lo: 0, hi: 256 };
        let refused = prove_add(&truth, byte, wide, byte, exact);
        assert_eq!(refused, Err(AddCounterexample::NotByteCodes(wide)));
    }
}
