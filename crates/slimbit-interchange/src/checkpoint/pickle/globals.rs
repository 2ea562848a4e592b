use std::fmt;

use super::StorageKind;
use crate::checkpoint::dtype::Dtype;

/// A Python name: one of those that a dictionary of tensors is made of, or any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) enum Global<'a> {
    /// `collections.OrderedDict` and `dict` itself.
    Dict,
    /// `collections.defaultdict`, whose first argument makes missing values.
    DefaultDict,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v3`, which names the type of the elements.
    RebuildTypedTensor,
    /// `torch._utils._rebuild_parameter` and `_rebuild_parameter_with_state`.
    RebuildParameter,
    /// `torch._tensor._rebuild_from_type_v2`: another of these functions, a class and its arguments.
    RebuildFromType,
    /// `torch.Tensor`, `torch.nn.Parameter` and the like: classes of dense tensors.
    TensorClass,
    /// `torch.FloatStorage` and its relatives.
    Storage(StorageKind<'a>),
    /// `torch.float32` and its relatives.
    Type(Dtype),
    /// `torch.Size`: a tuple.
    Size,
    /// `numpy.core.multiarray._reconstruct`: an array, whose contents follow.
    ReconstructArray,
    /// `numpy.core.numeric._frombuffer`: an array of bytes.
    ArrayFromBuffer,
    /// `numpy.dtype`.
    ArrayType,
    /// `_codecs.encode`: bytes, written as text.
    Encode,
    /// Any other: what is made with it is opaque.
    Other {
        /// The module.
        module: &'a str,
        /// The name in the module.
        name: &'a str,
    },
}

impl<'a> Global<'a> {
    /// What a pickle means by `module.name`.
    pub(super) fn resolve(module: &'a str, name: &'a str) -> Self {
        match (module, name) {
            ("collections", "OrderedDict") | ("builtins" | "__builtin__", "dict") => Self::Dict,
            ("collections", "defaultdict") => Self::DefaultDict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3") => Self::RebuildTypedTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::RebuildParameter
            }
            ("torch._tensor", "_rebuild_from_type_v2") => Self::RebuildFromType,
            ("torch", "Tensor")
            | ("torch.nn.parameter", "Parameter" | "Buffer")
            | ("torch.nn", "Parameter") => Self::TensorClass,
            ("torch", "Size") => Self::Size,
            ("torch.storage", "UntypedStorage") | ("torch", "UntypedStorage") => {
                Self::Storage(StorageKind::Plain(Dtype::U8))
            }
            ("torch", storage) if storage.ends_with("Storage") => {
                Self::Storage(match storage.strip_suffix("Storage") {
                    Some("Double") => StorageKind::Plain(Dtype::F64),
                    Some("Float") => StorageKind::Plain(Dtype::F32),
                    Some("Half") => StorageKind::Plain(Dtype::F16),
                    Some("BFloat16") => StorageKind::Plain(Dtype::Bf16),
                    Some("Long") => StorageKind::Plain(Dtype::I64),
                    Some("Int") => StorageKind::Plain(Dtype::I32),
                    Some("Short") => StorageKind::Plain(Dtype::I16),
                    Some("Char") => StorageKind::Plain(Dtype::I8),
                    Some("Byte") => StorageKind::Plain(Dtype::U8),
                    Some("Bool") => StorageKind::Plain(Dtype::Bool),
                    _ => StorageKind::Other(storage),
                })
            }
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
                Self::ReconstructArray
            }
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Self::ArrayFromBuffer,
            ("numpy", "dtype") => Self::ArrayType,
            ("_codecs", "encode") => Self::Encode,
            ("torch", name) if Dtype::of_torch(name).is_some() => {
                Self::Type(Dtype::of_torch(name).unwrap_or(Dtype::U8))
            }
            _ => Self::Other { module, name },
        }
    }

    /// What a tensor that this function rebuilds would be, for the functions of tensors that are not dense.
    pub(in crate::checkpoint) fn special_tensor(self) -> Option<&'static str> {
        let Self::Other { module, name } = self else {
            return None;
        };
        match (module, name) {
            ("torch._utils", "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor") => {
                Some("a sparse tensor; store `.to_dense()`")
            }
            ("torch._utils", "_rebuild_qtensor") => {
                Some("a quantised tensor; store `.dequantize()`")
            }
            ("torch._utils", name) if name.contains("meta_tensor") => Some(
                "a tensor without elements (device `meta`); save the model after it was loaded",
            ),
            ("torch._utils" | "torch._tensor", name) if name.starts_with("_rebuild") => {
                Some("a kind of tensor that is not dense; store it as a plain tensor")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Global<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other { module, name } => write!(f, "{module}.{name}"),
            Self::Storage(StorageKind::Other(name)) => write!(f, "torch.{name}"),
            known => write!(f, "{known:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_opaque() {
        for (module, name) in [
            ("os", "system"),
            ("builtins", "eval"),
            ("torch.hub", "load"),
            ("torch", "load"),
            ("collections", "OrderedDict.fromkeys"),
            ("torch.storage", "_load_from_bytes"),
        ] {
            let global = Global::resolve(module, name);
            assert_eq!(global, Global::Other { module, name });
            assert_eq!(global.to_string(), format!("{module}.{name}"));
        }
        let quantised = Global::resolve("torch", "QInt8Storage");
        assert_eq!(quantised.to_string(), "torch.QInt8Storage");
    }
}
