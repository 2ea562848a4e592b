//! The float and the quantised network side by side, one stage at a time.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use slimbit_engine::{OutputQuant, layouts, weight_bits};
use slimbit_graph::{Activation, PointStatistics, Shape, Stage, StageKind, Width};
use slimbit_nn::{NormMode, Value, ops};

use super::blocks::Blocks;
use super::budget::{self, Budget, CHUNK, Method};
use super::correction::{Adjustment, Correction, Moments, observe};
use super::gram::Gram;
use super::inputs::{self, Inputs, Parts, Reader};
use super::layer::{Decision, Layer};
use super::samples::Samples;
use super::work::Work;
use super::{Job, LayerError, Layers, values_in, values_of};
use crate::formula::Folded;
use crate::lower::Adjustments;
use crate::warning::LayerSize;
use crate::{QuantError, Warning, quantisers};

/// Share of the mean second moment that is added to every input's.
const DAMPING: f64 = 0.01;

/// One walk of a point through the network. Every tensor is kept in chunks of a few images, and only
/// until its last reader.
pub(super) struct Walk<'a> {
    job: &'a Job<'a>,
    statistics: &'a PointStatistics,
    outputs: Vec<OutputQuant>,
    shapes: Vec<Shape>,
    last_use: Vec<usize>,
    chunks: Vec<Chunk>,
    /// Chunks whose inputs are sampled together.
    sampled: Vec<Range<usize>>,
    work: &'a Work<'a>,
    adjustments: Adjustments,
    errors: Vec<LayerError>,
    pub(super) warnings: Vec<Warning>,
}

/// Stage outputs of a few images.
struct Chunk {
    float: Vec<Option<Value>>,
    quantised: Vec<Option<Value>>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        job: &'a Job<'a>,
        statistics: &'a PointStatistics,
        work: &'a Work<'a>,
    ) -> Result<Self, QuantError> {
        let net = job.net;
        let width = statistics.point.width;
        let layouts = layouts(net.graph(), net.stages(), width)?;
        let outputs = quantisers::outputs(net.stages(), &layouts, job.input.quant, statistics)?;
        let stages = net.stages().len();
        let chunk = |first: usize, count: usize| {
            let image = Value::Map(job.batch(first, count));
            let mut tensors = vec![None; stages];
            tensors[0] = Some(image);
            Chunk {
                float: tensors.clone(),
                quantised: tensors,
            }
        };
        let (mut chunks, mut sampled) = (Vec::new(), Vec::new());
        for (first, count) in job.batches(job.budget.images, CHUNK) {
            let parts = job.batches(count, job.budget.together);
            let before = chunks.len();
            chunks.extend(
                parts
                    .iter()
                    .map(|&(from, count)| chunk(first + from, count)),
            );
            sampled.push(before..chunks.len());
        }
        Ok(Self {
            job,
            statistics,
            outputs,
            shapes: net.graph().shapes(width)?,
            last_use: budget::last_use(net.stages()),
            chunks,
            sampled,
            work,
            warnings: Vec::new(),
            adjustments: Adjustments::new(),
            errors: Vec::new(),
        })
    }

    /// Decides the integers of this point without looking at any image.
    pub(super) fn decide_plainly(&self, layers: &mut Layers) -> Result<(), QuantError> {
        for (&index, layer) in layers {
            let bits = weight_bits(&self.job.net.stages()[index], self.statistics.point);
            if !layer.is_decided(bits) {
                layer.decide(&self.decision(bits, None, &|_| {}));
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> (Adjustments, Vec<LayerError>) {
        (self.adjustments, self.errors)
    }

    pub(super) fn step(&mut self, index: usize, layers: &mut Layers) -> Result<(), QuantError> {
        let net = self.job.net;
        let stage = &net.stages()[index];
        match stage.kind {
            StageKind::Input => {}
            StageKind::Conv { .. } | StageKind::Linear { .. } => {
                let layer = layers
                    .get_mut(&index)
                    .unwrap_or_else(|| unreachable!("every stage with weights is a layer"));
                self.layer(index, stage, layer)?;
            }
            _ => {
                let norm = NormMode::Given(&self.statistics.norms);
                let width = self.statistics.point.width;
                for chunk in 0..self.chunks.len() {
                    let operands = |tensors: &[Option<Value>]| -> Vec<Value> {
                        let inputs = stage.inputs.iter();
                        inputs.filter_map(|&i| tensors[i].clone()).collect()
                    };
                    let chunk = &mut self.chunks[chunk];
                    let float = net.stage(index, operands(&chunk.float), width, norm)?;
                    let exact = net.stage(index, operands(&chunk.quantised), width, norm)?;
                    let rounded = round(exact, self.outputs[index], stage);
                    chunk.float[index] = Some(float);
                    chunk.quantised[index] = Some(rounded);
                }
            }
        }
        let layer = layers.get(&index);
        let work = self.job.budget.walking_work(index, layer);
        self.work.advance(self.statistics.point, &stage.name, work);
        for input in (0..=index).filter(|&i| self.last_use[i] <= index && i != index) {
            for chunk in &mut self.chunks {
                chunk.float[input] = None;
                chunk.quantised[input] = None;
            }
        }
        Ok(())
    }

    fn layer(&mut self, index: usize, stage: &Stage, layer: &mut Layer) -> Result<(), QuantError> {
        let net = self.job.net;
        let point = self.statistics.point;
        let bits = weight_bits(stage, point);
        if !layer.is_decided(bits) {
            self.decide(index, stage, layer, bits);
        }
        let node = match stage.kind {
            StageKind::Conv { conv: node, .. } | StageKind::Linear { linear: node, .. } => node,
            _ => unreachable!("only layers have weights"),
        };
        let channels = self.shapes[node.index()].channels();
        let params = &self.job.params;
        let folded = Folded::new(net.graph(), params, self.statistics, stage, channels)?;
        let folded: Vec<(f64, f64)> = (0..channels)
            .map(|o| folded.real_line(o))
            .map(|line| (line.slope, line.offset))
            .collect();
        let operand = self.operand_channels(stage);
        let weights = Blocks::new(self.job, index, layer, bits, [channels, operand]);
        let mut moments = vec![Moments::default(); channels];
        for chunk in &mut self.chunks {
            let operand = |tensors: &[Option<Value>]| {
                tensors[stage.inputs[0]]
                    .clone()
                    .unwrap_or_else(|| unreachable!("operands are alive"))
            };
            let operands = [operand(&chunk.float), operand(&chunk.quantised)];
            let [target, found] = weights
                .accumulate(operands)
                .map(|x| affine(x, &folded, None));
            let [_, _, height, width] = target.dims();
            observe(
                &mut moments,
                &values_in(&target),
                &values_in(&found),
                height * width,
            );
            let identity = vec![(1.0, 0.0); channels];
            chunk.float[index] = Some(shaped(affine(target, &identity, stage.activation), stage));
            chunk.quantised[index] = Some(Value::Map(found));
        }
        let adjustments: Vec<Adjustment> = moments
            .iter()
            .map(|m| m.adjustment(self.job.options.correction))
            .collect();
        let lines: Vec<(f64, f64)> = adjustments.iter().map(|a| (a.slope, a.shift)).collect();
        for chunk in &mut self.chunks {
            if let Some(Value::Map(found)) = chunk.quantised[index].take() {
                let y = shaped(affine(found, &lines, stage.activation), stage);
                chunk.quantised[index] = Some(round(y, self.outputs[index], stage));
            }
        }
        let sums = moments.iter().zip(&adjustments).map(|(m, &a)| m.error(a));
        let (error, variance) = sums.fold((0.0, 0.0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        self.errors.push(LayerError {
            stage: stage.name.clone(),
            relative: error / variance.max(f64::MIN_POSITIVE),
        });
        if self.job.options.correction != Correction::None {
            self.adjustments.insert(stage.name.clone(), adjustments);
        }
        Ok(())
    }

    fn decision<'g>(
        &self,
        bits: u8,
        inputs: Option<&'g Inputs>,
        progress: &'g (dyn Fn(usize) + Sync),
    ) -> Decision<'g> {
        Decision {
            bits,
            inputs,
            compensate: self.job.options.compensate,
            clip: self.job.options.clip_weights,
            headroom: self.job.options.headroom,
            progress,
        }
    }

    /// Channels that a layer reads, features for a linear one.
    fn operand_channels(&self, stage: &Stage) -> usize {
        let first = self.chunks.first();
        let operand = first.and_then(|chunk| chunk.float[stage.inputs[0]].as_ref());
        operand.map_or(1, |value| match value {
            Value::Map(map) if matches!(stage.kind, StageKind::Conv { .. }) => map.dims()[1],
            other => other.dims()[1..].iter().product(),
        })
    }

    fn decide(&mut self, index: usize, stage: &Stage, layer: &mut Layer, bits: u8) {
        let point = self.statistics.point;
        // The codes of narrower widths are those of the full width.
        let reconstructs = self.job.reconstructs(layer, bits) && point.width == Width::FULL;
        let method = match reconstructs {
            true => self.settled(index, stage, layer, bits),
            false => Method::Nearest,
        };
        let inputs = self.inputs(index, layer, method);
        let each = Budget::rounding_work(method, layer) / layer.weights().channels().max(1) as f64;
        let work = self.work;
        let progress = |channels: usize| work.advance(point, &stage.name, each * channels as f64);
        layer.decide(&self.decision(bits, inputs.as_ref(), &progress));
    }

    fn settled(&mut self, index: usize, stage: &Stage, layer: &Layer, bits: u8) -> Method {
        let settled = self.job.budget.settle(index, layer);
        let layer = LayerSize {
            stage: stage.name.clone(),
            bits,
            weights: layer.weights().per_channel(),
        };
        let memory = settled.memory;
        match settled.method {
            Method::Nearest => self.warnings.push(Warning::Nearest { layer, memory }),
            Method::Samples(used) if used < settled.wanted => {
                let wanted = settled.wanted;
                self.warnings.push(Warning::Sampled {
                    layer,
                    used,
                    wanted,
                    memory,
                });
            }
            Method::Samples(_) | Method::Moments => {}
        }
        settled.method
    }

    /// What a layer's rounding is to know of its inputs at full width.
    fn inputs(&self, index: usize, layer: &Layer, method: Method) -> Option<Inputs> {
        let net = self.job.net;
        let input = net.stages()[index].inputs[0];
        let reader = |images: usize, value: &Value| {
            let mut dims = value.dims();
            if let StageKind::Linear { .. } = net.stages()[index].kind {
                dims = vec![dims[0], dims[1..].iter().product()];
            }
            dims.resize(4, 1);
            let (kernel, conv) = net.geometry(index, dims[1])?;
            Some(Reader {
                dims: [images, dims[1], dims[2], dims[3]],
                kernel,
                conv,
            })
        };
        let (size, groups) = (layer.weights().per_channel(), layer.groups());
        let mut grams = match method {
            Method::Moments => vec![Gram::new(size); groups],
            _ => Vec::new(),
        };
        let mut rows = vec![[Vec::new(), Vec::new()]; groups];
        let wanted = match method {
            Method::Nearest => return None,
            Method::Moments => inputs::wanted(size),
            Method::Samples(count) => count,
        };
        let samples = wanted.div_ceil(self.sampled.len());
        let mut count = 0;
        for chunks in &self.sampled {
            let chunks = &self.chunks[chunks.clone()];
            let values = |of: &dyn Fn(&Chunk) -> &Option<Value>| -> Option<Vec<Vec<f32>>> {
                let parts = chunks.iter().map(|chunk| of(chunk).as_ref().map(values_of));
                parts.collect()
            };
            let float = values(&|chunk| &chunk.float[input])?;
            let seen = values(&|chunk| &chunk.quantised[input])?;
            let images = |chunk: &Chunk| chunk.float[input].as_ref().map_or(0, |v| v.dims()[0]);
            let all = chunks.iter().map(images).sum();
            let reader = reader(all, chunks[0].float[input].as_ref()?)?;
            let parts = |values| Parts {
                values,
                images: images(&chunks[0]),
            };
            let (seen, float) = (parts(&seen), parts(&float));
            match method {
                Method::Moments => {
                    count += reader.accumulate(&mut grams, seen, float, samples);
                }
                _ => {
                    for (group, [seen_rows, float_rows]) in rows.iter_mut().enumerate() {
                        seen_rows.extend(reader.gather(group, seen, samples));
                        float_rows.extend(reader.gather(group, float, samples));
                    }
                }
            }
        }
        if method == Method::Moments {
            grams
                .iter_mut()
                .for_each(|gram| gram.finish(count, DAMPING));
            return Some(Inputs::Moments(grams));
        }
        let samples = rows
            .into_iter()
            .map(|[seen, float]| Samples::new(&seen, &float, size, DAMPING));
        Some(Inputs::Samples(samples.collect()))
    }
}

/// `act(slope · x + shift)`, channel by channel.
fn affine(x: Tensor<4>, lines: &[(f64, f64)], activation: Option<Activation>) -> Tensor<4> {
    let device = x.device();
    let constant =
        |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [lines.len()]), &device);
    let slopes = constant(lines.iter().map(|l| l.0 as f32).collect());
    let shifts = constant(lines.iter().map(|l| l.1 as f32).collect());
    let clamp = match activation {
        Some(Activation::Relu) => ops::Activation::Relu,
        Some(Activation::Relu6) => ops::Activation::Relu6,
        Some(Activation::HardSwish) | None => ops::Activation::None,
    };
    ops::affine_act(x, slopes, shifts, clamp)
}

fn shaped(x: Tensor<4>, stage: &Stage) -> Value {
    match stage.kind {
        StageKind::Linear { .. } => Value::Vector(x.flatten(1, 3)),
        _ => Value::Map(x),
    }
}

/// The values that the codes of `output` stand for; stages that pass codes on do not round.
fn round(value: Value, output: OutputQuant, stage: &Stage) -> Value {
    let (OutputQuant::Codes(quant), true) = (output, stage.has_range()) else {
        return value;
    };
    match value {
        Value::Map(x) => Value::Map(rounded(x, quant)),
        Value::Vector(x) => Value::Vector(rounded(x, quant)),
    }
}

fn rounded<const D: usize>(x: Tensor<D>, quant: slimbit_num::ActQuant) -> Tensor<D> {
    ops::fake_quant_activation(x, quant.scale, quant.zero_point.into(), quant.bits)
}
