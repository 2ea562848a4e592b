use half::{bf16, f16};

/// Element types that checkpoints have. Only floats are weights; of the others no more than the size
/// is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    /// Four bits of exponent, three of mantissa, no infinity.
    F8E4m3,
    /// Five bits of exponent, two of mantissa: the upper half of a float16.
    F8E5m2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

impl Dtype {
    /// The type that is `torch.{name}`.
    pub(super) fn of_torch(name: &str) -> Option<Self> {
        Some(match name {
            "float64" | "double" => Self::F64,
            "float32" | "float" => Self::F32,
            "float16" | "half" => Self::F16,
            "bfloat16" => Self::Bf16,
            "float8_e4m3fn" => Self::F8E4m3,
            "float8_e5m2" => Self::F8E5m2,
            "int64" | "long" => Self::I64,
            "int32" | "int" => Self::I32,
            "int16" | "short" => Self::I16,
            "int8" => Self::I8,
            "uint64" => Self::U64,
            "uint32" => Self::U32,
            "uint16" => Self::U16,
            "uint8" => Self::U8,
            "bool" => Self::Bool,
            _ => return None,
        })
    }

    /// The type that NumPy calls by a letter and a number of bytes.
    pub(super) fn of_numpy(name: &str) -> Option<Self> {
        Some(match name {
            "f8" => Self::F64,
            "f4" => Self::F32,
            "f2" => Self::F16,
            "i8" => Self::I64,
            "i4" => Self::I32,
            "i2" => Self::I16,
            "i1" => Self::I8,
            "u8" => Self::U64,
            "u4" => Self::U32,
            "u2" => Self::U16,
            "u1" => Self::U8,
            "b1" => Self::Bool,
            _ => return None,
        })
    }

    /// Bytes of one element.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 | Self::U16 => 2,
            Self::F8E4m3 | Self::F8E5m2 | Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F64 => "float64",
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F8E4m3 => "float8_e4m3fn",
            Self::F8E5m2 => "float8_e5m2",
            Self::U64 => "uint64",
            Self::U32 => "uint32",
            Self::U16 => "uint16",
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
        use Dtype::{Bf16, F8E4m3, F8E5m2, F16, F32, F64};
        matches!(self, F64 | F32 | F16 | Bf16 | F8E4m3 | F8E5m2)
    }

    /// Little-endian elements of a float type as `f32`; those of another type as nothing.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F64 => elements(bytes, |b| f64::from_le_bytes(b) as f32),
            Self::F32 => elements(bytes, f32::from_le_bytes),
            Self::F16 => elements(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => elements(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Self::F8E4m3 => bytes.iter().map(|&byte| e4m3(byte)).collect(),
            Self::F8E5m2 => elements(bytes, |[byte]| f16::from_le_bytes([0, byte]).to_f32()),
            _ => Vec::new(),
        }
    }
}

/// A float of four bits of exponent (bias 7) and three of mantissa; all of them set is no number.
fn e4m3(byte: u8) -> f32 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    sign * match exponent {
        0 => mantissa * 2.0_f32.powi(-9),
        15 if byte & 7 == 7 => f32::NAN,
        _ => (1.0 + mantissa / 8.0) * 2.0_f32.powi(exponent - 7),
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
        // The largest, the smallest above zero, and -1.5.
        assert_eq!(
            Dtype::F8E4m3.decode(&[0x7e, 0x01, 0xbc]),
            [448.0, 0.001_953_125, -1.5]
        );
        assert!(Dtype::F8E4m3.decode(&[0x7f])[0].is_nan());
        assert_eq!(Dtype::F8E5m2.decode(&[0x7b, 0xbe]), [57344.0, -1.5]);
    }
}
