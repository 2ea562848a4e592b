use std::collections::BTreeMap;

use slimbit_engine::InputCodes;
use slimbit_graph::Graph;
use slimbit_num::WeightGrid;

use crate::{QuantError, input_codes};

/// What a model needs besides the network and its statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How weights become integers. Train on the grid that is deployed.
    pub grid: WeightGrid,
    /// Mean of each image channel, as a fraction of white.
    pub mean: Vec<f32>,
    /// Standard deviation of each image channel, as a fraction of white.
    pub std: Vec<f32>,
    /// Free text that travels with the file.
    pub metadata: BTreeMap<String, String>,
}

impl Settings {
    /// The input codes of a network with this normalisation.
    ///
    /// # Errors
    /// [`QuantError::Normalisation`] for constants that cannot be used, or of another number than
    /// the network's image channels.
    pub fn input(&self, graph: &Graph) -> Result<InputCodes, QuantError> {
        let input = input_codes(&self.mean, &self.std)?;
        let channels = graph.input_shape().channels();
        if input.tables.len() == channels {
            return Ok(input);
        }
        let what = format!("{} means for {channels} channels", input.tables.len());
        Err(QuantError::Normalisation(what))
    }
}
