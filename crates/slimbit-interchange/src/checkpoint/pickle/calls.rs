use std::rc::Rc;

use super::machine::Machine;
use super::{ArrayData, ArrayRef, Global, Heap, Object, Opaque, StorageRef, TensorRef, Value};
use crate::ImportError;
use crate::checkpoint::dtype::Dtype;

/// Longest name of a storage; real ones are numbers.
const MAX_KEY: usize = 256;

/// The calls and references that a dictionary of tensors is made of.
impl<'a> Machine<'a, '_> {
    /// What `callable(*arguments)` would give. A call of anything that is not in the list gives an opaque
    /// object; nothing is ever executed.
    pub(super) fn call(&mut self, callable: Value, arguments: Value) -> Result<Value, ImportError> {
        let global = match self.heap.object(callable) {
            Some(&Object::Global(global)) => global,
            Some(&Object::Opaque(Opaque { class, .. })) => return self.opaque(class),
            _ => return Err(self.fault("a call of something that is not a function")),
        };
        if let Global::Other { .. } = global {
            return self.opaque(callable);
        }
        let Some(arguments) = self.heap.sequence(arguments) else {
            return Err(self.fault("a call without a tuple of arguments"));
        };
        match (global, arguments) {
            (Global::Dict, []) | (Global::DefaultDict, [] | [_]) => {
                self.add(Object::Dict(Vec::new()))
            }
            // Python 2 writes the items as a list of pairs.
            (Global::Dict, &[pairs]) => {
                let pairs = self.heap.sequence(pairs).unwrap_or_default();
                let pair = |&pair: &Value| match self.heap.sequence(pair) {
                    Some(&[key, value]) => Some((key, value)),
                    _ => None,
                };
                let count = pairs.len();
                self.allowance.check(count * size_of::<(Value, Value)>())?;
                let Some(items) = pairs.iter().map(pair).collect() else {
                    return Err(self.fault("an OrderedDict of something other than pairs"));
                };
                self.allowance.take(count * size_of::<(Value, Value)>())?;
                self.add(Object::Dict(items))
            }
            (Global::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                self.tensor(storage, [offset, shape, strides], None)
            }
            (Global::RebuildTypedTensor, &[storage, offset, shape, strides, _, _, dtype, ..]) => {
                match self.heap.object(dtype) {
                    Some(&Object::Global(Global::Type(dtype))) => {
                        self.tensor(storage, [offset, shape, strides], Some(dtype))
                    }
                    _ => self.opaque(dtype),
                }
            }
            (Global::RebuildParameter, &[data, ..]) => Ok(data),
            (Global::RebuildFromType, &[function, class, arguments, ..]) => {
                match self.heap.object(class) {
                    Some(Object::Global(Global::TensorClass)) => self.rebuild(function, arguments),
                    _ => self.opaque(class),
                }
            }
            (Global::Size, &[items]) => Ok(items),
            (Global::ReconstructArray, _) => self.add(Object::Array(Box::new(ArrayRef {
                dtype: None,
                shape: vec![0],
                fortran: false,
                data: ArrayData::Bytes(&[]),
            }))),
            (Global::ArrayFromBuffer, &[data, dtype, shape, order]) => {
                let fortran = self.heap.text(order) == Some("F");
                self.array([shape, dtype, data], fortran)
            }
            (Global::ArrayType, &[name, ..]) => {
                let dtype = self.heap.text(name).and_then(Dtype::of_numpy);
                self.add(Object::ArrayType(dtype))
            }
            (Global::Encode, &[text, encoding]) => {
                match (self.heap.text(text), self.heap.text(encoding)) {
                    (Some(text), Some("latin1" | "latin-1")) => self.add(Object::Latin1(text)),
                    _ => self.opaque(callable),
                }
            }
            // A class that is called where a function was expected: no dense tensor comes of it.
            (Global::TensorClass | Global::Storage(_) | Global::Type(_), _) => {
                self.opaque(callable)
            }
            (global, arguments) => Err(self.fault(format!(
                "{global} called with {} arguments",
                arguments.len()
            ))),
        }
    }

    /// A call within a call, one deep: tensors are rebuilt by functions that other functions name.
    fn rebuild(&mut self, function: Value, arguments: Value) -> Result<Value, ImportError> {
        match self.heap.object(function) {
            Some(Object::Global(Global::RebuildFromType)) => {
                Err(self.fault("a tensor that is rebuilt by its own rebuilding"))
            }
            _ => self.call(function, arguments),
        }
    }

    /// An object of a class that is not in the list.
    pub(super) fn opaque(&mut self, class: Value) -> Result<Value, ImportError> {
        let state = Value::None;
        self.add(Object::Opaque(Opaque { class, state }))
    }

    /// Sets the attributes of `target`: `target.__setstate__(state)`.
    pub(super) fn build(&mut self, target: Value, state: Value) -> Result<(), ImportError> {
        let array = match self.heap.object(target) {
            Some(Object::Array(_)) => match self.heap.sequence(state) {
                Some(&[_, shape, dtype, fortran, data]) => {
                    Some(self.array_of([shape, dtype, data], fortran == Value::Bool(true))?)
                }
                _ => return Err(self.fault("an array without shape, type and bytes")),
            },
            _ => None,
        };
        // Elements of more than a byte have an order of bytes.
        let big_endian = self.heap.sequence(state).is_some_and(|state| {
            state.get(1).and_then(|&order| self.heap.text(order)) == Some(">")
        });
        match (self.heap.object_mut(target), array) {
            (Some(Object::Array(old)), Some(array)) => **old = array,
            (Some(Object::ArrayType(dtype)), _) if big_endian => *dtype = None,
            (Some(Object::Opaque(opaque)), _) => opaque.state = state,
            // Attributes of a dictionary or tensor (such as `_metadata`) are not weights.
            (Some(Object::Dict(_) | Object::Tensor(_) | Object::ArrayType(_)), _) => {}
            _ => return Err(self.fault("attributes of something that has none")),
        }
        Ok(())
    }

    fn array(&mut self, parts: [Value; 3], fortran: bool) -> Result<Value, ImportError> {
        let array = self.array_of(parts, fortran)?;
        self.add(Object::Array(Box::new(array)))
    }

    /// Shape, element type and bytes of a NumPy array.
    fn array_of(
        &mut self,
        [shape, dtype, data]: [Value; 3],
        fortran: bool,
    ) -> Result<ArrayRef<'a>, ImportError> {
        let Some(shape) = self.heap.counts(shape) else {
            return Err(self.fault("an array whose shape is not counts"));
        };
        self.allowance
            .take(size_of::<ArrayRef>() + 8 * shape.len())?;
        let dtype = match self.heap.object(dtype) {
            Some(&Object::ArrayType(dtype)) => dtype,
            _ => None,
        };
        let (dtype, data) = match self.heap.object(data) {
            Some(&Object::Bytes(bytes)) => (dtype, ArrayData::Bytes(bytes)),
            Some(&Object::Latin1(text)) => (dtype, ArrayData::Latin1(text)),
            // Arrays of objects are lists.
            _ => (None, ArrayData::Bytes(&[])),
        };
        Ok(ArrayRef {
            dtype,
            shape,
            fortran,
            data,
        })
    }

    fn tensor(
        &mut self,
        storage: Value,
        [offset, shape, strides]: [Value; 3],
        dtype: Option<Dtype>,
    ) -> Result<Value, ImportError> {
        let storage = match self.heap.object(storage) {
            Some(Object::Storage(storage)) => Rc::clone(storage),
            Some(&Object::Opaque(opaque)) => return self.opaque(opaque.class),
            _ => return Err(self.fault("a tensor without a storage")),
        };
        let parts = (
            Heap::count(offset),
            self.heap.counts(shape),
            self.heap.counts(strides),
        );
        let (Some(offset), Some(shape), Some(strides)) = parts else {
            return Err(self.fault("a tensor whose offset, shape or strides are not counts"));
        };
        self.allowance
            .take(size_of::<TensorRef>() + 8 * (shape.len() + strides.len()))?;
        self.add(Object::Tensor(Box::new(TensorRef {
            storage,
            dtype,
            offset,
            shape,
            strides,
        })))
    }

    /// Reads `("storage", type, key, location, elements[, view])`.
    pub(super) fn storage(&mut self, id: Value) -> Result<Value, ImportError> {
        let items = self.heap.sequence(id).unwrap_or_default();
        let &[kind, dtype, key, ref rest @ ..] = items else {
            return Err(self.fault("a persistent id that is not a storage"));
        };
        match self.heap.text(kind) {
            Some("storage") => {}
            // Old PyTorch: ("module", class, file, source). The class stands for itself.
            Some("module") => return Ok(dtype),
            _ => return Err(self.fault("a persistent id that is not a storage")),
        }
        let &[_, elements, ref view @ ..] = rest else {
            return Err(self.fault("a persistent id that is not a storage"));
        };
        let (Some(key), Some(elements)) = (self.heap.text(key), Heap::count(elements)) else {
            return Err(self.fault("a storage without name or size"));
        };
        let kind = match self.heap.object(dtype) {
            Some(&Object::Global(Global::Storage(kind))) => kind,
            // A storage of a class of somebody's own is known by no size.
            Some(Object::Global(Global::Other { .. })) => return self.opaque(dtype),
            _ => return Err(self.fault("a storage without a type")),
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
        self.allowance.take(size_of::<StorageRef>() + 16)?;
        self.add(Object::Storage(Rc::new(StorageRef {
            kind,
            key,
            elements,
            part,
        })))
    }
}
