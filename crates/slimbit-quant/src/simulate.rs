//! The check of a model against real numbers, stage by stage.
//!
//! Each stage is given the codes that the engine gave it, computes its real function in `f64`, and
//! rounds once, at the end. Errors therefore do not add up over the network, and every code that
//! differs is a difference of that one stage. Against the stored coefficients there is none: that is
//! what export proved, sampled here on real images by code that shares nothing with the solver.
//! Against the batch-norm formula itself only the rounding of the slope to `f32` can show.

use slimbit_engine::{
    Arithmetic, Layout, Model, OutputQuant, PointModel, Trace, layouts, weight_bits, weight_shape,
};
use slimbit_graph::{Op, Params, Point, PointStatistics, Stage, StageKind};
use slimbit_num::Clip;

use crate::QuantError;
use crate::formula::{self, Folded, Line};

/// What a model was lowered from, for the comparison with the unrounded formula.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The float parameters at full width.
    pub params: &'a Params,
    /// The statistics of the point.
    pub statistics: &'a PointStatistics,
}

/// How many codes of one stage differ from real arithmetic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageDifference {
    /// The stage.
    pub stage: String,
    /// Codes compared.
    pub codes: usize,
    /// Codes that differ from the stored coefficients.
    pub from_stored: usize,
    /// Codes that differ from the unrounded formula, where a [`Source`] was given.
    pub from_formula: Option<usize>,
    /// The largest difference from either, in codes.
    pub largest: u32,
}

/// Compares every stage that rescales (convolutions, linear layers, sums, averages) on one image.
///
/// `trace` is what the reference or a session computed of it.
///
/// # Errors
/// [`QuantError::Engine`] for a point that the model does not hold, [`QuantError::Statistics`] for a
/// source that is not this point's, and [`QuantError::Images`] for a trace of another network.
pub fn compare(
    model: &Model,
    point: Point,
    trace: &Trace,
    source: Option<Source>,
) -> Result<Vec<StageDifference>, QuantError> {
    let made = model.point(point)?;
    let layouts = layouts(model.graph(), model.stages(), point.width)?;
    let shapes = trace
        .stages
        .iter()
        .map(|stage| (stage.name.as_str(), stage.layout));
    let stages = model.stages();
    if !shapes.eq(stages
        .iter()
        .map(|stage| stage.name.as_str())
        .zip(layouts.iter().copied()))
    {
        let what = format!("the trace is not one of this model at {point}");
        return Err(QuantError::Images(what));
    }
    let check = Check {
        model,
        made,
        layouts: &layouts,
        trace,
        source,
    };
    (0..stages.len())
        .filter_map(|index| check.stage(index).transpose())
        .collect()
}

struct Check<'a> {
    model: &'a Model,
    made: &'a PointModel,
    layouts: &'a [Layout],
    trace: &'a Trace,
    source: Option<Source<'a>>,
}

/// The real function of a stage's output channel: as stored, and as the formula has it.
struct Truth {
    stored: Line,
    formula: Option<Line>,
}

impl Check<'_> {
    fn stage(&self, index: usize) -> Result<Option<StageDifference>, QuantError> {
        let stage = &self.model.stages()[index];
        Ok(match &self.made.stages[index].arithmetic {
            Arithmetic::Channels { channels, clip } => {
                let formula = self.folded_lines(index, channels.len())?;
                let truths: Vec<Truth> = channels
                    .iter()
                    .enumerate()
                    .map(|(o, c)| Truth {
                        stored: Line {
                            slope: c.a.into(),
                            offset: c.b,
                        },
                        formula: formula.as_ref().map(|lines| lines[o]),
                    })
                    .collect();
                let accumulators = self.accumulators(index, stage);
                Some(self.difference(index, &accumulators, &truths, *clip))
            }
            Arithmetic::Pool { requant, clip } => {
                let input = self.output(stage.inputs[0]);
                let (sums, window) = self.window_sums(index, stage);
                let truth = Truth {
                    stored: Line {
                        slope: requant.a.into(),
                        offset: requant.b,
                    },
                    formula: self
                        .source
                        .map(|_| formula::average(input, window, self.output(index))),
                };
                Some(self.difference(index, &sums, &[truth], *clip))
            }
            Arithmetic::Add { truth, clip, .. } => {
                let [x, y] = [stage.inputs[0], stage.inputs[1]];
                let output = self.output(index);
                let pairs = self.codes(x).iter().zip(self.codes(y));
                let real = |q: i32, quant: OutputQuant| {
                    f64::from(q - quant.zero_point()) * f64::from(quant.scale())
                };
                let values = pairs.map(|(&p, &q)| {
                    let stored = f64::from(truth.a) * f64::from(p)
                        + f64::from(truth.b) * f64::from(q)
                        + truth.c;
                    let sum = real(p, self.output(x)) + real(q, self.output(y));
                    let formula = sum / f64::from(output.scale()) + f64::from(output.zero_point());
                    (stored, self.source.map(|_| formula))
                });
                Some(self.count(index, values, *clip))
            }
            Arithmetic::Input | Arithmetic::Tables(_) | Arithmetic::Copy => None,
        })
    }

    fn codes(&self, index: usize) -> &[i32] {
        &self.trace.stages[index].codes
    }

    fn output(&self, index: usize) -> OutputQuant {
        self.made.stages[index].output
    }

    /// The batch-norm formula of every output channel, unrounded.
    fn folded_lines(&self, index: usize, channels: usize) -> Result<Option<Vec<Line>>, QuantError> {
        let Some(Source { params, statistics }) = self.source else {
            return Ok(None);
        };
        if statistics.point != self.made.point {
            return Err(QuantError::Statistics {
                point: self.made.point,
                name: self.model.stages()[index].name.clone(),
                what: format!("those given are of {}", statistics.point),
            });
        }
        let stage = &self.model.stages()[index];
        let folded = Folded::new(self.model.graph(), params, statistics, stage, channels)?;
        let weights = &self.model.weights()[&stage.name];
        let bits = weight_bits(stage, self.made.point);
        let input = f64::from(self.output(stage.inputs[0]).scale());
        let unit = |o| f64::from(weights.scale(self.model.grid(), bits, o)) * input;
        let lines = (0..channels).map(|o| folded.line(o, unit(o), self.output(index)));
        Ok(Some(lines.collect()))
    }

    fn difference(
        &self,
        index: usize,
        accumulators: &[i64],
        truths: &[Truth],
        clip: Clip,
    ) -> StageDifference {
        let at = |line: Line, x: i64| line.slope * x as f64 + line.offset;
        let values = accumulators
            .iter()
            .zip(truths.iter().cycle())
            .map(|(&x, truth)| (at(truth.stored, x), truth.formula.map(|line| at(line, x))));
        self.count(index, values, clip)
    }

    fn count(
        &self,
        index: usize,
        values: impl Iterator<Item = (f64, Option<f64>)>,
        clip: Clip,
    ) -> StageDifference {
        let mut difference = StageDifference {
            stage: self.model.stages()[index].name.clone(),
            codes: self.codes(index).len(),
            from_stored: 0,
            from_formula: self.source.map(|_| 0),
            largest: 0,
        };
        let code = |value: f64| {
            let rounded = (value + 0.5).floor();
            rounded.clamp(f64::from(clip.lo), f64::from(clip.hi)) as i32
        };
        for (&found, (stored, formula)) in self.codes(index).iter().zip(values) {
            let stored = found.abs_diff(code(stored));
            difference.from_stored += usize::from(stored != 0);
            difference.largest = difference.largest.max(stored);
            if let (Some(count), Some(value)) = (&mut difference.from_formula, formula) {
                let formula = found.abs_diff(code(value));
                *count += usize::from(formula != 0);
                difference.largest = difference.largest.max(formula);
            }
        }
        difference
    }

    /// `Σ w·(q − z)` of every output, channels innermost.
    fn accumulators(&self, index: usize, stage: &Stage) -> Vec<i64> {
        let (from, to) = (self.layouts[stage.inputs[0]], self.layouts[index]);
        let graph = self.model.graph();
        let shape = weight_shape(graph, stage, from, to)
            .unwrap_or_else(|| unreachable!("convolutions and linear layers have weights"));
        let bits = weight_bits(stage, self.made.point);
        let weights = self.model.weights()[&stage.name].at(self.model.grid(), bits, shape);
        let (stride, padding, dilation) = match stage.kind {
            StageKind::Conv { conv, .. } => match &graph.node(conv).op {
                Op::Conv2d(conv) => (conv.stride, conv.padding, conv.dilation),
                _ => unreachable!("a convolution stage has a convolution"),
            },
            _ => ([1; 2], [0; 4], [1; 2]),
        };
        let zero = i64::from(self.output(stage.inputs[0]).zero_point());
        let x = self.codes(stage.inputs[0]);
        let [out, rows, columns, per_group] = shape;
        let outputs_per_group = out * per_group / from.channels;
        let mut sums = Vec::with_capacity(to.elements());
        for y in 0..to.height {
            for z in 0..to.width {
                for o in 0..out {
                    let first = o / outputs_per_group * per_group;
                    let mut sum = 0;
                    for r in 0..rows {
                        let row = (y * stride[0] + r * dilation[0]).wrapping_sub(padding[0]);
                        if row >= from.height {
                            continue;
                        }
                        for s in 0..columns {
                            let column = (z * stride[1] + s * dilation[1]).wrapping_sub(padding[1]);
                            if column >= from.width {
                                continue;
                            }
                            let at = (row * from.width + column) * from.channels + first;
                            let tap = ((o * rows + r) * columns + s) * per_group;
                            let inputs = &x[at..at + per_group];
                            let products = inputs.iter().zip(&weights[tap..tap + per_group]);
                            sum += products
                                .map(|(&q, &w)| i64::from(w) * (i64::from(q) - zero))
                                .sum::<i64>();
                        }
                    }
                    sums.push(sum);
                }
            }
        }
        sums
    }

    /// `Σ q` of every window, channels innermost, and the codes per window.
    fn window_sums(&self, index: usize, stage: &Stage) -> (Vec<i64>, usize) {
        let (from, to) = (self.layouts[stage.inputs[0]], self.layouts[index]);
        let (kernel, stride) = match stage.kind {
            StageKind::AvgPool(node) => match &self.model.graph().node(node).op {
                Op::AvgPool(pool) => (pool.kernel, pool.stride),
                _ => unreachable!("a pooling stage has a pooling node"),
            },
            _ => ([from.height, from.width], [1; 2]),
        };
        let x = self.codes(stage.inputs[0]);
        let mut sums = Vec::with_capacity(to.elements());
        for y in 0..to.height {
            for z in 0..to.width {
                for c in 0..to.channels {
                    let mut sum = 0;
                    for r in 0..kernel[0] {
                        for s in 0..kernel[1] {
                            let position = (y * stride[0] + r) * from.width + z * stride[1] + s;
                            sum += i64::from(x[position * from.channels + c]);
                        }
                    }
                    sums.push(sum);
                }
            }
        }
        (sums, kernel[0] * kernel[1])
    }
}
