//! ONNX to [`Network`].

mod attributes;
mod borders;
mod casts;
mod channels;
mod constant;
mod dimensions;
mod draft;
mod elementwise;
mod emit;
mod external;
mod fold;
mod image;
mod layers;
mod names;
mod operators;
mod order;
mod pointwise;
mod quantise;
mod rearrange;
mod reduction;
mod refusal;
mod schema;
mod selection;
mod step;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use prost::Message;
use prost::bytes::Bytes;

use self::constant::Constant;
use self::emit::{EmitError, Emitted, emit};
use self::external::Embedded;
pub use self::image::Normalisation;
use self::image::{read_image, take_normalisation};
use self::names::sanitise;
pub use self::refusal::UnsupportedNode;
use self::refusal::{Budget, Refusal, quoted};
use self::step::{Kind, Step};
use self::trace::{Holds, Trace, Value, is_standard};
use super::proto::{GraphProto, ModelProto, ValueInfoProto};
use super::wire;
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
    /// Whether the file takes the image's pixels as bytes, 0 to 255; otherwise it takes floats, of
    /// which it does not say what range they have.
    pub takes_bytes: bool,
    /// What the file did to its image first. It is not a part of the network any more.
    pub normalisation: Normalisation,
    /// Images per run, where the file fixes them.
    pub batch: Option<usize>,
    /// For every output of the network, its name and the tensor of the file that it equals.
    pub outputs: Vec<OnnxOutput>,
    /// Free text of the file, by key. Files that this crate wrote have the network's metadata here.
    pub metadata: BTreeMap<String, String>,
    /// Files that hold elements of tensors, as paths within the folder of the file.
    pub data: Vec<PathBuf>,
    /// What was left out, in words.
    pub notes: Vec<String>,
}

/// An output of a network that was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnnxOutput {
    /// Its name in the network.
    pub name: String,
    /// The tensor of the file that it equals.
    pub tensor: String,
    /// Whether that tensor, if it is a map, has its channels last.
    pub channels_last: bool,
}

/// Reads an ONNX file of operators that convolutional networks consist of.
///
/// Nodes keep the names of the file, made plain and unique. A pooled vector before a final linear
/// layer becomes the output `features`, and that layer `logits`. Batch-norms stay where they follow
/// a layer with weights and are folded elsewhere; a softmax at the end is left out; quantisers of a
/// QDQ file are left out too, and kept in the metadata. `side` is the image's rows and columns where
/// the file leaves them open. A normalisation that the file begins with is taken out, into
/// [`OnnxImport::normalisation`]. Elements in other files need [`import_in`].
///
/// Memory: at most 160 times the size of the files, and 64 MiB, whatever they claim.
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
    if !wire::is_proportionate(bytes) {
        let what = "holds millions of messages with next to nothing in them";
        return Err(ImportError::damaged("file", what));
    }
    let mut model = ModelProto::decode(Bytes::copy_from_slice(bytes))
        .map_err(|error| ImportError::damaged("file", format!("is not ONNX: {error}")))?;
    let graph = model.graph.take().filter(|graph| !graph.node.is_empty());
    let Some(mut graph) = graph else {
        return Err(ImportError::damaged("file", "holds no graph"));
    };
    let opset = check_opset(&model)?;
    if let Some(first) = graph.sparse_initializer.first() {
        let what = format!(
            "are sparse ({} bytes); save them as whole tensors",
            first.len()
        );
        return Err(ImportError::invalid("initialisers", what));
    }
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
        opset,
        batch: 1,
        functions: functions(&model),
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
    let ends: Vec<usize> = outputs.iter().map(|output| output.step).collect();
    let normalisation = take_normalisation(&mut trace.steps, &ends);
    // Constants have become weights; the originals are not kept beside them.
    trace.values.clear();
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
        .filter_map(|q| Some((nodes.get(&q.step)?, (q.codes.scale, q.codes.zero_point))))
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
        takes_bytes: image.is_bytes,
        normalisation,
        batch: image.batch,
        outputs: outputs
            .into_iter()
            .map(|output| OnnxOutput {
                name: output.name,
                tensor: output.tensor,
                channels_last: output.channels_last,
            })
            .collect(),
        metadata: model
            .metadata_props
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect(),
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
    // What follows might have taken these in, had it not been refused.
    let mut taken: Vec<usize> = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        taken.push(match step.kind.may_be_taken_in() {
            true => taken[step.inputs[0]],
            false => index,
        });
    }
    let ends: BTreeSet<usize> = (0..steps.len())
        .filter(|&step| !is_read[step])
        .map(|step| taken[step])
        .collect();
    let named = ends.into_iter().map(|step| (format!("end{step}"), step));
    let ends: Vec<(String, usize)> = named.collect();
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

/// The version of the standard's operators.
fn check_opset(model: &ModelProto) -> Result<i64, ImportError> {
    let mut own = model
        .opset_import
        .iter()
        .filter(|entry| is_standard(&entry.domain))
        .map(|entry| entry.version);
    let Some(version) = own.next() else {
        return Err(ImportError::damaged("opset", "is not stated"));
    };
    if let Some(other) = own.find(|&other| other != version) {
        let what = format!("is stated as {version} and as {other}");
        return Err(ImportError::damaged("opset", what));
    }
    if !OPSETS.contains(&version) {
        return Err(ImportError::invalid(
            "opset",
            format!(
                "version {version} is not one of {} to {}; export again with --opset 17",
                OPSETS.start(),
                OPSETS.end()
            ),
        ));
    }
    Ok(version)
}

/// Domain and name of the operators that the file defines itself.
fn functions(model: &ModelProto) -> BTreeSet<(String, String)> {
    let domain = |domain: &str| match is_standard(domain) {
        true => String::new(),
        false => domain.to_owned(),
    };
    let functions = model.functions.iter();
    functions
        .map(|function| (domain(&function.domain), function.name.clone()))
        .collect()
}

fn read_initialisers(trace: &mut Trace, graph: &GraphProto) -> Result<(), ImportError> {
    for tensor in &graph.initializer {
        let at = || format!("initialiser {}", quoted(&tensor.name));
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

struct Output {
    name: String,
    tensor: String,
    channels_last: bool,
    step: usize,
    /// Whether probabilities were left out behind it.
    had_softmax: bool,
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
        let (step, channels_last) = match trace.values.get(&info.name) {
            Some(Value::Tensor(tensor)) => (tensor.step, tensor.channels_last),
            Some(Value::Refused) => continue,
            Some(Value::Constant(_)) => {
                let name = quoted(&info.name);
                notes.push(format!("output {name} is constant, left out"));
                continue;
            }
            None => {
                let at = format!("output {}", quoted(&info.name));
                return Err(ImportError::damaged(at, "is written by no node"));
            }
        };
        outputs.push(Output {
            name: String::new(),
            tensor: info.name.clone(),
            channels_last,
            step,
            had_softmax: false,
        });
    }
    if outputs.len() > MOST_OUTPUTS {
        let what = format!(
            "has {} outputs, over the limit of {MOST_OUTPUTS}",
            outputs.len()
        );
        return Err(ImportError::invalid("graph", what));
    }
    let tensors = Tensors::of(trace);
    let bases = bases(&trace.steps);
    for output in &mut outputs {
        // Probabilities of probabilities keep the order too.
        for _ in 0..MOST_SOFTMAXES {
            let step = &trace.steps[output.step];
            let Kind::Softmax = step.kind else { break };
            notes.push(format!(
                "{} {} at the end left out: it does not change which output is largest",
                step.op,
                quoted(&step.name)
            ));
            output.had_softmax = true;
            output.step = step.inputs[0];
            match tensors.of_step(output.step) {
                Some((name, channels_last)) => {
                    output.tensor = name;
                    output.channels_last = channels_last;
                }
                None => break,
            }
        }
    }
    // Scores and their probabilities are one output.
    let mut seen = BTreeSet::new();
    for output in outputs.iter().filter(|output| !output.had_softmax) {
        seen.insert(output.step);
    }
    outputs.retain(|output| !output.had_softmax || seen.insert(output.step));
    let classifiers: Vec<usize> = (0..outputs.len())
        .filter(|&i| is_classifier(&trace.steps, &bases, &outputs[i]))
        .collect();
    let features = match classifiers[..] {
        [only] => {
            outputs[only].name = names.unique("logits");
            let step = &trace.steps[bases[outputs[only].step]];
            let layer = matches!(step.kind, Kind::Linear { .. } | Kind::Conv { .. });
            layer.then(|| step.inputs[0])
        }
        _ => None,
    };
    let known = |step| outputs.iter().any(|output| output.step == step);
    if let Some(step) = features
        && !known(step)
        && trace.steps[step].space == [1, 1]
        && let Some((tensor, channels_last)) = tensors.of_step(step)
    {
        outputs.insert(
            0,
            Output {
                name: names.unique("features"),
                tensor,
                channels_last,
                step,
                had_softmax: false,
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

/// Most outputs: many heads have a few dozen.
const MOST_OUTPUTS: usize = 1024;

/// Most probabilities of probabilities that are left out.
const MOST_SOFTMAXES: usize = 4;

/// For every step the layer behind a chain of scalings that will be folded into it.
fn bases(steps: &[Step]) -> Vec<usize> {
    let mut bases: Vec<usize> = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        bases.push(match step.kind {
            Kind::Scale { .. } | Kind::Norm(_) => bases[step.inputs[0]],
            _ => index,
        });
    }
    bases
}

/// Whether an output gives the scores of classes: it is a linear layer, in whatever form, or the
/// mean of a map that a convolution gives as it is, or was made probabilities.
fn is_classifier(steps: &[Step], bases: &[usize], output: &Output) -> bool {
    let layer = &steps[bases[output.step]];
    let reads = || &steps[layer.inputs[0]].kind;
    match &layer.kind {
        Kind::Linear { .. } => true,
        Kind::Conv { .. } => matches!(reads(), Kind::GlobalAvgPool),
        Kind::GlobalAvgPool => output.had_softmax || matches!(reads(), Kind::Conv { .. }),
        _ => false,
    }
}

/// The first tensor of the file, by name, that each step gives, and whether its channels come last.
struct Tensors(BTreeMap<usize, (String, bool)>);

impl Tensors {
    fn of(trace: &Trace) -> Self {
        let mut tensors = BTreeMap::new();
        for (name, value) in &trace.values {
            if let Value::Tensor(tensor) = value
                && tensor.holds == Holds::Reals
            {
                let of_step = (name.clone(), tensor.channels_last);
                tensors.entry(tensor.step).or_insert(of_step);
            }
        }
        Self(tensors)
    }

    fn of_step(&self, step: usize) -> Option<(String, bool)> {
        self.0.get(&step).cloned()
    }
}
