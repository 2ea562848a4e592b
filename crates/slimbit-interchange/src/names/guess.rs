use std::collections::BTreeSet;

use slimbit_graph::backbones;

use super::default_side;
use super::fit::{self, Fit};
use super::view::{Names, View};
use crate::ImportError;
use crate::checkpoint::Tensors;
use crate::error::{NAME, counted, plain};

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

/// The architecture that the tensors of a checkpoint, or of a part of it, fit without any difference.
///
/// Networks that differ only in strides have the same tensors; of them this is the published one:
/// `mobilenetv2`, never `mobilenetv2-cifar`.
///
/// # Errors
/// [`ImportError::Mismatch`] where one fits but for a few tensors, [`ImportError::Architecture`] where none does, or
/// two that compute different things.
pub fn guess(tensors: &Tensors) -> Result<String, ImportError> {
    let names = Names::of(tensors);
    let mut candidates: Vec<String> = CANDIDATES.map(str::to_owned).to_vec();
    for prefix in names.prefixes(&BTreeSet::from(["conv1.weight".to_owned()])) {
        let cifar = cifar_resnet(&names.view(&prefix));
        candidates.extend(cifar.filter(|name| !candidates.contains(name)));
    }
    let mut fitting = Vec::new();
    let mut nearest: Option<Box<Fit>> = None;
    for name in candidates {
        let side = default_side(&name);
        let Ok(fits) = fit::all(&names, &name, [side; 2]) else {
            continue;
        };
        match fit::nearest(fits) {
            Ok(_) => fitting.push(name),
            Err(fit) => {
                let score = |fit: &Fit| {
                    let all = fit.wanted.len() + fit.mismatch.unexpected.len();
                    fit.found() as f64 / all.max(1) as f64
                };
                let better = |new: &Fit| nearest.as_ref().is_none_or(|old| score(new) > score(old));
                if let Some(fit) = fit.filter(|fit| better(fit)) {
                    nearest = Some(fit);
                }
            }
        }
    }
    match &fitting[..] {
        [name] => Ok(name.clone()),
        [] if nearest.as_ref().is_some_and(|fit| is_near(fit)) => {
            let nearest = nearest.expect("it was looked at");
            Err(ImportError::Mismatch(Box::new(nearest.mismatch)))
        }
        [] => Err(ImportError::Architecture {
            what: nothing(tensors, nearest.as_deref()),
            known: backbones::NAMES.join(", "),
        }),
        several => Err(ImportError::Architecture {
            what: "its tensors fit several".to_owned(),
            known: several.join(", "),
        }),
    }
}

/// Whether so few tensors differ that their names say what is wrong.
fn is_near(fit: &Fit) -> bool {
    const FEW: usize = 8;
    fit.mismatch.len() <= FEW && fit.found() > 4 * FEW
}

/// Why no architecture fits, and which comes nearest.
fn nothing(tensors: &Tensors, nearest: Option<&Fit>) -> String {
    let own = counted(tensors.floats.len(), "tensor");
    let near = nearest.filter(|fit| 2 * fit.found() > fit.wanted.len());
    let near = match near {
        Some(fit) => format!(
            "the nearest is `{}`, with {} missing, {} unexpected and {} misshapen; name it with --arch to see which",
            fit.graph.name(),
            fit.mismatch.missing.len(),
            fit.mismatch.unexpected.len(),
            fit.mismatch.misshapen.len()
        ),
        None => "name the nearest one to see the differences".to_owned(),
    };
    let first = tensors
        .floats
        .keys()
        .take(3)
        .map(|name| format!("`{}`", plain(name, NAME)));
    let first: Vec<String> = first.collect();
    format!(
        "its {own} ({}, ...) fit no architecture exactly; {near}",
        first.join(", ")
    )
}

/// The network of the `6n+2` family with the tensors' number of blocks, channels and shortcuts.
fn cifar_resnet(view: &View) -> Option<String> {
    let stem = view.floats.get("conv1.weight")?.shape.first()?;
    let has = |name: &str| view.floats.contains_key(name);
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
