//! ONNX to [`Network`].

mod attributes;
mod borders;
mod constant;
mod dimensions;
mod draft;
mod elementwise;
mod emit;
mod external;
mod fold;
mod layers;
mod names;
mod operators;
mod pointwise;
mod quantise;
mod rearrange;
mod refusal;
mod selection;
mod step;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use prost::Message;
use prost::bytes::Bytes;

use self::constant::Constant;
use self::emit::{EmitError, Emitted, emit};
use self::external::Embedded;
use self::names::sanitise;
pub use self::refusal::UnsupportedNode;
use self::refusal::{Budget, Refusal};
use self::step::{Kind, Step};
use self::trace::{Tensor, Trace, Value};
use super::proto::{GraphProto, ModelProto, TensorShapeProto, ValueInfoProto};
use crate::{ImportError, Network};

/// Versions of the standard's operators that are understood.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=25;

/// Metadata key of the quantisers that a QDQ file gave its tensors: JSON, `[scale, zero point]` by
/// node.
pub const QUANTISERS: &str = "onnx_quantisers";

/// A file as a network, and how the two correspond.
#[derive(Clone, Debug)]
pub struct OnnxImport {
    /// The network.
    pub network: Network,
    /// Name of the image in the file.
    pub input: String,
    /// Whether the file takes the image with its channels last.
    pub channels_last: bool,
    /// Images per run, where the file fixes them.
    pub batch: Option<usize>,
    /// For every output of the network, its name and the tensor of the file that it equals.
    pub outputs: Vec<(String, String)>,
    /// Files that hold elements of tensors, as paths within the folder of the file.
    pub data: Vec<PathBuf>,
    /// What was left out, in words.
    pub notes: Vec<String>,
}

/// Reads an ONNX file of operators that convolutional networks consist of.
///
/// Nodes keep the names of the file, made plain and unique. A pooled vector before a final linear
/// layer becomes the output `features`, and that layer `logits`. Batch-norms stay where they follow
/// a layer with weights and are folded elsewhere; a softmax at the end is left out; quantisers of a
/// QDQ file are left out too, and kept in the metadata. `side` is the image's rows and columns where
/// the file leaves them open. Elements in other files need [`import_in`].
///
/// # Errors
/// [`ImportError::Unsupported`] with every node that has no counterpart; [`ImportError::Damaged`]
/// for what contradicts itself; [`ImportError::Invalid`] for a file whose image is not
/// `[N, C, H, W]` of known size.
pub fn import(bytes: &[u8], side: Option<[usize; 2]>) -> Result<OnnxImport, ImportError> {
    read(bytes, None, side)
}

/// Like [`import`], for a file of `folder` (the current one where it is empty) whose tensors may
/// have their elements in other files there.
///
/// # Errors
/// As [`import`]; and [`ImportError::Invalid`] for elements in a file that is missing or outside of
/// the folder, [`ImportError::Damaged`] for elements that are not in it.
pub fn import_in(
    folder: &Path,
    bytes: &[u8],
    side: Option<[usize; 2]>,
) -> Result<OnnxImport, ImportError> {
    read(bytes, Some(folder), side)
}

fn read(
    bytes: &[u8],
    folder: Option<&Path>,
    side: Option<[usize; 2]>,
) -> Result<OnnxImport, ImportError> {
    let mut model = ModelProto::decode(Bytes::copy_from_slice(bytes))
        .map_err(|error| ImportError::damaged("file", format!("is not ONNX: {error}")))?;
    let graph = model.graph.take().filter(|graph| !graph.node.is_empty());
    let Some(mut graph) = graph else {
        return Err(ImportError::damaged("file", "holds no graph"));
    };
    check_opset(&model)?;
    let embedded = match folder {
        Some(folder) => external::embed(&mut graph, folder)?,
        None => Embedded::default(),
    };
    let graph = &graph;
    let mut trace = Trace {
        steps: Vec::new(),
        values: BTreeMap::new(),
        quantisers: Vec::new(),
        refused: Vec::new(),
        budget: Budget::new(bytes.len().saturating_add(embedded.bytes)),
        name: String::new(),
        op: String::new(),
    };
    read_initialisers(&mut trace, graph)?;
    let image = read_image(&mut trace, graph, side)?;
    trace.run(graph)?;
    let mut notes = Vec::new();
    let outputs = outputs(&mut trace, graph, &mut notes)?;
    let name = sanitise(&graph.name);
    if !trace.refused.is_empty() {
        return Err(ImportError::Unsupported(all_refused(&name, trace)));
    }
    let steps: Vec<(String, usize)> = outputs.iter().map(|o| (o.name.clone(), o.step)).collect();
    let Emitted {
        graph: emitted,
        params,
        norms,
        nodes,
    } = match emit(&name, trace.steps, &steps, trace.budget) {
        Ok(emitted) => emitted,
        Err(EmitError::Unsupported(refused)) => return Err(ImportError::Unsupported(refused)),
        Err(EmitError::Import(error)) => return Err(error),
    };
    let mut network = Network::new(emitted, params, norms)?;
    let quantisers: BTreeMap<&String, (f32, i64)> = trace
        .quantisers
        .iter()
        .filter_map(|q| Some((nodes.get(&q.step)?, (q.scale, q.zero_point))))
        .collect();
    if !quantisers.is_empty() {
        let text = serde_json::to_string(&quantisers).expect("numbers by name are JSON");
        network.metadata.insert(QUANTISERS.to_owned(), text);
        notes.push(format!(
            "{} quantisers left out; their scales are in the metadata",
            quantisers.len()
        ));
    }
    Ok(OnnxImport {
        network,
        input: image.name,
        channels_last: image.channels_last,
        batch: image.batch,
        outputs: outputs.into_iter().map(|o| (o.name, o.tensor)).collect(),
        data: embedded.files,
        notes,
    })
}

/// The nodes that the walk refused, and those that could not be emitted either.
fn all_refused(name: &str, trace: Trace) -> Vec<UnsupportedNode> {
    let Trace {
        steps, mut refused, ..
    } = trace;
    let mut is_read = vec![false; steps.len()];
    for &input in steps.iter().flat_map(|step| &step.inputs) {
        is_read[input] = true;
    }
    let ends = (0..steps.len())
        .filter(|&step| !is_read[step])
        .map(|mut step| {
            // What follows might have taken these in, had it not been refused.
            while steps[step].kind.may_be_taken_in() {
                step = steps[step].inputs[0];
            }
            (format!("end{step}"), step)
        });
    let ends: Vec<(String, usize)> = ends.collect();
    if let Err(EmitError::Unsupported(more)) = emit(name, steps, &ends, trace.budget) {
        refused.extend(more);
    }
    refused
}

/// The same file with `tensors` of it among the outputs, so that a runtime can be asked for them.
pub fn with_outputs<'a>(bytes: &[u8], tensors: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    // Protobuf joins messages that follow one another, and lists in them.
    let output = tensors.into_iter().map(|name| ValueInfoProto {
        name: name.to_owned(),
        r#type: None,
    });
    let more = ModelProto {
        graph: Some(GraphProto {
            output: output.collect(),
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    [bytes, &more.encode_to_vec()].concat()
}

fn check_opset(model: &ModelProto) -> Result<(), ImportError> {
    let standard = |domain: &str| matches!(domain, "" | "ai.onnx");
    let own = model.opset_import.iter().find(|o| standard(&o.domain));
    match own.map(|o| o.version) {
        Some(version) if OPSETS.contains(&version) => Ok(()),
        Some(version) => Err(ImportError::invalid(
            "opset",
            format!(
                "version {version} is not one of {} to {}; export again with --opset 17",
                OPSETS.start(),
                OPSETS.end()
            ),
        )),
        None => Err(ImportError::damaged("opset", "is not stated")),
    }
}

fn read_initialisers(trace: &mut Trace, graph: &GraphProto) -> Result<(), ImportError> {
    for tensor in &graph.initializer {
        let at = || format!("initialiser `{}`", tensor.name);
        let value = match Constant::read(tensor) {
            Ok(constant) => Value::Constant(Rc::new(constant)),
            Err(Refusal::Damaged(what)) => return Err(ImportError::damaged(at(), what)),
            Err(Refusal::Unsupported { why, remedy }) => {
                trace.refused.push(UnsupportedNode {
                    op: "initialiser".to_owned(),
                    node: tensor.name.clone(),
                    why,
                    remedy: remedy.to_owned(),
                });
                Value::Refused
            }
        };
        if trace.values.insert(tensor.name.clone(), value).is_some() {
            return Err(ImportError::damaged(at(), "is there twice"));
        }
    }
    Ok(())
}

struct Image {
    name: String,
    channels_last: bool,
    batch: Option<usize>,
}

/// Makes the first step of the graph's only input that is not an initialiser.
fn read_image(
    trace: &mut Trace,
    graph: &GraphProto,
    side: Option<[usize; 2]>,
) -> Result<Image, ImportError> {
    let inputs = graph.input.iter();
    let images: Vec<&ValueInfoProto> = inputs
        .filter(|info| !trace.values.contains_key(&info.name))
        .collect();
    let [info] = images[..] else {
        let names: Vec<&str> = images.iter().map(|info| info.name.as_str()).collect();
        let what = format!("are {names:?}; only networks with one input, the image, are supported");
        return Err(ImportError::invalid("inputs", what));
    };
    let at = || format!("input `{}`", info.name);
    let tensor = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let shape = tensor.and_then(|t| t.shape.as_ref());
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
    let elements = refusal::bounded(&[n, channels, height, width]);
    if elements.is_none_or(|elements| elements > trace::LARGEST_TENSOR) {
        return Err(ImportError::damaged(at(), "is larger than any image"));
    }
    trace.steps.push(Step {
        name: info.name.clone(),
        op: "input".to_owned(),
        kind: Kind::Input,
        inputs: Vec::new(),
        channels,
        space: [height, width],
        non_negative: false,
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
        codes: false,
    };
    trace
        .values
        .insert(info.name.clone(), Value::Tensor(tensor));
    Ok(Image {
        name: info.name.clone(),
        channels_last,
        batch,
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
                .filter(|n| (1..=attributes::LARGEST).contains(n))
        })
        .collect()
}

struct Output {
    name: String,
    tensor: String,
    step: usize,
}

/// The outputs under the names that the rest of Slimbit knows them by.
fn outputs(
    trace: &mut Trace,
    graph: &GraphProto,
    notes: &mut Vec<String>,
) -> Result<Vec<Output>, ImportError> {
    let mut names = names::Names::default();
    let mut outputs: Vec<Output> = Vec::new();
    for info in &graph.output {
        let step = match trace.values.get(&info.name) {
            Some(Value::Tensor(tensor)) => tensor.step,
            Some(Value::Refused) => continue,
            Some(Value::Constant(_)) => {
                notes.push(format!("output `{}` is constant, left out", info.name));
                continue;
            }
            None => {
                let at = format!("output `{}`", info.name);
                return Err(ImportError::damaged(at, "is written by no node"));
            }
        };
        outputs.push(Output {
            name: String::new(),
            tensor: info.name.clone(),
            step,
        });
    }
    for output in &mut outputs {
        while let Kind::Softmax = trace.steps[output.step].kind {
            notes.push(format!(
                "{} `{}` at the end left out: it does not change which output is largest",
                trace.steps[output.step].op, trace.steps[output.step].name
            ));
            output.step = trace.steps[output.step].inputs[0];
            match tensor_of(&trace.values, output.step) {
                Some(name) => output.tensor = name,
                None => break,
            }
        }
    }
    let classifiers: Vec<usize> = (0..outputs.len())
        .filter(|&i| is_classifier(&trace.steps, outputs[i].step))
        .collect();
    let features = match classifiers[..] {
        [only] => {
            outputs[only].name = names.unique("logits");
            let step = layer(&trace.steps, outputs[only].step);
            Some(trace.steps[step].inputs[0])
        }
        _ => None,
    };
    let known = |step| outputs.iter().any(|output| output.step == step);
    if let Some(step) = features
        && !known(step)
        && trace.steps[step].space == [1, 1]
        && let Some(tensor) = tensor_of(&trace.values, step)
    {
        outputs.insert(
            0,
            Output {
                name: names.unique("features"),
                tensor,
                step,
            },
        );
    }
    for output in outputs.iter_mut().filter(|output| output.name.is_empty()) {
        let pooled = matches!(trace.steps[output.step].kind, Kind::GlobalAvgPool);
        let pooled = pooled || features == Some(output.step);
        output.name = names.unique(if pooled { "features" } else { &output.tensor });
    }
    if outputs.is_empty() && trace.refused.is_empty() {
        return Err(ImportError::damaged(
            "graph",
            "has no output that depends on its image",
        ));
    }
    Ok(outputs)
}

/// The layer behind a chain of scalings that will be folded into it.
fn layer(steps: &[Step], mut step: usize) -> usize {
    while let Kind::Scale { .. } | Kind::Norm(_) = steps[step].kind {
        step = steps[step].inputs[0];
    }
    step
}

/// Whether a step is a linear layer, in whatever form.
fn is_classifier(steps: &[Step], step: usize) -> bool {
    let layer = layer(steps, step);
    match &steps[layer].kind {
        Kind::Linear { .. } => true,
        Kind::Conv { .. } => {
            let input = steps[layer].inputs[0];
            matches!(steps[input].kind, Kind::GlobalAvgPool)
        }
        _ => false,
    }
}

/// The first tensor of the file, by name, that a step gives.
fn tensor_of(values: &BTreeMap<String, Value>, step: usize) -> Option<String> {
    let mut named = values.iter();
    let found =
        named.find(|(_, value)| matches!(value, Value::Tensor(t) if t.step == step && !t.codes));
    found.map(|(name, _)| name.clone())
}
