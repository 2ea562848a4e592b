//! Nodes of the graph to be, with their parameters.

use slimbit_graph::{Array, Channels, Conv2d, Groups, Linear, Op};

use super::step::Step;

/// A node and its parameters.
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) op: Op,
    pub(super) inputs: Vec<usize>,
    pub(super) weight: Option<Array>,
    pub(super) bias: Option<Vec<f32>>,
    pub(super) statistics: Option<(Vec<f32>, Vec<f32>)>,
    /// Whether the result is a vector to the graph.
    pub(super) vector: bool,
}

impl Draft {
    /// `gain · x + shift` per channel, as a depthwise 1×1 convolution.
    pub(super) fn per_channel(
        step: &Step,
        inputs: Vec<usize>,
        gain: Vec<f32>,
        shift: Vec<f32>,
    ) -> Self {
        Self {
            name: step.name.clone(),
            op: Op::Conv2d(Self::depthwise(true)),
            inputs,
            weight: Some(Array {
                shape: vec![gain.len(), 1, 1, 1],
                data: gain,
            }),
            bias: Some(shift),
            statistics: None,
            vector: false,
        }
    }

    pub(super) fn depthwise(bias: bool) -> Conv2d {
        Conv2d {
            groups: Groups::Depthwise,
            bias,
            ..Conv2d::same(Channels::Fixed(1), 1, 1)
        }
    }

    /// Multiplies the result by `gain` and adds `shift`, by changing the parameters; false where
    /// there are none.
    pub(super) fn fold(&mut self, gain: &[f32], shift: &[f32]) -> bool {
        let bias_needed = shift.iter().any(|&s| s != 0.0);
        match &mut self.op {
            Op::Conv2d(Conv2d { bias, .. }) | Op::Linear(Linear { bias, .. }) => {
                *bias |= bias_needed;
            }
            Op::BatchNorm { .. } => {}
            _ => return false,
        }
        let Some(weight) = &mut self.weight else {
            return false;
        };
        let per_channel = weight.data.len() / gain.len().max(1);
        for (channel, gain) in weight.data.chunks_mut(per_channel.max(1)).zip(gain) {
            channel.iter_mut().for_each(|w| *w *= gain);
        }
        if self.bias.is_some() || bias_needed {
            let bias = self.bias.get_or_insert_with(|| vec![0.0; gain.len()]);
            for (bias, (gain, shift)) in bias.iter_mut().zip(gain.iter().zip(shift)) {
                *bias = *bias * gain + shift;
            }
        }
        true
    }
}
