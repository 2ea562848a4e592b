//! The training crate's network, as calibration runs it.

use burn::tensor::{Tensor, TensorData};
use slimbit_graph::{Graph, Params};
use slimbit_nn::{Averaging, Bits, Mode, Net, NormMode, Observer, Quantisation};

use crate::{FloatNetwork, Measured, Pass, QuantError, Quantised};

/// Quantised passes are those of training: the image's codes and the rounding of addends to 8 bits
/// are left out, which means and variances do not notice.
impl FloatNetwork for Net {
    fn graph(&self) -> &Graph {
        Net::graph(self)
    }

    fn params(&self) -> Params {
        Net::params(self)
    }

    fn measure(&self, batch: &[f32], pass: &Pass) -> Result<Measured, QuantError> {
        let shape = Net::graph(self).input_shape();
        let (height, width) = shape.spatial();
        let dims = [
            batch.len() / shape.elements(),
            shape.channels(),
            height,
            width,
        ];
        let device = self.store().device().clone().without_autodiff();
        let images = Tensor::from_data(TensorData::new(batch.to_vec(), dims), &device);
        let quant = match pass.quantised {
            None => Quantisation::Off,
            Some(Quantised {
                point,
                grid,
                ranges,
            }) => Quantisation::Ranges {
                bits: Bits {
                    weight: point.weight_bits,
                    act: point.act_bits,
                },
                grid,
                ranges,
            },
        };
        let mode = Mode {
            width: pass.width,
            quant,
            norm: pass.norms.map_or(NormMode::Batch, NormMode::Given),
        };
        let mut observer = Observer::new(Averaging::Cumulative);
        self.frozen().forward(&images, &mode, Some(&mut observer))?;
        Ok(Measured {
            norms: observer.norms(),
            ranges: observer.ranges().clone(),
        })
    }
}
