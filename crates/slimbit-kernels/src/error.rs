//! What can be wrong before a kernel runs.

use crate::{ConvGeometry, Isa};
use slimbit_num::Clip;
use std::fmt;

/// Why a table or packed weights cannot be had. Kernels themselves cannot fail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelError {
    /// The text names no CPU level.
    UnknownIsa {
        /// The text.
        name: String,
    },
    /// This CPU, or this build, lacks the level.
    Unsupported {
        /// The level that was asked for.
        isa: Isa,
    },
    /// A dimension is zero, the groups do not divide the channels, or a product of dimensions
    /// overflows.
    Geometry(ConvGeometry),
    /// The number of weights is not `O·KH·KW·(I/groups)`.
    Weights {
        /// The number that the geometry asks for.
        expected: usize,
        /// The number that was given.
        found: usize,
    },
    /// There is not one requantisation per output channel.
    Requants {
        /// The number of output channels.
        expected: usize,
        /// The number that was given.
        found: usize,
    },
    /// The clip is empty or reaches outside the 16-bit range.
    Clip(Clip),
    /// Weights so many and large that some input would overflow the 32-bit accumulator.
    Accumulator {
        /// The output channel.
        channel: usize,
    },
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelError::UnknownIsa { name } => {
                write!(f, "unknown CPU level `{name}` in SLIMBIT_ISA; known are ")?;
                let names = Isa::ALL.map(|isa| isa.to_string());
                f.write_str(&names.join(", "))
            }
            KernelError::Unsupported { isa } => {
                let best = Isa::detect();
                write!(
                    f,
                    "this CPU does not support level {isa}; use {best} or lower"
                )
            }
            KernelError::Geometry(geometry) => write!(
                f,
                "convolution {geometry:?} is impossible: dimensions must be positive, \
                 and the groups must divide both channel counts"
            ),
            KernelError::Weights { expected, found } => {
                write!(f, "{found} weights for a geometry that needs {expected}")
            }
            KernelError::Requants { expected, found } => {
                write!(f, "{found} requantisations for {expected} output channels")
            }
            KernelError::Clip(Clip { lo, hi }) => write!(
                f,
                "clip range [{lo}, {hi}] is empty or not within [-32768, 32767]"
            ),
            KernelError::Accumulator { channel } => write!(
                f,
                "output channel {channel} can overflow its 32-bit accumulator; use fewer weight bits"
            ),
        }
    }
}

impl std::error::Error for KernelError {}
