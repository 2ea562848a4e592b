use crate::{Graph, GraphError, Op, Width};

/// What one image costs at one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Multiply-accumulates of convolutions and linear layers.
    pub macs: u64,
    /// Trainable parameters.
    pub params: u64,
}

impl Graph {
    /// Multiply-accumulates and parameters at `width`.
    ///
    /// # Errors
    /// As [`Graph::shapes`].
    pub fn cost(&self, width: Width) -> Result<Cost, GraphError> {
        let shapes = self.shapes(width)?;
        let params = self
            .params(width)?
            .iter()
            .map(|p| p.shape.iter().product::<usize>() as u64)
            .sum();
        let macs = self
            .nodes()
            .iter()
            .zip(&shapes)
            .map(|(node, out)| match &node.op {
                Op::Conv2d(conv) => {
                    let input = shapes[node.inputs[0].index()].channels();
                    let taps = conv.kernel[0] * conv.kernel[1] * input / conv.group_count(input);
                    (taps * out.elements()) as u64
                }
                Op::Linear(_) => {
                    (shapes[node.inputs[0].index()].elements() * out.channels()) as u64
                }
                _ => 0,
            });
        Ok(Cost {
            macs: macs.sum(),
            params,
        })
    }
}
