use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Point;

/// Smallest and largest value seen of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
}

/// What calibration measures for one point: everything, besides the weights, that lowering needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointStatistics {
    /// The point.
    pub point: Point,
    /// Batch-norm mean and biased variance by node name, as many channels as the point's width has.
    pub norms: BTreeMap<String, (Vec<f32>, Vec<f32>)>,
    /// Range of each stage's output by stage name, for stages that have a quantiser of their own.
    pub ranges: BTreeMap<String, Range>,
}
