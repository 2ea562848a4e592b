//! What every stage's output integers mean at one point.

use slimbit_engine::{Layout, OutputQuant};
use slimbit_graph::{PointStatistics, Precision, Stage, StageKind};
use slimbit_num::ActQuant;

use crate::QuantError;

/// Largest code of a wide linear output: 16 bits, symmetric.
const WIDE_MAX: f32 = 32767.0;

/// The least scale: an output that was zero on every calibration image still has one.
const MIN_SCALE: f32 = 1e-12;

/// The output quantiser of every stage, in order.
pub(crate) fn outputs(
    stages: &[Stage],
    layouts: &[Layout],
    input: ActQuant,
    statistics: &PointStatistics,
) -> Result<Vec<OutputQuant>, QuantError> {
    let mut outputs: Vec<OutputQuant> = Vec::with_capacity(stages.len());
    for stage in stages {
        let output = match (stage.precision, stage.kind) {
            (_, StageKind::Input) => OutputQuant::Codes(input),
            (Precision::Operand, _) => outputs[stage.inputs[0]],
            (Precision::Wide, StageKind::GlobalAvgPool) => {
                let map = layouts[stage.inputs[0]];
                OutputQuant::Wide {
                    scale: outputs[stage.inputs[0]].scale() / (map.height * map.width) as f32,
                    zero_point: 0,
                }
            }
            (Precision::Wide, _) => {
                let range = range(stage, statistics)?;
                let scale = range.min.abs().max(range.max.abs()) / WIDE_MAX;
                OutputQuant::Wide {
                    scale: scale.max(MIN_SCALE),
                    zero_point: 0,
                }
            }
            (Precision::Point | Precision::Eight, _) => {
                let range = stage.quantiser_range(range(stage, statistics)?);
                let bits = stage.bits(statistics.point.act_bits);
                OutputQuant::Codes(ActQuant::from_range(range.min, range.max, bits))
            }
        };
        outputs.push(output);
    }
    Ok(outputs)
}

fn range(stage: &Stage, statistics: &PointStatistics) -> Result<slimbit_graph::Range, QuantError> {
    let what = match statistics.ranges.get(&stage.name) {
        Some(range) if range.min.is_finite() && range.max.is_finite() && range.min <= range.max => {
            return Ok(*range);
        }
        Some(range) => format!("range {} to {}", range.min, range.max),
        None => "no range".to_owned(),
    };
    Err(QuantError::Statistics {
        point: statistics.point,
        name: stage.name.clone(),
        what,
    })
}
