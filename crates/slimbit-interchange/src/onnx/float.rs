use std::collections::BTreeMap;

use slimbit_graph::{Array, Graph, Op, Shape, StageKind, Width};

use super::writer::{ModelWriter, convolution, float, int};
use crate::{ImportError, Network};

/// Operators of this version: the first set with HardSwish is 14, and 17 is what every runtime of
/// the last years reads.
const OPSET: i64 = 17;

/// How a float network is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FloatOptions {
    /// Images per run; any number where this is `None`.
    pub batch: Option<usize>,
    /// Write batch-norms as operators of their own instead of folding them into the weights.
    pub keep_norms: bool,
}

/// The bytes of an ONNX file that computes `network` at full width, from normalised images
/// `[N, channels, rows, columns]` named after the graph's input to its outputs by name.
///
/// Folding happens in `f64`, once; so a folded file differs from the network by the rounding of its
/// weights to `f32`.
///
/// # Errors
/// As [`Network::check`].
pub fn export_float(network: &Network, options: FloatOptions) -> Result<Vec<u8>, ImportError> {
    network.check()?;
    let graph = &network.graph;
    let shapes = graph.shapes(Width::FULL)?;
    let mut writer = ModelWriter::new(graph.name(), options.batch);
    let mut values = writer.value_names(graph);
    let folded = if options.keep_norms {
        BTreeMap::new()
    } else {
        folded_norms(graph)?
    };
    for (&producer, &norm) in &folded {
        values[producer] = values[norm].clone();
    }
    let export = Export { network, shapes };
    for (index, node) in graph.nodes().iter().enumerate() {
        let inputs: Vec<&str> = node.inputs.iter().map(|i| &values[i.index()][..]).collect();
        let output = &values[index];
        match &node.op {
            Op::Input { .. } => writer.input(output, export.shapes[index]),
            Op::Conv2d(_) | Op::Linear(_) => {
                let norm = folded.get(&index).copied();
                export.weighted(&mut writer, index, norm, inputs[0], output);
            }
            Op::BatchNorm { .. } if folded.values().any(|&norm| norm == index) => {}
            Op::BatchNorm { eps } => {
                let (mean, variance) = &network.norms[&node.name];
                let channels = [mean.len()];
                let scale = &export.param(index, "weight").data;
                let bias = &export.param(index, "bias").data;
                let mut operands = vec![inputs[0].to_owned()];
                for (part, data) in [
                    ("weight", scale),
                    ("bias", bias),
                    ("running_mean", mean),
                    ("running_var", variance),
                ] {
                    operands.push(writer.floats(&format!("{}.{part}", node.name), &channels, data));
                }
                let operands: Vec<&str> = operands.iter().map(String::as_str).collect();
                let epsilon = float("epsilon", *eps);
                writer.node("BatchNormalization", &operands, output, vec![epsilon]);
            }
            _ => writer.plain(graph, index, &export.shapes, &inputs, output),
        }
    }
    writer.outputs(graph, &values, &export.shapes);
    Ok(writer.finish(OPSET, network.metadata.clone()))
}

struct Export<'a> {
    network: &'a Network,
    shapes: Vec<Shape>,
}

impl Export<'_> {
    fn param(&self, node: usize, part: &str) -> &Array {
        let name = format!("{}.{part}", self.network.graph.nodes()[node].name);
        &self.network.params.0[&name]
    }

    /// A convolution or linear layer, with the batch-norm that follows it folded in.
    fn weighted(
        &self,
        writer: &mut ModelWriter,
        index: usize,
        norm: Option<usize>,
        input: &str,
        output: &str,
    ) {
        let node = &self.network.graph.nodes()[index];
        let from = self.shapes[node.inputs[0].index()];
        let biased = match &node.op {
            Op::Conv2d(conv) => conv.bias,
            Op::Linear(linear) => linear.bias,
            _ => false,
        };
        let mut weight = self.param(index, "weight").clone();
        let mut bias = biased.then(|| self.param(index, "bias").data.clone());
        if let Some(norm) = norm {
            let lines = self.norm_lines(norm);
            let per_channel = weight.data.len() / lines.len();
            for (channel, line) in weight.data.chunks_exact_mut(per_channel).zip(&lines) {
                for w in channel {
                    *w = (f64::from(*w) * line.gain) as f32;
                }
            }
            let before = bias.unwrap_or_else(|| vec![0.0; lines.len()]);
            let after = before.iter().zip(&lines);
            let folded = after.map(|(&b, line)| (f64::from(b) * line.gain + line.shift) as f32);
            bias = Some(folded.collect());
        }
        let mut operands = vec![input.to_owned()];
        if matches!((&node.op, from), (Op::Linear(_), Shape::Map { .. })) {
            operands[0] = writer.fresh(&format!("{output}.flat"));
            writer.node("Flatten", &[input], &operands[0], vec![int("axis", 1)]);
        }
        operands.push(writer.floats(
            &format!("{}.weight", node.name),
            &weight.shape,
            &weight.data,
        ));
        if let Some(bias) = bias {
            operands.push(writer.floats(&format!("{}.bias", node.name), &[bias.len()], &bias));
        }
        let operands: Vec<&str> = operands.iter().map(String::as_str).collect();
        match &node.op {
            Op::Conv2d(conv) => {
                let attributes = convolution(conv, conv.group_count(from.channels()));
                writer.node("Conv", &operands, output, attributes);
            }
            _ => writer.node("Gemm", &operands, output, vec![int("transB", 1)]),
        }
    }

    /// What the batch-norm does to each channel: `gain · x + shift`.
    fn norm_lines(&self, index: usize) -> Vec<NormLine> {
        let node = &self.network.graph.nodes()[index];
        let eps = match node.op {
            Op::BatchNorm { eps } => f64::from(eps),
            _ => 0.0,
        };
        let (mean, variance) = &self.network.norms[&node.name];
        let (gamma, beta) = (
            &self.param(index, "weight").data,
            &self.param(index, "bias").data,
        );
        let line = |c: usize| {
            let gain = f64::from(gamma[c]) / (f64::from(variance[c]) + eps).sqrt();
            let shift = f64::from(beta[c]) - gain * f64::from(mean[c]);
            NormLine { gain, shift }
        };
        (0..mean.len()).map(line).collect()
    }
}

struct NormLine {
    gain: f64,
    shift: f64,
}

/// The batch-norm that each convolution or linear layer takes in, by the latter's node.
fn folded_norms(graph: &Graph) -> Result<BTreeMap<usize, usize>, ImportError> {
    let stages = graph.stages()?;
    let pairs = stages.iter().filter_map(|stage| match stage.kind {
        StageKind::Conv { conv: node, norm } | StageKind::Linear { linear: node, norm } => {
            norm.map(|norm| (node.index(), norm.index()))
        }
        _ => None,
    });
    Ok(pairs.collect())
}
