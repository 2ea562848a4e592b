use std::rc::Rc;

use super::Global;
use crate::checkpoint::dtype::Dtype;

/// Most dimensions that a tensor has; tensors copy their shape, so that it must be short.
const MAX_RANK: usize = 32;

/// A pickled value. Objects are handles into the [`Heap`], so that a pickle may share them, nest them
/// as deep as it likes and tie them in knots without recursion here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits. Nothing needs its value.
    Long,
    /// Nothing needs its value.
    Float,
    Object(u32),
}

/// What a handle stands for. Text and bytes stay where they are in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) enum Object<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
    /// Bytes as characters of Latin-1, which is how protocol 2 writes them.
    Latin1(&'a str),
    /// A tuple, list or set.
    Sequence(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Global(Global<'a>),
    Storage(Rc<StorageRef<'a>>),
    Tensor(Box<TensorRef<'a>>),
    /// A NumPy element type; `None` for one that is no plain number.
    ArrayType(Option<Dtype>),
    Array(Box<ArrayRef<'a>>),
    Opaque(Opaque),
}

/// A Python object of a class that is not in the list: nothing of it is known but what the pickle stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) struct Opaque {
    /// The class or function, a [`Global::Other`].
    pub(in crate::checkpoint) class: Value,
    /// Its attributes, where it has any: a dictionary by Python's custom.
    pub(in crate::checkpoint) state: Value,
}

/// A storage: elements that lie elsewhere in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) struct StorageRef<'a> {
    pub(in crate::checkpoint) kind: StorageKind<'a>,
    /// Its name in the file.
    pub(in crate::checkpoint) key: &'a str,
    /// Elements of the storage of that name.
    pub(in crate::checkpoint) elements: usize,
    /// First element and number of elements of the part that this storage is, in files of PyTorch
    /// before 0.4 that share storages; else all.
    pub(in crate::checkpoint) part: [usize; 2],
}

/// What the elements of a storage are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) enum StorageKind<'a> {
    Plain(Dtype),
    /// The name of a class that is no list of plain numbers: `QInt8Storage`.
    Other(&'a str),
}

impl StorageKind<'_> {
    /// Bytes of one element, where that is known.
    pub(in crate::checkpoint) fn size(self) -> Option<usize> {
        match self {
            Self::Plain(dtype) => Some(dtype.size()),
            Self::Other("QInt8Storage" | "QUInt8Storage") => Some(1),
            Self::Other("QInt32Storage") => Some(4),
            Self::Other("ComplexFloatStorage") => Some(8),
            Self::Other("ComplexDoubleStorage") => Some(16),
            Self::Other(_) => None,
        }
    }
}

/// A tensor: a strided view of a storage, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) struct TensorRef<'a> {
    pub(in crate::checkpoint) storage: Rc<StorageRef<'a>>,
    /// The type of the elements, where it is not the storage's: an untyped storage is bytes.
    pub(in crate::checkpoint) dtype: Option<Dtype>,
    pub(in crate::checkpoint) offset: usize,
    pub(in crate::checkpoint) shape: Vec<usize>,
    pub(in crate::checkpoint) strides: Vec<usize>,
}

impl TensorRef<'_> {
    /// The type of the elements; nothing where they are no plain numbers.
    pub(in crate::checkpoint) fn dtype(&self) -> Option<Dtype> {
        match (self.dtype, self.storage.kind) {
            (Some(dtype), _) | (None, StorageKind::Plain(dtype)) => Some(dtype),
            (None, StorageKind::Other(_)) => None,
        }
    }
}

/// A NumPy array, whose elements are in the pickle itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) struct ArrayRef<'a> {
    /// `None` for elements that are not plain numbers, or big-endian.
    pub(in crate::checkpoint) dtype: Option<Dtype>,
    pub(in crate::checkpoint) shape: Vec<usize>,
    /// Whether the first index runs fastest.
    pub(in crate::checkpoint) fortran: bool,
    pub(in crate::checkpoint) data: ArrayData<'a>,
}

/// The bytes of an array, as the pickle has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) enum ArrayData<'a> {
    Bytes(&'a [u8]),
    Latin1(&'a str),
}

/// Every object of one pickle.
#[derive(Debug, Default)]
pub(in crate::checkpoint) struct Heap<'a> {
    objects: Vec<Object<'a>>,
}

impl<'a> Heap<'a> {
    /// Bytes that one object takes at most, while the list of them grows.
    pub(super) const OBJECT: usize = 3 * size_of::<Object>();

    /// Keeps an object; `None` for more than the handles can count.
    pub(super) fn add(&mut self, object: Object<'a>) -> Option<Value> {
        let index = u32::try_from(self.objects.len()).ok()?;
        self.objects.push(object);
        Some(Value::Object(index))
    }

    pub(super) fn object_mut(&mut self, value: Value) -> Option<&mut Object<'a>> {
        match value {
            Value::Object(index) => self.objects.get_mut(index as usize),
            _ => None,
        }
    }

    /// All objects, in the order in which the pickle made them.
    pub(in crate::checkpoint) fn objects(&self) -> &[Object<'a>] {
        &self.objects
    }

    pub(in crate::checkpoint) fn object(&self, value: Value) -> Option<&Object<'a>> {
        match value {
            Value::Object(index) => self.objects.get(index as usize),
            _ => None,
        }
    }

    pub(in crate::checkpoint) fn text(&self, value: Value) -> Option<&'a str> {
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

    /// The entry of a dictionary of this name; the last one, as in Python.
    pub(in crate::checkpoint) fn entry(&self, dict: Value, name: &str) -> Option<Value> {
        let items = self.dict(dict)?.iter().rev();
        let mut named = items.filter(|(key, _)| self.text(*key) == Some(name));
        named.next().map(|&(_, value)| value)
    }

    /// The Python name of an opaque object's class, or of a function or class itself.
    pub(in crate::checkpoint) fn class(&self, value: Value) -> Option<String> {
        match self.object(value)? {
            Object::Opaque(opaque) => self.class(opaque.class),
            Object::Global(global) => Some(global.to_string()),
            _ => None,
        }
    }

    /// A count, which is an integer that memory could hold.
    pub(in crate::checkpoint) fn count(value: Value) -> Option<usize> {
        match value {
            Value::Int(value) => usize::try_from(value).ok(),
            // More than there is of anything.
            Value::Long => Some(usize::MAX),
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
