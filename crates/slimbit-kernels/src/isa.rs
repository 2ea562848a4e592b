//! CPU levels and how one is chosen.

use crate::KernelError;
use std::fmt;
use std::str::FromStr;

/// A CPU level that has kernels of its own, in rising order of speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, on every CPU. It defines what the others compute.
    Scalar,
    /// 256-bit integer SIMD of x86-64, without dot-product instructions.
    Avx2,
    /// 512-bit integer SIMD of x86-64 with dot-product instructions: AVX-512 F, BW, VL, DQ and VNNI.
    Avx512Vnni,
}

impl Isa {
    /// Every level, the slowest first.
    pub const ALL: [Isa; 3] = [Isa::Scalar, Isa::Avx2, Isa::Avx512Vnni];

    /// The best level of this CPU.
    pub fn detect() -> Isa {
        Isa::available().pop().unwrap_or(Isa::Scalar)
    }

    /// The levels that this CPU can run, the slowest first. Never empty.
    pub fn available() -> Vec<Isa> {
        Isa::ALL
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect()
    }

    /// The level that the environment variable `SLIMBIT_ISA` asks for, otherwise the best one.
    ///
    /// # Errors
    /// [`KernelError::UnknownIsa`] or [`KernelError::Unsupported`] when the variable asks for what
    /// cannot be had.
    pub fn from_env() -> Result<Isa, KernelError> {
        match std::env::var("SLIMBIT_ISA") {
            Ok(name) if !name.is_empty() => name.parse::<Isa>()?.require(),
            _ => Ok(Isa::detect()),
        }
    }

    /// The level itself if this CPU can run it.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`].
    pub fn require(self) -> Result<Isa, KernelError> {
        if self.is_available() {
            Ok(self)
        } else {
            Err(KernelError::Unsupported { isa: self })
        }
    }

    fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512Vnni => false,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512Vnni => "avx512vnni",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Isa, KernelError> {
        let named = Isa::ALL.into_iter().find(|isa| isa.name() == name);
        named.ok_or_else(|| KernelError::UnknownIsa {
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        let error = "sse9".parse::<Isa>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown CPU level `sse9` in SLIMBIT_ISA; known are scalar, avx2, avx512vnni"
        );
    }

    #[test]
    fn the_best_level_is_the_last_available() {
        let available = Isa::available();
        assert!(available.is_sorted() && available[0] == Isa::Scalar);
        assert_eq!(available.last(), Some(&Isa::detect()));
        for isa in Isa::ALL {
            assert_eq!(isa.require().is_ok(), available.contains(&isa));
        }
    }
}
