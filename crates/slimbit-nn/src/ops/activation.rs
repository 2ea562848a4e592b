//! The non-linearity that is fused behind batch-norm.

/// A pointwise non-linearity and its derivative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// `max(z, 0)`.
    Relu,
    /// `min(max(z, 0), 6)`.
    Relu6,
}

impl Activation {
    /// Lower and upper clamp of the pre-activation.
    pub(super) fn bounds(self) -> (f32, f32) {
        match self {
            Self::None => (f32::NEG_INFINITY, f32::INFINITY),
            Self::Relu => (0.0, f32::INFINITY),
            Self::Relu6 => (0.0, 6.0),
        }
    }
}

/// Clamps as `max` then `min`: one instruction each, and NaN stays NaN.
#[inline(always)]
pub(super) fn clamp(z: f32, (low, high): (f32, f32)) -> f32 {
    let z = if z < low { low } else { z };
    if z > high { high } else { z }
}

/// The gradient `g` where the pre-activation lies strictly inside the bounds, else zero.
#[inline(always)]
pub(super) fn gate(g: f32, z: f32, (low, high): (f32, f32)) -> f32 {
    if z > low && z < high { g } else { 0.0 }
}
