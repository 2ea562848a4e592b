//! What makes a model consistent, whether it was built in memory or read from a file.

use std::borrow::Cow;
use std::collections::BTreeSet;

use slimbit_graph::{Point, Precision, Stage, StageKind, Width};
use slimbit_num::{ActQuant, AddRequant, Clip, SignedSums, Table, WeightGrid};

use crate::form::Form;
use crate::layout::{Convolution, Layout, layouts, window};
use crate::model::weight_bits;
use crate::{
    Arithmetic, ChannelCodes, ChannelRequant, Codes, EngineError, Model, OutputQuant, PointModel,
    StageModel, Weights, format,
};

/// Largest shift: leaves the sum a sign bit (as `slimbit_num`'s solvers do).
const MAX_SHIFT: u8 = 62;

/// Most codes that a 32-bit sum of a window takes, as `slimbit_kernels` limits it.
const MAX_WINDOW: usize = 1 << 23;

pub(crate) fn check(model: &Model) -> Result<(), EngineError> {
    if let Some(key) = model.metadata().keys().find(|key| format::is_reserved(key)) {
        let what = "is a key of the format itself; rename it";
        return Err(EngineError::invalid(format!("metadata `{key}`"), what));
    }
    check_input(model)?;
    check_weights(model)?;
    if model.points().is_empty() {
        return Err(EngineError::invalid("points", "a model needs at least one"));
    }
    for (index, point) in model.points().iter().enumerate() {
        let at = point.point.to_string();
        if model.points()[..index]
            .iter()
            .any(|p| p.point == point.point)
        {
            return Err(EngineError::invalid(at, "appears twice"));
        }
        PointCheck::new(model, point)?.run()?;
    }
    Ok(())
}

fn check_input(model: &Model) -> Result<(), EngineError> {
    let input = model.input();
    let channels = model.graph().input_shape().channels();
    let bad = |what: String| Err(EngineError::invalid("input", what));
    let lengths = [input.tables.len(), input.mean.len(), input.std.len()];
    if lengths.iter().any(|&n| n != channels) {
        return bad(format!(
            "{lengths:?} tables, means and deviations for {channels} channels"
        ));
    }
    if let Some(mean) = input.mean.iter().find(|m| !m.is_finite()) {
        return bad(format!("mean {mean} is not finite"));
    }
    if let Some(std) = input.std.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        return bad(format!("standard deviation {std} is not positive"));
    }
    if input.quant.bits != 8 {
        return bad(format!("codes of {} bits, not 8", input.quant.bits));
    }
    check_quant("input", input.quant)
}

fn spelt(quant: ActQuant) -> String {
    let ActQuant {
        scale,
        zero_point,
        bits,
    } = quant;
    format!("has scale {scale}, zero point {zero_point}, {bits} bits")
}

fn check_quant(at: &str, quant: ActQuant) -> Result<(), EngineError> {
    let ActQuant {
        scale,
        zero_point,
        bits,
    } = quant;
    if !(scale.is_finite() && scale > 0.0) {
        return Err(EngineError::invalid(
            at,
            format!("scale {scale} is not positive"),
        ));
    }
    if !(1..=8).contains(&bits) || !quant.clip().contains(zero_point.into()) {
        let what = format!("zero point {zero_point} is not a code of {bits} bits");
        return Err(EngineError::invalid(at, what));
    }
    Ok(())
}

fn check_weights(model: &Model) -> Result<(), EngineError> {
    let (graph, stages) = (model.graph(), model.stages());
    let full = layouts(graph, stages, Width::FULL)?;
    let mut expected = BTreeSet::new();
    for (stage, &output) in stages.iter().zip(&full) {
        let Some(&operand) = stage.inputs.first() else {
            continue;
        };
        let Some(conv) = Convolution::of(graph, stage, full[operand], output) else {
            continue;
        };
        expected.insert(stage.name.as_str());
        let at = format!("weights of `{}`", stage.name);
        let Some(weights) = model.weights().get(&stage.name) else {
            return Err(EngineError::invalid(at, "are missing"));
        };
        check_tensor(&at, weights, conv.weights)?;
        let needed: BTreeSet<u8> = model
            .points()
            .iter()
            .map(|p| weight_bits(stage, p.point))
            .collect();
        check_codes(&at, weights, model.grid(), &needed)?;
    }
    match model
        .weights()
        .keys()
        .find(|name| !expected.contains(name.as_str()))
    {
        Some(name) => {
            let what = "belong to no convolution or linear stage of the graph";
            Err(EngineError::invalid(format!("weights of `{name}`"), what))
        }
        None => Ok(()),
    }
}

fn check_tensor(at: &str, weights: &Weights, shape: [usize; 4]) -> Result<(), EngineError> {
    if weights.shape != shape {
        let what = format!("shape {:?}, wanted {shape:?}", weights.shape);
        return Err(EngineError::invalid(at, what));
    }
    Ok(())
}

fn check_codes(
    at: &str,
    weights: &Weights,
    grid: WeightGrid,
    needed: &BTreeSet<u8>,
) -> Result<(), EngineError> {
    let fit = |ChannelCodes { max_abs, codes }: &ChannelCodes| {
        let shape = weights.shape;
        let wanted = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let unfit = if wanted != Some(codes.len()) {
            format!("{} codes for shape {shape:?}", codes.len())
        } else if max_abs.len() != shape[0] {
            format!("{} magnitudes for {} channels", max_abs.len(), shape[0])
        } else if let Some(o) = max_abs.iter().position(|m| !(m.is_finite() && *m >= 0.0)) {
            format!("magnitude {} of channel {o}", max_abs[o])
        } else {
            return Ok(());
        };
        Err(EngineError::invalid(at, unfit))
    };
    match &weights.codes {
        Codes::Nested(codes) if grid != WeightGrid::MinMax => fit(codes),
        Codes::MinMax(by_bits) if grid == WeightGrid::MinMax => {
            if !by_bits.keys().eq(needed) {
                let what = format!(
                    "stored at {:?} bits, but the points take {needed:?}",
                    by_bits.keys().collect::<Vec<_>>()
                );
                return Err(EngineError::invalid(at, what));
            }
            for (&bits, stored) in by_bits {
                fit(stored)?;
                if let Some(code) = beyond(&stored.codes, bits) {
                    let what = format!("{code} is not a code of {bits} bits");
                    return Err(EngineError::invalid(at, what));
                }
            }
            Ok(())
        }
        _ => {
            let what = format!("stored in another form than the {grid} grid's");
            Err(EngineError::invalid(at, what))
        }
    }
}

/// A code that is none of `bits` bits.
fn beyond(codes: &[i8], bits: u8) -> Option<i8> {
    let Clip { lo, hi } = Clip::signed(bits);
    let (Ok(lo), Ok(hi)) = (i8::try_from(lo), i8::try_from(hi)) else {
        return None;
    };
    if (lo, hi) == (i8::MIN, i8::MAX) {
        return None;
    }
    let is_beyond = |code: i8| code < lo || code > hi;
    // Without a branch per code: a file is checked whole before its first result.
    let any = |part: &&[i8]| part.iter().fold(false, |any, &code| any | is_beyond(code));
    let part = codes.chunks(4096).find(any)?;
    part.iter().copied().find(|&code| is_beyond(code))
}

/// The check of one point.
struct PointCheck<'a> {
    model: &'a Model,
    point: &'a PointModel,
    layouts: Vec<Layout>,
}

impl<'a> PointCheck<'a> {
    fn new(model: &'a Model, point: &'a PointModel) -> Result<Self, EngineError> {
        let Point {
            width,
            weight_bits,
            act_bits,
        } = point.point;
        Point::new(width, weight_bits, act_bits)?;
        let layouts = layouts(model.graph(), model.stages(), width)?;
        if point.stages.len() != layouts.len() {
            let what = format!(
                "{} stages, but the graph has {}",
                point.stages.len(),
                layouts.len()
            );
            return Err(EngineError::invalid(point.point.to_string(), what));
        }
        Ok(Self {
            model,
            point,
            layouts,
        })
    }

    fn run(&self) -> Result<(), EngineError> {
        for index in 0..self.layouts.len() {
            self.check_output(index)?;
            self.check_arithmetic(index)?;
        }
        Ok(())
    }

    fn stage(&self, index: usize) -> (&'a Stage, &'a StageModel) {
        (&self.model.stages()[index], &self.point.stages[index])
    }

    fn bad<T>(&self, index: usize, what: impl Into<String>) -> Result<T, EngineError> {
        let at = format!(
            "stage `{}` at {}",
            self.stage(index).0.name,
            self.point.point
        );
        Err(EngineError::invalid(at, what))
    }

    /// The quantiser of a stage's first operand.
    fn operand(&self, index: usize) -> Result<Option<ActQuant>, EngineError> {
        let stage = self.stage(index).0;
        for &input in &stage.inputs {
            if let OutputQuant::Wide { .. } = self.stage(input).1.output {
                let what = format!(
                    "reads `{}`, which leaves the network as wide integers; give that tensor \
                     back, or compute on it, but not both",
                    self.stage(input).0.name
                );
                return Err(EngineError::unsupported(&stage.name, what));
            }
        }
        Ok(stage
            .inputs
            .first()
            .and_then(|&input| match self.stage(input).1.output {
                OutputQuant::Codes(quant) => Some(quant),
                OutputQuant::Wide { .. } => None,
            }))
    }

    fn check_output(&self, index: usize) -> Result<(), EngineError> {
        let (stage, made) = self.stage(index);
        let operand = self.operand(index)?;
        match (stage.precision, made.output) {
            (Precision::Wide, OutputQuant::Wide { scale, zero_point }) => {
                if !(scale.is_finite() && scale > 0.0) || zero_point != 0 {
                    let what = format!("scale {scale}, zero point {zero_point}");
                    return self.bad(index, what);
                }
                Ok(())
            }
            (Precision::Wide, OutputQuant::Codes(_)) => {
                self.bad(index, "gives codes where the network has 32-bit values")
            }
            (_, OutputQuant::Wide { .. }) => {
                self.bad(index, "gives 32-bit values where the network has codes")
            }
            (precision, OutputQuant::Codes(quant)) => {
                check_quant(
                    &format!("stage `{}` at {}", stage.name, self.point.point),
                    quant,
                )?;
                let wanted = match precision {
                    Precision::Operand => operand,
                    _ if stage.kind == StageKind::Input => Some(self.model.input().quant),
                    _ => None,
                };
                if let Some(wanted) = wanted
                    && wanted != quant
                {
                    let what = format!("{}, but its operand {}", spelt(quant), spelt(wanted));
                    return self.bad(index, what);
                }
                let bits = stage.bits(self.point.point.act_bits);
                if precision != Precision::Operand && quant.bits != bits {
                    return self.bad(index, format!("{} bits, not {bits}", quant.bits));
                }
                Ok(())
            }
        }
    }

    fn check_arithmetic(&self, index: usize) -> Result<(), EngineError> {
        let (stage, made) = self.stage(index);
        match (Form::of(stage, self.layouts[index]), &made.arithmetic) {
            (Form::Input, Arithmetic::Input) => {
                self.check_tables(index, &self.model.input().tables)
            }
            (Form::Channels(n), Arithmetic::Channels { channels, clip }) => {
                if channels.len() != n {
                    return self.bad(index, format!("{} channels, not {n}", channels.len()));
                }
                self.check_clip(index, *clip)?;
                (0..n).try_for_each(|o| self.check_requant(index, o, &channels[o]))
            }
            (
                Form::Add,
                Arithmetic::Add {
                    truth,
                    requant,
                    clip,
                },
            ) => {
                if truth.affine().is_err() {
                    return self.bad(index, "the factors of the sum are not finite");
                }
                self.check_clip(index, *clip)?;
                self.check_add(index, *requant)
            }
            (Form::Pool, Arithmetic::Pool { requant, clip }) => {
                self.check_clip(index, *clip)?;
                self.check_requant(index, 0, requant)?;
                self.check_window(index)
            }
            (Form::Tables(n), Arithmetic::Tables(tables)) => {
                if tables.len() != n {
                    return self.bad(index, format!("{} tables, not {n}", tables.len()));
                }
                self.check_tables(index, tables)
            }
            (Form::Copy, Arithmetic::Copy) if stage.kind == StageKind::GlobalAvgPool => {
                self.check_window(index)
            }
            (Form::Copy, Arithmetic::Copy) => Ok(()),
            _ => self.bad(index, "its arithmetic is of another kind than the stage"),
        }
    }

    fn check_clip(&self, index: usize, clip: Clip) -> Result<(), EngineError> {
        let range = self.stage(index).1.output.range();
        if clip.lo <= clip.hi && range.contains(clip.lo) && range.contains(clip.hi) {
            return Ok(());
        }
        let Clip { lo, hi } = clip;
        let what = format!("clip [{lo}, {hi}] outside [{}, {}]", range.lo, range.hi);
        self.bad(index, what)
    }

    fn check_tables(&self, index: usize, tables: &[Table]) -> Result<(), EngineError> {
        let OutputQuant::Codes(quant) = self.stage(index).1.output else {
            return self.bad(index, "tables give codes, not wide integers");
        };
        let largest = tables.iter().flat_map(|table| table.0).max().unwrap_or(0);
        if quant.clip().contains(largest.into()) {
            return Ok(());
        }
        self.bad(
            index,
            format!("table entry {largest} is not a code of {} bits", quant.bits),
        )
    }

    fn check_requant(
        &self,
        index: usize,
        channel: usize,
        row: &ChannelRequant,
    ) -> Result<(), EngineError> {
        let ChannelRequant { requant, acc, .. } = row;
        if !row.a.is_finite() || !row.b.is_finite() {
            return self.bad(
                index,
                format!("channel {channel}: {} or {} is not finite", row.a, row.b),
            );
        }
        if acc.lo > acc.hi || !acc.fits_i32() {
            let what = format!(
                "channel {channel}: accumulator interval [{}, {}]",
                acc.lo, acc.hi
            );
            return self.bad(index, what);
        }
        let sum = |x: i64| i128::from(requant.m) * i128::from(x) + i128::from(requant.c);
        let fits = [acc.lo, acc.hi]
            .iter()
            .all(|&x| i64::try_from(sum(x)).is_ok());
        if requant.k > MAX_SHIFT || !fits {
            let what = format!(
                "channel {channel}: its rescaling overflows: multiplier {}, constant {}, shift {} on [{}, {}]",
                requant.m, requant.c, requant.k, acc.lo, acc.hi
            );
            return self.bad(index, what);
        }
        Ok(())
    }

    fn check_add(&self, index: usize, requant: AddRequant) -> Result<(), EngineError> {
        let room = i64::MAX as u64 - (1 << 41);
        if requant.k > MAX_SHIFT || requant.c.unsigned_abs() > room {
            let AddRequant { ma, mb, c, k } = requant;
            let what = format!(
                "its rescaling overflows: multipliers {ma} and {mb}, constant {c}, shift {k}"
            );
            return self.bad(index, what);
        }
        Ok(())
    }

    fn check_window(&self, index: usize) -> Result<(), EngineError> {
        let (stage, made) = self.stage(index);
        let input = self.layouts[stage.inputs[0]];
        let codes = window(self.model.graph(), stage, input)
            .and_then(|pool| pool.kernel[0].checked_mul(pool.kernel[1]))
            .filter(|&codes| codes <= MAX_WINDOW);
        let Some(codes) = codes else {
            return self.bad(
                index,
                "a window of more than 2^23 codes, whose sum could overflow",
            );
        };
        if let Arithmetic::Pool { requant, .. } = &made.arithmetic {
            let range = code_range(self.model.stages(), &self.point.stages, stage.inputs[0]);
            let [lo, hi] = [range.lo, range.hi].map(|code| i64::from(code) * codes as i64);
            let acc = requant.acc;
            if acc.lo > lo || acc.hi < hi {
                let what = format!(
                    "sums [{}, {}], but windows reach [{lo}, {hi}]",
                    acc.lo, acc.hi
                );
                return self.bad(index, what);
            }
        }
        Ok(())
    }
}

/// The codes that the tensor of stage `index` can hold, its padding included: what the
/// accumulators of its readers are bounded by. `made` has at least the stages up to `index`.
pub fn code_range(stages: &[Stage], made: &[StageModel], index: usize) -> Clip {
    let OutputQuant::Codes(quant) = made[index].output else {
        return Clip::signed(32);
    };
    let mut origin = index;
    let range = loop {
        match &made[origin].arithmetic {
            Arithmetic::Channels { clip, .. }
            | Arithmetic::Add { clip, .. }
            | Arithmetic::Pool { clip, .. } => break *clip,
            Arithmetic::Input | Arithmetic::Tables(_) => break quant.clip(),
            Arithmetic::Copy => origin = stages[origin].inputs[0],
        }
    };
    let zero = i32::from(quant.zero_point);
    Clip {
        lo: range.lo.min(zero),
        hi: range.hi.max(zero),
    }
}

/// What the kernels multiply by.
pub(crate) struct KernelWeights<'a> {
    /// Output channels outermost, input channels innermost.
    pub(crate) codes: Cow<'a, [i8]>,
    /// Of every output channel.
    pub(crate) sums: Vec<SignedSums>,
}

/// The kernel integers of a stage at a point, after checking that no accumulator can leave the
/// interval for which its rescaling was made.
///
/// # Errors
/// [`EngineError::Invalid`] for an accumulator that can.
pub(crate) fn kernel_weights<'a>(
    model: &'a Model,
    point: &PointModel,
    index: usize,
    shape: [usize; 4],
) -> Result<KernelWeights<'a>, EngineError> {
    let stage = &model.stages()[index];
    let bits = weight_bits(stage, point.point);
    let codes = model.weights()[&stage.name].block(model.grid(), bits, shape);
    let Arithmetic::Channels { channels, .. } = &point.stages[index].arithmetic else {
        unreachable!("checked: a stage with weights rescales its channels");
    };
    let operand = stage.inputs[0];
    let range = code_range(model.stages(), &point.stages, operand);
    let zero_point = point.stages[operand].output.zero_point() as u8;
    let taps = shape[1] * shape[2] * shape[3];
    let sums: Vec<SignedSums> = codes.chunks_exact(taps).map(SignedSums::of).collect();
    for (o, (sums, channel)) in sums.iter().zip(channels).enumerate() {
        let at = || format!("stage `{}` at {}, channel {o}", stage.name, point.point);
        let reached = sums
            .interval(range, zero_point)
            .map_err(|overflow| EngineError::invalid(at(), overflow.to_string()))?;
        let stored = channel.acc;
        if reached.lo < stored.lo || reached.hi > stored.hi {
            let what = format!(
                "the accumulator reaches [{}, {}], beyond the stored [{}, {}]",
                reached.lo, reached.hi, stored.lo, stored.hi
            );
            return Err(EngineError::invalid(at(), what));
        }
    }
    Ok(KernelWeights { codes, sums })
}
