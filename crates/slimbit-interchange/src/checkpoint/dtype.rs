use half::{bf16, f16};

/// Element types that checkpoints have. Only floats are weights; of the others no more than the size
/// is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Dtype {
    /// Bytes of one element.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::I16 => "int16",
            Self::I8 => "int8",
            Self::U8 => "uint8",
            Self::Bool => "bool",
        }
    }

    /// Whether tensors of this type can be weights.
    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Little-endian elements of a float type as `f32`; those of another type as nothing.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F64 => elements(bytes, |b| f64::from_le_bytes(b) as f32),
            Self::F32 => elements(bytes, f32::from_le_bytes),
            Self::F16 => elements(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => elements(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            _ => Vec::new(),
        }
    }
}

fn elements<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&chunk| read(chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_type_decodes_its_values() {
        let values = [0.0, -1.5, 2.0_f32.powi(-24), 6.0e4];
        let f16: Vec<u8> = [0x0000_u16, 0xbe00, 0x0001, 0x7b53]
            .into_iter()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(Dtype::F16.decode(&f16), values);
        let f64: Vec<u8> = values
            .iter()
            .flat_map(|&v| f64::from(v).to_le_bytes())
            .collect();
        assert_eq!(Dtype::F64.decode(&f64), values);
        // A bfloat16 is the upper half of the float.
        let upper: Vec<u8> = [-1.5_f32, 0.25]
            .iter()
            .flat_map(|v| v.to_le_bytes()[2..].to_vec())
            .collect();
        assert_eq!(Dtype::Bf16.decode(&upper), [-1.5, 0.25]);
    }
}
