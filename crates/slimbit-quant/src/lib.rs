//! From a trained float network to a `.slim` file: calibration per point, and lowering to integers.
//!
//! [`export`] does both. [`calibrate`] measures batch-norm statistics and activation ranges at every
//! point from unlabelled images, by running a [`FloatNetwork`]; [`lower`] turns parameters and
//! statistics into a [`Model`] whose every rescaling is exact on every accumulator that its weights
//! allow. [`simulate`] counts, stage by stage, the codes that differ from real arithmetic;
//! [`compare`] measures how far they are from the float network, and tells why.
#![forbid(unsafe_code)]

mod calibrate;
pub mod compare;
mod equalise;
mod error;
mod finite;
mod formula;
mod histogram;
mod input;
mod input_range;
mod lower;
mod network;
mod origin;
mod post;
mod progress;
mod quantisers;
mod range_rule;
mod settings;
pub mod simulate;
mod solver;
pub mod warning;
mod weights;

use slimbit_engine::Model;
use slimbit_graph::Point;

pub use calibrate::{
    Calibration, FloatNetwork, Measured, Norms, Pass, Quantised, RangeRule, Ranges, calibrate,
};
pub use equalise::equalise;
pub use error::QuantError;
pub use histogram::Histogram;
pub use input::{input_codes, input_values};
pub use lower::lower;
pub use origin::is_lowered_from;
pub use post::{Correction, LayerError, PostTrained, PostTraining, quantise};
pub use progress::{Progress, Task};
pub use range_rule::{ParseRuleError, ValueRule};
pub use settings::Settings;
pub use warning::Warning;

/// Calibrates a network at every point on `pixels`, whole unlabelled images in NHWC order, and
/// lowers it.
///
/// # Errors
/// As [`calibrate`] and [`lower`].
pub fn export(
    network: &impl FloatNetwork,
    pixels: &[u8],
    points: &[Point],
    settings: &Settings,
    calibration: &Calibration,
    progress: impl Fn(Progress) + Sync,
) -> Result<Model, QuantError> {
    let statistics = calibrate(network, pixels, points, settings, calibration, &progress)?;
    lower(
        network.graph(),
        &network.params(),
        &statistics,
        settings,
        progress,
    )
}
