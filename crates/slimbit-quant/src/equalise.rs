//! Cross-layer equalisation: scales moved from one layer to the next, so that no channel is much
//! larger than the others.

use slimbit_graph::{Activation, Graph, NodeId, Op, Params, Stage, StageKind, Width};

use crate::{Norms, QuantError};

/// Rounds over all pairs; a scale passes on through a chain of layers.
const ROUNDS: usize = 20;

/// Standard deviations that a channel must stay below the bend of a ReLU6.
const DEVIATIONS: f32 = 6.0;

/// Scales within this of 1 are left out.
const TOLERANCE: f32 = 1e-3;

/// Equalises every pair of consecutive layers (Nagel et al., *Data-Free Quantization through Weight
/// Equalization and Bias Correction*, 2019, eq. 9 to 11): channel `i` between them is divided by
/// `s = √(r₁·r₂)/r₂` in the first and multiplied by it in the second, where `r₁` and `r₂` are the
/// largest effective weights that write and read it. Returns how many channels changed.
///
/// The function that the network computes stays the same, but for rounding: a scale passes through
/// ReLU as it is. ReLU6 bends at six, whatever the scale, so that behind one only those channels
/// take part that stay six standard deviations (by their batch-norm's own account) below its bend.
///
/// # Errors
/// [`QuantError::Graph`] for parameters that are not those of the graph.
pub fn equalise(graph: &Graph, params: &mut Params, norms: &Norms) -> Result<usize, QuantError> {
    params.check(graph)?;
    let stages = graph.stages()?;
    let pairs = pairs(graph, &stages)?;
    let mut changed: Vec<Vec<bool>> = pairs.iter().map(|p| vec![false; p.channels]).collect();
    for _ in 0..ROUNDS {
        let mut moved = false;
        for (pair, changed) in pairs.iter().zip(&mut changed) {
            for (channel, changed) in changed.iter_mut().enumerate() {
                let scale = pair.scale(params, norms, channel);
                if (scale - 1.0).abs() > TOLERANCE {
                    pair.apply(params, channel, scale);
                    (*changed, moved) = (true, true);
                }
            }
        }
        if !moved {
            break;
        }
    }
    Ok(changed.iter().flatten().filter(|c| **c).count())
}

/// Two layers, the second of which alone reads the first.
struct Pair {
    channels: usize,
    writer: String,
    /// The batch-norm of the writer, and its epsilon.
    norm: Option<(String, f32)>,
    bias: bool,
    activation: Option<Activation>,
    reader: String,
    /// Whether the reader's output channel `i` reads channel `i` alone.
    depthwise: bool,
}

fn pairs(graph: &Graph, stages: &[Stage]) -> Result<Vec<Pair>, QuantError> {
    let shapes = graph.shapes(Width::FULL)?;
    let mut pairs = Vec::new();
    for stage in stages {
        let StageKind::Conv { conv, .. } = stage.kind else {
            continue;
        };
        let writer = &stages[stage.inputs[0]];
        let StageKind::Conv { conv: first, norm } = writer.kind else {
            continue;
        };
        let alone = graph.consumers(writer.node).len() == 1 && !graph.is_output(writer.node);
        let channels = shapes[first.index()].channels();
        let (Op::Conv2d(reader), Op::Conv2d(written)) =
            (&graph.node(conv).op, &graph.node(first).op)
        else {
            continue;
        };
        let depthwise = match reader.group_count(channels) {
            1 => false,
            groups if groups == channels => true,
            _ => continue,
        };
        if !alone {
            continue;
        }
        let name = |id: NodeId| graph.node(id).name.clone();
        let epsilon = |id: NodeId| match graph.node(id).op {
            Op::BatchNorm { eps } => eps,
            _ => 0.0,
        };
        pairs.push(Pair {
            channels,
            writer: name(first),
            norm: norm.map(|id| (name(id), epsilon(id))),
            bias: written.bias,
            activation: writer.activation,
            reader: name(conv),
            depthwise,
        });
    }
    Ok(pairs)
}

impl Pair {
    fn scale(&self, params: &Params, norms: &Norms, channel: usize) -> f32 {
        let largest =
            |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, |m: f32, v| m.max(v.abs()));
        let param = |name: &str, part: &str| &params.0[&format!("{name}.{part}")].data;
        let written = param(&self.writer, "weight");
        let per_channel = written.len() / self.channels;
        let mut writes = largest(
            &mut written[channel * per_channel..][..per_channel]
                .iter()
                .copied(),
        );
        let mut top = f32::INFINITY;
        if let Some((norm, epsilon)) = &self.norm {
            let (gamma, beta) = (param(norm, "weight")[channel], param(norm, "bias")[channel]);
            let Some((_, variance)) = norms.get(norm) else {
                return 1.0;
            };
            writes *= gamma.abs() / (variance[channel] + epsilon).sqrt();
            top = beta + DEVIATIONS * gamma.abs();
        }
        let reads = largest(&mut self.reads(params, channel).into_iter());
        if writes <= 0.0 || reads <= 0.0 {
            return 1.0;
        }
        let scale = (writes * reads).sqrt() / reads;
        let passes = match self.activation {
            None | Some(Activation::Relu) => true,
            Some(Activation::Relu6) => top < 6.0 && top / scale < 6.0,
            Some(Activation::HardSwish) => false,
        };
        if passes && scale.is_finite() && scale > 0.0 {
            scale
        } else {
            1.0
        }
    }

    /// Places of the reader's weights that read a channel.
    fn places(&self, params: &Params, channel: usize) -> Vec<usize> {
        let weights = &params.0[&format!("{}.weight", self.reader)];
        let taps: usize = weights.shape[2..].iter().product();
        let starts = match self.depthwise {
            // Channel multipliers give each channel several consecutive outputs.
            true => {
                let outputs = weights.shape[0] / self.channels;
                (channel * outputs..(channel + 1) * outputs).collect()
            }
            false => (0..weights.shape[0])
                .map(|o| o * self.channels + channel)
                .collect::<Vec<_>>(),
        };
        let places = starts.into_iter();
        places
            .flat_map(|start| start * taps..(start + 1) * taps)
            .collect()
    }

    fn reads(&self, params: &Params, channel: usize) -> Vec<f32> {
        let weights = &params.0[&format!("{}.weight", self.reader)].data;
        self.places(params, channel)
            .into_iter()
            .map(|place| weights[place])
            .collect()
    }

    fn apply(&self, params: &mut Params, channel: usize, scale: f32) {
        for place in self.places(params, channel) {
            edit(params, &self.reader, "weight", |data| data[place] *= scale);
        }
        match &self.norm {
            Some((norm, _)) => {
                edit(params, norm, "weight", |data| data[channel] /= scale);
                edit(params, norm, "bias", |data| data[channel] /= scale);
            }
            None => {
                edit(params, &self.writer, "weight", |data| {
                    let per_channel = data.len() / self.channels;
                    let own = &mut data[channel * per_channel..][..per_channel];
                    own.iter_mut().for_each(|w| *w /= scale);
                });
                if self.bias {
                    edit(params, &self.writer, "bias", |data| data[channel] /= scale);
                }
            }
        }
    }
}

fn edit(params: &mut Params, node: &str, part: &str, change: impl FnOnce(&mut [f32])) {
    if let Some(array) = params.0.get_mut(&format!("{node}.{part}")) {
        change(&mut array.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Tensor, TensorData};
    use slimbit_graph::{Channels, GraphBuilder};
    use slimbit_nn::{Averaging, Mode, Net, NormMode, Observer, Quantisation, parse_device};

    /// Convolution, depthwise convolution and convolution, with channels of very different size.
    fn chain(activation: Activation) -> (Graph, Params, Norms) {
        let mut b = GraphBuilder::new("chain");
        let x = b.input(3, 8, 8);
        let x = b.conv_bn("expand", x, Channels::Fixed(12), 1, 1);
        let x = b.activation("expand", x, activation);
        let x = b.depthwise_bn("depthwise", x, 3, 1);
        let x = b.activation("depthwise", x, activation);
        let x = b.conv_bn("project", x, Channels::Fixed(6), 1, 1);
        let graph = b.finish(&[("map", x)]).unwrap();
        let net = Net::init(graph.clone(), 3, &parse_device("cpu").unwrap()).unwrap();
        let mut params = net.params();
        for (channel, gamma) in params
            .0
            .get_mut("expand.bn.weight")
            .unwrap()
            .data
            .iter_mut()
            .enumerate()
        {
            *gamma = 0.02 * 1.6f32.powi(channel as i32);
        }
        let mut observer = Observer::new(Averaging::Cumulative);
        net.forward(&images(), &Mode::float(Width::FULL), Some(&mut observer))
            .unwrap();
        (graph, params, observer.norms())
    }

    fn images() -> Tensor<4> {
        let values: Vec<f32> = (0..4 * 3 * 64).map(|i| (i as f32 * 0.71).sin()).collect();
        let device = parse_device("cpu").unwrap();
        Tensor::from_data(TensorData::new(values, [4, 3, 8, 8]), &device)
    }

    fn output(graph: &Graph, params: &Params, norms: &Norms) -> Vec<f32> {
        let net = Net::from_params(graph.clone(), params, &parse_device("cpu").unwrap()).unwrap();
        let mode = Mode {
            width: Width::FULL,
            quant: Quantisation::Off,
            norm: NormMode::Given(norms),
        };
        let outputs = net.forward(&images(), &mode, None).unwrap();
        outputs
            .map("map")
            .unwrap()
            .into_data()
            .try_into_vec()
            .unwrap()
    }

    #[test]
    fn the_float_function_stays_the_same() {
        for activation in [Activation::Relu, Activation::Relu6] {
            let (graph, params, norms) = chain(activation);
            let mut equal = params.clone();
            let changed = equalise(&graph, &mut equal, &norms).unwrap();
            assert!(changed >= 8 && equal != params, "{activation:?}: {changed}");
            let (before, after) = (
                output(&graph, &params, &norms),
                output(&graph, &equal, &norms),
            );
            let largest = before.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            for (a, b) in before.iter().zip(&after) {
                assert!((a - b).abs() < 1e-4 * largest, "{activation:?}: {a} {b}");
            }
        }
    }

    #[test]
    fn channels_come_closer_to_one_another() {
        let (graph, mut params, norms) = chain(Activation::Relu);
        let spread = |params: &Params| {
            let gammas = &params.0["expand.bn.weight"].data;
            let (least, most) = gammas
                .iter()
                .fold((f32::MAX, 0f32), |(l, m), g| (l.min(*g), m.max(*g)));
            most / least
        };
        let before = spread(&params);
        equalise(&graph, &mut params, &norms).unwrap();
        assert!(
            spread(&params) < 0.3 * before,
            "{} {before}",
            spread(&params)
        );
    }

    /// A channel that reaches six would bend elsewhere after scaling.
    #[test]
    fn channels_that_a_relu6_bends_are_left_alone() {
        let (graph, mut params, norms) = chain(Activation::Relu6);
        for bias in &mut params.0.get_mut("expand.bn.bias").unwrap().data {
            *bias = 5.9;
        }
        let gammas = params.0["expand.bn.weight"].clone();
        equalise(&graph, &mut params, &norms).unwrap();
        assert_eq!(params.0["expand.bn.weight"], gammas);
    }
}
