//! From a trained float network to a `.slim` file: calibration per point, and lowering to integers.
//!
//! [`export`] does both. [`calibrate`] measures batch-norm statistics and activation ranges at every
//! point from unlabelled images, by running a [`FloatNetwork`]; [`lower`] turns parameters and
//! statistics into a [`Model`] whose every rescaling is exact on every accumulator that its weights
//! allow. [`simulate`] counts, stage by stage, the codes that differ from real arithmetic.
#![forbid(unsafe_code)]

mod calibrate;
mod error;
mod formula;
mod input;
mod lower;
mod network;
mod progress;
mod quantisers;
mod settings;
pub mod simulate;
mod solver;
mod weights;

use slimbit_engine::Model;
use slimbit_graph::Point;

pub use calibrate::{
    Calibration, FloatNetwork, Measured, Norms, Pass, Quantised, RangeRule, Ranges, calibrate,
};
pub use error::QuantError;
pub use input::{input_codes, input_values};
pub use lower::lower;
pub use progress::{Progress, Task};
pub use settings::Settings;

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
