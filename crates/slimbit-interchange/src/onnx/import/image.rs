//! The image that a file takes, and the normalisation that it begins with.

use super::attributes::LARGEST;
use super::refusal::{bounded, quoted};
use super::step::{Kind, Step};
use super::trace::{Holds, LARGEST_TENSOR, Tensor, Trace, Value};
use crate::ImportError;
use crate::onnx::proto::{GraphProto, TensorShapeProto, ValueInfoProto, data_type};

/// Most channels of an image whose normalisation is read: there are grey and colour images.
const MOST_CHANNELS: usize = 4;

/// What a file does to its image before anything else.
#[derive(Clone, Debug, PartialEq)]
pub enum Normalisation {
    /// Nothing: the network's input is the file's.
    None,
    /// The network's input is `gain · x + shift` of the file's input `x`, by channel.
    PerChannel {
        /// Factors, all above zero.
        gain: Vec<f32>,
        /// Summands.
        shift: Vec<f32>,
    },
    /// Different things to what different layers read, so that it stays in the network, whose input
    /// is the file's.
    Mixed,
}

/// The image as the file declares it.
pub(super) struct Image {
    pub(super) name: String,
    pub(super) channels_last: bool,
    pub(super) batch: Option<usize>,
    pub(super) is_bytes: bool,
}

/// Makes the first step of the graph's only input that is no initialiser.
pub(super) fn read_image(
    trace: &mut Trace,
    graph: &GraphProto,
    side: Option<[usize; 2]>,
) -> Result<Image, ImportError> {
    let inputs = graph.input.iter();
    let images: Vec<&ValueInfoProto> = inputs
        .filter(|info| !trace.values.contains_key(&info.name))
        .collect();
    let [info] = images[..] else {
        let names = images.iter().take(8).map(|info| quoted(&info.name));
        let names: Vec<String> = names.collect();
        let what = format!(
            "are {} ({}); only networks with one input, the image, are supported",
            images.len(),
            names.join(", ")
        );
        return Err(ImportError::invalid("inputs", what));
    };
    let at = || format!("input {}", quoted(&info.name));
    let tensor = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let shape = tensor.and_then(|t| t.shape.as_ref());
    let is_bytes = match tensor.map_or(data_type::FLOAT, |t| t.elem_type) {
        data_type::FLOAT | data_type::FLOAT16 | data_type::DOUBLE | data_type::BFLOAT16 => false,
        data_type::UINT8 => true,
        other => {
            let what = format!(
                "has element type {other}; only floats and pixels in bytes (uint8) are supported"
            );
            return Err(ImportError::invalid(at(), what));
        }
    };
    let dims: Vec<Option<usize>> = shape.map(extents).unwrap_or_default();
    let [batch, rest @ ..] = &dims[..] else {
        return Err(ImportError::invalid(
            at(),
            "has no dimensions; export with an example image",
        ));
    };
    let &[a, b, c] = rest else {
        let what = format!("has {} dimensions, wanted [N, C, H, W]", dims.len());
        return Err(ImportError::invalid(at(), what));
    };
    // One or three channels at the end, and not at the front: the order of TensorFlow.
    let few = |n: Option<usize>| matches!(n, Some(1 | 3));
    let channels_last = few(c) && !few(a) && b != c;
    let (channels, height, width) = if channels_last { (c, a, b) } else { (a, b, c) };
    let (height, width) = match (height.zip(width), side) {
        (Some(known), None) => known,
        (_, Some([h, w])) if height.is_none_or(|x| x == h) && width.is_none_or(|x| x == w) => {
            (h, w)
        }
        (Some((h, w)), Some(_)) => {
            return Err(ImportError::invalid(
                at(),
                format!("is fixed to {h} by {w} pixels"),
            ));
        }
        (None, _) => {
            let what = "leaves rows and columns open; give them with --input HxW";
            return Err(ImportError::invalid(at(), what));
        }
    };
    let Some(channels) = channels else {
        return Err(ImportError::invalid(
            at(),
            "leaves its channels open; export with an example image",
        ));
    };
    let batch = batch.filter(|&n| n > 0);
    let n = batch.unwrap_or(1);
    let elements = bounded(&[n, channels, height, width]);
    if elements.is_none_or(|elements| elements > LARGEST_TENSOR) {
        return Err(ImportError::damaged(at(), "is larger than any image"));
    }
    trace.batch = n;
    trace.steps.push(Step {
        name: info.name.clone(),
        op: "input".to_owned(),
        kind: Kind::Input,
        inputs: Vec::new(),
        channels,
        space: [height, width],
        non_negative: is_bytes,
        is_image: true,
    });
    let dims = if channels_last {
        vec![n, height, width, channels]
    } else {
        vec![n, channels, height, width]
    };
    let tensor = Tensor {
        step: 0,
        dims,
        channels_last,
        holds: match is_bytes {
            true => Holds::Pixels,
            false => Holds::Reals,
        },
    };
    trace
        .values
        .insert(info.name.clone(), Value::Tensor(tensor));
    Ok(Image {
        name: info.name.clone(),
        channels_last,
        batch,
        is_bytes,
    })
}

/// Known and bounded extents.
fn extents(shape: &TensorShapeProto) -> Vec<Option<usize>> {
    let known = |value: i64| usize::try_from(value).ok();
    shape
        .dim
        .iter()
        .map(|dim| {
            dim.dim_value
                .and_then(known)
                .filter(|n| (1..=LARGEST).contains(n))
        })
        .collect()
}

/// Channels that are multiples of the image's, each with a constant.
#[derive(Clone)]
struct Lines(Vec<Line>);

#[derive(Clone, Copy, PartialEq)]
struct Line {
    channel: usize,
    gain: f64,
    shift: f64,
}

impl Line {
    fn then(self, gain: f64, shift: f64) -> Self {
        Self {
            gain: self.gain * gain,
            shift: self.shift * gain + shift,
            ..self
        }
    }
}

/// Takes the normalisation that the network begins with out of it. What reads a normalised image
/// then reads the network's input, whose channels are selected where the file changes their order.
pub(super) fn take_normalisation(steps: &mut [Step], outputs: &[usize]) -> Normalisation {
    let channels = steps[0].channels;
    let mut used = vec![false; steps.len()];
    for &output in outputs {
        used[output] = true;
    }
    for index in (0..steps.len()).rev() {
        if used[index] {
            for &input in &steps[index].inputs {
                used[input] = true;
            }
        }
    }
    let mut lines: Vec<Option<Lines>> = Vec::with_capacity(steps.len());
    for step in steps.iter() {
        let line = match step.is_image && channels <= MOST_CHANNELS {
            true => lines_of(step, &lines),
            false => None,
        };
        lines.push(line);
    }
    // What reads the image, and is not a part of its normalisation.
    let mut read: Vec<usize> = (0..steps.len())
        .filter(|&i| used[i] && lines[i].is_none())
        .flat_map(|i| steps[i].inputs.iter().copied())
        .chain(outputs.iter().copied())
        .filter(|&i| lines[i].is_some())
        .collect();
    read.sort_unstable();
    read.dedup();
    let mut of_channel: Vec<Option<[f64; 2]>> = vec![None; channels];
    let mut mixed = false;
    for line in read
        .iter()
        .filter_map(|&i| lines[i].as_ref())
        .flat_map(|l| &l.0)
    {
        let found = [line.gain, line.shift];
        let usable = line.gain != 0.0 && found.iter().all(|v| v.is_finite());
        mixed |= !usable || of_channel[line.channel].is_some_and(|known| known != found);
        of_channel[line.channel] = Some(found);
    }
    let changed = |found: &Option<[f64; 2]>| found.is_some_and(|found| found != [1.0, 0.0]);
    if mixed {
        return Normalisation::Mixed;
    }
    if !of_channel.iter().any(changed) {
        return Normalisation::None;
    }
    // A channel that nothing reads is treated like another.
    let any = of_channel.iter().flatten().next().copied();
    let of_channel: Vec<[f64; 2]> = of_channel
        .iter()
        .map(|found| found.or(any).unwrap_or([1.0, 0.0]))
        .collect();
    // A negative factor stays behind, as one of the selection.
    let signs: Vec<f32> = of_channel.iter().map(|[g, _]| g.signum() as f32).collect();
    for &index in &read {
        let Some(Lines(lines)) = &lines[index] else {
            continue;
        };
        let chosen: Vec<usize> = lines.iter().map(|line| line.channel).collect();
        let factors: Vec<f32> = chosen.iter().map(|&c| signs[c]).collect();
        let plain = factors.iter().all(|&f| f == 1.0);
        if index == 0 {
            continue;
        }
        steps[index].kind = Kind::Select {
            channels: chosen,
            factors: if plain { Vec::new() } else { factors },
        };
        steps[index].inputs = vec![0];
    }
    // Selections of everything are the image itself.
    let whole = |step: &Step| {
        matches!(&step.kind, Kind::Select { channels: chosen, factors }
            if factors.is_empty() && chosen.iter().copied().eq(0..channels))
    };
    let is_whole: Vec<bool> = steps.iter().map(whole).collect();
    for step in steps.iter_mut() {
        for input in &mut step.inputs {
            if is_whole[*input] && read.binary_search(input).is_ok() {
                *input = 0;
            }
        }
    }
    let signed = of_channel.iter().zip(&signs);
    let (gain, shift) = signed
        .map(|([gain, shift], &sign)| (gain.abs() as f32, (*shift * f64::from(sign)) as f32))
        .unzip::<f32, f32, Vec<f32>, Vec<f32>>();
    // The first step now stands for the normalised image.
    steps[0].non_negative &= shift.iter().all(|&shift| shift >= 0.0);
    Normalisation::PerChannel { gain, shift }
}

/// What an affine step makes of the image.
fn lines_of(step: &Step, lines: &[Option<Lines>]) -> Option<Lines> {
    let of_input = |input: usize| lines[input].as_ref().map(|lines| &lines.0[..]);
    let one = || of_input(*step.inputs.first()?);
    let made: Vec<Line> = match &step.kind {
        Kind::Input => {
            let line = |channel| Line {
                channel,
                gain: 1.0,
                shift: 0.0,
            };
            (0..step.channels).map(line).collect()
        }
        Kind::Scale { gain, shift } => {
            let at = |values: &[f32], c: usize| f64::from(values[c.min(values.len() - 1)]);
            let all = one()?.iter().enumerate();
            all.map(|(c, line)| line.then(at(gain, c), at(shift, c)))
                .collect()
        }
        Kind::Norm(norm) => {
            let (gain, shift) = norm.line();
            let lines = one()?.iter().zip(gain.iter().zip(&shift));
            lines
                .map(|(line, (&gain, &shift))| line.then(gain, shift))
                .collect()
        }
        Kind::Select { channels, factors } if channels.len() <= MOST_CHANNELS => {
            let source = one()?;
            let chosen = channels.iter().enumerate();
            chosen
                .map(|(i, &c)| {
                    let factor = factors.get(i).copied().unwrap_or(1.0);
                    source[c].then(factor.into(), 0.0)
                })
                .collect()
        }
        Kind::Concat if step.channels <= MOST_CHANNELS => {
            let mut all = Vec::new();
            for &input in &step.inputs {
                all.extend_from_slice(of_input(input)?);
            }
            all
        }
        _ => return None,
    };
    Some(Lines(made))
}
