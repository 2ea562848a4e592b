use std::collections::BTreeMap;

use burn::tensor::Tensor;

use crate::NnError;

/// One tensor of a batch.
#[derive(Clone, Debug)]
pub enum Value {
    /// Feature maps `[images, channels, rows, columns]`.
    Map(Tensor<4>),
    /// Feature vectors `[images, channels]`.
    Vector(Tensor<2>),
}

/// The tensors that a network gives back, by output name.
#[derive(Clone, Debug, Default)]
pub struct Outputs(pub BTreeMap<String, Value>);

impl Outputs {
    /// The feature vectors `[images, channels]` of this name.
    ///
    /// # Errors
    /// [`NnError::Shape`] where there is no such output, or it is a map.
    pub fn vector(&self, name: &str) -> Result<Tensor<2>, NnError> {
        match self.0.get(name) {
            Some(Value::Vector(vector)) => Ok(vector.clone()),
            other => Err(missing(name, "vector", other)),
        }
    }

    /// The feature maps `[images, channels, rows, columns]` of this name.
    ///
    /// # Errors
    /// [`NnError::Shape`] where there is no such output, or it is a vector.
    pub fn map(&self, name: &str) -> Result<Tensor<4>, NnError> {
        match self.0.get(name) {
            Some(Value::Map(map)) => Ok(map.clone()),
            other => Err(missing(name, "map", other)),
        }
    }
}

fn missing(name: &str, kind: &str, found: Option<&Value>) -> NnError {
    NnError::Shape {
        tensor: "output",
        got: found.map_or_else(Vec::new, Value::dims),
        wanted: format!("a {kind} named `{name}`"),
    }
}

impl Value {
    /// The dimensions, images first.
    pub fn dims(&self) -> Vec<usize> {
        match self {
            Self::Map(map) => map.dims().to_vec(),
            Self::Vector(vector) => vector.dims().to_vec(),
        }
    }
}
