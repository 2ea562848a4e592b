use std::collections::BTreeMap;

use slimbit_graph::{PointStatistics, Range, Width};
use slimbit_num::{ActQuant, WeightGrid};

use crate::NnError;

/// Which of the networks inside the network runs, and how.
#[derive(Clone, Copy, Debug)]
pub struct Mode<'a> {
    /// Width multiplier.
    pub width: Width,
    /// What is rounded.
    pub quant: Quantisation<'a>,
    /// Where batch-norm statistics come from.
    pub norm: NormMode<'a>,
}

/// Bit-widths of a fake-quantised pass. 0 leaves weights or activations as they are; the stem's 8
/// bits are then left out too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// Bits of a weight: 0, or 2 to 16 (8 where the network is to be deployed).
    pub weight: u8,
    /// Bits of an activation: 0, or 1 to 16 (8 where the network is to be deployed).
    pub act: u8,
}

/// What a pass rounds.
///
/// The training variants follow SSQL (spec section 4.1): weights of every convolution and every
/// post-activation tensor at the given bits, the stem at 8, addends and pooled features and the
/// classifier not at all.
#[derive(Clone, Copy, Debug)]
pub enum Quantisation<'a> {
    /// Nothing.
    Off,
    /// Training; each tensor's range is that of the tensor itself (spec section 5.4, b).
    Dynamic {
        /// Bit-widths.
        bits: Bits,
        /// Weight grid.
        grid: WeightGrid,
    },
    /// Training; ranges by stage name, measured in a float pass (SSQL's post-step quantisation).
    Ranges {
        /// Bit-widths.
        bits: Bits,
        /// Weight grid.
        grid: WeightGrid,
        /// Range of every post-activation tensor.
        ranges: &'a BTreeMap<String, Range>,
    },
    /// Evaluation with the engine's arithmetic: every stage rounds, addends and the image included.
    /// Needs [`NormMode::Given`].
    Deployed {
        /// Bit-widths, within those of a [`Point`](slimbit_graph::Point).
        bits: Bits,
        /// Weight grid.
        grid: WeightGrid,
        /// Quantiser of the image, 8 bits.
        input: ActQuant,
        /// Range of every stage that [has one](slimbit_graph::Stage::has_range).
        ranges: &'a BTreeMap<String, Range>,
    },
}

/// Where a batch-norm takes mean and variance from. There are no running statistics: training uses
/// the batch's, evaluation uses those that calibration measured for the point (spec sections 3.2
/// and 5.5).
#[derive(Clone, Copy, Debug)]
pub enum NormMode<'a> {
    /// The batch's own.
    Batch,
    /// Mean and biased variance by node name.
    Given(&'a BTreeMap<String, (Vec<f32>, Vec<f32>)>),
}

impl<'a> Mode<'a> {
    /// Training in float at `width`: batch statistics, nothing rounded.
    pub fn float(width: Width) -> Self {
        Self {
            width,
            quant: Quantisation::Off,
            norm: NormMode::Batch,
        }
    }

    /// Evaluation of a calibrated point with the engine's arithmetic.
    pub fn deployed(statistics: &'a PointStatistics, grid: WeightGrid, input: ActQuant) -> Self {
        let point = statistics.point;
        Self {
            width: point.width,
            quant: Quantisation::Deployed {
                bits: Bits {
                    weight: point.weight_bits,
                    act: point.act_bits,
                },
                grid,
                input,
                ranges: &statistics.ranges,
            },
            norm: NormMode::Given(&statistics.norms),
        }
    }

    pub(crate) fn check(&self) -> Result<(), NnError> {
        let (Bits { weight, act }, fine) = match self.quant {
            Quantisation::Off => return Ok(()),
            Quantisation::Dynamic { bits, .. } | Quantisation::Ranges { bits, .. } => {
                let weight = bits.weight == 0 || (2..=16).contains(&bits.weight);
                (bits, weight && bits.act <= 16)
            }
            Quantisation::Deployed { bits, .. } => {
                let weight = (2..=8).contains(&bits.weight);
                (bits, weight && (1..=8).contains(&bits.act))
            }
        };
        if fine {
            Ok(())
        } else {
            Err(NnError::Bits { weight, act })
        }
    }
}
