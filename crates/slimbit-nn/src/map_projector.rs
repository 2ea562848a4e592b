use burn::tensor::{Device, Tensor};
use slimbit_graph::ParamSpec;

use crate::ops::{self, Conv};
use crate::{NnError, ParamStore, init};

/// Bias-free 1 × 1 convolutions that bring the maps of a narrow network to the channels of the full
/// one, so that they can be compared (spec section 3.8).
#[derive(Clone, Debug)]
pub struct MapProjector {
    names: Vec<String>,
    params: ParamStore,
}

impl MapProjector {
    /// One convolution for each map of so many channels, with PyTorch's default initialisation.
    /// `name` prefixes their parameters and, with `seed`, fixes their values.
    ///
    /// # Errors
    /// [`NnError::Param`] for a map without channels.
    pub fn init(
        name: &str,
        channels: &[usize],
        seed: u64,
        device: &Device,
    ) -> Result<Self, NnError> {
        if channels.contains(&0) {
            return Err(NnError::Param {
                name: name.to_owned(),
                what: format!("maps of {channels:?} channels"),
            });
        }
        let spec = |(index, &channels): (usize, &usize)| ParamSpec {
            name: format!("{name}.{index}.weight"),
            shape: vec![channels, channels, 1, 1],
        };
        let specs: Vec<ParamSpec> = channels.iter().enumerate().map(spec).collect();
        let values = specs
            .iter()
            .map(|spec| init::uniform(spec, seed, spec.shape[1]))
            .collect();
        Ok(Self {
            names: specs.iter().map(|spec| spec.name.clone()).collect(),
            params: ParamStore::new(specs, values, device)?,
        })
    }

    /// The parameters.
    pub fn store(&self) -> &ParamStore {
        &self.params
    }

    /// The parameters, to be optimised or restored.
    pub fn store_mut(&mut self) -> &mut ParamStore {
        &mut self.params
    }

    /// The `index`-th map `[images, channels, rows, columns]` at the full number of channels.
    ///
    /// # Errors
    /// [`NnError::Param`] for a map that has more channels than the full one, or that there is none
    /// for.
    pub fn forward(&self, index: usize, x: Tensor<4>) -> Result<Tensor<4>, NnError> {
        let missing = || NnError::Param {
            name: index.to_string(),
            what: "is not a map of the projector".to_owned(),
        };
        let name = self.names.get(index).ok_or_else(missing)?;
        let channels = x.dims()[1];
        let full = self.params.specs()[index].shape[0];
        let weight = self.params.block(name, [full, channels, 1, 1])?;
        Ok(ops::conv2d(self.params.adopt(x), weight, Conv::default()))
    }
}
