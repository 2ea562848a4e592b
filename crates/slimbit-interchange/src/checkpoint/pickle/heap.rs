use super::Global;
use crate::checkpoint::dtype::Dtype;

/// Most dimensions that a tensor has; tensors copy their shape, so that it must be short.
const MAX_RANK: usize = 32;

/// A pickled value. Objects are handles into the [`Heap`], so that a pickle may share them, nest them
/// as deep as it likes and tie them in knots without recursion here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) enum Value {
    None,
    Bool,
    Int(i128),
    /// Nothing needs its value.
    Float,
    Object(usize),
}

/// What a handle stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) enum Object {
    Text(String),
    /// Nothing needs its contents.
    Bytes,
    /// A tuple, list or set.
    Sequence(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Global(Global),
    Storage(StorageRef),
    Tensor(TensorRef),
}

/// A storage: elements that lie elsewhere in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) struct StorageRef {
    pub(in crate::checkpoint) dtype: Dtype,
    /// Its name in the file.
    pub(in crate::checkpoint) key: String,
    /// Elements of the storage of that name.
    pub(in crate::checkpoint) elements: usize,
    /// First element and number of elements of the part that this storage is, in files of PyTorch
    /// before 0.4 that share storages; else all.
    pub(in crate::checkpoint) part: [usize; 2],
}

/// A tensor: a strided view of a storage, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) struct TensorRef {
    pub(in crate::checkpoint) storage: StorageRef,
    pub(in crate::checkpoint) offset: usize,
    pub(in crate::checkpoint) shape: Vec<usize>,
    pub(in crate::checkpoint) strides: Vec<usize>,
}

/// Every object of one pickle.
#[derive(Debug, Default)]
pub(in crate::checkpoint) struct Heap {
    objects: Vec<Object>,
}

impl Heap {
    pub(super) fn add(&mut self, object: Object) -> Value {
        self.objects.push(object);
        Value::Object(self.objects.len() - 1)
    }

    pub(super) fn object_mut(&mut self, value: Value) -> Option<&mut Object> {
        match value {
            Value::Object(index) => self.objects.get_mut(index),
            _ => None,
        }
    }

    /// All objects, in the order in which the pickle made them.
    pub(in crate::checkpoint) fn objects(&self) -> &[Object] {
        &self.objects
    }

    pub(in crate::checkpoint) fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(index) => self.objects.get(index),
            _ => None,
        }
    }

    pub(in crate::checkpoint) fn text(&self, value: Value) -> Option<&str> {
        match self.object(value) {
            Some(Object::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(in crate::checkpoint) fn sequence(&self, value: Value) -> Option<&[Value]> {
        match self.object(value) {
            Some(Object::Sequence(items)) => Some(items),
            _ => None,
        }
    }

    pub(in crate::checkpoint) fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.object(value) {
            Some(Object::Dict(items)) => Some(items),
            _ => None,
        }
    }

    /// A count, which is an integer that memory could hold.
    pub(in crate::checkpoint) fn count(value: Value) -> Option<usize> {
        match value {
            Value::Int(value) => usize::try_from(value).ok(),
            _ => None,
        }
    }

    /// A tuple of at most [`MAX_RANK`] counts: a shape or strides.
    pub(in crate::checkpoint) fn counts(&self, value: Value) -> Option<Vec<usize>> {
        let items = self
            .sequence(value)
            .filter(|items| items.len() <= MAX_RANK)?;
        items.iter().map(|&item| Self::count(item)).collect()
    }
}
