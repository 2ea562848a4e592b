//! `torch.save` before PyTorch 1.6: a magic number, a protocol version, facts about the machine and
//! the object, each a pickle; then a pickled list of storage names, and the storages in its order, each
//! an element count of eight bytes and the elements.

use std::collections::BTreeMap;

use super::pickle::{self, Allowance, Loaded, Object, StorageKind, TensorRef, Value};
use super::strided::{Budget, gather};
use super::{Format, Tensors, Weights, state_dict};
use crate::ImportError;

const PROTOCOL: i64 = 1001;

/// Reads a whole file.
pub(super) fn read(bytes: &[u8], weights: Weights) -> Result<Tensors, ImportError> {
    let mut allowance = Allowance::of(bytes.len());
    let mut load = |start| pickle::load(bytes, start, &mut allowance);
    let magic = load(0)?;
    let protocol = load(magic.end)?;
    if protocol.root != Value::Int(PROTOCOL) {
        let what = format!("protocol {:?}, wanted {PROTOCOL}", protocol.root);
        return Err(ImportError::damaged("header", what));
    }
    let system = load(protocol.end)?;
    let object = load(system.end)?;

    let mut tensors = Tensors::new(Format::TorchLegacy, weights);
    let mut budget = Budget::of(bytes.len());
    let found = state_dict::find(&object, weights, &mut allowance)?;
    let stored = tensors.take(found, &mut budget)?;
    let names = pickle::load(bytes, object.end, &mut allowance)?;
    let storages = storages(bytes, &object, &names)?;
    for (name, tensor) in stored {
        let storage = storage(&storages, &name, tensor)?;
        let array = gather(&name, tensor, storage, &mut budget)?;
        tensors.floats.insert(name, array);
    }
    Ok(tensors)
}

/// Element type and bytes of a storage.
type Stored<'a> = (StorageKind<'a>, &'a [u8]);

/// Every storage, by its name.
fn storages<'a>(
    bytes: &'a [u8],
    object: &Loaded<'a>,
    names: &Loaded<'a>,
) -> Result<BTreeMap<&'a str, Stored<'a>>, ImportError> {
    let mut kinds = BTreeMap::new();
    for storage in object.heap.objects() {
        if let Object::Storage(storage) = storage {
            kinds.insert(storage.key, storage.kind);
        }
    }
    let list = names.heap.sequence(names.root).unwrap_or_default();
    let mut storages = BTreeMap::new();
    let mut rest = &bytes[names.end..];
    for &name in list {
        let Some(name) = names.heap.text(name) else {
            return Err(ImportError::damaged("list of storages", "holds no names"));
        };
        let Some(kind) = kinds.get(name) else {
            let what = "belongs to no tensor, so that its size is unknown";
            return Err(ImportError::damaged(format!("storage `{name}`"), what));
        };
        let Some(size) = kind.size() else {
            let StorageKind::Other(class) = kind else {
                unreachable!("plain numbers have a size")
            };
            return Err(ImportError::Refused {
                global: format!("torch.{class}"),
                why: "is a storage of elements of unknown size".to_owned(),
            });
        };
        let taken = rest.split_first_chunk().and_then(|(count, rest)| {
            let count = usize::try_from(i64::from_le_bytes(*count)).ok()?;
            rest.split_at_checked(count.checked_mul(size)?)
        });
        let Some((stored, after)) = taken else {
            let what = format!("ends too early, with {} bytes left", rest.len());
            return Err(ImportError::damaged(format!("storage `{name}`"), what));
        };
        storages.insert(name, (*kind, stored));
        rest = after;
    }
    Ok(storages)
}

fn storage<'a>(
    storages: &BTreeMap<&str, Stored<'a>>,
    name: &str,
    tensor: &TensorRef,
) -> Result<&'a [u8], ImportError> {
    let wanted = &tensor.storage;
    let fault = |what: String| Err(ImportError::damaged(format!("tensor `{name}`"), what));
    match storages.get(wanted.key) {
        Some(&(kind, stored)) if kind == wanted.kind => Ok(stored),
        Some((kind, _)) => fault(format!(
            "takes storage `{}` for {:?}, which is {kind:?}",
            wanted.key, wanted.kind
        )),
        None => fault(format!("storage `{}` is not in the file", wanted.key)),
    }
}
