//! The float and the quantised network side by side, one stage at a time.

use burn::tensor::{Tensor, TensorData};
use slimbit_engine::{OutputQuant, layouts, weight_bits};
use slimbit_graph::{Activation, Array, PointStatistics, Shape, Stage, StageKind, Width};
use slimbit_nn::{Net, NormMode, Value, ops};

use super::correction::{Adjustment, Correction, Moments, observe};
use super::gram::Gram;
use super::inputs::{self, Reader};
use super::layer::{Decision, Layer};
use super::{Job, LayerError, Layers, values_in, values_of};
use crate::formula::Folded;
use crate::lower::Adjustments;
use crate::{QuantError, quantisers};

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
    adjustments: Adjustments,
    errors: Vec<LayerError>,
}

/// Stage outputs of a few images.
struct Chunk {
    float: Vec<Option<Value>>,
    quantised: Vec<Option<Value>>,
}

/// Bytes per image of the largest set of tensors that are alive together, float and quantised, with
/// as much again for what a stage computes on the way.
pub(super) fn live_bytes(net: &Net) -> Result<usize, QuantError> {
    let shapes = net.graph().shapes(Width::FULL)?;
    let last_use = last_use(net);
    let elements = |index: usize| shapes[net.stages()[index].node.index()].elements();
    let peak = (0..net.stages().len())
        .map(|now| {
            let alive = (0..=now).filter(|&i| i == now || last_use[i] >= now);
            alive.map(elements).sum::<usize>() + elements(now)
        })
        .max();
    Ok(peak.unwrap_or(1).max(1) * 2 * size_of::<f32>())
}

fn last_use(net: &Net) -> Vec<usize> {
    let mut last = vec![0; net.stages().len()];
    for (index, stage) in net.stages().iter().enumerate() {
        for &input in &stage.inputs {
            last[input] = index;
        }
    }
    last
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        job: &'a Job<'a>,
        statistics: &'a PointStatistics,
        batches: &[(usize, usize)],
    ) -> Result<Self, QuantError> {
        let net = job.net;
        let width = statistics.point.width;
        let layouts = layouts(net.graph(), net.stages(), width)?;
        let outputs = quantisers::outputs(net.stages(), &layouts, job.input.quant, statistics)?;
        let stages = net.stages().len();
        let chunk = |&(first, count): &(usize, usize)| {
            let image = Value::Map(job.batch(first, count));
            let mut tensors = vec![None; stages];
            tensors[0] = Some(image);
            Chunk {
                float: tensors.clone(),
                quantised: tensors,
            }
        };
        Ok(Self {
            job,
            statistics,
            outputs,
            shapes: net.graph().shapes(width)?,
            last_use: last_use(net),
            chunks: batches.iter().map(chunk).collect(),
            adjustments: Adjustments::new(),
            errors: Vec::new(),
        })
    }

    /// Decides the integers of this point without looking at any image.
    pub(super) fn decide_plainly(&self, layers: &mut Layers) -> Result<(), QuantError> {
        for (&index, layer) in layers {
            let bits = weight_bits(&self.job.net.stages()[index], self.statistics.point);
            if !layer.is_decided(bits) {
                layer.decide(&self.decision(bits, None));
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
            let grams = self
                .job
                .reconstructs(layer, bits)
                .then(|| self.grams(index))
                .flatten();
            layer.decide(&self.decision(bits, grams.as_deref()));
        }
        let node = match stage.kind {
            StageKind::Conv { conv: node, .. } | StageKind::Linear { linear: node, .. } => node,
            _ => unreachable!("only layers have weights"),
        };
        let full = net
            .store()
            .array(&format!("{}.weight", net.graph().node(node).name))?;
        let channels = self.shapes[node.index()].channels();
        let operand = self
            .chunks
            .first()
            .and_then(|c| c.float[stage.inputs[0]].as_ref());
        let inputs: usize = operand.map_or(1, |v| match v {
            Value::Map(map) if matches!(stage.kind, StageKind::Conv { .. }) => map.dims()[1],
            other => other.dims()[1..].iter().product(),
        });
        let groups = net
            .geometry(index, inputs)
            .map_or(1, |(_, conv)| conv.groups);
        let mut block = full.shape.clone();
        (block[0], block[1]) = (channels, inputs / groups);
        let rounded = Array {
            shape: full.shape.clone(),
            data: layer.real(bits),
        };
        let (exact, rounded) = (full.leading(&block).data, rounded.leading(&block).data);

        let params = &self.job.params;
        let folded = Folded::new(net.graph(), params, self.statistics, stage, channels)?;
        let folded: Vec<(f64, f64)> = (0..channels)
            .map(|o| folded.real_line(o))
            .map(|line| (line.slope, line.offset))
            .collect();
        let mut moments = vec![Moments::default(); channels];
        for chunk in &mut self.chunks {
            let operand = |tensors: &[Option<Value>]| {
                tensors[stage.inputs[0]]
                    .clone()
                    .unwrap_or_else(|| unreachable!("operands are alive"))
            };
            let target = affine(
                net.accumulate(index, operand(&chunk.float), &exact),
                &folded,
                None,
            );
            let found = affine(
                net.accumulate(index, operand(&chunk.quantised), &rounded),
                &folded,
                None,
            );
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

    fn decision<'g>(&self, bits: u8, grams: Option<&'g [Gram]>) -> Decision<'g> {
        Decision {
            bits,
            grams,
            compensate: self.job.options.compensate,
            clip: self.job.options.clip_weights,
            headroom: self.job.options.headroom,
        }
    }

    /// Moments of the inputs of a layer at full width; nothing at narrower ones, whose codes are
    /// those of the full width.
    fn grams(&self, index: usize) -> Option<Vec<Gram>> {
        if self.statistics.point.width != Width::FULL {
            return None;
        }
        let net = self.job.net;
        let input = net.stages()[index].inputs[0];
        let reader = |value: &Value| {
            let mut dims = value.dims();
            if let StageKind::Linear { .. } = net.stages()[index].kind {
                dims = vec![dims[0], dims[1..].iter().product()];
            }
            dims.resize(4, 1);
            let (kernel, conv) = net.geometry(index, dims[1])?;
            Some(Reader {
                dims: [dims[0], dims[1], dims[2], dims[3]],
                kernel,
                conv,
            })
        };
        let first = reader(self.chunks.first()?.float[input].as_ref()?)?;
        let mut grams = vec![Gram::new(first.weights()); first.conv.groups];
        let samples = inputs::wanted(first.weights()).div_ceil(self.chunks.len());
        let mut count = 0;
        for chunk in &self.chunks {
            let (float, seen) = (
                chunk.float[input].as_ref()?,
                chunk.quantised[input].as_ref()?,
            );
            let reader = reader(float)?;
            count += reader.accumulate(&mut grams, &values_of(seen), &values_of(float), samples);
        }
        grams
            .iter_mut()
            .for_each(|gram| gram.finish(count, DAMPING));
        Some(grams)
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
