//! From the values that a tensor takes to the range of its codes.

use std::fmt;
use std::str::FromStr;

use rayon::prelude::*;
use slimbit_graph::{Range, Stage};
use slimbit_num::ActQuant;

use crate::Histogram;

/// Ends of the range that the MSE search tries on each side, as fractions of the extreme.
const CANDIDATES: usize = 64;

/// How the values of a tensor, over all calibration images, become the range of its codes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ValueRule {
    /// The extremes: no calibration value is clipped.
    MinMax,
    /// The share of values, in per cent, that stays within either end; the rest is clipped.
    Percentile(f64),
    /// The range with the least mean squared error of the codes (OMSE: Choukroun et al., *Low-bit
    /// Quantization of Neural Networks for Efficient Inference*, 2019, eq. 5), at the bits of the
    /// point.
    #[default]
    Mse,
}

impl ValueRule {
    /// The percentile that stands where none is named.
    pub const PERCENTILE: Self = Self::Percentile(99.99);

    /// The range of a stage's output codes at `bits`, from the values before its quantiser.
    pub fn range(self, stage: &Stage, values: &Histogram, bits: u8) -> Range {
        let extremes = Range {
            min: values.min(),
            max: values.max(),
        };
        let range = match self {
            Self::MinMax => extremes,
            Self::Percentile(percent) => Range {
                min: values.quantile(1.0 - percent / 100.0),
                max: values.quantile(percent / 100.0),
            },
            Self::Mse => least_squares(stage.quantiser_range(extremes), values, bits),
        };
        stage.quantiser_range(range)
    }
}

/// The range within `widest` whose codes of `bits` are nearest to the values.
///
/// One-sided ranges have one end to search. Of two ends the far one is searched first, the near one
/// then for the far one found, and each once more.
fn least_squares(widest: Range, values: &Histogram, bits: u8) -> Range {
    let bins = values.bins();
    let mut best = widest;
    let mut least = squared_error(best, &bins, bits);
    let rounds = if widest.min < 0.0 && widest.max > 0.0 {
        2
    } else {
        1
    };
    for _ in 0..rounds {
        let far_is_max = best.max.abs() >= best.min.abs();
        for end_is_max in [far_is_max, !far_is_max] {
            let tried: Vec<(f64, Range)> = (1..=CANDIDATES)
                .into_par_iter()
                .map(|step| {
                    let share = step as f32 / CANDIDATES as f32;
                    let range = match end_is_max {
                        true => Range {
                            max: widest.max * share,
                            ..best
                        },
                        false => Range {
                            min: widest.min * share,
                            ..best
                        },
                    };
                    (squared_error(range, &bins, bits), range)
                })
                .collect();
            for (error, range) in tried {
                if error < least {
                    (least, best) = (error, range);
                }
            }
        }
    }
    best
}

fn squared_error(range: Range, bins: &[(f64, u64)], bits: u8) -> f64 {
    let quant = ActQuant::from_range(range.min, range.max, bits);
    let scale = f64::from(quant.scale);
    let zero = f64::from(quant.zero_point);
    let last = f64::from(quant.clip().hi);
    let error = |&(x, count): &(f64, u64)| {
        let code = ((x / scale).round_ties_even() + zero).clamp(0.0, last);
        let difference = x - (code - zero) * scale;
        difference * difference * count as f64
    };
    bins.iter().map(error).sum()
}

/// A name that is not a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseRuleError(String);

impl fmt::Display for ParseRuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not an observer; write min-max, mse, percentile, or percentile=P with P above 50 and at most 100",
            self.0
        )
    }
}

impl std::error::Error for ParseRuleError {}

impl FromStr for ValueRule {
    type Err = ParseRuleError;

    /// Reads `min-max`, `mse`, `percentile` and `percentile=99.9`.
    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let bad = || ParseRuleError(text.to_owned());
        match text {
            "min-max" => Ok(Self::MinMax),
            "mse" => Ok(Self::Mse),
            "percentile" => Ok(Self::PERCENTILE),
            _ => {
                let percent = text.strip_prefix("percentile=").ok_or_else(bad)?;
                let percent: f64 = percent.parse().map_err(|_| bad())?;
                if percent > 50.0 && percent <= 100.0 {
                    Ok(Self::Percentile(percent))
                } else {
                    Err(bad())
                }
            }
        }
    }
}

impl fmt::Display for ValueRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MinMax => f.write_str("min-max"),
            Self::Percentile(percent) => write!(f, "percentile={percent}"),
            Self::Mse => f.write_str("mse"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slimbit_graph::{Activation, Channels, GraphBuilder};

    fn stages() -> Vec<Stage> {
        let mut b = GraphBuilder::new("one");
        let x = b.input(1, 4, 4);
        let y = b.conv_bn("plain", x, Channels::Fixed(1), 1, 1);
        let y = b.activation("plain", y, Activation::Relu);
        let y = b.conv_bn("linear", y, Channels::Fixed(1), 1, 1);
        b.finish(&[("map", y)]).unwrap().stages().unwrap()
    }

    /// A Laplace-like tensor: most values small, few large.
    fn heavy_tailed(signed: bool) -> (Vec<f32>, Histogram) {
        let values: Vec<f32> = (1..20_000)
            .map(|i| {
                let x = -(i as f32 / 20_000.0).ln();
                if signed && i % 3 == 0 { -x } else { x }
            })
            .collect();
        let mut histogram = Histogram::default();
        histogram.extend(&values);
        (values, histogram)
    }

    fn error(values: &[f32], range: Range, bits: u8) -> f64 {
        let quant = ActQuant::from_range(range.min, range.max, bits);
        let error = |&x: &f32| f64::from(x - quant.dequantise(quant.quantise(x))).powi(2);
        values.iter().map(error).sum()
    }

    #[test]
    fn the_least_squares_range_beats_every_other() {
        let stages = stages();
        for (stage, signed) in [(&stages[1], false), (&stages[2], true)] {
            let (values, histogram) = heavy_tailed(signed);
            for bits in [4, 6, 8] {
                let found = ValueRule::Mse.range(stage, &histogram, bits);
                let least = error(&values, found, bits);
                let widest = ValueRule::MinMax.range(stage, &histogram, bits);
                for share in (1..=40).map(|i| i as f32 / 40.0) {
                    let other = Range {
                        min: widest.min * share,
                        max: widest.max * share,
                    };
                    let other = error(&values, other, bits);
                    assert!(
                        least <= 1.02 * other,
                        "{bits} bits, {share}: {least} > {other}"
                    );
                }
                if bits == 4 {
                    assert!(found.max < 0.8 * widest.max, "{found:?} of {widest:?}");
                    assert!(least < 0.8 * error(&values, widest, bits));
                }
            }
        }
    }

    #[test]
    fn fewer_bits_clip_more_and_percentiles_clip_what_they_say() {
        let stages = stages();
        let (values, histogram) = heavy_tailed(false);
        let max = |rule: ValueRule, bits| rule.range(&stages[1], &histogram, bits).max;
        assert!(max(ValueRule::Mse, 4) < max(ValueRule::Mse, 6));
        let clipped = values
            .iter()
            .filter(|&&x| x > max(ValueRule::Percentile(99.0), 8))
            .count();
        assert!((150..=200).contains(&clipped), "{clipped}");
        assert_eq!(max(ValueRule::MinMax, 8), histogram.max());
    }

    #[test]
    fn rules_have_names() {
        for name in ["min-max", "mse", "percentile=99.9"] {
            assert_eq!(name.parse::<ValueRule>().unwrap().to_string(), name);
        }
        assert_eq!("percentile".parse(), Ok(ValueRule::PERCENTILE));
        for bad in ["", "max", "percentile=50", "percentile=101", "percentile=x"] {
            assert!(bad.parse::<ValueRule>().is_err(), "{bad}");
        }
    }
}
