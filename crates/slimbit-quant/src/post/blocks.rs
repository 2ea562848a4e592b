//! A layer's weights, float and rounded, a block of output channels at a time.

use std::ops::Range;

use burn::tensor::Tensor;
use slimbit_graph::Array;
use slimbit_nn::Value;

use super::Job;
use super::layer::Layer;

/// The weights of a layer at some width: leading output and input channels of the full width's.
pub(super) struct Blocks<'a> {
    job: &'a Job<'a>,
    index: usize,
    layer: &'a Layer,
    bits: u8,
    /// Input channels per group, and elements of a kernel.
    inputs: usize,
    taps: usize,
    blocks: Vec<Range<usize>>,
    /// Of the first block, where there are no others.
    kept: Option<[Vec<f32>; 2]>,
}

impl<'a> Blocks<'a> {
    /// For `channels` outputs and inputs of the layer at stage `index`.
    pub(super) fn new(
        job: &'a Job<'a>,
        index: usize,
        layer: &'a Layer,
        bits: u8,
        channels: [usize; 2],
    ) -> Self {
        let [outputs, inputs] = channels;
        let (kernel, groups) = match job.net.geometry(index, inputs) {
            Some((kernel, conv)) => (kernel, conv.groups),
            None => ([1; 2], 1),
        };
        let together = match groups {
            1 => (job.budget.block / layer.weights().per_channel().max(1)).max(1),
            // Each group has inputs of its own.
            _ => outputs.max(1),
        };
        let mut blocks = Self {
            job,
            index,
            layer,
            bits,
            inputs: inputs / groups,
            taps: kernel.iter().product(),
            blocks: (0..outputs)
                .step_by(together)
                .map(|first| first..outputs.min(first + together))
                .collect(),
            kept: None,
        };
        if let [block] = &blocks.blocks[..] {
            blocks.kept = Some(blocks.weights(block.clone()));
        }
        blocks
    }

    /// Float and rounded weights of some output channels.
    fn weights(&self, channels: Range<usize>) -> [Vec<f32>; 2] {
        let weights = self.layer.weights();
        let all = weights.per_channel() / self.taps.max(1);
        let full = [channels.len(), all, self.taps];
        let wanted = [channels.len(), self.inputs, self.taps];
        let leading = |data: Vec<f32>| match full == wanted {
            true => data,
            false => {
                let array = Array {
                    shape: full.to_vec(),
                    data,
                };
                array.leading(&wanted).data
            }
        };
        let rounded = self.layer.real(self.bits, channels.clone());
        [weights.get(channels), rounded].map(leading)
    }

    /// The sums of products `[images, channels, rows, columns]` of the float operand with the float
    /// weights, and of the quantised operand with the rounded ones.
    pub(super) fn accumulate(&self, operands: [Value; 2]) -> [Tensor<4>; 2] {
        let [float, quantised] = operands;
        let products = |weights: &[Vec<f32>; 2]| {
            let product = |operand: &Value, weights: &[f32]| {
                self.job
                    .net
                    .accumulate(self.index, operand.clone(), weights)
            };
            [
                product(&float, &weights[0]),
                product(&quantised, &weights[1]),
            ]
        };
        if let Some(weights) = &self.kept {
            return products(weights);
        }
        let mut parts = [Vec::new(), Vec::new()];
        for block in &self.blocks {
            let products = products(&self.weights(block.clone()));
            for (parts, product) in parts.iter_mut().zip(products) {
                parts.push(product);
            }
        }
        parts.map(|parts| Tensor::cat(parts, 1))
    }
}
