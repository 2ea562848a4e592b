use crate::ImportError;
use crate::checkpoint::dtype::Dtype;

/// The Python names that a dictionary of tensors may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::checkpoint) enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`.
    RebuildParameter,
    /// `torch.FloatStorage` and its relatives.
    Storage(Dtype),
}

impl Global {
    /// What a pickle means by `module.name`.
    ///
    /// # Errors
    /// [`ImportError::Refused`] for every name that is not in the list.
    pub(super) fn resolve(module: &str, name: &str) -> Result<Self, ImportError> {
        let global = match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "DoubleStorage") => Self::Storage(Dtype::F64),
            ("torch", "FloatStorage") => Self::Storage(Dtype::F32),
            ("torch", "HalfStorage") => Self::Storage(Dtype::F16),
            ("torch", "BFloat16Storage") => Self::Storage(Dtype::Bf16),
            ("torch", "LongStorage") => Self::Storage(Dtype::I64),
            ("torch", "IntStorage") => Self::Storage(Dtype::I32),
            ("torch", "ShortStorage") => Self::Storage(Dtype::I16),
            ("torch", "CharStorage") => Self::Storage(Dtype::I8),
            ("torch", "ByteStorage") => Self::Storage(Dtype::U8),
            ("torch", "BoolStorage") => Self::Storage(Dtype::Bool),
            _ => return Err(refused(module, name)),
        };
        Ok(global)
    }
}

fn refused(module: &str, name: &str) -> ImportError {
    let why = match module {
        "torch" | "torch.storage" if name.ends_with("Storage") => {
            "is a storage of elements that are not plain floats or integers"
        }
        "torch._utils" | "torch._tensor" if name.contains("rebuild") => {
            "rebuilds a kind of tensor that is not dense"
        }
        _ => "is a Python object that only running code could rebuild",
    };
    // Names come from the file: a message shows their beginning.
    let shown: String = format!("{module}.{name}").chars().take(200).collect();
    ImportError::Refused {
        global: shown,
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_refused_by_name() {
        for (module, name) in [
            ("os", "system"),
            ("builtins", "eval"),
            ("torch.hub", "load"),
            ("torch", "load"),
            ("collections", "OrderedDict.fromkeys"),
            ("torch.storage", "_load_from_bytes"),
            ("torch", "QInt8Storage"),
        ] {
            let text = Global::resolve(module, name).unwrap_err().to_string();
            assert!(text.contains(&format!("`{module}.{name}`")), "{text}");
            assert!(text.contains("state_dict"), "{text}");
        }
    }
}
