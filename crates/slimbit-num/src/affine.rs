//! The truth: an affine map with exact coefficients, a rounding rule and a clip range.

use crate::int::Int;
use crate::round::half_up;
use crate::staircase::Staircase;
use crate::{ActQuant, Rational, SolveError};

/// The inclusive range of the output codes. Saturation to it is part of the function that the solvers reproduce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Clip {
    /// The lowest code.
    pub lo: i32,
    /// The highest code.
    pub hi: i32,
}

impl Clip {
    /// `0 ..= 2^bits - 1`.
    ///
    /// # Panics
    /// When `bits` exceeds 31.
    pub const fn unsigned(bits: u8) -> Clip {
        assert!(bits <= 31, "an unsigned code range has at most 31 bits");
        Clip {
            lo: 0,
            hi: ((1i64 << bits) - 1) as i32,
        }
    }

    /// `-2^(bits-1) ..= 2^(bits-1) - 1`.
    ///
    /// # Panics
    /// When `bits` is not within `1..=32`.
    pub const fn signed(bits: u8) -> Clip {
        assert!(
            bits >= 1 && bits <= 32,
            "a signed code range has 1 to 32 bits"
        );
        let half = 1i64 << (bits - 1);
        Clip {
            lo: -half as i32,
            hi: (half - 1) as i32,
        }
    }

    /// The nearest code in the range; the lower end wins if the range is empty.
    pub fn apply(self, value: i64) -> i32 {
        value.min(i64::from(self.hi)).max(i64::from(self.lo)) as i32
    }

    /// The codes of the range whose real values lie between `lo` and `hi`, where the code `q` stands for
    /// `scale · (q − zero_point)`: how an activation that is a clamp narrows the codes of its output.
    /// The ends are rounded half up, and may be infinite.
    ///
    /// ```
    /// use slimbit_num::Clip;
    /// let codes = Clip::unsigned(8);
    /// assert_eq!(codes.between(0.0, 6.0, 0.1, 20), Clip { lo: 20, hi: 80 }); // ReLU6
    /// assert_eq!(codes.between(0.0, f64::INFINITY, 0.1, 20), Clip { lo: 20, hi: 255 }); // ReLU
    /// ```
    pub fn between(self, lo: f64, hi: f64, scale: f32, zero_point: i32) -> Clip {
        let code = |x: f64| half_up(x / f64::from(scale)).saturating_add(zero_point.into());
        Clip {
            lo: self.apply(code(lo)),
            hi: self.apply(code(hi)),
        }
    }

    /// Whether `code` lies in the range.
    pub fn contains(self, code: i32) -> bool {
        (self.lo..=self.hi).contains(&code)
    }
}

/// An inclusive interval of accumulator values. The engine's accumulators are 32 bits wide, and so is what the solvers accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interval {
    /// The least value.
    pub lo: i64,
    /// The greatest value.
    pub hi: i64,
}

impl Interval {
    /// Every value of an `i32`.
    pub const I32: Interval = Interval {
        lo: i32::MIN as i64,
        hi: i32::MAX as i64,
    };

    /// Whether `value` lies in the interval.
    pub fn contains(self, value: i64) -> bool {
        (self.lo..=self.hi).contains(&value)
    }

    /// Whether every value fits an `i32`.
    pub fn fits_i32(self) -> bool {
        Interval::I32.contains(self.lo) && Interval::I32.contains(self.hi)
    }

    pub(crate) fn mirrored(self) -> Interval {
        Interval {
            lo: -self.hi,
            hi: -self.lo,
        }
    }
}

/// How a real number becomes an integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// `floor(v + 1/2)`: the rule of the contract.
    #[default]
    HalfUp,
    /// `floor(v)`.
    Floor,
    /// To nearest, ties to even: PyTorch's rule. A fixed-point line need not exist where ties occur.
    HalfEven,
}

/// The real function `a·x + b` of an integer accumulator `x`, with exact coefficients.
///
/// The output code is `clip(floor(a·x + b + 1/2))`. A folded batch-norm with input scale `s_x`, weight scale `s_w` and output
/// scale `s_y` and zero point `z` has
/// `a = γ·s_x·s_w / (s_y·√(σ²+ε))` and `b = (γ·(bias − μ)/√(σ²+ε) + β)/s_y + z`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Affine {
    /// The slope.
    pub a: Rational,
    /// The value at zero, zero point included.
    pub b: Rational,
}

impl Affine {
    /// The map whose coefficients are exactly these floats.
    ///
    /// # Errors
    /// [`SolveError::NotFinite`] when one is infinite or not a number.
    pub fn from_floats(a: f32, b: f64) -> Result<Affine, SolveError> {
        Ok(Affine {
            a: Rational::try_from(a)?,
            b: Rational::try_from(b)?,
        })
    }

    /// The map from codes of `input` to codes of `output`: `a = s_in / s_out`, `b = z_out − a·z_in`, without any rounding.
    ///
    /// # Errors
    /// [`SolveError::NotFinite`] or [`SolveError::ZeroDenominator`] when a scale is not a positive finite number.
    pub fn requantisation(input: ActQuant, output: ActQuant) -> Result<Affine, SolveError> {
        let a = &Rational::try_from(input.scale)? * &Rational::try_from(output.scale)?.recip()?;
        let b = &Rational::from(i32::from(output.zero_point))
            - &(&a * &Rational::from(i32::from(input.zero_point)));
        Ok(Affine { a, b })
    }

    /// `clip(floor(a·x + b + 1/2))`, exactly.
    ///
    /// ```
    /// use slimbit_num::{Affine, Clip};
    /// let half = Affine::from_floats(0.5, 0.0)?;
    /// let codes: Vec<i32> = (-4..4).map(|x| half.eval(x, Clip::signed(8))).collect();
    /// assert_eq!(codes, [-2, -1, -1, 0, 0, 1, 1, 2]);       // ties go up, on both sides of zero
    /// # Ok::<(), slimbit_num::SolveError>(())
    /// ```
    pub fn eval(&self, x: i64, clip: Clip) -> i32 {
        self.eval_with(x, clip, Rounding::HalfUp)
    }

    /// As [`eval`](Affine::eval) with another rounding rule.
    pub fn eval_with(&self, x: i64, clip: Clip, rounding: Rounding) -> i32 {
        Staircase::new(self, rounding).eval(x, clip)
    }

    /// `a` and `b` over the denominator of `a`, `b` rounded both ways.
    ///
    /// `floor((p·x + q·b)/q) = floor((p·x + floor(q·b))/q)` for integers `p`, `q`, `x`: of `b` nothing below `1/q` matters.
    pub(crate) fn over_slope_denominator(&self, rounding: Rounding) -> [Int; 4] {
        let b = match rounding {
            Rounding::Floor => self.b.clone(),
            Rounding::HalfUp | Rounding::HalfEven => &self.b + &Rational::half(),
        };
        let q = self.a.den();
        let (floor, rest) = (b.num() * q).div_rem_floor(b.den());
        let ceil = if rest.is_zero() {
            floor.clone()
        } else {
            &floor + &Int::from(1)
        };
        [self.a.num().clone(), q.clone(), floor, ceil]
    }
}
