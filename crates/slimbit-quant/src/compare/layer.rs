//! A layer's integers as real numbers, beside the float weights that they stand for.

use slimbit_engine::{Arithmetic, Model, PointModel, layouts, weight_bits, weight_shape};
use slimbit_graph::{
    Activation, Graph, NodeId, Params, PointStatistics, Stage, StageId, StageKind,
};
use slimbit_num::WeightGrid;

use crate::QuantError;
use crate::formula::{Folded, Line};

/// Channels this much fainter than the loudest of their layer are off.
const FAINT: f64 = 1e-4;

/// How far a layer's weights are from the reference's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightDistance {
    /// Root mean square of the differences, in steps of the weights' grid: 0.29 where every weight
    /// is rounded to the nearest.
    pub steps: f64,
    /// Cosine of the angle between all of them, in steps.
    pub cosine: f64,
}

/// A convolution or linear layer of the model.
pub(super) struct Layer {
    /// The model's weights in the reference's units, `[out, in / groups, rows, columns]`.
    pub(super) weights: Vec<f32>,
    /// From a sum of products with these weights to the output before its activation: as the
    /// reference has it.
    pub(super) reference: Vec<Line>,
    /// As the model has it.
    pub(super) model: Vec<Line>,
    pub(super) activation: Option<Activation>,
    pub(super) distance: WeightDistance,
}

/// The float network's side of a layer.
pub(super) struct FloatLayer<'a> {
    pub(super) graph: &'a Graph,
    pub(super) params: &'a Params,
    pub(super) statistics: &'a PointStatistics,
    pub(super) stage: &'a Stage,
}

impl Layer {
    /// The layer of stage `index`; nothing for stages without weights.
    pub(super) fn new(
        float: &FloatLayer,
        model: &Model,
        made: &PointModel,
        index: StageId,
    ) -> Result<Option<Self>, QuantError> {
        let stage = &model.stages()[index];
        let (Some(node), Arithmetic::Channels { channels, .. }) =
            (weighted(float.stage), &made.stages[index].arithmetic)
        else {
            return Ok(None);
        };
        let at = layouts(model.graph(), model.stages(), made.point.width)?;
        let Some(shape) = weight_shape(model.graph(), stage, at[stage.inputs[0]], at[index]) else {
            return Ok(None);
        };
        let [outputs, rows, columns, inputs] = shape;
        let bits = weight_bits(stage, made.point);
        let codes = model.weights()[&stage.name].at(model.grid(), bits, shape);
        let exact = float_weights(float, node, shape)?;
        let folded = Folded::new(
            float.graph,
            float.params,
            float.statistics,
            float.stage,
            outputs,
        )?;

        let (input, output) = (
            made.stages[stage.inputs[0]].output,
            made.stages[index].output,
        );
        let (from, to) = (f64::from(input.scale()), f64::from(output.scale()));
        let doublings = spacing(model, stage, bits);
        let taps = rows * columns;
        let mut layer = Self {
            weights: Vec::with_capacity(codes.len()),
            reference: Vec::with_capacity(outputs),
            model: Vec::with_capacity(outputs),
            activation: float.stage.activation,
            distance: WeightDistance {
                steps: 0.0,
                cosine: 1.0,
            },
        };
        let mut fits = Vec::with_capacity(outputs);
        let per_channel = taps * inputs;
        for (o, requant) in channels.iter().enumerate() {
            let line = folded.real_line(o);
            let gain = f64::from(requant.a) * to / from;
            // A negative batch-norm scale that only one of the networks has in its weights turns their
            // sign.
            let sign = (gain * line.slope).signum();
            let gain = gain * sign;
            let codes = &codes[o * per_channel..][..per_channel];
            let codes: Vec<f64> = (0..inputs)
                .flat_map(|i| (0..taps).map(move |tap| sign * f64::from(codes[tap * inputs + i])))
                .collect();
            let exact: Vec<f64> = exact[o * per_channel..][..per_channel]
                .iter()
                .map(|&w| w.into())
                .collect();
            // What a code is worth in the reference's units. Batch-norm may be folded into either
            // network's weights or into none; the best multiple makes no difference between them.
            let unit = best_multiple(&codes, &exact);
            fits.push((line.slope.abs(), Fit::of(&codes, &exact, doublings)));
            layer
                .weights
                .extend(codes.iter().map(|q| (q * unit) as f32));
            layer.reference.push(line);
            layer.model.push(Line {
                slope: if unit > 0.0 { gain / unit } else { 0.0 },
                offset: (requant.b - f64::from(output.zero_point())) * to,
            });
        }
        layer.distance = distance(&fits);
        Ok(Some(layer))
    }

    /// The outputs for sums of products `[images, out, positions]`, by the model's or the
    /// reference's lines.
    pub(super) fn outputs(&self, lines: &[Line], sums: &[f32], positions: usize) -> Vec<f32> {
        let planes = sums
            .chunks_exact(positions.max(1))
            .zip(lines.iter().cycle());
        let values = planes.flat_map(|(plane, line)| {
            plane.iter().map(|&x| {
                let y = line.slope * f64::from(x) + line.offset;
                self.activation.map_or(y, |activation| activation.apply(y)) as f32
            })
        });
        values.collect()
    }
}

fn weighted(stage: &Stage) -> Option<NodeId> {
    match stage.kind {
        StageKind::Conv { conv: node, .. } | StageKind::Linear { linear: node, .. } => Some(node),
        _ => None,
    }
}

/// The reference's weights of a stage, cut to `shape`: outputs, rows, columns, inputs.
fn float_weights(
    float: &FloatLayer,
    node: NodeId,
    [outputs, rows, columns, inputs]: [usize; 4],
) -> Result<Vec<f32>, QuantError> {
    let name = format!("{}.weight", float.graph.node(node).name);
    let full = float.params.get(&name)?;
    let block = match full.shape.len() {
        2 => vec![outputs, rows * columns * inputs],
        _ => vec![outputs, inputs, rows, columns],
    };
    Ok(full.leading(&block).data)
}

/// How far apart neighbours on a stage's grid are, as a power of two of its codes.
fn spacing(model: &Model, stage: &Stage, bits: u8) -> u8 {
    let stored = model
        .points()
        .iter()
        .map(|made| weight_bits(stage, made.point));
    let coarsening = match model.grid() {
        WeightGrid::MinMax => 0,
        // Rounding at the fewest bits in the file decides part of the codes of all others.
        WeightGrid::Nested | WeightGrid::NestedOdd => bits - stored.min().unwrap_or(bits),
    };
    // Where all codes are odd, neighbours are two apart.
    coarsening + u8::from(model.grid().is_odd_at(bits))
}

/// The multiple of `codes` that is closest to `exact`, and never negative.
fn best_multiple(codes: &[f64], exact: &[f64]) -> f64 {
    let dot: f64 = codes.iter().zip(exact).map(|(q, w)| q * w).sum();
    let square: f64 = codes.iter().map(|q| q * q).sum();
    if square > 0.0 {
        (dot / square).max(0.0)
    } else {
        0.0
    }
}

/// One channel's codes beside its weights, summed in squared steps.
#[derive(Clone, Copy, Default)]
struct Fit {
    count: f64,
    difference: f64,
    product: f64,
    model: f64,
    reference: f64,
    /// Length of the weights, in their own units.
    length: f64,
}

impl Fit {
    /// Of a channel whose neighbours on the grid are `2^doublings` codes apart. The codes are brought
    /// to the size of the weights first, so that it does not matter what scale either has.
    fn of(codes: &[f64], exact: &[f64], doublings: u8) -> Self {
        let square = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>();
        let mut fit = Self {
            length: square(exact).sqrt(),
            ..Self::default()
        };
        let ratio = fit.length / square(codes).sqrt();
        if !(ratio.is_finite() && ratio > 0.0) {
            return fit;
        }
        let unit = best_multiple(codes, exact);
        // Codes of other weights have no best multiple to speak of, and a step still has a size.
        let step = unit.max(ratio / 4.0) * f64::from(1u32 << doublings);
        for (q, w) in codes.iter().zip(exact) {
            let (own, exact) = (unit * q / step, w / step);
            fit.count += 1.0;
            fit.difference += (own - exact).powi(2);
            fit.product += own * exact;
            fit.model += own * own;
            fit.reference += exact * exact;
        }
        fit
    }
}

/// Over all channels, each with the gain that follows it, that add anything to the output. Training
/// with weight decay leaves channels that do not, and their weights are noise.
fn distance(fits: &[(f64, Fit)]) -> WeightDistance {
    let loudness = |(gain, fit): &(f64, Fit)| gain * fit.length;
    let loudest = fits.iter().map(loudness).fold(0.0, f64::max);
    let heard = fits.iter().filter(|fit| loudness(fit) > FAINT * loudest);
    let mut sum = Fit::default();
    for (_, fit) in heard {
        sum.count += fit.count;
        sum.difference += fit.difference;
        sum.product += fit.product;
        sum.model += fit.model;
        sum.reference += fit.reference;
    }
    let norm = (sum.model * sum.reference).sqrt();
    WeightDistance {
        steps: (sum.difference / sum.count.max(1.0)).sqrt(),
        cosine: match sum.reference > 0.0 {
            true if norm > 0.0 => sum.product / norm,
            true => 0.0,
            false => 1.0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_codes_are_a_fraction_of_a_step_away() {
        let exact: Vec<f64> = (0..500).map(|i| (f64::from(i) * 0.71).sin()).collect();
        let step = 0.02;
        let codes: Vec<f64> = exact.iter().map(|w| (w / step).round()).collect();
        let unit = best_multiple(&codes, &exact);
        assert!((unit - step).abs() < 1e-3 * step, "{unit}");
        let WeightDistance { steps, cosine } = distance(&[(1.0, Fit::of(&codes, &exact, 0))]);
        assert!(
            (0.25..0.35).contains(&steps) && cosine > 0.999,
            "{steps} {cosine}"
        );
    }

    #[test]
    fn other_weights_are_many_steps_away() {
        let exact: Vec<f64> = (0..500).map(|i| (f64::from(i) * 0.71).sin()).collect();
        let codes: Vec<f64> = (0..500)
            .map(|i| (f64::from(i) * 1.3).sin() * 50.0)
            .collect();
        let WeightDistance { steps, cosine } = distance(&[(1.0, Fit::of(&codes, &exact, 0))]);
        assert!(steps > 10.0 && cosine < 0.3, "{steps} {cosine}");
    }

    #[test]
    fn the_grid_of_fewer_bits_explains_more() {
        let fit = Fit::of(&[16.0, -32.0, 16.0], &[20.0, -30.0, 12.0], 4);
        assert!(distance(&[(1.0, fit)]).steps < 0.3);
    }

    #[test]
    fn a_clipped_weight_is_no_other_network() {
        let exact: Vec<f64> = (0..144)
            .map(|i| match i {
                50 => 14.0,
                _ => (f64::from(i) * 0.71).sin() * 3.0,
            })
            .collect();
        let codes: Vec<f64> = exact.iter().map(|w| w.round().min(7.0)).collect();
        let WeightDistance { steps, cosine } = distance(&[(1.0, Fit::of(&codes, &exact, 0))]);
        assert!(steps < 0.9 && cosine > 0.9, "{steps} {cosine}");
    }

    #[test]
    fn channels_that_are_off_say_nothing() {
        let right = Fit::of(&[5.0, -3.0], &[0.5, -0.3], 0);
        let wrong = Fit::of(&[5.0, -3.0], &[0.3, 0.5], 0);
        let zeros = Fit::of(&[0.0, 0.0], &[0.3, 0.5], 0);
        let alone = distance(&[(1.0, right)]);
        assert!(alone.steps < 1e-9 && alone.cosine > 0.999_999, "{alone:?}");
        assert_eq!(
            distance(&[(1.0, right), (1e-9, wrong), (0.0, zeros)]),
            alone
        );
        assert!(distance(&[(1.0, right), (1.0, wrong)]).steps > 1.0);
        let off = distance(&[(0.0, wrong)]);
        assert_eq!((off.steps, off.cosine), (0.0, 1.0));
    }
}
