use super::machine::Machine;
use super::{Global, Heap, Object, StorageRef, TensorRef, Value};
use crate::ImportError;

/// Longest name of a storage; real ones are numbers. Storages copy it, so that it must be short.
const MAX_KEY: usize = 256;

/// The calls and references that a dictionary of tensors is made of.
impl Machine<'_> {
    /// What `callable(*arguments)` would give.
    pub(super) fn call(&mut self, callable: Value, arguments: Value) -> Result<Value, ImportError> {
        let Some(&Object::Global(global)) = self.heap.object(callable) else {
            return Err(self.fault("a call of something that is not a function"));
        };
        let Some(arguments) = self.heap.sequence(arguments) else {
            return Err(self.fault("a call without a tuple of arguments"));
        };
        match (global, arguments) {
            (Global::OrderedDict, []) => Ok(self.heap.add(Object::Dict(Vec::new()))),
            // Python 2 writes the items as a list of pairs.
            (Global::OrderedDict, &[pairs]) => {
                let pairs = self.heap.sequence(pairs).unwrap_or_default();
                let pair = |&pair: &Value| match self.heap.sequence(pair) {
                    Some(&[key, value]) => Some((key, value)),
                    _ => None,
                };
                let Some(left) = self.copies_left.checked_sub(pairs.len()) else {
                    return Err(self.fault("the same items are copied again and again"));
                };
                let Some(items) = pairs.iter().map(pair).collect() else {
                    return Err(self.fault("an OrderedDict of something other than pairs"));
                };
                self.copies_left = left;
                Ok(self.heap.add(Object::Dict(items)))
            }
            (Global::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                let Some(Object::Storage(storage)) = self.heap.object(storage) else {
                    return Err(self.fault("a tensor without a storage"));
                };
                let parts = (
                    Heap::count(offset),
                    self.heap.counts(shape),
                    self.heap.counts(strides),
                );
                let (Some(offset), Some(shape), Some(strides)) = parts else {
                    return Err(
                        self.fault("a tensor whose offset, shape or strides are not counts")
                    );
                };
                let tensor = TensorRef {
                    storage: storage.clone(),
                    offset,
                    shape,
                    strides,
                };
                Ok(self.heap.add(Object::Tensor(tensor)))
            }
            (Global::RebuildParameter, &[data, ..]) => Ok(data),
            (global, arguments) => Err(self.fault(format!(
                "{global:?} called with {} arguments",
                arguments.len()
            ))),
        }
    }

    /// Reads `("storage", type, key, location, elements[, view])`.
    pub(super) fn storage(&self, id: Value) -> Result<StorageRef, ImportError> {
        let items = self.heap.sequence(id).unwrap_or_default();
        let &[kind, dtype, key, _, elements, ref view @ ..] = items else {
            return Err(self.fault("a persistent id that is not a storage"));
        };
        match self.heap.text(kind) {
            Some("storage") => {}
            Some("module") => {
                return Err(ImportError::Refused {
                    global: "module".to_owned(),
                    why: "is a whole pickled module with its source code".to_owned(),
                });
            }
            _ => return Err(self.fault("a persistent id that is not a storage")),
        }
        let (Some(&Object::Global(Global::Storage(dtype))), Some(key), Some(elements)) = (
            self.heap.object(dtype),
            self.heap.text(key),
            Heap::count(elements),
        ) else {
            return Err(self.fault("a storage without type, name or size"));
        };
        if key.len() > MAX_KEY {
            return Err(self.fault(format!("a storage's name of {} bytes", key.len())));
        }
        let part = match view {
            [] | [Value::None] => [0, elements],
            &[view] => match self.heap.sequence(view) {
                Some(&[_, offset, size]) => match (Heap::count(offset), Heap::count(size)) {
                    (Some(offset), Some(size)) => [offset, size],
                    _ => return Err(self.fault("a storage's view without offset or size")),
                },
                _ => return Err(self.fault("a storage's view that is not a triple")),
            },
            _ => return Err(self.fault("a persistent id with too many parts")),
        };
        Ok(StorageRef {
            dtype,
            key: key.to_owned(),
            elements,
            part,
        })
    }
}
