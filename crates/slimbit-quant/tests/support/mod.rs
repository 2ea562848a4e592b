//! A float interpreter of graphs in plain `f64` loops, so that lowering is tested against something
//! that shares no code with it.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod networks;

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use slimbit_graph::{
    Array, Graph, Op, Params, Point, PointStatistics, Precision, Range, Shape, Stage, StageKind,
    Width,
};
use slimbit_num::ActQuant;
use slimbit_quant::{Norms, Pass, Quantised, Ranges};

/// A generator that gives the same numbers everywhere.
pub(crate) fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// Random parameters: uniform weights of variance 2 / fan-in, gammas around 1, betas around 0.
pub(crate) fn random_params(graph: &Graph, seed: u64) -> Params {
    let mut rng = rng(seed);
    let specs = graph.params(Width::FULL).unwrap();
    let norms: Vec<String> = graph
        .nodes()
        .iter()
        .filter(|node| matches!(node.op, Op::BatchNorm { .. }))
        .map(|node| format!("{}.weight", node.name))
        .collect();
    let draw = |spec: &slimbit_graph::ParamSpec| {
        let fan_in: usize = spec.shape[1..].iter().product();
        let (centre, reach) = match spec.shape.len() {
            1 if norms.contains(&spec.name) => (1.0, 0.5),
            1 => (0.0, 0.3),
            _ => (0.0, (6.0 / fan_in as f32).sqrt()),
        };
        let count = spec.shape.iter().product();
        let data = (0..count)
            .map(|_| centre + rng.random_range(-reach..reach))
            .collect();
        (
            spec.name.clone(),
            Array {
                shape: spec.shape.clone(),
                data,
            },
        )
    };
    Params(specs.iter().map(draw).collect())
}

/// Smooth random images, NHWC bytes.
pub(crate) fn images(graph: &Graph, count: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut rng = rng(seed);
    let shape = graph.input_shape();
    let ((height, width), channels) = (shape.spatial(), shape.channels());
    let image = |_| {
        let waves: Vec<[f32; 4]> = (0..channels)
            .map(|_| std::array::from_fn(|_| rng.random_range(0.0..3.0)))
            .collect();
        let mut pixels = Vec::with_capacity(shape.elements());
        for y in 0..height {
            for x in 0..width {
                for [a, b, c, d] in &waves {
                    let phase = a * y as f32 / 3.0 + b * x as f32 / 3.0 + c;
                    let value = 128.0 + 100.0 * (phase.sin() + 0.2 * (d * x as f32).cos());
                    pixels.push(value.clamp(0.0, 255.0) as u8);
                }
            }
        }
        pixels
    };
    (0..count).map(image).collect()
}

/// One value per image, each in channels, rows, columns order.
type Batch = Vec<Vec<f64>>;

/// What a forward pass of a whole batch saw: batch-norm statistics, the range of every stage before
/// its quantiser, and every node's tensor after it.
pub(crate) struct Seen {
    pub(crate) norms: Norms,
    pub(crate) ranges: Ranges,
    pub(crate) values: Vec<Batch>,
}

/// Runs the network as `pass` says: exactly the real functions that a deployed model rounds.
pub(crate) fn forward(graph: &Graph, params: &Params, pass: &Pass, input: &[Vec<f32>]) -> Seen {
    let shapes = graph.shapes(pass.width).unwrap();
    let stages = graph.stages().unwrap();
    let specs = graph.params(pass.width).unwrap();
    let effective = match pass.quantised {
        Some(quantised) => on_grid(params, &stages, graph, quantised),
        None => params.clone(),
    };
    let sliced: BTreeMap<&str, Vec<f64>> = specs
        .iter()
        .map(|spec| {
            let block = effective.0[&spec.name].leading(&spec.shape);
            (
                spec.name.as_str(),
                block.data.iter().map(|&v| f64::from(v)).collect(),
            )
        })
        .collect();
    let param = |name: &str, part: &str| sliced.get(format!("{name}.{part}").as_str());
    let mut norms = Norms::new();
    let mut ranges = Ranges::new();
    let mut values: Vec<Batch> = Vec::new();
    for (index, (node, &shape)) in graph.nodes().iter().zip(&shapes).enumerate() {
        let operand = |i: usize| &values[node.inputs[i].index()];
        let from = node.inputs.first().map(|id| shapes[id.index()]);
        let mut out: Batch = match &node.op {
            Op::Input { .. } => {
                let real = |image: &Vec<f32>| image.iter().map(|&v| f64::from(v)).collect();
                input.iter().map(real).collect()
            }
            Op::Conv2d(conv) => {
                let weight = &param(&node.name, "weight").unwrap()[..];
                let bias = param(&node.name, "bias");
                let geometry = (from.unwrap(), shape, conv);
                operand(0)
                    .iter()
                    .map(|x| convolve(x, weight, bias, geometry))
                    .collect()
            }
            Op::Linear(_) => {
                let weight = &param(&node.name, "weight").unwrap()[..];
                let bias = param(&node.name, "bias");
                let row = |x: &[f64], o: usize| {
                    let row = weight[o * x.len()..].iter().zip(x).map(|(w, x)| w * x);
                    row.sum::<f64>() + bias.map_or(0.0, |b| b[o])
                };
                let all = |x: &Vec<f64>| (0..shape.channels()).map(|o| row(x, o)).collect();
                operand(0).iter().map(all).collect()
            }
            Op::BatchNorm { eps } => {
                let (mean, var) = match pass.norms {
                    Some(given) => {
                        let (mean, var) = &given[&node.name];
                        let double = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect();
                        (double(mean), double(var))
                    }
                    None => moments(operand(0), shape.channels()),
                };
                let (gamma, beta) = (
                    param(&node.name, "weight").unwrap(),
                    param(&node.name, "bias").unwrap(),
                );
                let plane = shape.elements() / shape.channels();
                let single = |v: &[f64]| v.iter().map(|&v| v as f32).collect();
                norms.insert(node.name.clone(), (single(&mean), single(&var)));
                let normal = |(i, x): (usize, &f64)| {
                    let c = i / plane;
                    gamma[c] * (x - mean[c]) / (var[c] + f64::from(*eps)).sqrt() + beta[c]
                };
                operand(0)
                    .iter()
                    .map(|x| x.iter().enumerate().map(normal).collect())
                    .collect()
            }
            Op::Activation(act) => operand(0)
                .iter()
                .map(|x| x.iter().map(|&v| act.apply(v)).collect())
                .collect(),
            Op::Add => {
                let sum =
                    |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a + b).collect();
                operand(0).iter().zip(operand(1)).map(sum).collect()
            }
            Op::Concat => (0..input.len())
                .map(|n| {
                    (0..node.inputs.len())
                        .flat_map(|i| operand(i)[n].clone())
                        .collect()
                })
                .collect(),
            Op::MaxPool(pool) => {
                let largest = |w: &[f64]| w.iter().copied().fold(f64::MIN, f64::max);
                operand(0)
                    .iter()
                    .map(|x| windows(x, from.unwrap(), shape, pool, largest))
                    .collect()
            }
            Op::AvgPool(pool) => {
                let mean = |w: &[f64]| w.iter().sum::<f64>() / w.len() as f64;
                operand(0)
                    .iter()
                    .map(|x| windows(x, from.unwrap(), shape, pool, mean))
                    .collect()
            }
            Op::GlobalAvgPool => {
                let plane = from.unwrap().elements() / shape.channels();
                let mean = |x: &Vec<f64>| {
                    x.chunks(plane)
                        .map(|p| p.iter().sum::<f64>() / plane as f64)
                        .collect()
                };
                operand(0).iter().map(mean).collect()
            }
            Op::Flatten => operand(0).clone(),
            Op::PadShortcut { stride, .. } => operand(0)
                .iter()
                .map(|x| pad(x, from.unwrap(), shape, *stride))
                .collect(),
        };
        let ends = |stage: &&Stage| stage.node.index() == index && stage.has_range();
        if let Some(stage) = stages.iter().find(ends) {
            ranges.insert(stage.name.clone(), extremes(&out));
            if let Some(quantised) = pass.quantised {
                let round = rounding(stage, quantised);
                out.iter_mut().flatten().for_each(|v| *v = round(*v));
            }
        }
        values.push(out);
    }
    Seen {
        norms,
        ranges,
        values,
    }
}

fn extremes(batch: &Batch) -> Range {
    let start = Range {
        min: f32::MAX,
        max: f32::MIN,
    };
    batch.iter().flatten().fold(start, |r, &v| Range {
        min: r.min.min(v as f32),
        max: r.max.max(v as f32),
    })
}

/// Weights on the grid, at full width.
fn on_grid(params: &Params, stages: &[Stage], graph: &Graph, quantised: Quantised) -> Params {
    let mut params = params.clone();
    for stage in stages {
        let node = match stage.kind {
            StageKind::Conv { conv: node, .. } | StageKind::Linear { linear: node, .. } => node,
            _ => continue,
        };
        let bits = if stage.eight_bit_weights {
            8
        } else {
            quantised.point.weight_bits
        };
        let name = format!("{}.weight", graph.node(node).name);
        let array = params.0.get_mut(&name).unwrap();
        let per_channel = array.data.len() / array.shape[0];
        for channel in array.data.chunks_exact_mut(per_channel) {
            let mut codes = vec![0; per_channel];
            let scale = quantised.grid.quantise_channel(channel, bits, &mut codes);
            for (w, code) in channel.iter_mut().zip(codes) {
                *w = f32::from(code) * scale;
            }
        }
    }
    params
}

/// The quantiser of a stage's output, half up.
fn rounding(stage: &Stage, quantised: Quantised) -> impl Fn(f64) -> f64 {
    let range = stage.quantiser_range(quantised.ranges[&stage.name]);
    let bits = stage.bits(quantised.point.act_bits);
    let (scale, zero, lo, hi) = if stage.precision == Precision::Wide {
        let scale = range.min.abs().max(range.max.abs()) / 32767.0;
        (scale, 0.0, -32768.0, 32767.0)
    } else {
        let quant = ActQuant::from_range(range.min, range.max, bits);
        let hi = f64::from(quant.clip().hi);
        (quant.scale, f64::from(quant.zero_point), 0.0, hi)
    };
    let scale = f64::from(scale);
    move |v| ((v / scale + zero + 0.5).floor().clamp(lo, hi) - zero) * scale
}

/// Statistics of a point from one float pass, as calibration without its quantised second round.
pub(crate) fn statistics(point: Point, seen: &Seen) -> PointStatistics {
    PointStatistics {
        point,
        norms: seen.norms.clone(),
        ranges: seen.ranges.clone(),
    }
}

pub(crate) fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn moments(batch: &Batch, channels: usize) -> (Vec<f64>, Vec<f64>) {
    let plane = batch[0].len() / channels;
    let count = (plane * batch.len()) as f64;
    let of = |c: usize| {
        batch
            .iter()
            .flat_map(move |x| &x[c * plane..(c + 1) * plane])
    };
    let mean: Vec<f64> = (0..channels).map(|c| of(c).sum::<f64>() / count).collect();
    let var = (0..channels).map(|c| of(c).map(|v| (v - mean[c]).powi(2)).sum::<f64>() / count);
    let var = var.collect();
    (mean, var)
}

fn convolve(
    x: &[f64],
    weight: &[f64],
    bias: Option<&Vec<f64>>,
    (from, to, conv): (Shape, Shape, &slimbit_graph::Conv2d),
) -> Vec<f64> {
    let ((ih, iw), (oh, ow)) = (from.spatial(), to.spatial());
    let groups = conv.group_count(from.channels());
    let (ig, og) = (from.channels() / groups, to.channels() / groups);
    let [kh, kw] = conv.kernel;
    let mut out = Vec::with_capacity(to.elements());
    for o in 0..to.channels() {
        for y in 0..oh {
            for z in 0..ow {
                let mut sum = bias.map_or(0.0, |b| b[o]);
                for i in 0..ig {
                    for r in 0..kh {
                        for s in 0..kw {
                            let row = (y * conv.stride[0] + r * conv.dilation[0])
                                .wrapping_sub(conv.padding[0]);
                            let col = (z * conv.stride[1] + s * conv.dilation[1])
                                .wrapping_sub(conv.padding[1]);
                            if row < ih && col < iw {
                                let c = o / og * ig + i;
                                sum += weight[((o * ig + i) * kh + r) * kw + s]
                                    * x[(c * ih + row) * iw + col];
                            }
                        }
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}

fn windows(
    x: &[f64],
    from: Shape,
    to: Shape,
    pool: &slimbit_graph::Pool,
    reduce: impl Fn(&[f64]) -> f64,
) -> Vec<f64> {
    let ((ih, iw), (oh, ow)) = (from.spatial(), to.spatial());
    let mut out = Vec::with_capacity(to.elements());
    for c in 0..to.channels() {
        for y in 0..oh {
            for z in 0..ow {
                let mut window = Vec::new();
                for r in 0..pool.kernel[0] {
                    for s in 0..pool.kernel[1] {
                        let row = (y * pool.stride[0] + r).wrapping_sub(pool.padding[0]);
                        let col = (z * pool.stride[1] + s).wrapping_sub(pool.padding[1]);
                        if row < ih && col < iw {
                            window.push(x[(c * ih + row) * iw + col]);
                        }
                    }
                }
                out.push(reduce(&window));
            }
        }
    }
    out
}

fn pad(x: &[f64], from: Shape, to: Shape, stride: usize) -> Vec<f64> {
    let ((ih, iw), (oh, ow)) = (from.spatial(), to.spatial());
    let before = (to.channels() - from.channels()) / 2;
    let mut out = vec![0.0; to.elements()];
    for c in 0..from.channels() {
        for y in 0..oh {
            for z in 0..ow {
                out[((c + before) * oh + y) * ow + z] = x[(c * ih + y * stride) * iw + z * stride];
            }
        }
    }
    out
}
