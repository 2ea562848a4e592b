//! One network's part of a checkpoint: the tensors below one prefix.

use std::collections::{BTreeMap, BTreeSet};

use slimbit_graph::Array;

use crate::checkpoint::Tensors;
use crate::checkpoint::role::{self, Role};

/// Modules that wrap others and change nothing: of compilation, of several devices, of checkpointed activations.
const WRAPPERS: [&str; 4] = [
    "_orig_mod",
    "module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// Prefixes that are tried, those of most tensors first.
const MAX_PREFIXES: usize = 24;

/// Last parts of the names of counts and pointers, which no forward pass reads: batch-norm's count of the batches
/// it has seen, an average's of its updates, a queue's position.
const COUNTERS: [&str; 8] = [
    "num_batches_tracked",
    "n_averaged",
    "queue_ptr",
    "step",
    "steps",
    "global_step",
    "epoch",
    "iteration",
];

/// Whether a tensor is a counter, of whatever type.
pub(super) fn is_counter(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    COUNTERS.contains(&last)
}

/// The tensors of a checkpoint by names without wrappers.
pub(super) struct Names<'t> {
    tensors: &'t Tensors,
    /// Names as the view has them, and as the checkpoint has them.
    names: BTreeMap<String, &'t str>,
}

/// The tensors below one prefix, by the rest of their names.
#[derive(Clone)]
pub(super) struct View<'t> {
    /// With its last dot; empty where the names begin at once.
    pub(super) prefix: String,
    /// Tensors of floats.
    pub(super) floats: BTreeMap<String, &'t Array>,
    /// Other tensors: what they are.
    pub(super) others: BTreeMap<String, &'t str>,
    /// Python objects: their classes.
    pub(super) objects: BTreeMap<String, &'t str>,
    /// Tensors that lie elsewhere, by their names in the checkpoint; no counters.
    pub(super) outside: Vec<&'t str>,
    /// Those of them that are floats.
    pub(super) outside_floats: BTreeMap<&'t str, &'t Array>,
}

impl<'t> Names<'t> {
    pub(super) fn of(tensors: &'t Tensors) -> Self {
        let all = || {
            let floats = tensors.floats.keys();
            floats
                .chain(tensors.others.keys())
                .chain(tensors.objects.keys())
        };
        let mut names = BTreeMap::new();
        for name in all() {
            if names.insert(unwrapped(name), name.as_str()).is_some() {
                // Two names that wrappers alone tell apart.
                names = all().map(|name| (name.clone(), name.as_str())).collect();
                break;
            }
        }
        Self { tensors, names }
    }

    /// What precedes `anchor`, the name of a network's first weight, wherever it is.
    pub(super) fn prefixes(&self, anchors: &BTreeSet<String>) -> Vec<String> {
        let mut prefixes = BTreeSet::from([String::new()]);
        for name in self.names.keys() {
            for anchor in anchors {
                if let Some(prefix) = name.strip_suffix(anchor.as_str())
                    && prefix.ends_with('.')
                {
                    prefixes.insert(prefix.to_owned());
                }
            }
        }
        let below = |prefix: &String| {
            let from = self.names.range::<String, _>(prefix..);
            from.take_while(|(name, _)| name.starts_with(prefix.as_str()))
                .count()
        };
        let mut counted: Vec<(usize, String)> = prefixes
            .into_iter()
            .map(|prefix| (below(&prefix), prefix))
            .collect();
        counted.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        counted.truncate(MAX_PREFIXES);
        counted.into_iter().map(|(_, prefix)| prefix).collect()
    }

    /// The tensors below a prefix.
    pub(super) fn view(&self, prefix: &str) -> View<'t> {
        let mut view = View {
            prefix: prefix.to_owned(),
            floats: BTreeMap::new(),
            others: BTreeMap::new(),
            objects: BTreeMap::new(),
            outside: Vec::new(),
            outside_floats: BTreeMap::new(),
        };
        for (name, &original) in &self.names {
            let short = name.strip_prefix(prefix).map(str::to_owned);
            let Tensors {
                floats,
                others,
                objects,
                ..
            } = self.tensors;
            match (
                short,
                floats.get(original),
                others.get(original),
                objects.get(original),
            ) {
                (Some(short), Some(array), ..) => {
                    view.floats.insert(short, array);
                }
                (Some(short), None, Some(what), _) => {
                    view.others.insert(short, what);
                }
                (Some(short), None, None, Some(class)) => {
                    view.objects.insert(short, class);
                }
                (None, Some(_), ..) | (None, None, Some(_), _) if !is_counter(original) => {
                    view.outside.push(original);
                    if let Some(array) = floats.get(original) {
                        view.outside_floats.insert(original, array);
                    }
                }
                _ => {}
            }
        }
        view
    }
}

impl View<'_> {
    /// What stands under a name that is no tensor of floats.
    pub(super) fn strange(&self, name: &str) -> Option<&str> {
        let other = self.others.get(name).copied();
        other.or_else(|| self.objects.get(name).copied())
    }

    /// Takes another network that lies below `prefix` out of this one.
    pub(super) fn remove_below(&mut self, prefix: &str) {
        self.floats.retain(|name, _| !name.starts_with(prefix));
        self.others.retain(|name, _| !name.starts_with(prefix));
    }

    /// Whose weights they are, as the prefix says.
    pub(super) fn role(&self) -> Role {
        role::of(&self.prefix)
    }

    /// Whether both hold the same values under the same names.
    pub(super) fn equals(&self, other: &Self) -> bool {
        self.floats == other.floats
    }
}

fn unwrapped(name: &str) -> String {
    let parts = name.split('.').filter(|part| !WRAPPERS.contains(part));
    parts.collect::<Vec<_>>().join(".")
}

/// Modules and how many tensors each has, for a sentence: `head (2 tensors), queue (1 tensor)`.
pub(super) fn by_module<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    const SHOWN: usize = 6;
    let mut modules: BTreeMap<String, usize> = BTreeMap::new();
    for name in names {
        let name = unwrapped(name);
        let module = match name.split('.').collect::<Vec<_>>()[..] {
            [first, second, _, ..] if first.len() < 4 => format!("{first}.{second}"),
            [first, ..] => first.to_owned(),
            [] => name,
        };
        *modules.entry(module).or_default() += 1;
    }
    let count = modules.len();
    let mut parts: Vec<String> = modules
        .into_iter()
        .take(SHOWN)
        .map(|(module, tensors)| {
            format!(
                "{} ({})",
                crate::error::plain(&module, crate::error::NAME),
                crate::error::counted(tensors, "tensor")
            )
        })
        .collect();
    if count > SHOWN {
        parts.push(format!("and {} more", count - SHOWN));
    }
    parts.join(", ")
}
