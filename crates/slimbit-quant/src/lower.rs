//! Lowering: a trained network and its statistics to integers that are proven equal to it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use slimbit_engine::{
    AddTruth, Arithmetic, ChannelRequant, InputCodes, Layout, Model, OutputQuant, PointModel,
    StageModel, Weights, layouts, weight_bits, weight_shape,
};
use slimbit_graph::{Graph, Op, Params, Point, PointStatistics, Precision, Stage, StageKind};
use slimbit_num::{ActQuant, Clip, SolveError, Table, WeightGrid, accumulator_interval, pooling};

use crate::formula::{self, Folded, Line};
use crate::post::Adjustment;
use crate::solver::Solver;
use crate::{Progress, QuantError, Settings, Task, quantisers, weights};

/// Turns a float network at full width into a model of integers at every point of `statistics`.
///
/// Each channel's accumulator interval is computed from its integers, and its rescaling is solved to
/// be exact on the whole of that interval. The work is spread over Rayon's threads; the result does
/// not depend on their number.
///
/// # Errors
/// [`QuantError::Graph`] for parameters that do not fit, [`QuantError::Statistics`] for missing or
/// useless statistics, [`QuantError::Overflow`] and [`QuantError::Unsolved`], which name stage,
/// channel and point, where no exact integers exist, and [`QuantError::Engine`] for a network that
/// the engine cannot run.
pub fn lower(
    graph: &Graph,
    params: &Params,
    statistics: &[PointStatistics],
    settings: &Settings,
    progress: impl Fn(Progress) + Sync,
) -> Result<Model, QuantError> {
    params.check(graph)?;
    let points: Vec<Point> = statistics.iter().map(|s| s.point).collect();
    let weights = weights::quantise(graph, &graph.stages()?, params, settings.grid, &points)?;
    let source = Source {
        graph,
        params,
        statistics,
        adjustments: &[],
    };
    lower_weights(&source, weights, settings, progress)
}

/// Adjustments of every output channel, by stage name; stages that have none are not adjusted.
pub(crate) type Adjustments = BTreeMap<String, Vec<Adjustment>>;

/// What is lowered besides integers.
pub(crate) struct Source<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) params: &'a Params,
    pub(crate) statistics: &'a [PointStatistics],
    /// Per point, in the order of the statistics; points beyond its end are not adjusted.
    pub(crate) adjustments: &'a [Adjustments],
}

/// As [`lower`], with integers that are already decided, by stage name.
pub(crate) fn lower_weights(
    source: &Source,
    weights: BTreeMap<String, Weights>,
    settings: &Settings,
    progress: impl Fn(Progress) + Sync,
) -> Result<Model, QuantError> {
    let Source {
        graph,
        params,
        statistics,
        adjustments,
    } = *source;
    let input = settings.input(graph)?;
    let stages = graph.stages()?;
    let lowering = Lowering {
        graph,
        params,
        stages: &stages,
        weights: &weights,
        grid: settings.grid,
        solver: Solver::default(),
    };
    let plans: Vec<PointPlan> = statistics
        .iter()
        .enumerate()
        .map(|(point, statistics)| {
            PointPlan::new(graph, &stages, &input, statistics, adjustments.get(point))
        })
        .collect::<Result<_, _>>()?;
    let jobs: Vec<(usize, usize)> = (0..plans.len())
        .flat_map(|point| (0..stages.len()).map(move |stage| (point, stage)))
        .collect();
    let done = AtomicUsize::new(0);
    let lowered: Vec<Result<StageModel, QuantError>> = jobs
        .par_iter()
        .map(|&(point, stage)| {
            let arithmetic = lowering.arithmetic(&plans[point], stage)?;
            progress(Progress {
                task: Task::Lower,
                point: plans[point].statistics.point,
                stage: &stages[stage].name,
                done: done.fetch_add(1, Ordering::Relaxed) + 1,
                total: jobs.len(),
            });
            Ok(StageModel {
                output: plans[point].outputs[stage],
                arithmetic,
            })
        })
        .collect();
    // Of several failures the first in execution order is reported, whichever came first in time.
    let mut lowered = lowered
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?
        .into_iter();
    let points = plans
        .iter()
        .map(|plan| PointModel {
            point: plan.statistics.point,
            stages: lowered.by_ref().take(stages.len()).collect(),
        })
        .collect();
    let metadata = settings.metadata.clone();
    Ok(Model::new(
        graph.clone(),
        settings.grid,
        input,
        weights,
        points,
        metadata,
    )?)
}

/// What all stages of one point need to know of one another.
struct PointPlan<'a> {
    statistics: &'a PointStatistics,
    adjustments: Option<&'a Adjustments>,
    layouts: Vec<Layout>,
    outputs: Vec<OutputQuant>,
}

impl<'a> PointPlan<'a> {
    fn new(
        graph: &Graph,
        stages: &[Stage],
        input: &InputCodes,
        statistics: &'a PointStatistics,
        adjustments: Option<&'a Adjustments>,
    ) -> Result<Self, QuantError> {
        let layouts = layouts(graph, stages, statistics.point.width)?;
        let outputs = quantisers::outputs(stages, &layouts, input.quant, statistics)?;
        Ok(Self {
            statistics,
            adjustments,
            layouts,
            outputs,
        })
    }

    fn adjustment(&self, stage: &Stage, channel: usize) -> Adjustment {
        let of_stage = self.adjustments.and_then(|all| all.get(&stage.name));
        of_stage.map_or(Adjustment::NONE, |all| all[channel])
    }
}

struct Lowering<'a> {
    graph: &'a Graph,
    params: &'a Params,
    stages: &'a [Stage],
    weights: &'a BTreeMap<String, Weights>,
    grid: WeightGrid,
    solver: Solver,
}

impl Lowering<'_> {
    fn arithmetic(&self, plan: &PointPlan, index: usize) -> Result<Arithmetic, QuantError> {
        let stage = &self.stages[index];
        let output = plan.outputs[index];
        let clip = output.clip(stage.activation);
        let unsolved = |source| QuantError::Unsolved {
            point: plan.statistics.point,
            stage: stage.name.clone(),
            channel: None,
            source,
        };
        let operands = || -> Result<Vec<ActQuant>, QuantError> {
            stage
                .inputs
                .iter()
                .map(|&i| self.codes(plan, i, stage))
                .collect()
        };
        Ok(match stage.kind {
            StageKind::Input => Arithmetic::Input,
            StageKind::Conv { .. } | StageKind::Linear { .. } => {
                let channels = self.channels(plan, index, operands()?[0], clip)?;
                Arithmetic::Channels { channels, clip }
            }
            StageKind::Add => {
                let [x, y] = operands()?[..] else {
                    unreachable!("a sum has two operands");
                };
                let OutputQuant::Codes(sum) = output else {
                    unreachable!("sums have codes");
                };
                let truth = sum_truth(x, y, sum);
                let requant = self.solver.sum(truth, [x.clip(), y.clip()], clip);
                Arithmetic::Add {
                    truth,
                    requant: requant.map_err(unsolved)?,
                    clip,
                }
            }
            StageKind::AvgPool(_) | StageKind::GlobalAvgPool
                if stage.precision != Precision::Wide =>
            {
                let input = operands()?[0];
                let window = self.window(plan, index);
                let requant = self.pool(input, window, output, clip).map_err(unsolved)?;
                Arithmetic::Pool { requant, clip }
            }
            StageKind::Concat | StageKind::Pointwise => {
                let OutputQuant::Codes(quant) = output else {
                    unreachable!("tables have codes");
                };
                let function = |x| stage.activation.map_or(x, |act| act.apply(x));
                let table = |input| Table::from_fn(input, quant, function);
                Arithmetic::Tables(operands()?.into_iter().map(table).collect())
            }
            StageKind::MaxPool(_)
            | StageKind::Flatten
            | StageKind::PadShortcut(_)
            | StageKind::AvgPool(_)
            | StageKind::GlobalAvgPool => Arithmetic::Copy,
        })
    }

    /// The codes that `reader` gets from stage `index`.
    fn codes(
        &self,
        plan: &PointPlan,
        index: usize,
        reader: &Stage,
    ) -> Result<ActQuant, QuantError> {
        match plan.outputs[index] {
            OutputQuant::Codes(quant) => Ok(quant),
            OutputQuant::Wide { .. } => Err(QuantError::Statistics {
                point: plan.statistics.point,
                name: self.stages[index].name.clone(),
                what: format!("leaves the network wide, but `{}` reads it", reader.name),
            }),
        }
    }

    fn channels(
        &self,
        plan: &PointPlan,
        index: usize,
        input: ActQuant,
        clip: Clip,
    ) -> Result<Vec<ChannelRequant>, QuantError> {
        let stage = &self.stages[index];
        let point = plan.statistics.point;
        let (from, to) = (plan.layouts[stage.inputs[0]], plan.layouts[index]);
        let shape = weight_shape(self.graph, stage, from, to)
            .unwrap_or_else(|| unreachable!("convolutions and linear layers have weights"));
        let weights = &self.weights[&stage.name];
        let bits = weight_bits(stage, point);
        let integers = weights.at(self.grid, bits, shape);
        let folded = Folded::new(self.graph, self.params, plan.statistics, stage, shape[0])?;
        let per_channel = shape[1] * shape[2] * shape[3];
        let solve = |(channel, integers): (usize, &[i8])| {
            let acc =
                accumulator_interval(integers.iter().copied(), input.clip(), input.zero_point)
                    .map_err(|source| QuantError::Overflow {
                        point,
                        stage: stage.name.clone(),
                        channel,
                        source,
                    })?;
            let unit = f64::from(weights.scale(self.grid, bits, channel)) * f64::from(input.scale);
            let adjustment = plan.adjustment(stage, channel);
            let output = plan.outputs[index];
            let Line { slope, offset: b } = folded.adjusted_line(channel, unit, output, adjustment);
            let a = slope as f32;
            let requant = self.solver.line(a, b, acc, clip);
            let requant = requant.map_err(|source| QuantError::Unsolved {
                point,
                stage: stage.name.clone(),
                channel: Some(channel),
                source,
            })?;
            Ok(ChannelRequant { a, b, requant, acc })
        };
        let channels: Vec<Result<_, _>> = integers
            .par_chunks_exact(per_channel)
            .enumerate()
            .map(solve)
            .collect();
        channels.into_iter().collect()
    }

    /// Codes per window of a pooling stage.
    fn window(&self, plan: &PointPlan, index: usize) -> usize {
        let stage = &self.stages[index];
        if let StageKind::AvgPool(node) = stage.kind
            && let Op::AvgPool(pool) = &self.graph.node(node).op
        {
            return pool.kernel.iter().product();
        }
        let map = plan.layouts[stage.inputs[0]];
        map.height * map.width
    }

    fn pool(
        &self,
        input: ActQuant,
        window: usize,
        output: OutputQuant,
        clip: Clip,
    ) -> Result<ChannelRequant, SolveError> {
        let Line { slope, .. } = formula::average(OutputQuant::Codes(input), window, output);
        // The offset follows the rounded slope, so that a window of zeros stays exactly zero.
        let a = slope as f32;
        let zeros = window as f64 * f64::from(input.zero_point);
        let b = f64::from(output.zero_point()) - f64::from(a) * zeros;
        let acc = pooling::sum_interval(input, window.try_into().unwrap_or(u32::MAX));
        let requant = self.solver.line(a, b, acc, clip)?;
        Ok(ChannelRequant { a, b, requant, acc })
    }
}

fn sum_truth(x: ActQuant, y: ActQuant, sum: ActQuant) -> AddTruth {
    let slope = |operand: ActQuant| (f64::from(operand.scale) / f64::from(sum.scale)) as f32;
    let (a, b) = (slope(x), slope(y));
    let zeros = f64::from(a) * f64::from(x.zero_point) + f64::from(b) * f64::from(y.zero_point);
    AddTruth {
        a,
        b,
        c: f64::from(sum.zero_point) - zeros,
    }
}
