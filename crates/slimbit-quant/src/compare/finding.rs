//! Where two networks diverge, and why.

use std::fmt;

use super::{Normalisation, Report, StageComparison};

/// Own error of a stage that is this many times what its steps explain is clipping, and worth a word
/// where it also leaves less than [`HARMFUL`] dB.
const UNEXPLAINED: f64 = 4.0;
const HARMFUL: f64 = 30.0;

/// Weights farther apart than a step are not rounded, and nor are those at more than 60 degrees.
const OTHER_STEPS: f64 = 1.0;
const OTHER_COSINE: f64 = 0.5;

/// Cosine that weights keep although they were moved.
const ALIKE: f64 = 0.9;

/// One code of this many in use: two bits, 12 dB, are wasted.
const WASTED: usize = 4;

/// The first stage at which a model and its reference diverge.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Where the difference shows: a position in [`Report::stages`].
    pub stage: usize,
    /// Where most of it comes from: the same stage, or an earlier one.
    pub origin: usize,
    /// Why.
    pub cause: Cause,
}

/// Why a stage differs from its reference.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// The networks see different images.
    Preprocessing {
        /// Root mean square of the difference, in steps of the input codes.
        steps: f64,
        /// The reference's normalisation, where a difference in normalisation is all there is.
        reference: Option<Normalisation>,
        /// The model's.
        model: Normalisation,
    },
    /// Most of the error comes from values beyond the ends of the code range.
    Saturation {
        /// The range of the float values.
        float_range: [f64; 2],
        /// The range of the codes.
        code_range: [f64; 2],
        /// Share of values beyond it.
        clipped: f64,
    },
    /// The code range is so wide that few codes are in use.
    Range {
        /// Codes from the least to the greatest in use.
        used: usize,
        /// Codes that there are.
        codes: usize,
    },
    /// The steps are too coarse.
    Rounding {
        /// Root mean square of the error that weights cause.
        weights: f64,
        /// Root mean square of the error that the rounding of the output causes.
        activations: f64,
    },
    /// The weights differ by more than their grid's step, or the constants after them.
    Weights {
        /// Root mean square of the differences, in steps.
        steps: f64,
        /// Whether the weights agree, and what differs is the batch-norm or the bias.
        constants_only: bool,
    },
}

impl Cause {
    /// One word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Preprocessing { .. } => "preprocessing",
            Self::Saturation { .. } => "saturation",
            Self::Range { .. } => "range",
            Self::Rounding { .. } => "rounding",
            Self::Weights { .. } => "weights",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preprocessing {
                steps,
                reference,
                model,
            } => {
                write!(
                    f,
                    "the inputs differ by {steps:.1} steps of the input codes; "
                )?;
                match reference {
                    Some(reference) => {
                        write!(f, "the reference sees {reference}, the .slim file {model}")
                    }
                    None => f.write_str(
                        "no other mean and deviation explain that, so size, crop, filter or the \
                         images themselves differ",
                    ),
                }
            }
            Self::Saturation {
                float_range: [low, high],
                code_range: [lo, hi],
                clipped,
            } => write!(
                f,
                "{:.2} % of the values are clipped: they reach from {low:.3} to {high:.3}, the codes \
                 from {lo:.3} to {hi:.3}",
                100.0 * clipped
            ),
            Self::Range { used, codes } => write!(
                f,
                "the code range is too wide: {used} of {codes} codes are in use"
            ),
            Self::Rounding {
                weights,
                activations,
            } => write!(
                f,
                "steps are too coarse: rounded weights cause an error of {weights:.2e}, rounded \
                 activations one of {activations:.2e} (root mean square)"
            ),
            Self::Weights {
                steps,
                constants_only: false,
            } => write!(
                f,
                "the weights are {steps:.1} steps of their grid apart (root mean square), which no \
                 rounding explains"
            ),
            Self::Weights {
                constants_only: true,
                ..
            } => f.write_str("the weights agree up to a factor, but the batch-norm or bias after them is another"),
        }
    }
}

impl fmt::Display for Normalisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &[f64]| {
            let texts: Vec<String> = values.iter().map(|v| format!("{v:.4}")).collect();
            texts.join(",")
        };
        write!(
            f,
            "mean {} and deviation {}",
            list(&self.mean),
            list(&self.std)
        )
    }
}

/// The first stage that falls below `threshold` dB, or whose own error nothing but a fault explains.
pub(super) fn first(report: &Report, threshold: f64) -> Option<Finding> {
    let found = |stage, origin, cause| {
        Some(Finding {
            stage,
            origin,
            cause,
        })
    };
    for (index, stage) in report.stages.iter().enumerate() {
        if let Some(cause) = report.preprocessing.as_ref().filter(|_| index == 0) {
            return found(index, index, cause.clone());
        }
        if let Some(cause) = other_weights(stage, report.moved) {
            return found(index, index, cause);
        }
        let explained = stage.step * stage.step / 12.0 + stage.weight_error.powi(2);
        let clipped = stage.own_error.powi(2) > UNEXPLAINED * explained;
        if clipped && stage.own_sqnr < HARMFUL {
            return found(index, index, cause(stage));
        }
        if stage.sqnr < threshold {
            let origin = origin(report, index);
            return found(index, origin, cause(&report.stages[origin]));
        }
    }
    None
}

fn other_weights(stage: &StageComparison, moved: bool) -> Option<Cause> {
    let weights = stage.weights?;
    // Weights that were moved on purpose do what they should on the inputs that they were moved for.
    if moved && stage.own_sqnr >= HARMFUL && weights.cosine >= ALIKE {
        return None;
    }
    let apart = weights.steps > OTHER_STEPS || weights.cosine < OTHER_COSINE;
    // A quantiser corrects constants to come closer to the float network. Those of another network
    // lead away from it.
    let [model, reference] = stage.constants.unwrap_or_default();
    let astray = model > 2.0 * reference + stage.step * stage.step;
    (apart || astray).then_some(Cause::Weights {
        steps: weights.steps,
        constants_only: !apart,
    })
}

/// The stage itself where its own error is at least half of all its error, else the stage up to
/// there that adds the most.
fn origin(report: &Report, index: usize) -> usize {
    let stages = &report.stages;
    // Half the energy is 3 dB.
    if stages[index].own_sqnr < stages[index].sqnr + 3.0 {
        return index;
    }
    let worst = (0..=index).min_by(|&a, &b| stages[a].own_sqnr.total_cmp(&stages[b].own_sqnr));
    worst.unwrap_or(index)
}

/// What makes most of a stage's own error.
fn cause(stage: &StageComparison) -> Cause {
    let clipping = stage.clipping_error.powi(2) > stage.own_error.powi(2) / 2.0;
    if let (true, Some(code_range)) = (clipping, stage.code_range) {
        return Cause::Saturation {
            float_range: stage.float_range,
            code_range,
            clipped: stage.clipped,
        };
    }
    let of_output = stage.output_error >= stage.weight_error;
    match stage.codes {
        Some((used, codes)) if of_output && used * WASTED <= codes => Cause::Range { used, codes },
        _ => Cause::Rounding {
            weights: stage.weight_error,
            activations: stage.output_error,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::WeightDistance;

    /// A stage at 8 bits that does nothing wrong.
    fn stage() -> StageComparison {
        StageComparison {
            stage: "a".into(),
            reference: "a".into(),
            values: 1000,
            sqnr: 40.0,
            cosine: 1.0,
            largest: 0.01,
            own_sqnr: 45.0,
            own_error: 0.004,
            weight_error: 0.003,
            output_error: 0.0029,
            clipping_error: 0.0,
            clipped: 0.0,
            float_range: [0.0, 2.5],
            code_range: Some([0.0, 2.55]),
            step: 0.01,
            codes: Some((251, 256)),
            weights: Some(WeightDistance {
                steps: 0.29,
                cosine: 0.999,
            }),
            constants: Some([1e-4, 1.1e-4]),
        }
    }

    fn finding(stages: Vec<StageComparison>) -> Option<Finding> {
        first(
            &Report {
                stages,
                preprocessing: None,
                moved: false,
                images: 1,
            },
            20.0,
        )
    }

    #[test]
    fn rounding_within_its_steps_is_no_finding() {
        assert_eq!(finding(vec![stage(), stage()]), None);
    }

    #[test]
    fn inherited_error_is_traced_to_its_origin() {
        let worst = StageComparison {
            sqnr: 21.0,
            own_sqnr: 22.0,
            ..stage()
        };
        let last = StageComparison {
            sqnr: 19.0,
            own_sqnr: 40.0,
            ..stage()
        };
        let found = finding(vec![stage(), worst.clone(), last.clone()]).unwrap();
        assert_eq!((found.stage, found.origin), (2, 1));
        let own = StageComparison {
            own_sqnr: 20.5,
            ..last
        };
        let found = finding(vec![stage(), worst, own]).unwrap();
        assert_eq!((found.stage, found.origin), (2, 2));
    }

    /// Reconstruction moves weights by more than a step, where that makes up for their inputs.
    #[test]
    fn weights_moved_on_purpose_are_no_finding() {
        let far = |own_sqnr| StageComparison {
            own_sqnr,
            weights: Some(WeightDistance {
                steps: 5.0,
                cosine: 0.996,
            }),
            ..stage()
        };
        let cause = |own_sqnr, moved| {
            let report = Report {
                stages: vec![far(own_sqnr)],
                preprocessing: None,
                moved,
                images: 1,
            };
            first(&report, 20.0).map(|found| found.cause.name())
        };
        assert_eq!(cause(42.0, false), Some("weights"));
        assert_eq!(cause(42.0, true), None);
        assert_eq!(cause(12.0, true), Some("weights"));
    }

    #[test]
    fn every_cause_is_told_from_the_others() {
        let low = StageComparison {
            sqnr: 15.0,
            own_sqnr: 15.5,
            ..stage()
        };
        let coarse = StageComparison {
            own_error: 0.1,
            weight_error: 0.09,
            output_error: 0.01,
            ..low
        };
        let name = |stage| finding(vec![stage]).map(|found| found.cause.name());
        assert_eq!(name(coarse.clone()), Some("rounding"));
        let wide = StageComparison {
            codes: Some((30, 256)),
            weight_error: 0.01,
            output_error: 0.09,
            step: 0.3,
            ..coarse.clone()
        };
        assert_eq!(name(wide.clone()), Some("range"));
        assert_eq!(
            name(StageComparison {
                codes: Some((80, 256)),
                ..wide
            }),
            Some("rounding")
        );
        let clipped = StageComparison {
            clipping_error: 0.08,
            ..coarse
        };
        assert_eq!(name(clipped), Some("saturation"));
        // Clipping that leaves 25 dB shows although the threshold is 20.
        let clipped = StageComparison {
            sqnr: 25.0,
            own_sqnr: 25.0,
            own_error: 0.02,
            clipping_error: 0.019,
            ..stage()
        };
        assert_eq!(name(clipped), Some("saturation"));
        let constants = StageComparison {
            constants: Some([1e-2, 1e-3]),
            ..stage()
        };
        assert_eq!(name(constants), Some("weights"));
        for weights in [
            WeightDistance {
                steps: 3.0,
                cosine: 0.99,
            },
            WeightDistance {
                steps: 0.6,
                cosine: 0.1,
            },
        ] {
            let other = StageComparison {
                weights: Some(weights),
                ..stage()
            };
            assert_eq!(name(other), Some("weights"));
        }
    }
}
