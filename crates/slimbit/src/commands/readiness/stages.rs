//! Which stages of a point lose most.

use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;
use slimbit_engine::{Model, Session, weight_bits};
use slimbit_graph::{Point, Stage, StageKind};
use slimbit_quant::compare::{Comparison, StageComparison};

use super::super::features::Images;
use super::super::float::FloatNetwork;

/// Stages named per point.
const WORST: usize = 3;

/// Images whose tensors are kept together.
const BATCH: usize = 4;

/// What one stage loses.
#[derive(Serialize)]
pub(super) struct StageLoss {
    pub(super) stage: String,
    /// Signal-to-quantisation-noise ratio of what the stage itself adds, in dB: its output against the
    /// float stage on the same operands.
    pub(super) own_sqnr: f64,
    /// That of its output against the float network of the same width.
    pub(super) sqnr: f64,
    /// By how many dB that is below the stage's noisiest input; nothing where the inputs are exact.
    pub(super) drop: Option<f64>,
    /// Bits of its weights, where it has some, and of its output.
    pub(super) bits: (Option<u8>, u8),
    /// Range of its float values, and of its codes.
    pub(super) range: [f64; 2],
    pub(super) code_range: Option<[f64; 2]>,
    /// Share of values beyond the codes.
    pub(super) clipped: f64,
    /// What causes most of its own noise.
    pub(super) cause: &'static str,
}

/// The quantised stages of a point whose own noise is loudest.
pub(super) fn worst(
    model: &Arc<Model>,
    point: Point,
    float: &FloatNetwork,
    images: &Images,
) -> Result<Vec<StageLoss>> {
    let (net, norms) = float.parts();
    let mut comparison = Comparison::new(net, norms, model, point)?;
    let mut session = Session::new(Arc::clone(model), point)?;
    for first in (0..images.len()).step_by(BATCH) {
        let rows = first..images.len().min(first + BATCH);
        let traces = rows
            .clone()
            .map(|row| Ok(session.trace(images.image(row))?))
            .collect::<Result<Vec<_>>>()?;
        comparison.add(float.values(images, rows), &traces)?;
    }
    let report = comparison.report();
    let mut losses: Vec<StageLoss> = model
        .stages()
        .iter()
        .filter(|stage| stage.has_range())
        .filter_map(|stage| {
            let found = report
                .stages
                .iter()
                .find(|found| found.stage == stage.name)?;
            Some(loss(model, &report.stages, stage, found, point))
        })
        .collect();
    losses.sort_by(|a, b| a.own_sqnr.total_cmp(&b.own_sqnr));
    losses.truncate(WORST);
    Ok(losses)
}

fn loss(
    model: &Model,
    all: &[StageComparison],
    stage: &Stage,
    found: &StageComparison,
    point: Point,
) -> StageLoss {
    let inputs = stage.inputs.iter().map(|&input| sqnr_of(model, all, input));
    let noisiest = inputs.fold(f64::INFINITY, f64::min);
    let weights = matches!(
        stage.kind,
        StageKind::Conv { .. } | StageKind::Linear { .. }
    );
    let clips = found.clipping_error.powi(2) > found.own_error.powi(2) / 2.0;
    StageLoss {
        stage: found.stage.clone(),
        own_sqnr: found.own_sqnr,
        sqnr: found.sqnr,
        drop: noisiest.is_finite().then_some(noisiest - found.sqnr),
        bits: (
            weights.then(|| weight_bits(stage, point)),
            stage.bits(point.act_bits),
        ),
        range: found.float_range,
        code_range: found.code_range,
        clipped: found.clipped,
        cause: match (clips, found.weight_error > found.output_error) {
            (true, _) => "clipping",
            (_, true) => "weights",
            _ => "activations",
        },
    }
}

/// The ratio of a stage's output; flattening has that of its operand.
fn sqnr_of(model: &Model, all: &[StageComparison], index: usize) -> f64 {
    let stage = &model.stages()[index];
    match all.iter().find(|found| found.stage == stage.name) {
        Some(found) => found.sqnr,
        None => stage
            .inputs
            .iter()
            .map(|&i| sqnr_of(model, all, i))
            .fold(f64::INFINITY, f64::min),
    }
}
