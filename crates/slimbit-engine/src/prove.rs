//! The proof that a model's integers equal the real functions that they stand for, from the model
//! alone.
#![forbid(unsafe_code)]

mod report;

use std::fmt;

use slimbit_graph::{Activation, Stage, StageKind};
use slimbit_num::{ActQuant, Clip, Interval, SignedSums, Table, prove as prove_requant, prove_add};

pub use report::{PointProof, ProofReport, StageProof};

use crate::layout::{Convolution, Layout, layouts, window};
use crate::model::weight_bits;
use crate::validate::{code_range, kernel_weights};
use crate::{
    AddTruth, Arithmetic, ChannelRequant, EngineError, Model, OutputQuant, PREPROCESS, PointModel,
    Preprocess, StageModel,
};

/// Proves every rescaling, sum, pool and table of every point.
///
/// Accumulator intervals are computed again from the weights and codes of the point's bits and must
/// *equal* the stored ones; each integer form is then compared with its real map over the whole
/// interval (for sums, over all pairs of codes); tables and clips are compared with the quantisers on
/// both sides, the input's tables with its mean and deviation, and these with the preprocessing that
/// the file carries. `docs/numerics.md` lists what a file cannot show: that its real maps and its
/// network are those that were trained. [`Model::digest`] pins them.
///
/// # Errors
/// [`EngineError::Refuted`] with the first counterexample, or [`EngineError::Invalid`] for an
/// accumulator that can leave its interval.
pub fn prove(model: &Model) -> Result<ProofReport, EngineError> {
    check_preprocessing(model)?;
    let points = model.points().iter().map(|made| {
        let layouts = layouts(model.graph(), model.stages(), made.point.width)?;
        let prover = Prover {
            model,
            made,
            layouts,
        };
        let stages = (0..model.stages().len()).map(|index| prover.stage(index));
        Ok(PointProof {
            point: made.point,
            stages: stages.collect::<Result<_, EngineError>>()?,
        })
    });
    Ok(ProofReport {
        points: points.collect::<Result<_, EngineError>>()?,
    })
}

/// The preprocessing that a file carries is that of its input.
fn check_preprocessing(model: &Model) -> Result<(), EngineError> {
    if !model.metadata().contains_key(PREPROCESS) {
        return Ok(());
    }
    let differs = |what: String| {
        let at = format!("metadata `{PREPROCESS}`");
        Err(EngineError::invalid(at, what))
    };
    let Preprocess { mean, std, .. } = match Preprocess::from_model(model) {
        Ok(preprocess) => preprocess,
        Err(error) => return differs(error.to_string()),
    };
    let input = model.input();
    if (&mean, &std) == (&input.mean, &input.std) {
        return Ok(());
    }
    differs(format!(
        "mean {mean:?} and deviation {std:?}, but the input's codes are those of {:?} and {:?}",
        input.mean, input.std
    ))
}

struct Prover<'a> {
    model: &'a Model,
    made: &'a PointModel,
    layouts: Vec<Layout>,
}

impl Prover<'_> {
    fn refuted<T>(&self, at: impl Into<String>, what: impl fmt::Display) -> Result<T, EngineError> {
        Err(EngineError::Refuted {
            point: self.made.point.to_string(),
            at: at.into(),
            what: what.to_string(),
        })
    }

    fn parts(&self, index: usize) -> (&Stage, &StageModel) {
        (&self.model.stages()[index], &self.made.stages[index])
    }

    fn quant(&self, stage: usize) -> ActQuant {
        match self.made.stages[stage].output {
            OutputQuant::Codes(quant) => quant,
            OutputQuant::Wide { .. } => unreachable!("checked: operands and tables are codes"),
        }
    }

    fn stage(&self, index: usize) -> Result<StageProof, EngineError> {
        let (stage, made) = self.parts(index);
        let mut proof = StageProof {
            name: stage.name.clone(),
            arithmetic: "",
            channels: 0,
            accumulator: None,
            multiplier_bits: 0,
            shifts: None,
            tables: 0,
            float_operations: 0,
        };
        // Exhaustive: a new variant has to say here which integer operations it consists of.
        proof.arithmetic = match &made.arithmetic {
            Arithmetic::Input => {
                proof.tables = self.input()?;
                "table[pixel]"
            }
            Arithmetic::Channels { channels, clip } => {
                self.channels(index, channels, *clip)?;
                proof.rescale(channels);
                "clip((m*sum(w*(q-z)) + c) >> k)"
            }
            Arithmetic::Add {
                truth,
                requant,
                clip,
            } => {
                self.add_truth(index, truth)?;
                self.check_clip(index, *clip)?;
                let ranges = [0, 1].map(|i| self.range(stage.inputs[i]));
                let Ok(affine) = truth.affine() else {
                    return self.refuted(&stage.name, "the real sum is not finite");
                };
                if let Err(refuted) = prove_add(&affine, ranges[0], ranges[1], *clip, *requant) {
                    return self.refuted(&stage.name, refuted);
                }
                proof.channels = 1;
                let largest = requant.ma.unsigned_abs().max(requant.mb.unsigned_abs());
                proof.multiplier_bits = u32::BITS - largest.leading_zeros();
                proof.shifts = Some((requant.k, requant.k));
                "clip((ma*qa + mb*qb + c) >> k)"
            }
            Arithmetic::Pool { requant, clip } => {
                self.pool_truth(index, requant)?;
                self.check_clip(index, *clip)?;
                self.requant(index, 0, requant, *clip)?;
                proof.rescale(std::slice::from_ref(requant));
                "clip((m*sum(q) + c) >> k)"
            }
            Arithmetic::Tables(tables) => {
                self.tables(index, tables)?;
                proof.tables = tables.len();
                "table[q]"
            }
            Arithmetic::Copy if stage.kind == StageKind::GlobalAvgPool => {
                self.wide_pool(index)?;
                "sum(q-z)"
            }
            Arithmetic::Copy => "q",
        };
        Ok(proof)
    }

    fn range(&self, stage: usize) -> Clip {
        code_range(self.model.stages(), &self.made.stages, stage)
    }

    fn channels(
        &self,
        index: usize,
        channels: &[ChannelRequant],
        clip: Clip,
    ) -> Result<(), EngineError> {
        let (stage, _) = self.parts(index);
        let input = self.layouts[stage.inputs[0]];
        let conv = Convolution::of(self.model.graph(), stage, input, self.layouts[index])
            .expect("checked: only convolutions and linear stages rescale channels");
        let weights = kernel_weights(self.model, self.made, index, conv.weights)?;
        self.intervals(index, channels, &weights.sums)?;
        self.gains(index, channels)?;
        self.check_clip(index, clip)?;
        let mut rows = channels.iter().enumerate();
        rows.try_for_each(|(o, channel)| self.requant(index, o, channel, clip))
    }

    /// The stored intervals are those of the point's own integers: over every code of the operand's
    /// quantiser, or over those that its producer lets through. A point that was renamed to other bits
    /// reaches others.
    fn intervals(
        &self,
        index: usize,
        channels: &[ChannelRequant],
        sums: &[SignedSums],
    ) -> Result<(), EngineError> {
        let (stage, _) = self.parts(index);
        let operand = stage.inputs[0];
        let quant = self.quant(operand);
        let reached = |sums: &SignedSums, codes: Clip| sums.interval(codes, quant.zero_point).ok();
        let other = |codes: Clip| {
            let mut pairs = sums.iter().zip(channels);
            pairs.position(|(sums, channel)| reached(sums, codes) != Some(channel.acc))
        };
        let Some(channel) = other(quant.clip()) else {
            return Ok(());
        };
        if other(self.range(operand)).is_none() {
            return Ok(());
        }
        let Interval { lo, hi } = channels[channel].acc;
        let wanted = reached(&sums[channel], quant.clip()).unwrap_or(Interval::I32);
        let what = format!(
            "accumulators in [{lo}, {hi}], but weights of {} bits and codes of {} bits reach \
             [{}, {}]: the file was made for other bits, or its weights were changed",
            weight_bits(stage, self.made.point),
            quant.bits,
            wanted.lo,
            wanted.hi
        );
        self.refuted(format!("stage `{}`, channel {channel}", stage.name), what)
    }

    /// A channel whose magnitude is zero has no weights; and without a batch-norm the slope is that of
    /// the scales, but for the slope by which post-training quantisation may correct a channel.
    fn gains(&self, index: usize, channels: &[ChannelRequant]) -> Result<(), EngineError> {
        const CORRECTION: std::ops::RangeInclusive<f64> = 0.5 - 1e-5..=2.0 + 1e-5;
        let (stage, made) = self.parts(index);
        let weights = &self.model.weights()[&stage.name];
        let bits = weight_bits(stage, self.made.point);
        let stored = weights.codes.of_bits(bits);
        let taps = weights.shape[1..].iter().product::<usize>();
        let at = |channel: usize| format!("stage `{}`, channel {channel}", stage.name);
        let plain = matches!(
            stage.kind,
            StageKind::Conv { norm: None, .. } | StageKind::Linear { norm: None, .. }
        );
        let input = f64::from(self.quant(stage.inputs[0]).scale);
        for (channel, row) in channels.iter().enumerate() {
            if stored.max_abs[channel] == 0.0 {
                let codes = &stored.codes[channel * taps..][..taps];
                if let Some(code) = codes.iter().find(|code| **code != 0) {
                    return self.refuted(at(channel), format!("magnitude 0, but code {code}"));
                }
                continue;
            }
            let unit = f64::from(weights.scale(self.model.grid(), bits, channel)) * input;
            let gain = f64::from(row.a) * f64::from(made.output.scale()) / unit;
            if plain && !CORRECTION.contains(&gain) {
                let what = format!(
                    "the slope {} is {gain} times that of the scales of weights, input and output, \
                     and there is no batch-norm",
                    row.a
                );
                return self.refuted(at(channel), what);
            }
        }
        Ok(())
    }

    fn requant(
        &self,
        index: usize,
        channel: usize,
        row: &ChannelRequant,
        clip: Clip,
    ) -> Result<(), EngineError> {
        let at = || format!("stage `{}`, channel {channel}", self.parts(index).0.name);
        let Ok(truth) = row.truth() else {
            return self.refuted(at(), "the real map is not finite");
        };
        match prove_requant(&truth, row.acc, clip, row.requant) {
            Ok(()) => Ok(()),
            Err(refuted) => self.refuted(at(), refuted),
        }
    }

    /// A clip is the quantiser's range, narrowed by the activation and by nothing else.
    fn check_clip(&self, index: usize, clip: Clip) -> Result<(), EngineError> {
        let (stage, made) = self.parts(index);
        let ends = stage.activation.and_then(Activation::clamp_ends);
        let [lo, hi] = ends.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]);
        let range = made.output.range();
        let code = |end: f64| {
            let code = end / f64::from(made.output.scale()) + f64::from(made.output.zero_point());
            code.clamp(range.lo.into(), range.hi.into())
        };
        let [lo, hi] = [lo, hi].map(code);
        if is_rounding(lo, clip.lo) && is_rounding(hi, clip.hi) {
            return Ok(());
        }
        let what = format!("clip [{}, {}], wanted [{lo}, {hi}]", clip.lo, clip.hi);
        self.refuted(&stage.name, what)
    }

    fn add_truth(&self, index: usize, truth: &AddTruth) -> Result<(), EngineError> {
        let (stage, _) = self.parts(index);
        let [a, b, y] = [stage.inputs[0], stage.inputs[1], index].map(|i| self.quant(i));
        let slope = |x: ActQuant| f64::from(x.scale) / f64::from(y.scale);
        let constant = f64::from(y.zero_point)
            - f64::from(truth.a) * f64::from(a.zero_point)
            - f64::from(truth.b) * f64::from(b.zero_point);
        let equal = is_close(truth.a.into(), slope(a), 0.0)
            && is_close(truth.b.into(), slope(b), 0.0)
            && is_close(truth.c, constant, 1e-3);
        if equal {
            return Ok(());
        }
        self.refuted(
            &stage.name,
            "what it was solved for is not the sum of its operands",
        )
    }

    fn pool_truth(&self, index: usize, row: &ChannelRequant) -> Result<(), EngineError> {
        let (stage, _) = self.parts(index);
        let [x, y] = [stage.inputs[0], index].map(|i| self.quant(i));
        let pool = window(self.model.graph(), stage, self.layouts[stage.inputs[0]])
            .expect("checked: only pooling stages have windows");
        let count = pool.kernel[0] * pool.kernel[1];
        let sums = |codes: Clip| Interval {
            lo: i64::from(codes.lo) * count as i64,
            hi: i64::from(codes.hi) * count as i64,
        };
        if ![x.clip(), self.range(stage.inputs[0])]
            .map(sums)
            .contains(&row.acc)
        {
            let what = format!(
                "sums in [{}, {}], but {count} codes of {} bits reach {:?}",
                row.acc.lo,
                row.acc.hi,
                x.bits,
                sums(x.clip())
            );
            return self.refuted(&stage.name, what);
        }
        let count = count as f64;
        let slope = f64::from(x.scale) / (f64::from(y.scale) * count);
        let constant = f64::from(y.zero_point) - slope * count * f64::from(x.zero_point);
        if is_close(row.a.into(), slope, 0.0) && is_close(row.b, constant, 1e-3) {
            return Ok(());
        }
        let what = format!("{} and {} are not the mean of {count} codes", row.a, row.b);
        self.refuted(&stage.name, what)
    }

    fn wide_pool(&self, index: usize) -> Result<(), EngineError> {
        let (stage, made) = self.parts(index);
        let input = self.layouts[stage.inputs[0]];
        let count = (input.height * input.width) as f64;
        let wanted = f64::from(self.quant(stage.inputs[0]).scale) / count;
        if is_close(made.output.scale().into(), wanted, 0.0) {
            return Ok(());
        }
        let what = format!("scale {}, wanted {wanted}", made.output.scale());
        self.refuted(&stage.name, what)
    }

    fn tables(&self, index: usize, tables: &[Table]) -> Result<(), EngineError> {
        let (stage, _) = self.parts(index);
        let output = self.quant(index);
        for (operand, table) in tables.iter().enumerate() {
            let input = self.quant(stage.inputs[operand]);
            let wanted = match stage.activation {
                Some(activation) => Table::from_fn(input, output, |x| activation.apply(x)),
                None => Table::requantise(input, output),
            };
            let range = self.range(stage.inputs[operand]);
            let differs =
                (range.lo as u8..=range.hi as u8).find(|&q| table.apply(q) != wanted.apply(q));
            if let Some(q) = differs {
                let what = format!(
                    "code {q} gives {} instead of {}",
                    table.apply(q),
                    wanted.apply(q)
                );
                return self.refuted(format!("{}, operand {operand}", stage.name), what);
            }
        }
        Ok(())
    }

    /// The code of a pixel is the nearest to its real value.
    fn input(&self) -> Result<usize, EngineError> {
        let input = self.model.input();
        let quant = input.quant;
        for (channel, table) in input.tables.iter().enumerate() {
            let (mean, std) = (
                f64::from(input.mean[channel]),
                f64::from(input.std[channel]),
            );
            for pixel in 0..=u8::MAX {
                let value = (f64::from(pixel) / 255.0 - mean) / std;
                let code = value / f64::from(quant.scale) + f64::from(quant.zero_point);
                if !is_rounding(code.clamp(0.0, 255.0), table.apply(pixel).into()) {
                    let what = format!("pixel {pixel} gives {}, wanted {code}", table.apply(pixel));
                    return self.refuted(format!("input, channel {channel}"), what);
                }
            }
        }
        Ok(input.tables.len())
    }
}

/// Whether `found` is a nearest integer of `value`, whose last bits depend on the order in which
/// the exporter divided.
fn is_rounding(value: f64, found: i32) -> bool {
    (value - f64::from(found)).abs() <= 0.5 + 1e-3
}

/// Whether two ways to compute one coefficient agree to the precision of an `f32`.
fn is_close(found: f64, wanted: f64, absolute: f64) -> bool {
    (found - wanted).abs() <= wanted.abs() * 1e-6 + absolute
}
