//! What to do about a difference that `compare` has found, given what the file already has.

use slimbit_engine::{Model, weight_bits};
use slimbit_graph::{Point, Stage, Width};
use slimbit_num::WeightGrid;
use slimbit_quant::compare::Cause;

/// Metadata key under which `quantize` [records](crate::cli::QuantizeArgs::recorded) how a file was
/// made.
const KEY: &str = "quantised";

/// How a file was quantised, as far as it bears on a remedy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Quantised {
    observer: String,
    correction: String,
    reconstruct: u8,
    compensate: bool,
    equalise: bool,
}

impl Quantised {
    /// Nothing for files that `quantize` has not made, or an older one.
    pub(super) fn read(model: &Model) -> Option<Self> {
        Self::parse(model.metadata().get(KEY)?)
    }

    fn parse(recorded: &str) -> Option<Self> {
        let words: Vec<&str> = recorded.split_whitespace().collect();
        let given = |flag: &str| words.contains(&flag);
        let value = |flag: &str| {
            let at = words.iter().position(|word| *word == flag)?;
            words.get(at + 1).copied()
        };
        Some(Self {
            observer: value("--observer")?.to_owned(),
            correction: value("--correction")?.to_owned(),
            reconstruct: value("--reconstruct")?.parse().ok()?,
            compensate: !given("--no-compensate"),
            equalise: given("--equalise"),
        })
    }

    /// Whether weights may lie more than a step from the float network's, to make up for what happens
    /// to their inputs.
    pub(super) fn moves_weights(&self) -> bool {
        self.reconstruct > 0 && self.compensate
    }
}

/// What is known of a file and of the stage at fault.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation<'a> {
    /// Bits of the stage's weights, where it has some, and of its output.
    pub(super) bits: (Option<u8>, u8),
    /// The point compared, and all that the file has.
    pub(super) point: Point,
    pub(super) points: &'a [Point],
    /// Whether all bit-widths share one copy of the weights.
    pub(super) nested: bool,
    pub(super) made: Option<&'a Quantised>,
    /// Whether `compare` was told to equalise.
    pub(super) equalised: bool,
}

impl<'a> Situation<'a> {
    pub(super) fn new(
        model: &Model,
        points: &'a [Point],
        point: Point,
        stage: &Stage,
        made: Option<&'a Quantised>,
        equalised: bool,
    ) -> Self {
        let weights = model.weights().contains_key(&stage.name);
        Self {
            bits: (
                weights.then(|| weight_bits(stage, point)),
                stage.bits(point.act_bits),
            ),
            point,
            points,
            nested: model.grid() != WeightGrid::MinMax,
            made,
            equalised,
        }
    }

    pub(super) fn remedy(&self, cause: &Cause) -> String {
        match cause {
            Cause::Preprocessing {
                reference: Some(_), ..
            } => "give `slimbit import` the --mean and --std that the network was trained with, and \
                  quantise again"
                .to_owned(),
            Cause::Preprocessing {
                reference: None, ..
            } => "give `slimbit import` the --resize and --filter that the network is used with, and \
                  quantise again"
                .to_owned(),
            Cause::Saturation { .. } if self.observer_is("min-max") => {
                "calibrate on images like these, or on more of them (--calibration-images)".to_owned()
            }
            Cause::Saturation { .. } => {
                "calibrate on images like these, or quantise with --observer min-max".to_owned()
            }
            Cause::Range { .. } if self.observer_is("mse") => {
                "calibrate on images like these: those that the file was calibrated on reach much \
                 further"
                    .to_owned()
            }
            Cause::Range { .. } => "quantise with --observer mse, on images like these".to_owned(),
            Cause::Rounding {
                weights,
                activations,
            } => self.finer(weights > activations),
            Cause::Weights { .. } => match self.made {
                Some(made) if made.equalise && !self.equalised => {
                    "pass --equalise here too: the file was quantised with it".to_owned()
                }
                Some(made) if !made.equalise && self.equalised => {
                    "leave --equalise away: the file was quantised without it".to_owned()
                }
                Some(_) => "compare with the network that the file was made of".to_owned(),
                None => "compare with the network that the file was made of; if it was quantised with \
                         --equalise, pass --equalise here too"
                    .to_owned(),
            },
        }
    }

    fn observer_is(&self, name: &str) -> bool {
        self.made.is_some_and(|made| made.observer == name)
    }

    /// Against steps that are too coarse, of weights or else of activations.
    fn finer(&self, of_weights: bool) -> String {
        let mut ways: Vec<String> = Vec::new();
        let (weights, outputs) = (self.bits.0.unwrap_or(8), self.bits.1);
        if self.made.is_some_and(|made| made.correction == "none") {
            ways.push("quantise with --correction line".to_owned());
        }
        let known = self.made.map_or(0, |made| made.reconstruct);
        // Bits that an earlier decision at fewer left no choice are reconstructed too.
        let shared = self.shares_with();
        let reconstructed = known >= weights || (known > 0 && shared.is_some());
        let (more, all) = match of_weights {
            true => (weights < 8, "8-bit weights can get no more bits"),
            false => (outputs < 8, "8-bit activations can get no more bits"),
        };
        if more {
            if of_weights && !reconstructed {
                ways.push(format!("quantise with --reconstruct {weights}"));
            }
            ways.push(self.more_bits(of_weights));
            return ways.join(", or ");
        }
        // Stages that are few bits away from their inputs cannot undo what those lost, but weights
        // that are chosen for the noisy inputs make up for much of it.
        let point = format!("W{}A{}", self.point.weight_bits, self.point.act_bits);
        match shared {
            Some(bits) if weights == 8 => ways.push(format!(
                "quantise {point} into a file of its own, where its weights need not share their \
                 codes with {bits}-bit ones, and reconstruct them: --bits {point} --reconstruct 8"
            )),
            _ if !reconstructed => ways.push(
                "quantise with --reconstruct 8: weights that are rounded for the noisy inputs make up \
                 for much of what earlier stages lose"
                    .to_owned(),
            ),
            _ => {}
        }
        match ways.is_empty() {
            true => format!(
                "none here: {all}, and the weights are reconstructed already; measure whether the \
                 difference costs accuracy (`slimbit probe`), and calibrate on more images like these \
                 if it does"
            ),
            false => format!("{all}; {}", ways.join(", or ")),
        }
    }

    /// The fewest bits with which the weights share their codes, where those are fewer than their own.
    fn shares_with(&self) -> Option<u8> {
        let own = self.bits.0.unwrap_or(self.point.weight_bits);
        let others = self.points.iter().filter(|p| p.width == Width::FULL);
        let fewest = others.map(|p| p.weight_bits).min()?;
        // A stage that is always at 8 bits, as the first and the last, shares with nothing.
        let varies = own == self.point.weight_bits;
        (self.nested && varies && fewest < own).then_some(fewest)
    }

    /// A point with more bits of a kind: one that the file has, or else any.
    fn more_bits(&self, of_weights: bool) -> String {
        let Point {
            width,
            weight_bits,
            act_bits,
        } = self.point;
        let better = self.points.iter().filter(|p| {
            p.width == width
                && match of_weights {
                    true => p.weight_bits > weight_bits && p.act_bits >= act_bits,
                    false => p.act_bits > act_bits && p.weight_bits >= weight_bits,
                }
        });
        let nearest = better.min_by_key(|p| (p.weight_bits + p.act_bits, p.weight_bits));
        let kind = if of_weights { "weight" } else { "activation" };
        match nearest {
            Some(point) => format!("use {point}, which the file has: it has more {kind} bits"),
            None => format!("use a point with more {kind} bits"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(bits: &[&str]) -> Vec<Point> {
        bits.iter()
            .map(|b| format!("1x {b}").parse().unwrap())
            .collect()
    }

    fn rounding(weights: f64) -> Cause {
        Cause::Rounding {
            weights,
            activations: 1.0,
        }
    }

    fn made(reconstruct: u8) -> Quantised {
        let recorded = format!(
            "20 calibration images, --observer mse --correction line --reconstruct {reconstruct}"
        );
        Quantised::parse(&recorded).unwrap()
    }

    fn at(points: &[Point], made: Option<&Quantised>, cause: &Cause) -> String {
        let situation = Situation {
            bits: (Some(points[0].weight_bits), points[0].act_bits),
            point: points[0],
            points,
            nested: true,
            made,
            equalised: false,
        };
        situation.remedy(cause)
    }

    /// What cannot be had, or is there already, is no remedy.
    #[test]
    fn nothing_impossible_or_done_already_is_recommended() {
        let (coarse, fine) = (rounding(2.0), rounding(0.5));
        let all = points(&["W8A8", "W6A6", "W4A8", "W4A4"]);
        for cause in [&coarse, &fine] {
            let text = at(&all, Some(&made(6)), cause);
            assert!(text.contains("--bits W8A8 --reconstruct 8"), "{text}");
            assert!(text.contains("can get no more bits"), "{text}");
            assert!(!text.contains("point with more"), "{text}");
            let alone = points(&["W8A8"]);
            let text = at(&alone, Some(&made(6)), cause);
            assert!(
                text.contains("--reconstruct 8") && !text.contains("--bits"),
                "{text}"
            );
            let text = at(&alone, Some(&made(8)), cause);
            assert!(
                text.starts_with("none here") && !text.contains("--reconstruct"),
                "{text}"
            );
        }
        let four = points(&["W4A4", "W4A8", "W8A8"]);
        let text = at(&four, Some(&made(6)), &coarse);
        assert!(text.contains("1x W8A8, which the file has"), "{text}");
        assert!(!text.contains("--reconstruct"), "{text}");
        let text = at(&four, Some(&made(6)), &fine);
        assert!(text.contains("1x W4A8, which the file has"), "{text}");
        let text = at(&four, Some(&made(0)), &coarse);
        assert!(text.contains("--reconstruct 4"), "{text}");
        let clipped = Cause::Saturation {
            float_range: [0.0, 9.0],
            code_range: [0.0, 5.0],
            clipped: 0.1,
        };
        let mut widest = made(6);
        widest.observer = "min-max".into();
        assert!(at(&all, Some(&made(6)), &clipped).contains("--observer min-max"));
        assert!(!at(&all, Some(&widest), &clipped).contains("--observer"));
        let wide = Cause::Range {
            used: 10,
            codes: 256,
        };
        assert!(at(&all, Some(&widest), &wide).contains("--observer mse"));
        assert!(!at(&all, Some(&made(6)), &wide).contains("--observer"));
    }

    #[test]
    fn other_weights_are_explained_by_how_the_file_was_made() {
        let cause = Cause::Weights {
            steps: 3.0,
            constants_only: false,
        };
        let all = points(&["W8A8"]);
        let mut equalised = made(6);
        assert!(!at(&all, Some(&equalised), &cause).contains("--equalise"));
        equalised.equalise = true;
        assert!(at(&all, Some(&equalised), &cause).contains("pass --equalise"));
        assert!(at(&all, None, &cause).contains("if it was quantised with --equalise"));
    }
}
