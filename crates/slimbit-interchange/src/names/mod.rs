//! The names that other libraries give to the parameters of the same networks.
//!
//! A [`Network`] is made of a [checkpoint](crate::checkpoint) by an architecture's name, which
//! decides the graph, and a scheme of names, which the tensors themselves decide. Every parameter of
//! the graph must be there in its shape, and every tensor of the network must be used: all that is not so is in one
//! [`Mismatch`].
//!
//! The network may be a part of the checkpoint, below any prefix. What lies outside, and the heads of self-supervised
//! training behind a backbone, are left out and named.

mod fit;
mod guess;
mod mismatch;
mod scheme;
mod view;

use slimbit_graph::{Array, Params, backbones};

use fit::Fit;
pub use guess::guess;
pub use mismatch::{Mismatch, Misshapen};

use crate::checkpoint::Tensors;
use crate::{ImportError, Network, Norms};

/// What to do with a network that is none of the architectures, as a clause of a message.
pub(crate) const ONNX_ROUTE: &str = "`torch.onnx.export(model.eval(), torch.zeros(1, 3, 224, 224), \"model.onnx\", \
    opset_version=18)` in Python and `slimbit import model.onnx -o model.safetensors`";

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
    /// Tensors that are no part of the network: by their names in the checkpoint.
    pub left_out: Vec<String>,
    /// What was chosen and what was left out, a sentence each.
    pub notes: Vec<String>,
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
/// [`ImportError::Invalid`] where several parts of the checkpoint fit, or none is of the weights asked for;
/// [`ImportError::Graph`] for an unknown architecture; otherwise as [`Network::check`].
pub fn import(
    tensors: &Tensors,
    architecture: &str,
    input: [usize; 2],
) -> Result<Imported, ImportError> {
    let architecture = canonical(architecture);
    // An unknown name is told before anything is compared.
    backbones::by_name(architecture, 3, input[0], input[1], None)?;
    let fit = fit::find(tensors, architecture, input)?;
    read(&fit, tensors)
}

fn read(fit: &Fit, tensors: &Tensors) -> Result<Imported, ImportError> {
    let mut params = Params::default();
    let mut norms = Norms::new();
    for tensor in &fit.wanted {
        let array = fit.view.floats[&tensor.theirs];
        let (mean, variance) = match tensor.part {
            "running_mean" => (array.data.clone(), None),
            "running_var" => (Vec::new(), Some(array.data.clone())),
            part => {
                let array = Array {
                    shape: tensor.shape.clone(),
                    data: array.data.clone(),
                };
                params.0.insert(format!("{}.{part}", tensor.node), array);
                continue;
            }
        };
        let norm = norms.entry(tensor.node.clone()).or_default();
        match variance {
            Some(variance) => norm.1 = variance,
            None => norm.0 = mean,
        }
    }
    let ignored = tensors.others.keys().chain(tensors.floats.keys());
    let ignored = ignored.filter(|name| view::is_counter(name));
    let mut notes = tensors.notes.clone();
    notes.extend(fit.notes());
    Ok(Imported {
        network: Network::new(fit.graph.clone(), params, norms)?,
        scheme: fit.scheme.name(),
        ignored: ignored.cloned().collect(),
        left_out: fit.left_out(),
        notes,
    })
}
