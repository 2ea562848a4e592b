use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How weights begin (spec section 1.4). In text: `uniform`, `fanout`, or a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Init {
    /// Convolutions from `U(±1/√fan_in)`, PyTorch's default: the CIFAR residual networks.
    Uniform,
    /// Convolutions from `N(0, 2/fan_out)`: the ImageNet residual networks and MobileNetV2.
    FanOut,
    /// All of the backbone from a trained network of the same backbone.
    From(PathBuf),
}

impl From<String> for Init {
    fn from(text: String) -> Self {
        match text.as_str() {
            "uniform" => Self::Uniform,
            "fanout" => Self::FanOut,
            _ => Self::From(text.into()),
        }
    }
}

impl From<Init> for String {
    fn from(init: Init) -> Self {
        match init {
            Init::Uniform => "uniform".to_owned(),
            Init::FanOut => "fanout".to_owned(),
            Init::From(path) => path.display().to_string(),
        }
    }
}
