//! The solver: the smallest fixed-point form that equals an affine map everywhere.

use crate::staircase::Staircase;
use crate::{Affine, Clip, Interval, Requant, Rounding, SolveError};
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;

/// The largest number of steps of the exact function that [`solve`] accepts: sixteen times what 16-bit codes need.
pub const MAX_STEPS: usize = 1 << 20;

/// What the hardware can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest shift; never more than 62.
    pub max_shift: u8,
    /// Bits of the multiplier's magnitude, without its sign; never more than 31.
    pub multiplier_bits: u8,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_shift: 62,
            multiplier_bits: 31,
        }
    }
}

/// An exact slope, `num / den` in lowest terms with `den > 0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slope {
    /// The numerator.
    pub num: i64,
    /// The denominator.
    pub den: i64,
}

impl Slope {
    /// `den` must be positive.
    fn new(num: i64, den: i64) -> Slope {
        let (mut gcd, mut rest) = (den, num.abs());
        while rest != 0 {
            (gcd, rest) = (rest, gcd % rest);
        }
        Slope {
            num: num / gcd,
            den: den / gcd,
        }
    }

    fn negated(self) -> Slope {
        Slope {
            num: -self.num,
            ..self
        }
    }
}

impl PartialOrd for Slope {
    fn partial_cmp(&self, other: &Slope) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slope {
    fn cmp(&self, other: &Slope) -> Ordering {
        let left = i128::from(self.num) * i128::from(other.den);
        left.cmp(&(i128::from(other.num) * i128::from(self.den)))
    }
}

impl fmt::Display for Slope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.num, self.den)
    }
}

/// The canonical fixed-point form of an affine map, with the freedom that was left.
///
/// `k` is the least shift for which any exact `(m, c)` exists, `|m|` is the least for that shift (and for every other), and
/// `c = c_min`. So equal inputs give equal files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solution {
    /// The exact form.
    pub requant: Requant,
    /// The least constant that is exact with this `m` and `k` and does not overflow.
    pub c_min: i64,
    /// The greatest such constant; every one in between is exact too. For a function that is constant on its domain only
    /// the canonical constant is reported.
    pub c_max: i64,
    /// `m / 2^k` lies strictly above this slope, if there is such a bound.
    pub slope_lo: Option<Slope>,
    /// `m / 2^k` lies strictly below this slope, if there is such a bound.
    pub slope_hi: Option<Slope>,
}

impl Solution {
    /// Bits of the multiplier's magnitude.
    pub fn multiplier_bits(&self) -> u32 {
        u32::BITS - self.requant.m.unsigned_abs().leading_zeros()
    }
}

/// Finds the least `k`, then the least `|m|`, then the least `c` with `clip((m·x + c) >> k) = clip(floor(a·x + b + 1/2))` for
/// **every** integer `x` of the domain.
///
/// # Errors
/// When the domain or the clip is empty or too wide, or when the smallest exact form exceeds the shift, the multiplier or
/// the 64-bit sum; the error says which.
///
/// ```
/// use slimbit_num::{Affine, Clip, Interval, Requant, prove, solve};
/// let affine = Affine::from_floats(0.0123, f64::from(3.7f32))?;
/// let domain = Interval { lo: -32768, hi: 32767 };
/// let solution = solve(&affine, domain, Clip::unsigned(4))?;
/// assert_eq!(solution.requant, Requant { m: 403, c: 137617, k: 15 });
/// assert_eq!(solution.c_max, 137644);
/// prove(&affine, domain, Clip::unsigned(4), solution.requant).unwrap();
/// # Ok::<(), slimbit_num::SolveError>(())
/// ```
pub fn solve(affine: &Affine, domain: Interval, clip: Clip) -> Result<Solution, SolveError> {
    solve_with(affine, domain, clip, Rounding::HalfUp, Limits::default())
}

/// As [`solve`], with another rounding rule or narrower hardware.
///
/// # Errors
/// As [`solve`]; and [`SolveError::NoLine`] when ties that go to even cannot be reproduced.
pub fn solve_with(
    affine: &Affine,
    domain: Interval,
    clip: Clip,
    rounding: Rounding,
    limits: Limits,
) -> Result<Solution, SolveError> {
    check_ranges(domain, clip)?;
    let stairs = Staircase::new(affine, rounding);
    if stairs.is_decreasing() {
        let mirrored = solve_increasing(&stairs.mirrored(), domain.mirrored(), clip, limits)?;
        let m = -mirrored.requant.m;
        return Ok(Solution {
            requant: Requant {
                m,
                ..mirrored.requant
            },
            slope_lo: mirrored.slope_hi.map(Slope::negated),
            slope_hi: mirrored.slope_lo.map(Slope::negated),
            ..mirrored
        });
    }
    solve_increasing(&stairs, domain, clip, limits)
}

fn check_ranges(domain: Interval, clip: Clip) -> Result<(), SolveError> {
    if domain.lo > domain.hi {
        return Err(SolveError::EmptyDomain(domain));
    }
    if !domain.fits_i32() {
        return Err(SolveError::DomainTooWide(domain));
    }
    if clip.lo > clip.hi {
        return Err(SolveError::EmptyClip(clip));
    }
    Ok(())
}

fn solve_increasing(
    stairs: &Staircase,
    domain: Interval,
    clip: Clip,
    limits: Limits,
) -> Result<Solution, SolveError> {
    let corridor = match Corridor::of(stairs, domain, clip)? {
        Shape::Constant(value) => {
            let c = i64::from(value);
            let requant = Requant { m: 0, c, k: 0 };
            return Ok(Solution {
                requant,
                c_min: c,
                c_max: c,
                slope_lo: None,
                slope_hi: None,
            });
        }
        Shape::Steps(corridor) => corridor,
    };
    let lo = corridor.steepest_too_flat().ok_or(SolveError::NoLine)?;
    let hi = corridor.flattest_too_steep().ok_or(SolveError::NoLine)?;
    if hi.is_some_and(|hi| lo >= hi) {
        return Err(SolveError::NoLine);
    }
    let (m, k) = least_multiplier(lo, hi, limits.max_shift.min(62))?;
    let bits = u128::BITS - m.unsigned_abs().leading_zeros();
    let limit = limits.multiplier_bits.min(31);
    if bits > u32::from(limit) {
        return Err(SolveError::MultiplierTooWide {
            bits,
            limit,
            shift: k,
        });
    }
    let (c_min, c_max) = corridor.constants(m, k, domain);
    match (i64::try_from(c_min), i64::try_from(c_max)) {
        (Ok(c_min), Ok(c_max)) if c_min <= c_max => Ok(Solution {
            requant: Requant {
                m: m as i32,
                c: c_min,
                k,
            },
            c_min,
            c_max,
            slope_lo: Some(lo),
            slope_hi: hi,
        }),
        _ => Err(SolveError::OffsetTooWide { shift: k }),
    }
}

/// Theorem 2: the least `k` with an integer strictly between `lo·2^k` and `hi·2^k`, and the least such integer.
fn least_multiplier(lo: Slope, hi: Option<Slope>, max_shift: u8) -> Result<(i128, u8), SolveError> {
    for k in 0..=max_shift {
        let m = (i128::from(lo.num) << k).div_euclid(lo.den.into()) + 1;
        if hi.is_none_or(|hi| m * i128::from(hi.den) < i128::from(hi.num) << k) {
            return Ok((m, k));
        }
    }
    Err(SolveError::ShiftTooLarge { limit: max_shift })
}

#[derive(Clone, Copy, Debug)]
struct Point {
    x: i64,
    level: i64,
}

/// What a line has to pass: at or above every point of `floor`, strictly below every point of `ceiling` (Lemma 1).
///
/// Both lists increase in `x` and in `level`. Of several steps at one `x` only the binding one is kept.
struct Corridor {
    floor: Vec<Point>,
    ceiling: Vec<Point>,
}

enum Shape {
    Constant(i32),
    Steps(Corridor),
}

impl Corridor {
    fn of(stairs: &Staircase, domain: Interval, clip: Clip) -> Result<Shape, SolveError> {
        let (mut floor, mut ceiling) = (Vec::new(), Vec::new());
        let mut runs = stairs.runs(domain, clip);
        let Some(first) = runs.next() else {
            return Err(SolveError::EmptyDomain(domain));
        };
        if first.value > clip.lo {
            floor.push(Point {
                x: first.first,
                level: first.value.into(),
            });
        }
        let mut last = first;
        for run in runs {
            if ceiling.len() == MAX_STEPS {
                return Err(SolveError::TooManySteps { limit: MAX_STEPS });
            }
            ceiling.push(Point {
                x: last.last,
                level: i64::from(last.value) + 1,
            });
            floor.push(Point {
                x: run.first,
                level: run.value.into(),
            });
            last = run;
        }
        if last == first {
            return Ok(Shape::Constant(first.value));
        }
        if last.value < clip.hi {
            ceiling.push(Point {
                x: last.last,
                level: i64::from(last.value) + 1,
            });
        }
        Ok(Shape::Steps(Corridor { floor, ceiling }))
    }

    /// The pair of points between which a line of this slope has the least room, and that room times `slope.den`.
    fn tightest(&self, slope: Slope) -> (Point, Point, i128) {
        let (num, den) = (i128::from(slope.num), i128::from(slope.den));
        let intercept = |p: &Point| i128::from(p.level) * den - num * i128::from(p.x);
        let (mut below, mut above) = (self.floor[0], self.ceiling[0]);
        let (mut highest, mut lowest) = (intercept(&below), intercept(&above));
        for point in &self.floor[1..] {
            let value = intercept(point);
            if value > highest {
                (below, highest) = (*point, value);
            }
        }
        for point in &self.ceiling[1..] {
            let value = intercept(point);
            if value < lowest {
                (above, lowest) = (*point, value);
            }
        }
        (below, above, lowest - highest)
    }

    /// The lower end of the open interval of admissible slopes; nothing if there is provably no admissible slope.
    ///
    /// The room is a concave, piecewise linear function of the slope, each piece belonging to one pair of points. Newton's
    /// method from the left of its zero ascends through pairs of points, never past the zero, and ends on it after a few
    /// passes over the points: exact, and linear in their number where all pairs would be quadratic.
    fn steepest_too_flat(&self) -> Option<Slope> {
        let mut slope = Slope { num: 0, den: 1 };
        loop {
            let (below, above, room) = self.tightest(slope);
            if room >= 0 {
                return Some(slope);
            }
            if above.x >= below.x {
                return None;
            }
            slope = Slope::new(below.level - above.level, below.x - above.x);
        }
    }

    /// The upper end (`Some(None)`: every steep line passes); as [`steepest_too_flat`](Self::steepest_too_flat), from the right.
    fn flattest_too_steep(&self) -> Option<Option<Slope>> {
        let (mut below, mut above) = (self.floor[0], self.ceiling[self.ceiling.len() - 1]);
        if above.x <= below.x {
            return Some(None);
        }
        loop {
            let slope = Slope::new(above.level - below.level, above.x - below.x);
            let room;
            (below, above, room) = self.tightest(slope);
            if room >= 0 {
                return Some(Some(slope));
            }
            if above.x <= below.x {
                return None;
            }
        }
    }

    /// Theorem 1: all constants that are exact with `m` and `k`, less those that overflow 64 bits somewhere on the domain.
    fn constants(&self, m: i128, k: u8, domain: Interval) -> (i128, i128) {
        let constant = |p: &Point| (i128::from(p.level) << k) - m * i128::from(p.x);
        let safe_min = i128::from(i64::MIN) - (m * i128::from(domain.lo)).min(0);
        let safe_max = i128::from(i64::MAX) - (m * i128::from(domain.hi)).max(0);
        let c_min = self.floor.iter().map(constant).fold(safe_min, i128::max);
        let c_max = self
            .ceiling
            .iter()
            .map(|p| constant(p) - 1)
            .fold(safe_max, i128::min);
        (c_min, c_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rational;

    fn affine(a: (i128, i128), b: (i128, i128)) -> Affine {
        Affine {
            a: Rational::new(a.0, a.1).unwrap(),
            b: Rational::new(b.0, b.1).unwrap(),
        }
    }

    #[test]
    fn rejects_ranges_it_cannot_serve() {
        let map = affine((1, 3), (0, 1));
        let (domain, clip) = (Interval { lo: 0, hi: 9 }, Clip::unsigned(8));
        let empty = Interval { lo: 1, hi: 0 };
        assert_eq!(
            solve(&map, empty, clip),
            Err(SolveError::EmptyDomain(empty))
        );
        let wide = Interval { lo: 0, hi: 1 << 31 };
        assert_eq!(
            solve(&map, wide, clip),
            Err(SolveError::DomainTooWide(wide))
        );
        let none = Clip { lo: 1, hi: 0 };
        assert_eq!(solve(&map, domain, none), Err(SolveError::EmptyClip(none)));
        let levels = Clip::signed(32);
        assert_eq!(
            solve(&affine((1, 1), (0, 1)), Interval::I32, levels),
            Err(SolveError::TooManySteps { limit: MAX_STEPS })
        );
    }

    #[test]
    fn says_which_limit_was_exceeded() {
        let map = affine((1, 49), (0, 1));
        let (domain, clip) = (Interval { lo: 0, hi: 65535 }, Clip { lo: 0, hi: 9999 });
        let with = |max_shift, multiplier_bits| {
            solve_with(
                &map,
                domain,
                clip,
                Rounding::Floor,
                Limits {
                    max_shift,
                    multiplier_bits,
                },
            )
        };
        assert_eq!(with(20, 31), Err(SolveError::ShiftTooLarge { limit: 20 }));
        let wide = SolveError::MultiplierTooWide {
            bits: 16,
            limit: 15,
            shift: 21,
        };
        assert_eq!(with(62, 15), Err(wide));
        assert_eq!(
            with(21, 16).unwrap().requant,
            Requant {
                m: 42799,
                c: 1337,
                k: 21
            }
        );
        let million = affine((1_000_000, 1), (0, 1));
        let unclipped = Clip::signed(32);
        let lost = solve_with(
            &million,
            Interval { lo: 0, hi: 900 },
            unclipped,
            Rounding::HalfUp,
            Limits {
                max_shift: 62,
                multiplier_bits: 9,
            },
        );
        assert!(matches!(
            lost,
            Err(SolveError::MultiplierTooWide { bits: 20, .. })
        ));
    }

    #[test]
    fn steep_maps_need_no_more_than_a_step() {
        let step = affine((10i128.pow(30), 1), (10, 1));
        let solution = solve(&step, Interval::I32, Clip::unsigned(8)).unwrap();
        assert_eq!((solution.requant.k, solution.slope_hi), (0, None));
        let codes = [-1, 0, 1].map(|x| solution.requant.apply(x, Clip::unsigned(8)));
        assert_eq!(codes, [0, 10, 255]);
    }
}
