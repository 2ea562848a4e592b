//! One stage at a time, for those who change a network while they run it.

use burn::tensor::{Tensor, TensorData};
use slimbit_graph::{Op, Stage, StageKind, Width};

use crate::forward::{Forward, geometry, into_map, into_matrix};
use crate::ops::{self, Conv};
use crate::{Mode, Net, NnError, NormMode, Quantisation, Value};

impl Net {
    /// A float pass over images `[images, channels, rows, columns]` that shows every stage's output
    /// as soon as it exists, in execution order, and keeps none longer than the network needs it.
    ///
    /// # Errors
    /// As [`Net::forward`].
    pub fn trace(
        &self,
        images: &Tensor<4>,
        width: Width,
        norm: NormMode<'_>,
        visit: &mut dyn FnMut(&Stage, &Value),
    ) -> Result<(), NnError> {
        self.check_images(images)?;
        let mode = Mode {
            width,
            quant: Quantisation::Off,
            norm,
        };
        Forward::new(self, &mode, None)?.run_visited(images, visit)?;
        Ok(())
    }

    /// The output of stage `index` from its operands, in float.
    ///
    /// # Errors
    /// As [`Net::forward`].
    ///
    /// # Panics
    /// Where the operands are not those of the stage.
    pub fn stage(
        &self,
        index: usize,
        operands: Vec<Value>,
        width: Width,
        norm: NormMode<'_>,
    ) -> Result<Value, NnError> {
        let mode = Mode {
            width,
            quant: Quantisation::Off,
            norm,
        };
        Forward::new(self, &mode, None)?.compute(&self.stages()[index], operands)
    }

    /// The sums of products of stage `index`, a convolution or a linear layer: before its bias, its
    /// batch-norm and its activation. `weights` `[out, in / groups, rows, columns]` take the place of
    /// the network's own; a linear layer's have one row and one column. A linear layer's sums come as
    /// a map of one row and one column.
    ///
    /// # Panics
    /// For other stages, and for weights or an operand of other shapes than the stage's.
    pub fn accumulate(&self, index: usize, operand: Value, weights: &[f32]) -> Tensor<4> {
        let stage = &self.stages()[index];
        let (x, kernel, conv) = match stage.kind {
            StageKind::Conv { conv, .. } => {
                let Op::Conv2d(conv) = &self.graph().node(conv).op else {
                    unreachable!("checked: the stage's node is a convolution")
                };
                let x = into_map(operand);
                let channels = x.dims()[1];
                (x, conv.kernel, geometry(conv, channels))
            }
            StageKind::Linear { .. } => {
                let x = into_matrix(operand);
                let [images, features] = x.dims();
                (x.reshape([images, features, 1, 1]), [1; 2], Conv::default())
            }
            _ => panic!("stage `{}` has no weights", stage.name),
        };
        let per_group = x.dims()[1] / conv.groups;
        let [rows, columns] = kernel;
        let out = weights.len() / (per_group * rows * columns);
        let data = TensorData::new(weights.to_vec(), [out, per_group, rows, columns]);
        let weights = Tensor::from_data(data, &x.device());
        ops::conv2d(x, weights, conv)
    }

    /// How stage `index`, a convolution or a linear layer, reads `channels` input channels; nothing
    /// for other stages.
    pub fn geometry(&self, index: usize, channels: usize) -> Option<([usize; 2], Conv)> {
        match self.stages()[index].kind {
            StageKind::Conv { conv, .. } => match &self.graph().node(conv).op {
                Op::Conv2d(conv) => Some((conv.kernel, geometry(conv, channels))),
                _ => None,
            },
            StageKind::Linear { .. } => Some(([1; 2], Conv::default())),
            _ => None,
        }
    }
}
