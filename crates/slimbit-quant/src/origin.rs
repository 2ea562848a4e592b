//! Whether a model was lowered from given parameters and statistics.

use slimbit_engine::{Arithmetic, Model, layouts, weight_bits};
use slimbit_graph::{Params, PointStatistics};

use crate::formula::Folded;
use crate::{QuantError, quantisers};

/// Coefficients closer than this, relative to their size, are the same.
const TOLERANCE: f64 = 1e-5;

/// Whether the coefficients of a model at a point follow from `params` and `statistics`, which hold
/// for that point. Other images, another checkpoint or another width give others.
///
/// # Errors
/// [`QuantError::Engine`] for a point that the model does not hold.
pub fn is_lowered_from(
    model: &Model,
    params: &Params,
    statistics: &PointStatistics,
) -> Result<bool, QuantError> {
    let made = model.point(statistics.point)?;
    let (graph, stages) = (model.graph(), model.stages());
    let layouts = layouts(graph, stages, statistics.point.width)?;
    // Statistics of another network lack what this one needs.
    let Ok(outputs) = quantisers::outputs(stages, &layouts, model.input().quant, statistics) else {
        return Ok(false);
    };
    for (index, (stage, made)) in stages.iter().zip(&made.stages).enumerate() {
        let near = |a: f64, b: f64| (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1e-30);
        let (own, other) = (made.output, outputs[index]);
        if own.zero_point() != other.zero_point() || !near(own.scale().into(), other.scale().into())
        {
            return Ok(false);
        }
        let Arithmetic::Channels { channels, .. } = &made.arithmetic else {
            continue;
        };
        let Ok(folded) = Folded::new(graph, params, statistics, stage, channels.len()) else {
            return Ok(false);
        };
        let Some(weights) = model.weights().get(&stage.name) else {
            return Ok(false);
        };
        let bits = weight_bits(stage, statistics.point);
        let input = f64::from(outputs[stage.inputs[0]].scale());
        for (channel, found) in channels.iter().enumerate() {
            let unit = f64::from(weights.scale(model.grid(), bits, channel)) * input;
            let line = folded.line(channel, unit, other);
            // An offset is a sum that may cancel out; codes are its unit.
            let same = (line.offset - found.b).abs() <= TOLERANCE * (1.0 + found.b.abs());
            if !(near(line.slope, found.a.into()) && same) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
