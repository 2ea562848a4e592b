//! `torch.save` before PyTorch 1.6: a magic number, a protocol version, facts about the machine and
//! the object, each a pickle; then a pickled list of storage names, and the storages in its order, each
//! an element count of eight bytes and the elements.

use std::collections::BTreeMap;

use super::dtype::Dtype;
use super::pickle::{self, Loaded, Object, TensorRef, Value};
use super::strided::{Budget, gather};
use super::{Format, Tensors, state_dict};
use crate::ImportError;

const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;

const PROTOCOL: i128 = 1001;

/// Whether a file begins with the magic number, itself a pickle.
pub(super) fn is_legacy(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x80)
        && pickle::load(&bytes[..bytes.len().min(64)], 0)
            .is_ok_and(|loaded| loaded.root == Value::Int(MAGIC))
}

/// Reads a whole file.
pub(super) fn read(bytes: &[u8]) -> Result<Tensors, ImportError> {
    let magic = pickle::load(bytes, 0)?;
    let protocol = pickle::load(bytes, magic.end)?;
    if protocol.root != Value::Int(PROTOCOL) {
        let what = format!("protocol {:?}, wanted {PROTOCOL}", protocol.root);
        return Err(ImportError::damaged("header", what));
    }
    let system = pickle::load(bytes, protocol.end)?;
    let object = pickle::load(bytes, system.end)?;
    let names = pickle::load(bytes, object.end)?;
    let storages = storages(bytes, &object, &names)?;

    let mut tensors = Tensors {
        format: Format::TorchLegacy,
        floats: BTreeMap::new(),
        others: BTreeMap::new(),
    };
    let mut budget = Budget::of(bytes.len());
    for (name, tensor) in state_dict::tensors(&object)? {
        let storage = storage(&storages, name, tensor)?;
        if tensor.storage.dtype.is_float() {
            let array = gather(name, tensor, storage, &mut budget)?;
            tensors.floats.insert(name.to_owned(), array);
        } else {
            let dtype = tensor.storage.dtype.name().to_owned();
            tensors.others.insert(name.to_owned(), dtype);
        }
    }
    Ok(tensors)
}

/// Element type and bytes of a storage.
type Stored<'a> = (Dtype, &'a [u8]);

/// Every storage, by its name.
fn storages<'a>(
    bytes: &'a [u8],
    object: &'a Loaded,
    names: &'a Loaded,
) -> Result<BTreeMap<&'a str, Stored<'a>>, ImportError> {
    let mut dtypes = BTreeMap::new();
    for storage in object.heap.objects() {
        if let Object::Storage(storage) = storage {
            dtypes.insert(storage.key.as_str(), storage.dtype);
        }
    }
    let list = names.heap.sequence(names.root).unwrap_or_default();
    let mut storages = BTreeMap::new();
    let mut rest = &bytes[names.end..];
    for &name in list {
        let Some(name) = names.heap.text(name) else {
            return Err(ImportError::damaged("list of storages", "holds no names"));
        };
        let Some(dtype) = dtypes.get(name) else {
            let what = "belongs to no tensor, so that its size is unknown";
            return Err(ImportError::damaged(format!("storage `{name}`"), what));
        };
        let taken = rest.split_first_chunk().and_then(|(count, rest)| {
            let count = usize::try_from(i64::from_le_bytes(*count)).ok()?;
            rest.split_at_checked(count.checked_mul(dtype.size())?)
        });
        let Some((stored, after)) = taken else {
            let what = format!("ends too early, with {} bytes left", rest.len());
            return Err(ImportError::damaged(format!("storage `{name}`"), what));
        };
        storages.insert(name, (*dtype, stored));
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
    match storages.get(wanted.key.as_str()) {
        Some(&(dtype, stored)) if dtype == wanted.dtype => Ok(stored),
        Some((dtype, _)) => fault(format!(
            "takes storage `{}` for {}, which is {}",
            wanted.key,
            wanted.dtype.name(),
            dtype.name()
        )),
        None => fault(format!("storage `{}` is not in the file", wanted.key)),
    }
}
