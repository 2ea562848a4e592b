//! Selections of channels, which the convolutions behind them take in.

use slimbit_graph::{Array, Groups};

use super::refusal::{Budget, Refusal};
use super::step::{Kind, Step};

/// Joins selections of one tensor that are put together again, selections of selections, and
/// convolutions without groups with the selection that they read: they get a zero weight for every
/// channel that is not selected.
///
/// # Errors
/// [`Refusal::Damaged`] for weights out of proportion to the file.
pub(super) fn absorb_selections(steps: &mut [Step], budget: &mut Budget) -> Result<(), Refusal> {
    for index in 0..steps.len() {
        match &steps[index].kind {
            Kind::Concat => join(steps, index, budget)?,
            Kind::Select { .. } => compose(steps, index),
            Kind::Conv { .. } => scatter(steps, index, budget)?,
            _ => {}
        }
    }
    Ok(())
}

/// The source, the channels and the factors of a selection.
fn selection(step: &Step) -> Option<(usize, &[usize], &[f32])> {
    match &step.kind {
        Kind::Select { channels, factors } => Some((step.inputs[0], channels, factors)),
        _ => None,
    }
}

/// A concatenation of selections of one tensor is a selection.
fn join(steps: &mut [Step], index: usize, budget: &mut Budget) -> Result<(), Refusal> {
    let parts = &steps[index].inputs;
    let found: Option<Vec<_>> = parts.iter().map(|&part| selection(&steps[part])).collect();
    let Some(found) = found else {
        return Ok(());
    };
    let source = found[0].0;
    let plain = |factors: &[f32]| factors.is_empty();
    if !found.iter().all(|&(from, _, f)| from == source && plain(f)) {
        return Ok(());
    }
    budget.take(found.iter().map(|(_, channels, _)| channels.len()).sum())?;
    let channels = found.iter().flat_map(|(_, channels, _)| channels.iter());
    steps[index].kind = Kind::Select {
        channels: channels.copied().collect(),
        factors: Vec::new(),
    };
    steps[index].inputs = vec![source];
    Ok(())
}

fn compose(steps: &mut [Step], index: usize) {
    let before = &steps[steps[index].inputs[0]];
    let (Some((source, first, before_factors)), Some((_, then, factors))) =
        (selection(before), selection(&steps[index]))
    else {
        return;
    };
    if !before_factors.is_empty() || !factors.is_empty() {
        return;
    }
    let channels = then.iter().map(|&c| first[c]).collect();
    steps[index].kind = Kind::Select {
        channels,
        factors: Vec::new(),
    };
    steps[index].inputs = vec![source];
}

fn scatter(steps: &mut [Step], index: usize, budget: &mut Budget) -> Result<(), Refusal> {
    let Some((source, channels, factors)) = selection(&steps[steps[index].inputs[0]]) else {
        return Ok(());
    };
    let width = steps[source].channels;
    let Kind::Conv { conv, weight, .. } = &steps[index].kind else {
        return Ok(());
    };
    if conv.groups != Groups::Fixed(1) {
        return Ok(());
    }
    let [out, _, rows, columns] = weight.shape[..] else {
        return Ok(());
    };
    let taps = rows * columns;
    let elements = budget.take_dims(&[out, width, rows, columns])?;
    let mut data = vec![0.0; elements];
    let kernels = weight.data.chunks_exact(channels.len() * taps);
    for (to, from) in data.chunks_exact_mut(width * taps).zip(kernels) {
        for (i, (&channel, from)) in channels.iter().zip(from.chunks_exact(taps)).enumerate() {
            let factor = factors.get(i).copied().unwrap_or(1.0);
            let to = &mut to[channel * taps..][..taps];
            to.iter_mut().zip(from).for_each(|(t, f)| *t += factor * f);
        }
    }
    let widened = Array {
        shape: vec![out, width, rows, columns],
        data,
    };
    if let Kind::Conv { weight, .. } = &mut steps[index].kind {
        *weight = widened;
    }
    steps[index].inputs = vec![source];
    Ok(())
}
