//! Where in a pickled object the weights are, and their names.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use super::Weights;
use super::pickle::{Allowance, ArrayRef, Heap, Loaded, Object, TensorRef, Value};
use super::role::{self, Role};
use crate::ImportError;

/// Keys under which training scripts keep the weights, in the order of preference.
const NESTS: [&str; 6] = [
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "module",
];

/// Parts of keys of what is no network: an optimiser's moments are tensors, too.
const NO_WEIGHTS: [&str; 9] = [
    "optim",
    "sched",
    "scaler",
    "callback",
    "loop",
    "criterion",
    "hyper",
    "rng",
    "sampler",
];

/// How deep dictionaries may be nested.
const MAX_DEPTH: usize = 16;

/// Longest name of a tensor, path included.
const MAX_NAME: usize = 1024;

/// Bytes of one entry of the result besides its name.
const ENTRY: usize = 128;

/// How often each object may be looked at to choose between dictionaries.
const LOOKS: usize = 16;

/// A value of the state dict.
#[derive(Debug)]
pub(super) enum Leaf<'l, 'a> {
    /// A tensor in a storage.
    Tensor(&'l TensorRef<'a>),
    /// A NumPy array.
    Array(&'l ArrayRef<'a>),
    /// A tensor that is not dense: what it is.
    Special(&'static str),
    /// A Python object, by its class.
    Object(String),
}

/// The weights of a file, by name, and what of it was chosen.
#[derive(Debug)]
pub(super) struct Found<'l, 'a> {
    pub(super) leaves: BTreeMap<String, Leaf<'l, 'a>>,
    pub(super) notes: Vec<String>,
    /// Whether the path to them says that they are an average.
    pub(super) averaged: bool,
}

/// Finds the tensors of the dictionary that holds the weights.
///
/// # Errors
/// [`ImportError::Refused`] where an object that only code could rebuild is in its place,
/// [`ImportError::Invalid`] where there is none.
pub(super) fn find<'l, 'a>(
    loaded: &'l Loaded<'a>,
    weights: Weights,
    allowance: &mut Allowance,
) -> Result<Found<'l, 'a>, ImportError> {
    let mut search = Search {
        heap: &loaded.heap,
        weights,
        allowance,
        found: Found {
            leaves: BTreeMap::new(),
            notes: Vec::new(),
            averaged: false,
        },
        looks_left: Cell::new(LOOKS * (loaded.heap.objects().len() + 1000)),
    };
    let root = search.descend(loaded.root)?;
    search.collect(root)?;
    let tensor = |leaf: &Leaf| !matches!(leaf, Leaf::Object(_));
    if search.found.leaves.values().any(tensor) {
        Ok(search.found)
    } else {
        Err(search.nothing(root))
    }
}

struct Search<'l, 'a, 'm> {
    heap: &'l Heap<'a>,
    weights: Weights,
    allowance: &'m mut Allowance,
    found: Found<'l, 'a>,
    /// Values that may still be looked at to choose between dictionaries, which may share their values.
    looks_left: Cell<usize>,
}

impl<'l, 'a> Search<'l, 'a, '_> {
    /// Follows the keys that lead to the weights.
    fn descend(&mut self, mut at: Value) -> Result<Value, ImportError> {
        let mut path: Vec<&str> = Vec::new();
        for _ in 0..MAX_DEPTH {
            if let Some(class) = self.module_class(at) {
                self.found.notes.push(format!(
                    "a whole pickled model of class `{class}`: its tensors were read, and none of its code"
                ));
                break;
            }
            let Some(items) = self.items(at)? else { break };
            let nests: Vec<(&str, Value)> = items
                .iter()
                .copied()
                .filter(|&(key, value)| is_weights(key) && self.holds_tensors(value))
                .collect();
            let direct = items.iter().any(|&(_, value)| self.is_matrix(value));
            let Some((key, value)) = self.pick(&nests, direct) else {
                break;
            };
            path.push(key);
            self.found.averaged |= role::of(key) == Role::Average;
            self.note_others(&path, &nests, key);
            at = value;
        }
        Ok(at)
    }

    /// The one of several dictionaries to go on with; nothing where this one is the state dict itself.
    fn pick(&self, nests: &[(&'a str, Value)], direct: bool) -> Option<(&'a str, Value)> {
        let named = |name: &str| nests.iter().copied().find(|(key, _)| *key == name);
        let average = nests
            .iter()
            .copied()
            .find(|(key, _)| role::of(key) == Role::Average);
        let model = NESTS.iter().find_map(|name| named(name));
        match self.weights {
            Weights::Average if average.is_some() => return average,
            Weights::Auto if model.is_none() && named("student").is_some() => {
                return named("teacher").or(named("student"));
            }
            _ => {}
        }
        if model.is_some() || direct {
            return model;
        }
        let own = |&(key, _): &(&'a str, Value)| role::of(key) == Role::Model;
        let mut own = nests.iter().copied().filter(own);
        match (own.next(), own.next()) {
            (Some(only), None) => Some(only),
            (None, _) => average,
            // Several of equal rank: their tensors get the keys as prefixes.
            _ => None,
        }
    }

    /// Notes which of model and average was taken, where there are both.
    fn note_others(&mut self, path: &[&str], nests: &[(&str, Value)], taken: &str) {
        let role = role::of(taken);
        let other = nests
            .iter()
            .find(|(key, _)| role::of(key) != role && *key != taken);
        let path = path.join(".");
        match (role, other) {
            (Role::Model, Some((other, _))) => self.found.notes.push(format!(
                "took the weights under `{path}`; those under `{other}` are an average, which --weights ema takes"
            )),
            (Role::Average, Some((other, _))) => self.found.notes.push(format!(
                "took the averaged weights under `{path}`; --weights model takes those under `{other}`"
            )),
            (Role::Average, None) => self.found.notes.push(format!(
                "took the averaged weights under `{path}`, the only ones in the file"
            )),
            (Role::Model, None) => {}
        }
    }

    /// Puts every tensor below `root` into the result, named by its path.
    fn collect(&mut self, root: Value) -> Result<(), ImportError> {
        let mut visited = BTreeSet::new();
        let mut open = vec![(String::new(), root, 0)];
        while let Some((prefix, at, depth)) = open.pop() {
            let Value::Object(index) = at else { continue };
            if !visited.insert(index) {
                continue;
            }
            let Some(items) = self.items(at)? else {
                continue;
            };
            // In a state dict, an average beside the weights is another network's.
            let direct = items.iter().any(|&(_, value)| self.is_matrix(value));
            for (key, value) in items {
                if prefix.len() + key.len() > MAX_NAME {
                    let what = format!("a tensor's name of more than {MAX_NAME} bytes");
                    return Err(ImportError::invalid("pickle", what));
                }
                let name = format!("{prefix}{key}");
                self.allowance.take(ENTRY + name.len())?;
                if let Some(leaf) = self.leaf(value) {
                    self.found.leaves.insert(name, leaf);
                    continue;
                }
                let skipped = direct && role::of(key) == Role::Average;
                if depth < MAX_DEPTH && !skipped && is_weights(key) {
                    open.push((name + ".", value, depth + 1));
                }
            }
        }
        Ok(())
    }

    /// A value that is no dictionary of others.
    fn leaf(&self, value: Value) -> Option<Leaf<'l, 'a>> {
        match self.heap.object(value)? {
            Object::Tensor(tensor) => Some(Leaf::Tensor(tensor)),
            Object::Array(array) => Some(Leaf::Array(array)),
            Object::Opaque(opaque) if self.module_parts(value).is_none() => {
                let special = match self.heap.object(opaque.class) {
                    Some(Object::Global(global)) => global.special_tensor(),
                    _ => None,
                };
                Some(match special {
                    Some(what) => Leaf::Special(what),
                    None => Leaf::Object(self.heap.class(value)?),
                })
            }
            _ => None,
        }
    }

    /// What a dictionary, a list of pairs or a pickled module holds under names; nothing for all else.
    fn items(&mut self, value: Value) -> Result<Option<Vec<(&'a str, Value)>>, ImportError> {
        let Some(count) = self.count(value) else {
            return Ok(None);
        };
        self.allowance.check(count * size_of::<(&str, Value)>())?;
        Ok(self.named(value))
    }

    /// Values under a value, named or not.
    fn count(&self, value: Value) -> Option<usize> {
        if let Some(parts) = self.module_parts(value) {
            let parts = parts.iter().filter_map(|&part| self.heap.dict(part));
            return Some(parts.map(<[_]>::len).sum());
        }
        match self.heap.object(value)? {
            Object::Dict(items) => Some(items.len()),
            Object::Sequence(items) => Some(items.len()),
            _ => None,
        }
    }

    fn named(&self, value: Value) -> Option<Vec<(&'a str, Value)>> {
        let pair = |&(key, value): &(Value, Value)| Some((self.heap.text(key)?, value));
        if let Some(parts) = self.module_parts(value) {
            let dicts = parts.iter().filter_map(|&part| self.heap.dict(part));
            return Some(dicts.flatten().filter_map(pair).collect());
        }
        match self.heap.object(value)? {
            Object::Dict(items) => Some(items.iter().filter_map(pair).collect()),
            Object::Sequence(items) => {
                let pair = |&item: &Value| match self.heap.sequence(item) {
                    Some(&[key, value]) => Some((self.heap.text(key)?, value)),
                    _ => None,
                };
                items.iter().map(pair).collect()
            }
            _ => None,
        }
    }

    /// The parameters, buffers and children of a pickled `torch.nn.Module`, which keeps them in its attributes.
    fn module_parts(&self, value: Value) -> Option<[Value; 3]> {
        let Some(Object::Opaque(opaque)) = self.heap.object(value) else {
            return None;
        };
        let part = |name: &str| self.heap.entry(opaque.state, name);
        Some([part("_parameters")?, part("_buffers")?, part("_modules")?])
    }

    fn module_class(&self, value: Value) -> Option<String> {
        self.module_parts(value)?;
        self.heap.class(value)
    }

    /// Whether a value is a dictionary or the like with a tensor somewhere below it. After too much looking it is
    /// taken for one: collecting looks at everything once.
    fn holds_tensors(&self, value: Value) -> bool {
        let mut visited = BTreeSet::new();
        let mut open: Vec<Value> = self.below(value).collect();
        while let Some(at) = open.pop() {
            let Some(left) = self.looks_left.get().checked_sub(1) else {
                return true;
            };
            self.looks_left.set(left);
            match (self.heap.object(at), at) {
                (Some(Object::Tensor(_) | Object::Array(_)), _) => return true,
                (Some(_), Value::Object(index)) if visited.insert(index) => {
                    open.extend(self.below(at));
                }
                _ => {}
            }
        }
        false
    }

    fn below(&self, value: Value) -> impl Iterator<Item = Value> {
        let mut values: Vec<Value> = match self.heap.object(value) {
            Some(Object::Dict(items)) => items.iter().map(|&(_, value)| value).collect(),
            Some(Object::Sequence(items)) => items.clone(),
            _ => self.module_parts(value).into_iter().flatten().collect(),
        };
        values.truncate(self.looks_left.get());
        values.into_iter()
    }

    /// Whether a value is a tensor of at least two dimensions: weights, and no counter or score.
    fn is_matrix(&self, value: Value) -> bool {
        match self.heap.object(value) {
            Some(Object::Tensor(tensor)) => tensor.shape.len() > 1,
            Some(Object::Array(array)) => array.shape.len() > 1,
            _ => false,
        }
    }

    /// The error for a file without weights.
    fn nothing(&self, root: Value) -> ImportError {
        const SAVE: &str = "save the weights with `torch.save(model.state_dict(), path)`";
        let invalid = |what: String| ImportError::invalid("checkpoint", what);
        let opaque = |at: String, value: Value| {
            let class = self.heap.class(value)?;
            let why = format!("is {at}, a Python object that only running code could rebuild");
            Some(ImportError::Refused { global: class, why })
        };
        if let Some(error) = opaque("the whole file".to_owned(), root) {
            return error;
        }
        if let Some(Object::Tensor(_) | Object::Array(_)) = self.heap.object(root) {
            return invalid(format!("one tensor and no names; {SAVE}"));
        }
        let Some(items) = self.named(root) else {
            return invalid(format!("no dictionary of tensors; {SAVE}"));
        };
        let named = |name: &str| items.iter().find(|(key, _)| *key == name);
        let nest = NESTS.iter().find_map(|name| named(name)).or(items.first());
        if let Some(error) =
            nest.and_then(|&(key, value)| opaque(format!("the value of `{key}`"), value))
        {
            return error;
        }
        if items.is_empty() {
            return invalid(format!("an empty dictionary, no tensors; {SAVE}"));
        }
        let keys: Vec<&str> = items.iter().map(|&(key, _)| key).take(8).collect();
        invalid(format!(
            "no tensors in the dictionary [{}], nor under {}; {SAVE}",
            keys.join(", "),
            NESTS.join(", ")
        ))
    }
}

/// Whether a key can be that of weights.
fn is_weights(key: &str) -> bool {
    let key = key.to_lowercase();
    !NO_WEIGHTS.iter().any(|part| key.contains(part))
}
