//! Models with random weights and ranges, lowered as the contract says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use slimbit_engine::{
    AddTruth, Arithmetic, ChannelCodes, ChannelRequant, Codes, InputCodes, Layout, Model,
    OutputQuant, PointModel, StageModel, Weights, code_range, layouts, weight_bits, weight_shape,
};
use slimbit_graph::{
    Activation, Graph, Op, Point, Precision, Range, Stage, StageKind, Width, backbones,
};
use slimbit_num::{
    ActQuant, Affine, Clip, Interval, Table, WeightGrid, accumulator_interval, solve, solve_add,
};

use crate::graphs;

/// A random network with four points, the same for the same seed.
pub(crate) fn random_model(seed: u64) -> Arc<Model> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let graph = graphs::random(&mut rng);
    let grids = [
        WeightGrid::Nested,
        WeightGrid::MinMax,
        WeightGrid::NestedOdd,
    ];
    Arc::new(lower(graph, grids[seed as usize % 3], &points(), &mut rng))
}

/// A small residual network with four points.
pub(crate) fn residual_model() -> Arc<Model> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    Arc::new(lower(
        graphs::residual(),
        WeightGrid::Nested,
        &points(),
        &mut rng,
    ))
}

/// A residual network whose operators are large enough for threads to share.
pub(crate) fn shared_model() -> Arc<Model> {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let graph = backbones::by_name("resnet8", 3, 20, 20, Some(10)).unwrap();
    Arc::new(lower(graph, WeightGrid::Nested, &points(), &mut rng))
}

pub(crate) fn points() -> Vec<Point> {
    ["1x W8A8", "0.5x W4A8", "0.25x W2A4", "1x W3A5"]
        .map(|text| text.parse().unwrap())
        .to_vec()
}

/// A random image for a model.
pub(crate) fn image(model: &Model, seed: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let length = model.graph().input_shape().elements();
    (0..length).map(|_| rng.random()).collect()
}

/// Lowers a graph with uniform weights: the extremes are as likely as anything else.
pub(crate) fn lower(
    graph: Graph,
    grid: WeightGrid,
    points: &[Point],
    rng: &mut ChaCha8Rng,
) -> Model {
    let uniform = Noise {
        draw: |rng| rng.random_range(-1.0..1.0),
        headroom: 1.0,
    };
    lower_noise(graph, grid, points, &uniform, rng)
}

/// Where weights come from.
pub(crate) struct Noise {
    pub(crate) draw: fn(&mut ChaCha8Rng) -> f32,
    /// How much larger scales are than the largest weight of each channel asks for.
    pub(crate) headroom: f32,
}

pub(crate) fn lower_noise(
    graph: Graph,
    grid: WeightGrid,
    points: &[Point],
    noise: &Noise,
    rng: &mut ChaCha8Rng,
) -> Model {
    let stages = graph.stages().unwrap();
    let input = input_codes(graph.input_shape().channels());
    let weights = weights(&graph, &stages, grid, points, noise, rng);
    let models = points.iter().map(|&point| {
        let mut lowering = Lowering {
            layouts: layouts(&graph, &stages, point.width).unwrap(),
            graph: &graph,
            stages: &stages,
            grid,
            weights: &weights,
            point,
            made: Vec::new(),
        };
        for index in 0..stages.len() {
            let stage = lowering.stage(index, &input, rng);
            lowering.made.push(stage);
        }
        PointModel {
            point,
            stages: lowering.made,
        }
    });
    let models = models.collect();
    let note = BTreeMap::from([("created_by".to_owned(), "a \"test\"\n\\".to_owned())]);
    Model::new(graph, grid, input, weights, models, note).unwrap()
}

fn input_codes(channels: usize) -> InputCodes {
    if channels == 1 {
        return InputCodes {
            tables: vec![Table(std::array::from_fn(|p| p as u8))],
            quant: ActQuant {
                scale: 1.0 / (255.0 * 0.3),
                zero_point: 77,
                bits: 8,
            },
            mean: vec![77.0 / 255.0],
            std: vec![0.3],
        };
    }
    let mean = vec![0.4, 0.5, 0.45];
    let std = vec![0.2, 0.25, 0.3];
    let quant = ActQuant::from_range(-2.0, 3.0, 8);
    let table = |(mean, std): (&f32, &f32)| {
        Table(std::array::from_fn(|p| {
            quant.quantise((p as f32 / 255.0 - mean) / std)
        }))
    };
    InputCodes {
        tables: mean.iter().zip(&std).map(table).collect(),
        quant,
        mean,
        std,
    }
}

fn weights(
    graph: &Graph,
    stages: &[Stage],
    grid: WeightGrid,
    points: &[Point],
    noise: &Noise,
    rng: &mut ChaCha8Rng,
) -> BTreeMap<String, Weights> {
    let full = layouts(graph, stages, Width::FULL).unwrap();
    let mut all = BTreeMap::new();
    for (stage, &output) in stages.iter().zip(&full) {
        let input = stage.inputs.first().map(|&i| full[i]);
        let Some(shape) = input.and_then(|input| weight_shape(graph, stage, input, output)) else {
            continue;
        };
        let length: usize = shape.iter().product();
        let floats: Vec<f32> = (0..length).map(|_| (noise.draw)(rng)).collect();
        let rows = floats.chunks_exact(length / shape[0]);
        let max_abs: Vec<f32> = rows
            .clone()
            .map(|row| noise.headroom * row.iter().fold(0f32, |m, w| m.max(w.abs())))
            .collect();
        let codes_at = |bits: u8| {
            let channels = rows.clone().zip(&max_abs);
            let codes =
                channels.flat_map(|(row, &m)| row.iter().map(move |&w| grid.code(w, m, bits)));
            ChannelCodes {
                max_abs: max_abs.clone(),
                codes: codes.collect::<Vec<i8>>().into(),
            }
        };
        let codes = if grid == WeightGrid::MinMax {
            let bits: BTreeSet<u8> = points.iter().map(|&p| weight_bits(stage, p)).collect();
            Codes::MinMax(
                bits.into_iter()
                    .map(|bits| (bits, codes_at(bits)))
                    .collect(),
            )
        } else {
            Codes::Nested(codes_at(8))
        };
        all.insert(stage.name.clone(), Weights { shape, codes });
    }
    all
}

struct Lowering<'a> {
    graph: &'a Graph,
    stages: &'a [Stage],
    layouts: Vec<Layout>,
    grid: WeightGrid,
    weights: &'a BTreeMap<String, Weights>,
    point: Point,
    made: Vec<StageModel>,
}

impl Lowering<'_> {
    fn quant(&self, stage: usize) -> ActQuant {
        match self.made[stage].output {
            OutputQuant::Codes(quant) => quant,
            OutputQuant::Wide { .. } => panic!("stage {stage} is wide"),
        }
    }

    fn range(&self, stage: usize) -> Clip {
        code_range(self.stages, &self.made, stage)
    }

    fn stage(&self, index: usize, input: &InputCodes, rng: &mut ChaCha8Rng) -> StageModel {
        let stage = &self.stages[index];
        let own = || {
            let observed = Range {
                min: -1.5,
                max: 7.0,
            };
            let range = stage.quantiser_range(observed);
            ActQuant::from_range(range.min, range.max, stage.bits(self.point.act_bits))
        };
        let (output, arithmetic) = match stage.kind {
            StageKind::Input => (OutputQuant::Codes(input.quant), Arithmetic::Input),
            StageKind::Conv { .. } | StageKind::Linear { .. } => {
                if stage.precision == Precision::Wide {
                    let wide = OutputQuant::Wide {
                        scale: 0.01,
                        zero_point: 0,
                    };
                    let arithmetic = self.channels(index, wide, Clip::signed(16), rng);
                    return StageModel {
                        output: wide,
                        arithmetic,
                    };
                }
                let quant = own();
                let output = OutputQuant::Codes(quant);
                let arithmetic = self.channels(index, output, clip(stage, quant), rng);
                (output, arithmetic)
            }
            StageKind::Add => (OutputQuant::Codes(own()), self.add(index, own())),
            StageKind::Concat | StageKind::Pointwise => {
                let tables = stage.inputs.iter().map(|&input| match stage.activation {
                    Some(f) => Table::from_fn(self.quant(input), own(), |x| f.apply(x)),
                    None => Table::requantise(self.quant(input), own()),
                });
                (
                    OutputQuant::Codes(own()),
                    Arithmetic::Tables(tables.collect()),
                )
            }
            StageKind::GlobalAvgPool if stage.precision == Precision::Wide => {
                let operand = self.layouts[stage.inputs[0]];
                let count = (operand.height * operand.width) as f32;
                let wide = OutputQuant::Wide {
                    scale: self.quant(stage.inputs[0]).scale / count,
                    zero_point: 0,
                };
                (wide, Arithmetic::Copy)
            }
            StageKind::AvgPool(_) | StageKind::GlobalAvgPool => {
                (OutputQuant::Codes(own()), self.pool(index, own()))
            }
            StageKind::MaxPool(_) | StageKind::PadShortcut(_) | StageKind::Flatten => {
                (self.made[stage.inputs[0]].output, Arithmetic::Copy)
            }
        };
        StageModel { output, arithmetic }
    }

    /// Random slopes and constants that use the whole clip range, and saturate now and then; without a
    /// batch-norm the slope of the scales.
    fn channels(
        &self,
        index: usize,
        output: OutputQuant,
        clip: Clip,
        rng: &mut ChaCha8Rng,
    ) -> Arithmetic {
        let stage = &self.stages[index];
        let operand = stage.inputs[0];
        let (from, to) = (self.layouts[operand], self.layouts[index]);
        let shape = weight_shape(self.graph, stage, from, to).unwrap();
        let bits = weight_bits(stage, self.point);
        let codes = self.weights[&stage.name].at(self.grid, bits, shape);
        let (range, zero_point) = (self.range(operand), self.quant(operand).zero_point);
        let rows = codes.chunks_exact(codes.len() / shape[0]).enumerate();
        let plain = matches!(
            stage.kind,
            StageKind::Conv { norm: None, .. } | StageKind::Linear { norm: None, .. }
        );
        let unit = self.quant(operand).scale / output.scale();
        let channels = rows.map(|(channel, row)| {
            let acc = accumulator_interval(row.iter().copied(), range, zero_point).unwrap();
            let spread = (acc.hi - acc.lo).max(1) as f32;
            let levels = (clip.hi - clip.lo).max(1) as f32;
            let sign = if rng.random_bool(0.2) { -1.0 } else { 1.0 };
            let drawn = sign * rng.random_range(0.5f32..5.0) * levels / spread;
            let scale = self.weights[&stage.name].scale(self.grid, bits, channel);
            let a = if plain { scale * unit } else { drawn };
            let middle = f64::from(clip.lo) + f64::from(levels) * rng.random_range(0.1..0.9);
            let b = middle - f64::from(a) * (acc.lo + acc.hi) as f64 / 2.0;
            let truth = Affine::from_floats(a, b).unwrap();
            let requant = solve(&truth, acc, clip).unwrap().requant;
            ChannelRequant { a, b, requant, acc }
        });
        Arithmetic::Channels {
            channels: channels.collect(),
            clip,
        }
    }

    fn add(&self, index: usize, output: ActQuant) -> Arithmetic {
        let stage = &self.stages[index];
        let [first, second] = [stage.inputs[0], stage.inputs[1]];
        let [qa, qb] = [first, second].map(|i| self.quant(i));
        let (a, b) = (qa.scale / output.scale, qb.scale / output.scale);
        let c = f64::from(output.zero_point)
            - f64::from(a) * f64::from(qa.zero_point)
            - f64::from(b) * f64::from(qb.zero_point);
        let truth = AddTruth { a, b, c };
        let clip = clip(stage, output);
        let ranges = [first, second].map(|i| self.range(i));
        let requant = solve_add(&truth.affine().unwrap(), ranges[0], ranges[1], clip).unwrap();
        Arithmetic::Add {
            truth,
            requant,
            clip,
        }
    }

    fn pool(&self, index: usize, output: ActQuant) -> Arithmetic {
        let stage = &self.stages[index];
        let input = self.quant(stage.inputs[0]);
        let operand = self.layouts[stage.inputs[0]];
        let count = match self.graph.node(stage.node).op {
            Op::AvgPool(pool) => pool.kernel[0] * pool.kernel[1],
            _ => operand.height * operand.width,
        };
        let a = (f64::from(input.scale) / (f64::from(output.scale) * count as f64)) as f32;
        let b = f64::from(output.zero_point)
            - f64::from(a) * count as f64 * f64::from(input.zero_point);
        let range = self.range(stage.inputs[0]);
        let acc = Interval {
            lo: i64::from(range.lo) * count as i64,
            hi: i64::from(range.hi) * count as i64,
        };
        let clip = clip(stage, output);
        let truth = Affine::from_floats(a, b).unwrap();
        let requant = solve(&truth, acc, clip).unwrap().requant;
        Arithmetic::Pool {
            requant: ChannelRequant { a, b, requant, acc },
            clip,
        }
    }
}

/// The code range, narrowed by the activation.
fn clip(stage: &Stage, quant: ActQuant) -> Clip {
    let range = quant.clip();
    let zero = i32::from(quant.zero_point);
    match stage.activation {
        None => range,
        Some(Activation::Relu6) => Clip {
            lo: zero,
            hi: range.hi.min((6.0 / quant.scale).round() as i32 + zero),
        },
        Some(_) => Clip {
            lo: zero,
            hi: range.hi,
        },
    }
}
