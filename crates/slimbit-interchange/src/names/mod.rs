//! The names that other libraries give to the parameters of the same networks.
//!
//! A [`Network`] is made of a [checkpoint](crate::checkpoint) by an architecture's name, which
//! decides the graph, and a scheme of names, which the tensors themselves decide. Every parameter of
//! the graph must be there in its shape, and every tensor must be used: all that is not so is in one
//! [`Mismatch`].

mod guess;
mod mismatch;
mod scheme;

use std::collections::{BTreeMap, BTreeSet};

use slimbit_graph::{Array, Graph, Op, Params, Width, backbones};

pub use guess::guess;
pub use mismatch::{Mismatch, Misshapen};
use scheme::Scheme;

use crate::checkpoint::Tensors;
use crate::{ImportError, Network, Norms};

/// Names under which the source libraries know the same architectures.
const ALIASES: [(&str, &str); 4] = [
    ("mobilenet_v2", "mobilenetv2"),
    ("mobilenetv2_100", "mobilenetv2"),
    ("tf_efficientnet_lite0", "efficientnet-lite0"),
    ("efficientnet_lite0", "efficientnet-lite0-symmetric"),
];

/// A network and how it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The network. Its output `logits` keeps all classes of the checkpoint; it is missing where the
    /// checkpoint has no classifier.
    pub network: Network,
    /// Whose names the tensors have.
    pub scheme: &'static str,
    /// Counters and the like, which no forward pass reads.
    pub ignored: Vec<String>,
}

/// The graph's own name for an architecture that may be called as in torchvision or timm.
pub fn canonical(architecture: &str) -> &str {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == architecture);
    alias.map_or(architecture, |(_, name)| name)
}

/// The side of the square images that an architecture is published for.
pub fn default_side(architecture: &str) -> usize {
    let name = canonical(architecture);
    let small = name.contains("-cifar") || (scheme::is_cifar_resnet(name));
    if small { 32 } else { 224 }
}

/// The network of this architecture with the weights of a checkpoint, for images of `input` rows and
/// columns. They have as many channels as the first convolution takes.
///
/// # Errors
/// [`ImportError::Mismatch`] with every tensor that is missing, unexpected or misshapen;
/// [`ImportError::Graph`] for an unknown architecture; otherwise as [`Network::check`].
pub fn import(
    tensors: &Tensors,
    architecture: &str,
    input: [usize; 2],
) -> Result<Imported, ImportError> {
    let (graph, scheme) = graph_and_scheme(tensors, canonical(architecture), input)?;
    read(&graph, scheme, tensors)
}

/// The graph of a backbone with the checkpoint's channels and classes, and whose names it has.
fn graph_and_scheme(
    tensors: &Tensors,
    backbone: &str,
    [height, width]: [usize; 2],
) -> Result<(Graph, Scheme), ImportError> {
    let graph = |channels, classes| backbones::by_name(backbone, channels, height, width, classes);
    let colour = graph(3, None)?;
    let scheme = Scheme::best(&colour, tensors);
    let channels = scheme.channels(tensors).unwrap_or(3);
    Ok((graph(channels, scheme.classes(tensors))?, scheme))
}

/// One tensor that the graph wants.
struct Wanted {
    /// Its name in the checkpoint.
    theirs: String,
    /// Its name in the network, without the node's: `weight`, `running_mean`, ...
    part: &'static str,
    node: String,
    shape: Vec<usize>,
}

fn read(graph: &Graph, scheme: Scheme, tensors: &Tensors) -> Result<Imported, ImportError> {
    let wanted = wanted(graph, scheme)?;
    let mismatch = compare(graph, scheme, &wanted, tensors);
    if !mismatch.is_empty() {
        return Err(ImportError::Mismatch(Box::new(mismatch)));
    }
    let mut params = Params::default();
    let mut norms = Norms::new();
    for tensor in wanted {
        let array = &tensors.floats[&tensor.theirs];
        let (mean, variance) = match tensor.part {
            "running_mean" => (array.data.clone(), None),
            "running_var" => (Vec::new(), Some(array.data.clone())),
            part => {
                let array = Array {
                    shape: tensor.shape,
                    data: array.data.clone(),
                };
                params.0.insert(format!("{}.{part}", tensor.node), array);
                continue;
            }
        };
        let norm = norms.entry(tensor.node).or_default();
        match variance {
            Some(variance) => norm.1 = variance,
            None => norm.0 = mean,
        }
    }
    let ignored = tensors.others.keys().filter(|name| is_counter(name));
    Ok(Imported {
        network: Network::new(graph.clone(), params, norms)?,
        scheme: scheme.name(),
        ignored: ignored.cloned().collect(),
    })
}

/// Batch-norm's count of the batches it has seen.
fn is_counter(name: &str) -> bool {
    name.ends_with("num_batches_tracked")
}

fn wanted(graph: &Graph, scheme: Scheme) -> Result<Vec<Wanted>, ImportError> {
    let specs = graph.params(Width::FULL)?;
    let shapes: BTreeMap<_, _> = specs.into_iter().map(|s| (s.name, s.shape)).collect();
    let mut wanted = Vec::new();
    for node in graph.nodes() {
        let parts: &[&str] = match node.op {
            Op::BatchNorm { .. } => &["weight", "bias", "running_mean", "running_var"],
            _ => &["weight", "bias"],
        };
        for &part in parts {
            // Statistics have the shape of the scale.
            let own = if part.starts_with("running") {
                "weight"
            } else {
                part
            };
            let Some(shape) = shapes.get(&format!("{}.{own}", node.name)) else {
                continue;
            };
            wanted.push(Wanted {
                theirs: format!("{}.{part}", scheme.module(&node.name)),
                part,
                node: node.name.clone(),
                shape: shape.clone(),
            });
        }
    }
    Ok(wanted)
}

fn compare(graph: &Graph, scheme: Scheme, wanted: &[Wanted], tensors: &Tensors) -> Mismatch {
    let mut mismatch = Mismatch::new(graph.name(), scheme.name());
    for tensor in wanted {
        match tensors.floats.get(&tensor.theirs) {
            Some(array) if array.shape == tensor.shape => {}
            Some(array) => mismatch.misshapen.push(Misshapen {
                name: tensor.theirs.clone(),
                found: array.shape.clone(),
                wanted: tensor.shape.clone(),
            }),
            None => mismatch.missing.push(tensor.theirs.clone()),
        }
    }
    let used: BTreeSet<&str> = wanted.iter().map(|tensor| tensor.theirs.as_str()).collect();
    let names = tensors.floats.keys();
    let unused = names.filter(|name| !used.contains(name.as_str()));
    mismatch.unexpected.extend(unused.cloned());
    for (name, dtype) in &tensors.others {
        if !is_counter(name) {
            mismatch.unexpected.push(format!("{name} ({dtype})"));
        }
    }
    if !mismatch.is_empty() && scheme.classes(tensors).is_none() {
        // A network may do without a classifier, but one of another name is likelier.
        let classifier = scheme.module("classifier");
        let parts = ["weight", "bias"].map(|part| format!("{classifier}.{part}"));
        mismatch.missing.extend(parts);
    }
    mismatch
}
