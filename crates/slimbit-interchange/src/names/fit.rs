//! Which part of a checkpoint is a network of a given architecture.

use std::collections::{BTreeMap, BTreeSet};

use slimbit_graph::{Array, Graph, Op, Shape, Width, backbones};

use super::mismatch::{Mismatch, Misshapen};
use super::scheme::Scheme;
use super::view::{Names, View, by_module, is_counter};
use crate::ImportError;
use crate::checkpoint::role::Role;
use crate::checkpoint::{Tensors, Weights};

/// Modules that self-supervised training puts behind a backbone and throws away: projections, predictions,
/// prototypes, queues.
const TRAINING_HEADS: [&str; 10] = [
    "projection_head",
    "projection",
    "projector",
    "proj_head",
    "predictor",
    "prediction_head",
    "prototypes",
    "queue",
    "mlp",
    "contrastive_head",
];

/// Last names of modules that are a classifier where a single linear layer outside the backbone has one.
const CLASSIFIERS: [&str; 9] = [
    "head",
    "fc",
    "classifier",
    "linear",
    "cls",
    "cls_head",
    "cls_fc",
    "logits",
    "last_linear",
];

/// One tensor that the graph wants.
pub(super) struct Wanted {
    /// Its name in the view.
    pub(super) theirs: String,
    /// Its name in the network, without the node's: `weight`, `running_mean`, ...
    pub(super) part: &'static str,
    pub(super) node: String,
    pub(super) shape: Vec<usize>,
}

/// A network in a part of a checkpoint.
pub(super) struct Fit<'t> {
    pub(super) graph: Graph,
    pub(super) scheme: Scheme,
    pub(super) view: View<'t>,
    pub(super) wanted: Vec<Wanted>,
    pub(super) mismatch: Mismatch,
    /// Tensors of the view behind the backbone that are not its classifier.
    heads: Vec<String>,
    /// The module that is the classifier by another name.
    classifier: Option<String>,
    /// Why it was preferred to another part.
    choice: Option<String>,
}

/// The part of the checkpoint that is the network.
///
/// # Errors
/// [`ImportError::Mismatch`] for the nearest part where none fits, [`ImportError::Invalid`] where several do, or none
/// of the weights asked for.
pub(super) fn find<'t>(
    tensors: &'t Tensors,
    architecture: &str,
    input: [usize; 2],
) -> Result<Fit<'t>, ImportError> {
    let fits = all(&Names::of(tensors), architecture, input)?;
    let fits = match nearest(fits) {
        Ok(fits) => fits,
        Err(Some(nearest)) => return Err(ImportError::Mismatch(Box::new(nearest.mismatch))),
        Err(None) => return Err(ImportError::invalid("checkpoint", "holds no tensors")),
    };
    choose(fits, tensors, architecture)
}

/// The fits without any difference, or the one of least.
pub(super) fn nearest(fits: Vec<Fit>) -> Result<Vec<Fit>, Option<Box<Fit>>> {
    let (whole, partial): (Vec<Fit>, Vec<Fit>) =
        fits.into_iter().partition(|fit| fit.mismatch.is_empty());
    if whole.is_empty() {
        Err(partial
            .into_iter()
            .max_by_key(|fit| (fit.found(), usize::MAX - fit.mismatch.len()))
            .map(Box::new))
    } else {
        Ok(whole)
    }
}

/// Every part of the checkpoint that could be the network, compared with it.
pub(super) fn all<'t>(
    names: &Names<'t>,
    architecture: &str,
    input: [usize; 2],
) -> Result<Vec<Fit<'t>>, ImportError> {
    let mut fits: Vec<Fit<'t>> = Vec::new();
    for &scheme in Scheme::of(architecture) {
        let anchor = format!("{}.weight", scheme.module("stem.conv"));
        // Longer prefixes first: what a whole network lies below is no part of another around it.
        let mut prefixes = names.prefixes(&BTreeSet::from([anchor]));
        prefixes.sort_by_key(|prefix| usize::MAX - prefix.len());
        for prefix in prefixes {
            let mut view = names.view(&prefix);
            for inner in fits.iter().filter(|fit| fit.mismatch.is_empty()) {
                if let Some(below) = inner.view.prefix.strip_prefix(&prefix)
                    && !below.is_empty()
                {
                    view.remove_below(below);
                }
            }
            fits.push(compare(architecture, scheme, view, input)?);
        }
    }
    Ok(fits)
}

/// The one of several fitting parts.
fn choose<'t>(
    mut fits: Vec<Fit<'t>>,
    tensors: &Tensors,
    architecture: &str,
) -> Result<Fit<'t>, ImportError> {
    let prefixes = |fits: &[Fit]| {
        let names = fits.iter().map(|fit| format!("`{}`", fit.view.prefix));
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names.join(", ")
    };
    let average = |fit: &Fit| fit.view.role() == Role::Average;
    let (averages, own): (Vec<Fit>, Vec<Fit>) = fits.drain(..).partition(average);
    if tensors.weights == Weights::Average && averages.is_empty() && !tensors.averaged {
        let what = "holds no average of the weights; leave `--weights ema` out";
        return Err(ImportError::invalid("checkpoint", what));
    }
    let word = |fit: &Fit, word: &str| fit.view.prefix.split(['.', '_']).any(|part| part == word);
    let distilled = own.iter().any(|fit| word(fit, "student"))
        && averages.iter().any(|fit| word(fit, "teacher"));
    let take_average = match tensors.weights {
        Weights::Average => !averages.is_empty(),
        Weights::Auto => own.is_empty() || distilled,
        Weights::Model => own.is_empty(),
    };
    let (mut taken, others) = if take_average {
        (averages, own)
    } else {
        (own, averages)
    };
    let mut choice = None;
    if let Some(other) = others.first() {
        let (kind, flag) = match take_average {
            true => ("an average of the weights", "model"),
            false => ("the network's own weights", "ema"),
        };
        choice = Some(format!(
            "took {kind}, under {}; --weights {flag} takes those under `{}`",
            prefixes(&taken),
            other.view.prefix
        ));
    } else if take_average {
        choice = Some(format!(
            "took an average of the weights, under {}, the only ones in the file",
            prefixes(&taken)
        ));
    }
    // A module that is registered twice is stored twice.
    let twice = taken
        .iter()
        .skip(1)
        .all(|fit| fit.view.equals(&taken[0].view));
    if !twice {
        let what = format!(
            "several parts of it are a `{architecture}`: {}; choose one with --prefix",
            prefixes(&taken)
        );
        return Err(ImportError::invalid("checkpoint", what));
    }
    let mut fit = taken.swap_remove(0);
    fit.choice = choice;
    Ok(fit)
}

fn compare<'t>(
    architecture: &str,
    scheme: Scheme,
    mut view: View<'t>,
    [height, width]: [usize; 2],
) -> Result<Fit<'t>, ImportError> {
    let graph =
        |channels, classes| backbones::by_name(architecture, channels, height, width, classes);
    let channels = scheme.channels(&view.floats).unwrap_or(3);
    // A stem of an absurd shape is a difference like others.
    let backbone = graph(channels, None).or_else(|_| graph(3, None))?;
    let channels = backbone.input_shape().channels();
    let classifier = lone_classifier(scheme, &backbone, &mut view)?;
    let classes = scheme.classes(&view.floats);
    let graph = match classes {
        Some(_) => graph(channels, classes).unwrap_or(backbone),
        None => backbone,
    };
    let wanted = wanted(&graph, scheme)?;
    let used: BTreeSet<&str> = wanted.iter().map(|tensor| tensor.theirs.as_str()).collect();
    let root = scheme.module("classifier");
    let root = root.split('.').next().unwrap_or(&root);
    let is_head = |name: &str| {
        let first = name.split('.').next().unwrap_or(name);
        TRAINING_HEADS.contains(&first)
            || (classes.is_none() && first == root && name.len() > root.len())
    };
    let mut mismatch = Mismatch::new(graph.name(), scheme.name(), &view.prefix);
    for tensor in &wanted {
        match (
            view.floats.get(&tensor.theirs),
            view.strange(&tensor.theirs),
        ) {
            (Some(array), _) if array.shape == tensor.shape => {}
            (Some(array), _) => mismatch.misshapen.push(Misshapen {
                name: tensor.theirs.clone(),
                found: array.shape.clone(),
                wanted: tensor.shape.clone(),
            }),
            (None, Some(what)) => mismatch
                .strange
                .push((tensor.theirs.clone(), what.to_owned())),
            (None, None) => mismatch.missing.push(tensor.theirs.clone()),
        }
    }
    let mut heads = Vec::new();
    let floats = view.floats.keys().map(|name| (name, None));
    let others = view.others.iter().map(|(name, what)| (name, Some(what)));
    for (name, what) in floats.chain(others) {
        if used.contains(name.as_str()) || is_counter(name) {
            continue;
        }
        match what {
            _ if is_head(name) => heads.push(name.clone()),
            Some(what) => mismatch.unexpected.push(format!("{name} ({what})")),
            None => mismatch.unexpected.push(name.clone()),
        }
    }
    if !mismatch.is_empty() && classes.is_none() && heads.is_empty() {
        // A network may do without a classifier, but one of another name is likelier.
        let classifier = scheme.module("classifier");
        let parts = ["weight", "bias"].map(|part| format!("{classifier}.{part}"));
        mismatch.missing.extend(parts);
    }
    Ok(Fit {
        graph,
        scheme,
        view,
        wanted,
        mismatch,
        heads,
        classifier,
        choice: None,
    })
}

/// A single linear layer in the classifier's place by another name: one name deeper or shallower, as a `Sequential`
/// with dropout around it makes it, or all that there is outside the backbone. It gets the classifier's name. Gives
/// its own.
fn lone_classifier<'t>(
    scheme: Scheme,
    backbone: &Graph,
    view: &mut View<'t>,
) -> Result<Option<String>, ImportError> {
    let expected = scheme.module("classifier");
    if scheme.classes(&view.floats).is_some() {
        return Ok(None);
    }
    let root = expected.split('.').next().unwrap_or(&expected);
    let behind = view.floats.keys().chain(view.others.keys());
    let behind: Vec<&String> = behind
        .filter(|name| name.split('.').next() == Some(root) && !is_counter(name))
        .collect();
    let Shape::Vector { channels } = backbone.output_shape("features", Width::FULL)? else {
        return Ok(None);
    };
    // A linear layer's two tensors, and nothing else.
    let linear = |module: &str, get: &dyn Fn(&str) -> Option<&'t Array>| {
        let weights = get(&format!("{module}.weight"))?;
        let biases = get(&format!("{module}.bias"))?;
        let fits = matches!(weights.shape[..], [classes, inputs]
            if inputs == channels && biases.shape == [classes]);
        fits.then_some((weights, biases))
    };
    let module_of = |name: &str| Some(name.rsplit_once('.')?.0.to_owned());
    let (module, found) = if behind.is_empty() {
        let Some(module) = view.outside.first().and_then(|name| module_of(name)) else {
            return Ok(None);
        };
        let last = module.rsplit('.').next().unwrap_or(&module);
        let known = CLASSIFIERS.contains(&last) && view.outside.len() == 2;
        let get = |name: &str| view.outside_floats.get(name).copied();
        let found = linear(&module, &get).filter(|_| known);
        if found.is_some() {
            view.outside.clear();
        }
        (module, found)
    } else {
        let Some(module) = module_of(behind[0]) else {
            return Ok(None);
        };
        let get = |name: &str| view.floats.get(name).copied();
        let found = linear(&module, &get).filter(|_| behind.len() == 2);
        if found.is_some() {
            view.floats.remove(&format!("{module}.weight"));
            view.floats.remove(&format!("{module}.bias"));
        }
        (format!("{}{module}", view.prefix), found)
    };
    let Some((weights, biases)) = found else {
        return Ok(None);
    };
    view.floats.insert(format!("{expected}.weight"), weights);
    view.floats.insert(format!("{expected}.bias"), biases);
    Ok(Some(module))
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

impl Fit<'_> {
    /// Tensors of the architecture that are there under their names and in their shapes.
    pub(super) fn found(&self) -> usize {
        let Mismatch {
            missing,
            strange,
            misshapen,
            ..
        } = &self.mismatch;
        let wrong = missing.len() + strange.len() + misshapen.len();
        self.wanted.len() - wrong.min(self.wanted.len())
    }

    /// Tensors of the checkpoint that are not in the network, by their names there.
    pub(super) fn left_out(&self) -> Vec<String> {
        let prefix = &self.view.prefix;
        let heads = self.heads.iter().map(|name| format!("{prefix}{name}"));
        let outside = self.view.outside.iter().map(|name| (*name).to_owned());
        heads.chain(outside).collect()
    }

    /// What a user should know about the choice, a sentence each.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes: Vec<String> = self.choice.iter().cloned().collect();
        if let Some(module) = &self.classifier {
            notes.push(format!(
                "took `{module}`, the single linear layer behind the backbone, for the classifier"
            ));
        }
        if !self.heads.is_empty() {
            notes.push(format!(
                "left out what lies behind the backbone and is not a single linear layer: {}",
                by_module(self.heads.iter().map(String::as_str))
            ));
        }
        if !self.view.outside.is_empty() {
            notes.push(format!(
                "took the tensors under `{}` and left out all others: {}",
                self.view.prefix,
                by_module(self.view.outside.iter().copied())
            ));
        }
        notes
    }
}
