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
    /// What is yet to be folded into the parameters: slope and offset of every channel.
    pub(super) folded: Option<Vec<[f64; 2]>>,
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
            folded: None,
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

    /// The same with these parameters.
    pub(super) fn with(self, weight: Array, bias: Option<Vec<f32>>) -> Self {
        Self {
            weight: Some(weight),
            bias,
            ..self
        }
    }

    pub(super) fn depthwise(bias: bool) -> Conv2d {
        Conv2d {
            groups: Groups::Depthwise,
            bias,
            ..Conv2d::same(Channels::Fixed(1), 1, 1)
        }
    }

    /// Multiplies the result by `gain` and adds `shift`, one or one per channel, by changing the
    /// parameters; false where there are none.
    pub(super) fn fold(&mut self, gain: &[f64], shift: &[f64], channels: usize) -> bool {
        let bias_needed = shift.iter().any(|&s| s != 0.0);
        match &mut self.op {
            Op::Conv2d(Conv2d { bias, .. }) | Op::Linear(Linear { bias, .. }) => {
                *bias |= bias_needed;
            }
            Op::BatchNorm { .. } => {}
            _ => return false,
        }
        if self.weight.is_none() {
            return false;
        }
        let spread = |values: &[f64], c: usize| values[if values.len() == 1 { 0 } else { c }];
        let lines = self
            .folded
            .get_or_insert_with(|| vec![[1.0, 0.0]; channels]);
        for (c, [slope, offset]) in lines.iter_mut().enumerate() {
            *slope *= spread(gain, c);
            *offset = *offset * spread(gain, c) + spread(shift, c);
        }
        true
    }

    /// Applies everything that was folded, once: a chain of many must not take as many passes over
    /// the weights, nor round as often.
    pub(super) fn settle(&mut self) {
        let (Some(lines), Some(weight)) = (self.folded.take(), &mut self.weight) else {
            return;
        };
        let per_channel = (weight.data.len() / lines.len().max(1)).max(1);
        for (channel, [slope, _]) in weight.data.chunks_mut(per_channel).zip(&lines) {
            channel
                .iter_mut()
                .for_each(|w| *w = (f64::from(*w) * slope) as f32);
        }
        if self.bias.is_some() || lines.iter().any(|[_, offset]| *offset != 0.0) {
            let bias = self.bias.get_or_insert_with(|| vec![0.0; lines.len()]);
            for (bias, [slope, offset]) in bias.iter_mut().zip(&lines) {
                *bias = (f64::from(*bias) * slope + offset) as f32;
            }
        }
        // An offset that a later one cancelled was promised a bias all the same.
        if let Op::Conv2d(Conv2d { bias, .. }) | Op::Linear(Linear { bias, .. }) = &mut self.op {
            *bias = self.bias.is_some();
        }
    }
}
