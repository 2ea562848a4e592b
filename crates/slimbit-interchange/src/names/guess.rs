use slimbit_graph::backbones;

use super::{compare, default_side, graph_and_scheme, wanted};
use crate::ImportError;
use crate::checkpoint::Tensors;

/// Architectures whose tensors tell them apart. Those that differ from one of these in strides only
/// have the same tensors, and must be asked for by name.
const CANDIDATES: [&str; 9] = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet18-cifar",
    "resnet34-cifar",
    "resnet50-cifar",
    "mobilenetv2",
    "efficientnet-lite0",
    "efficientnet-lite0-symmetric",
];

/// The architecture that the tensors of a checkpoint fit without any difference.
///
/// Networks that differ only in strides have the same tensors; of them this is the published one:
/// `mobilenetv2`, never `mobilenetv2-cifar`.
///
/// # Errors
/// [`ImportError::Architecture`] where none fits, or two that compute different things.
pub fn guess(tensors: &Tensors) -> Result<String, ImportError> {
    let mut candidates: Vec<String> = CANDIDATES.map(str::to_owned).to_vec();
    candidates.extend(cifar_resnet(tensors));
    let fitting: Vec<String> = candidates
        .into_iter()
        .filter(|name| fits(name, tensors))
        .collect();
    match &fitting[..] {
        [name] => Ok(name.clone()),
        [] => Err(ImportError::Architecture {
            what: format!(
                "its {} tensors fit no architecture exactly; name the nearest one to see the \
                 differences",
                tensors.floats.len()
            ),
            known: backbones::NAMES.join(", "),
        }),
        several => Err(ImportError::Architecture {
            what: "its tensors fit several".to_owned(),
            known: several.join(", "),
        }),
    }
}

fn fits(name: &str, tensors: &Tensors) -> bool {
    let side = default_side(name);
    let compared = graph_and_scheme(tensors, name, [side; 2]).and_then(|(graph, scheme)| {
        Ok(compare(&graph, scheme, &wanted(&graph, scheme)?, tensors).is_empty())
    });
    compared.unwrap_or(false)
}

/// The network of the `6n+2` family with the tensors' number of blocks, channels and shortcuts.
fn cifar_resnet(tensors: &Tensors) -> Option<String> {
    let stem = tensors.floats.get("conv1.weight")?.shape.first()?;
    let has = |name: &str| tensors.floats.contains_key(name);
    let blocks = (0..)
        .take_while(|block| has(&format!("layer1.{block}.conv1.weight")))
        .count();
    let depth = 6 * blocks + 2;
    if depth == 50 || stem % 16 != 0 {
        // `resnet50` is the bottleneck network.
        return None;
    }
    let projected = ["shortcut", "downsample"].map(|name| format!("layer2.0.{name}.0.weight"));
    let option = if projected.iter().any(|name| has(name)) {
        "-b"
    } else {
        ""
    };
    let wider = match stem / 16 {
        1 => String::new(),
        times => format!("-x{times}"),
    };
    Some(format!("resnet{depth}{option}{wider}"))
}
