use std::borrow::Cow;

use half::{bf16, f16};

use super::refusal::{Refusal, bounded, damaged, quoted, shown, unsupported};
use crate::onnx::proto::{TensorProto, data_type};

/// A tensor whose elements the file knows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Constant {
    pub(super) dims: Vec<usize>,
    pub(super) data: Data,
    /// The element type in the file, which says what a zero point means.
    pub(super) data_type: i32,
}

/// Elements in the widest type of their kind; truth values are 0 and 1.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    Float(Vec<f32>),
    Int(Vec<i64>),
}

impl Constant {
    pub(super) fn floats(dims: Vec<usize>, values: Vec<f32>) -> Self {
        Self {
            dims,
            data: Data::Float(values),
            data_type: data_type::FLOAT,
        }
    }

    pub(super) fn ints(dims: Vec<usize>, values: Vec<i64>) -> Self {
        Self {
            dims,
            data: Data::Int(values),
            data_type: data_type::INT64,
        }
    }

    /// The same integers as another type.
    ///
    /// # Errors
    /// [`Refusal::Damaged`] for integers that the type does not hold: they would wrap around.
    pub(super) fn of_type(self, data_type: i32) -> Result<Self, Refusal> {
        let Some((low, high)) = integers(data_type) else {
            return unsupported(
                format!("makes elements of type {data_type}"),
                "convert them to float or integers",
            );
        };
        let outside = match &self.data {
            Data::Int(values) => values.iter().find(|v| !(low..=high).contains(*v)),
            Data::Float(_) => None,
        };
        match outside {
            Some(value) => damaged(format!("{value} is not from {low} to {high}")),
            None => Ok(Self { data_type, ..self }),
        }
    }

    pub(super) fn len(&self) -> usize {
        match &self.data {
            Data::Float(values) => values.len(),
            Data::Int(values) => values.len(),
        }
    }

    /// The elements as floats.
    pub(super) fn to_f32(&self) -> Cow<'_, [f32]> {
        match &self.data {
            Data::Float(values) => Cow::Borrowed(values),
            Data::Int(values) => Cow::Owned(values.iter().map(|&v| v as f32).collect()),
        }
    }

    /// The elements as integers, where they are.
    pub(super) fn to_i64(&self) -> Result<&[i64], Refusal> {
        match &self.data {
            Data::Int(values) => Ok(values),
            Data::Float(_) => damaged("reads floats where it needs integers"),
        }
    }

    /// The only element.
    pub(super) fn scalar(&self) -> Result<f32, Refusal> {
        match (&*self.to_f32(), self.len()) {
            ([value], 1) => Ok(*value),
            (_, n) => damaged(format!("reads {n} elements where it needs one")),
        }
    }

    /// Decodes an initialiser.
    pub(super) fn read(tensor: &TensorProto) -> Result<Self, Refusal> {
        let name = quoted(&tensor.name);
        let Some(dims) = dims_of(tensor) else {
            let (rank, dims) = (tensor.dims.len(), shown(&tensor.dims));
            return damaged(format!("tensor {name} has {rank} dimensions, {dims}"));
        };
        let Some(elements) = Elements::of(tensor.data_type) else {
            return unsupported(
                format!("tensor {name} has element type {}", tensor.data_type),
                "convert it to float or integers",
            );
        };
        if tensor.segment.is_some() {
            return unsupported(
                format!("{name} holds a segment of a tensor only"),
                "save the model again, with whole tensors",
            );
        }
        if tensor.is_external() {
            return unsupported(
                format!("the elements of {name} are in another file"),
                "read the model in its folder, or save it as one file",
            );
        }
        let data = elements.read(tensor, dims.iter().product())?;
        Ok(Self {
            dims,
            data,
            data_type: tensor.data_type,
        })
    }

    /// Bytes that the elements of an initialiser take where they are not in typed form, if they can
    /// be decoded.
    pub(super) fn bytes_of(tensor: &TensorProto) -> Option<usize> {
        let count: usize = dims_of(tensor)?.iter().product();
        match Elements::of(tensor.data_type)? {
            Elements::Half { .. } => Some(count.div_ceil(2)),
            elements => count.checked_mul(elements.bytes()),
        }
    }
}

/// The least and the greatest integer of an element type.
pub(super) fn integers(data_type: i32) -> Option<(i64, i64)> {
    use crate::onnx::proto::data_type as t;
    Some(match data_type {
        t::BOOL => (0, 1),
        t::UINT4 => (0, 15),
        t::INT4 => (-8, 7),
        t::UINT8 => (0, 255),
        t::INT8 => (-128, 127),
        t::UINT16 => (0, 65535),
        t::INT16 => (-32768, 32767),
        t::INT32 => (i32::MIN.into(), i32::MAX.into()),
        t::INT64 => (i64::MIN, i64::MAX),
        _ => return None,
    })
}

/// Dimensions whose product is known.
fn dims_of(tensor: &TensorProto) -> Option<Vec<usize>> {
    let dims = tensor.dims.iter().map(|&d| d.try_into().ok());
    dims.collect::<Option<Vec<usize>>>()
        .filter(|dims| bounded(dims).is_some())
}

/// How elements of one type lie in a file.
enum Elements {
    F32,
    F64,
    F16,
    Bf16,
    I64,
    I32,
    /// Up to 16 bits, in typed form widened to 32.
    Narrow {
        bytes: usize,
        signed: bool,
    },
    /// Two in a byte.
    Half {
        signed: bool,
    },
}

impl Elements {
    fn of(element_type: i32) -> Option<Self> {
        use crate::onnx::proto::data_type as t;
        let narrow = |bytes, signed| Self::Narrow { bytes, signed };
        Some(match element_type {
            t::FLOAT => Self::F32,
            t::DOUBLE => Self::F64,
            t::FLOAT16 => Self::F16,
            t::BFLOAT16 => Self::Bf16,
            t::INT64 => Self::I64,
            t::INT32 => Self::I32,
            t::UINT8 | t::BOOL => narrow(1, false),
            t::INT8 => narrow(1, true),
            t::UINT16 => narrow(2, false),
            t::INT16 => narrow(2, true),
            t::UINT4 => Self::Half { signed: false },
            t::INT4 => Self::Half { signed: true },
            _ => return None,
        })
    }

    fn read(&self, tensor: &TensorProto, count: usize) -> Result<Data, Refusal> {
        let raw = &tensor.raw_data[..];
        let typed = raw.is_empty();
        let words = &tensor.int32_data;
        let bits = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0u64, |all, &b| all << 8 | u64::from(b))
        };
        let extend = |value: u64, width: usize, signed: bool| {
            let shift = 64 - width as u32;
            if signed {
                (value << shift).cast_signed() >> shift
            } else {
                ((value << shift) >> shift).cast_signed()
            }
        };
        let data = match *self {
            Self::F32 if typed => Data::Float(tensor.float_data.clone()),
            Self::F64 if typed => {
                Data::Float(tensor.double_data.iter().map(|&v| v as f32).collect())
            }
            Self::I64 if typed => Data::Int(tensor.int64_data.clone()),
            Self::I32 if typed => Data::Int(words.iter().map(|&v| v.into()).collect()),
            Self::F16 if typed => {
                let half = |&v: &i32| f16::from_bits(v as u16).to_f32();
                Data::Float(words.iter().map(half).collect())
            }
            Self::Bf16 if typed => {
                let half = |&v: &i32| bf16::from_bits(v as u16).to_f32();
                Data::Float(words.iter().map(half).collect())
            }
            Self::Narrow { bytes, signed } if typed => {
                let value = |&v: &i32| extend(v.cast_unsigned().into(), 8 * bytes, signed);
                Data::Int(words.iter().map(value).collect())
            }
            Self::Half { signed } => {
                let typed_bytes: Vec<u8> = words.iter().map(|&v| v as u8).collect();
                let bytes = if typed { &typed_bytes[..] } else { raw };
                if bytes.len() != count.div_ceil(2) {
                    return damaged(mismatch(tensor, bytes.len(), "bytes of two elements"));
                }
                let nibbles = bytes.iter().flat_map(|&b| [b & 15, b >> 4]).take(count);
                Data::Int(nibbles.map(|v| extend(v.into(), 4, signed)).collect())
            }
            Self::F32 => Data::Float(chunks(raw, tensor, |b| f32::from_bits(bits(b) as u32))?),
            Self::F64 => Data::Float(chunks(raw, tensor, |b| f64::from_bits(bits(b)) as f32)?),
            Self::F16 => Data::Float(chunks(raw, tensor, |b| {
                f16::from_bits(bits(b) as u16).to_f32()
            })?),
            Self::Bf16 => Data::Float(chunks(raw, tensor, |b| {
                bf16::from_bits(bits(b) as u16).to_f32()
            })?),
            Self::I64 => Data::Int(chunks(raw, tensor, |b| bits(b).cast_signed())?),
            Self::I32 => Data::Int(chunks(raw, tensor, |b| extend(bits(b), 32, true))?),
            Self::Narrow { bytes, signed } => {
                Data::Int(chunks(raw, tensor, |b| extend(bits(b), 8 * bytes, signed))?)
            }
        };
        let found = match &data {
            Data::Float(values) => values.len(),
            Data::Int(values) => values.len(),
        };
        if found == count {
            Ok(data)
        } else {
            damaged(mismatch(tensor, found, "elements"))
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Narrow { bytes, .. } => *bytes,
            Self::Half { .. } => 1,
        }
    }
}

fn chunks<T>(
    raw: &[u8],
    tensor: &TensorProto,
    element: impl Fn(&[u8]) -> T,
) -> Result<Vec<T>, Refusal> {
    let bytes = Elements::of(tensor.data_type).map_or(1, |elements| elements.bytes());
    if !raw.len().is_multiple_of(bytes) {
        return damaged(mismatch(tensor, raw.len(), "bytes"));
    }
    Ok(raw.chunks_exact(bytes).map(element).collect())
}

fn mismatch(tensor: &TensorProto, found: usize, what: &str) -> String {
    format!(
        "tensor {} of dimensions {} has {found} {what}",
        quoted(&tensor.name),
        shown(&tensor.dims)
    )
}
