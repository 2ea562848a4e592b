//! Weights on the grid: quantised once at full width, sliced by the engine.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use slimbit_engine::{ChannelCodes, Codes, Weights, layouts, weight_bits, weight_shape};
use slimbit_graph::{Graph, Params, Point, Stage, StageKind, Width};
use slimbit_num::WeightGrid;

use crate::QuantError;

/// The integers of every convolution and linear stage, by stage name.
pub(crate) fn quantise(
    graph: &Graph,
    stages: &[Stage],
    params: &Params,
    grid: WeightGrid,
    points: &[Point],
) -> Result<BTreeMap<String, Weights>, QuantError> {
    let layouts = layouts(graph, stages, Width::FULL)?;
    let quantise = |(index, stage): (usize, &Stage)| {
        let input = layouts[*stage.inputs.first()?];
        let shape = weight_shape(graph, stage, input, layouts[index])?;
        let node = match stage.kind {
            StageKind::Conv { conv: node, .. } | StageKind::Linear { linear: node, .. } => node,
            _ => return None,
        };
        let array = params.get(&format!("{}.weight", graph.node(node).name));
        let bits: BTreeSet<u8> = points.iter().map(|&p| weight_bits(stage, p)).collect();
        let weights = array.map(|array| on_grid(&array.data, shape, grid, &bits));
        Some(weights.map(|weights| (stage.name.clone(), weights)))
    };
    let weights = stages.par_iter().enumerate().filter_map(quantise);
    Ok(weights.collect::<Result<_, _>>()?)
}

/// `data` in `[out, in, rows, columns]` order, as a float network stores it; the integers are in
/// `[out, rows, columns, in]` order, as kernels read them. For a linear layer over a flattened map
/// the two orders are those of its input features.
fn on_grid(data: &[f32], shape: [usize; 4], grid: WeightGrid, bits: &BTreeSet<u8>) -> Weights {
    let [out, rows, columns, inputs] = shape;
    let taps = rows * columns;
    let per_channel = taps * inputs;
    let mut ordered = Vec::with_capacity(data.len());
    for channel in data.chunks_exact(per_channel.max(1)) {
        for tap in 0..taps {
            ordered.extend((0..inputs).map(|i| channel[i * taps + tap]));
        }
    }
    let max_abs: Vec<f32> = (0..out)
        .map(|o| {
            let channel = &ordered[o * per_channel..(o + 1) * per_channel];
            channel.iter().fold(0.0, |max: f32, w| max.max(w.abs()))
        })
        .collect();
    let codes_at = |bits: u8| {
        let code = |(index, &w): (usize, &f32)| grid.code(w, max_abs[index / per_channel], bits);
        let codes: Vec<i8> = ordered.iter().enumerate().map(code).collect();
        ChannelCodes {
            max_abs: max_abs.clone(),
            codes: codes.into(),
        }
    };
    let codes = match grid {
        WeightGrid::Nested | WeightGrid::NestedOdd => Codes::Nested(codes_at(8)),
        WeightGrid::MinMax => Codes::MinMax(bits.iter().map(|&b| (b, codes_at(b))).collect()),
    };
    Weights { shape, codes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_read_input_channels_innermost() {
        // One output channel, two inputs, a 1 × 3 kernel.
        let data = [1.0, 2.0, 3.0, -4.0, -5.0, -6.0];
        let weights = on_grid(
            &data,
            [1, 1, 3, 2],
            WeightGrid::MinMax,
            &BTreeSet::from([4, 8]),
        );
        for bits in [4, 8] {
            assert_eq!(weights.codes.of_bits(bits).max_abs, [6.0]);
            let expected: Vec<i8> = [1.0, -4.0, 2.0, -5.0, 3.0, -6.0]
                .map(|w| WeightGrid::MinMax.code(w, 6.0, bits))
                .to_vec();
            assert_eq!(weights.at(WeightGrid::MinMax, bits, [1, 1, 3, 2]), expected);
        }
    }
}
