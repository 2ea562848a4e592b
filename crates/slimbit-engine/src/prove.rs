//! The proof that a model's integers equal the real functions that they stand for, from the model
//! alone.
#![forbid(unsafe_code)]

use std::fmt;

use slimbit_graph::{Activation, Point, Stage, StageKind};
use slimbit_num::{ActQuant, Clip, Interval, Table, prove as prove_requant, prove_add};

use crate::layout::{Convolution, Layout, layouts, window};
use crate::validate::{code_range, kernel_weights};
use crate::{
    AddTruth, Arithmetic, ChannelRequant, EngineError, Model, OutputQuant, PointModel, StageModel,
};

/// What was proven, point by point.
#[derive(Clone, Debug, PartialEq)]
pub struct ProofReport {
    /// One entry per point of the model.
    pub points: Vec<PointProof>,
}

/// What was proven of one point.
#[derive(Clone, Debug, PartialEq)]
pub struct PointProof {
    /// The point.
    pub point: Point,
    /// One entry per stage.
    pub stages: Vec<StageProof>,
}

/// What was proven of one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageProof {
    /// The stage.
    pub name: String,
    /// What it executes, in a formula.
    pub arithmetic: &'static str,
    /// Rescalings proven equal to their real map on every value that their accumulator can take.
    pub channels: usize,
    /// Every value that an accumulator of the stage can take, from the weights of this point.
    pub accumulator: Option<Interval>,
    /// Bits of the largest multiplier, its sign not counted.
    pub multiplier_bits: u32,
    /// The smallest and the largest shift.
    pub shifts: Option<(u8, u8)>,
    /// Tables equal, entry by entry, to the real function between their quantisers.
    pub tables: usize,
    /// Operations on floats between the operands and the output: none, because no variant of
    /// [`Arithmetic`] has one. The match that fills in `arithmetic` names all of them.
    pub float_operations: usize,
}

impl ProofReport {
    /// Rescalings proven, over all points and stages.
    pub fn channels(&self) -> usize {
        self.stages().map(|stage| stage.channels).sum()
    }

    /// Operations on floats, over all points and stages.
    pub fn float_operations(&self) -> usize {
        self.stages().map(|stage| stage.float_operations).sum()
    }

    fn stages(&self) -> impl Iterator<Item = &StageProof> {
        self.points.iter().flat_map(|point| &point.stages)
    }
}

impl fmt::Display for ProofReport {
    /// A line per stage.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for point in &self.points {
            writeln!(f, "{}", point.point)?;
            for stage in &point.stages {
                writeln!(f, "  {stage}")?;
            }
        }
        write!(
            f,
            "{} rescalings proven, {} float operations",
            self.channels(),
            self.float_operations()
        )
    }
}

impl fmt::Display for StageProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24} {:<34}", self.name, self.arithmetic)?;
        if let Some(Interval { lo, hi }) = self.accumulator {
            write!(f, " acc [{lo}, {hi}]")?;
        }
        if let Some((least, most)) = self.shifts {
            write!(f, " m {} bits, k {least}..={most}", self.multiplier_bits)?;
        }
        if self.channels > 0 {
            write!(f, ", {} proven", self.channels)?;
        }
        if self.tables > 0 {
            write!(f, " {} tables equal", self.tables)?;
        }
        Ok(())
    }
}

/// Proves every rescaling, sum, pool and table of every point.
///
/// Accumulator intervals are computed again from the weights of the point and must lie within the
/// stored ones; each integer form is then compared with its real map over the whole interval (for
/// sums, over all pairs of codes); tables and clips are compared with the quantisers on both sides.
/// What a file cannot show is that the real maps are those of the trained network: the batch-norm
/// parameters are not in it.
///
/// # Errors
/// [`EngineError::Refuted`] with the first counterexample, or [`EngineError::Invalid`] for an
/// accumulator that can leave its interval.
pub fn prove(model: &Model) -> Result<ProofReport, EngineError> {
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
        kernel_weights(self.model, self.made, index, conv.weights)?;
        self.check_clip(index, clip)?;
        let mut rows = channels.iter().enumerate();
        rows.try_for_each(|(o, channel)| self.requant(index, o, channel, clip))
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
        let OutputQuant::Codes(quant) = made.output else {
            return Ok(());
        };
        let range = quant.clip();
        let zero = i32::from(quant.zero_point);
        let lo = if stage.activation.is_some() {
            zero
        } else {
            range.lo
        };
        let hi = match stage.activation {
            Some(Activation::Relu6) => {
                let six = 6.0 / f64::from(quant.scale) + f64::from(zero);
                six.min(range.hi.into())
            }
            _ => range.hi.into(),
        };
        if clip.lo == lo && is_rounding(hi, clip.hi) {
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
            format!("{truth:?} is not the sum of its operands"),
        )
    }

    fn pool_truth(&self, index: usize, row: &ChannelRequant) -> Result<(), EngineError> {
        let (stage, _) = self.parts(index);
        let [x, y] = [stage.inputs[0], index].map(|i| self.quant(i));
        let pool = window(self.model.graph(), stage, self.layouts[stage.inputs[0]])
            .expect("checked: only pooling stages have windows");
        let count = (pool.kernel[0] * pool.kernel[1]) as f64;
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

impl StageProof {
    fn rescale(&mut self, rows: &[ChannelRequant]) {
        self.channels = rows.len();
        self.accumulator = Some(Interval {
            lo: rows.iter().map(|row| row.acc.lo).min().unwrap_or(0),
            hi: rows.iter().map(|row| row.acc.hi).max().unwrap_or(0),
        });
        let largest = rows
            .iter()
            .map(|row| row.requant.m.unsigned_abs())
            .max()
            .unwrap_or(0);
        self.multiplier_bits = u32::BITS - largest.leading_zeros();
        let shifts = || rows.iter().map(|row| row.requant.k);
        self.shifts = shifts().min().zip(shifts().max());
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
