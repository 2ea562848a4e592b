//! What a run's settings cost before anything is trained: multiply-accumulates and memory of an iteration.

use slimbit_data::LoaderConfig;
use slimbit_graph::{Graph, Op, Width};

use crate::config::{EmaUpdate, ObjectiveConfig, Target};
use crate::machine::{Memory, human_bytes};
use crate::ssl::{Networks, head_macs, views_of};
use crate::{TrainConfig, TrainError};

/// A forward pass, and the two products of a backward pass.
const FORWARD_AND_BACKWARD: f64 = 3.0;
/// Iterations of each quarter that stand for all of it: networks are drawn.
const DRAWN: u64 = 64;
/// Bytes of a value.
const F32: u64 = 4;
/// Parameters, their momentum, their gradients and the teacher's copy; and most of these once more when they are saved.
const COPIES: u64 = 8;
/// Tensors of a pass that are alive at its peak, to those that [`maps`] counts: with this, the peaks of ResNet-18 and of two
/// small networks, each in its first iterations, are met within a tenth.
const ALIVE: f64 = 1.7;
/// The same with gradient checkpointing, which keeps a part of the network at a time.
const ALIVE_RECOMPUTED: f64 = 0.6;

/// Multiply-accumulates that one image costs in an iteration of each quarter of the run, on average over the networks
/// that are drawn: base, students and teacher, every view, forward and backward.
///
/// # Errors
/// [`TrainError::Graph`] for a width at which the network has no shapes.
pub(crate) fn macs_per_image(config: &TrainConfig, graph: &Graph) -> Result<[f64; 4], TrainError> {
    let objective = &config.objective;
    let [looked_at, taught] = views_of(objective).map(|views| views.len() as f64);
    let again = if config.gradient_checkpointing {
        1.0
    } else {
        0.0
    };
    let trained = looked_at * (FORWARD_AND_BACKWARD + again);
    let heads = head_macs(graph, config)?;
    let at =
        |width: Width| -> Result<f64, TrainError> { Ok(graph.cost(width)?.macs as f64 + heads) };
    let mut quarters = [0.0; 4];
    for (quarter, macs) in quarters.iter_mut().enumerate() {
        for step in 0..DRAWN {
            let drawn = Networks::draw(objective, config.seed, step, quarter);
            let base = at(drawn.base)?;
            let mut image = trained * base;
            if objective.target == Target::Quantised {
                // Its students only give targets.
                image += looked_at * base;
            } else {
                for student in &drawn.students {
                    image += trained * at(student.width)?;
                }
            }
            image += teachings(objective, drawn.students.len()) * taught * base;
            *macs += image / DRAWN as f64;
        }
    }
    Ok(quarters)
}

/// Passes of the teacher in an iteration.
fn teachings(objective: &ObjectiveConfig, students: usize) -> f64 {
    match (objective.target, objective.ema_update) {
        (Target::Online | Target::Quantised, _) => 0.0,
        (_, EmaUpdate::SubStepFresh) => 1.0 + students as f64,
        _ => 1.0,
    }
}

/// Values of one image that a pass keeps for its gradients. A batch-norm and the activation after it are one operator.
fn maps(graph: &Graph) -> Result<u64, TrainError> {
    let shapes = graph.shapes(Width::FULL)?;
    let kept = graph
        .nodes()
        .iter()
        .zip(&shapes)
        .filter(|(node, _)| !matches!(node.op, Op::BatchNorm { .. }));
    Ok(kept.map(|(_, shape)| shape.elements() as u64).sum())
}

/// Bytes that `images` views of one pass keep, with their gradients.
fn pass_bytes(graph: &Graph, images: u64, recomputed: bool) -> Result<u64, TrainError> {
    let alive = if recomputed { ALIVE_RECOMPUTED } else { ALIVE };
    let bytes = (maps(graph)? as f64) * images as f64 * F32 as f64 * alive;
    Ok(bytes as u64)
}

/// Bytes that an iteration takes at its peak, roughly: what a pass keeps for its gradients, the parameters with what
/// the optimiser and the teacher keep of them, and the images that are made in advance.
///
/// # Errors
/// As [`macs_per_image`].
pub(crate) fn step_bytes(config: &TrainConfig, graph: &Graph) -> Result<u64, TrainError> {
    let [looked_at, _] = views_of(&config.objective);
    let together = match config.micro_batch {
        0 => config.batch,
        size => size,
    } as u64;
    let views = looked_at.len() as u64 * together;
    let passes = pass_bytes(graph, views, config.gradient_checkpointing)?;
    let params = graph.cost(Width::FULL)?.params + head_macs(graph, config)? as u64;
    let ready = (LoaderConfig::default().prefetch + config.workers + 2) as u64;
    let batch = 2 * (config.batch as u64).saturating_mul(config.preprocess.len() as u64);
    let images = ready.saturating_mul(batch).saturating_mul(F32);
    Ok(passes
        .saturating_add(COPIES * F32 * params)
        .saturating_add(images))
}

/// Bytes of a step of a fine-tuning: one view, and no teacher.
///
/// # Errors
/// As [`macs_per_image`].
pub(crate) fn tuning_bytes(graph: &Graph, batch: usize) -> Result<u64, TrainError> {
    let passes = pass_bytes(graph, batch as u64, false)?;
    Ok(passes.saturating_add(COPIES * F32 * graph.cost(Width::FULL)?.params))
}

/// Refuses what the machine has no memory for, before it is taken, and warns of what has no room beside other
/// programs now.
///
/// `what` is the batch and the network, and `remedy` says which settings make them smaller.
///
/// # Errors
/// [`TrainError::ConfigValue`] for `batch`, with both numbers.
pub(crate) fn check_memory(
    needed: u64,
    memory: &Memory,
    what: &str,
    remedy: &str,
) -> Result<(), TrainError> {
    if needed > memory.total {
        let what = format!(
            "a step with {what} would take about {} of memory, and there are {}; {remedy}",
            human_bytes(needed),
            human_bytes(memory.total)
        );
        return Err(TrainError::value("batch", what));
    }
    if needed > memory.available {
        log::warn!(
            "a step with {what} takes about {} of memory, and {} are free now; if the run is ended for lack of memory, {remedy}",
            human_bytes(needed),
            human_bytes(memory.available)
        );
    }
    Ok(())
}

impl TrainConfig {
    /// Refuses a run that this machine has no memory for.
    ///
    /// # Errors
    /// [`TrainError::ConfigValue`] with the size of a step, that of the memory, and the settings to change.
    pub(crate) fn check_memory(&self, graph: &Graph, memory: &Memory) -> Result<(), TrainError> {
        let input = &self.preprocess;
        let together = match self.micro_batch {
            0 => format!("batch = {}", self.batch),
            size => format!("micro_batch = {size}"),
        };
        check_memory(
            step_bytes(self, graph)?,
            memory,
            &format!(
                "{together}, {} and images of {}x{}",
                graph.name(),
                input.height,
                input.width
            ),
            "lower batch, or preprocess.height and preprocess.width, choose a smaller model.backbone, set a smaller \
             micro_batch, or gradient_checkpointing=true",
        )
    }
}
