use std::collections::BTreeMap;

use super::pickle::{Heap, Loaded, Object, TensorRef, Value};
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

/// How deep dictionaries with these keys may be nested.
const MAX_DEPTH: usize = 4;

/// The tensors of the dictionary that holds the weights, by name.
pub(super) fn tensors(loaded: &Loaded) -> Result<BTreeMap<&str, &TensorRef>, ImportError> {
    let heap = &loaded.heap;
    let mut root = loaded.root;
    for _ in 0..MAX_DEPTH {
        match nested(heap, root) {
            Some(inner) => root = inner,
            None => break,
        }
    }
    let Some(items) = heap.dict(root) else {
        let what =
            "holds no dictionary; save the weights with `torch.save(model.state_dict(), path)`";
        return Err(ImportError::damaged("pickle", what));
    };
    let tensors: BTreeMap<_, _> = items
        .iter()
        .filter_map(|&(name, value)| match heap.object(value) {
            Some(Object::Tensor(tensor)) => Some((heap.text(name)?, tensor)),
            _ => None,
        })
        .collect();
    if tensors.is_empty() {
        let keys: Vec<&str> = items
            .iter()
            .filter_map(|&(name, _)| heap.text(name))
            .take(8)
            .collect();
        let what = format!(
            "no tensors in the dictionary [{}], nor under {}",
            keys.join(", "),
            NESTS.join(", ")
        );
        return Err(ImportError::damaged("pickle", what));
    }
    Ok(tensors)
}

fn nested(heap: &Heap, dict: Value) -> Option<Value> {
    let items = heap.dict(dict)?;
    NESTS.iter().find_map(|nest| {
        let inner = |&&(name, value): &&(Value, Value)| {
            heap.text(name) == Some(nest) && heap.dict(value).is_some()
        };
        items.iter().find(inner).map(|&(_, value)| value)
    })
}
