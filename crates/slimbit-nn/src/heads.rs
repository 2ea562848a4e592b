use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use slimbit_graph::ParamSpec;
use slimbit_num::WeightGrid;

use crate::ops::{Activation, batch_norm_act};
use crate::params::WeightRounding;
use crate::{NnError, ParamStore, init};

/// Batch-norm epsilon of every head (spec section 1.4).
const EPS: f32 = 1e-5;

/// The shape of a head: linear layers with batch-norm and ReLU between them (spec sections 3.3 and
/// 4.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadSpec {
    /// Features before the first layer and after each layer.
    pub widths: Vec<usize>,
    /// Whether each layer has a bias.
    pub biases: Vec<bool>,
    /// Whether a batch-norm stands between a hidden layer and its ReLU.
    pub hidden_norms: bool,
    /// Whether a batch-norm without affine parameters ends the head.
    pub final_norm: bool,
}

impl HeadSpec {
    /// US3L's projector: `features → hidden → hidden → dim`, no batch-norm at the end.
    /// `middle_bias` is true with InfoNCE, false with cosine losses.
    pub fn projector(features: usize, hidden: usize, dim: usize, middle_bias: bool) -> Self {
        Self {
            widths: vec![features, hidden, hidden, dim],
            biases: vec![true, middle_bias, true],
            hidden_norms: true,
            final_norm: false,
        }
    }

    /// MoCo v2's projector: `features → hidden → dim` without batch-norm.
    pub fn plain_projector(features: usize, hidden: usize, dim: usize) -> Self {
        Self {
            widths: vec![features, hidden, dim],
            biases: vec![true; 2],
            hidden_norms: false,
            final_norm: false,
        }
    }

    /// One linear layer: the classifier of supervised training.
    pub fn classifier(features: usize, classes: usize) -> Self {
        Self {
            widths: vec![features, classes],
            biases: vec![true],
            hidden_norms: false,
            final_norm: false,
        }
    }

    /// SSQL's projector: three layers without biases, and a batch-norm at the end (which makes the
    /// reference's frozen last bias a constant that it removes again).
    pub fn normalised_projector(features: usize, hidden: usize, dim: usize) -> Self {
        Self {
            widths: vec![features, hidden, hidden, dim],
            biases: vec![false; 3],
            hidden_norms: true,
            final_norm: true,
        }
    }

    /// Predictor and auxiliary head: `dim → hidden → dim`, a bias in the second layer only.
    pub fn predictor(dim: usize, hidden: usize) -> Self {
        Self {
            widths: vec![dim, hidden, dim],
            biases: vec![false, true],
            hidden_norms: true,
            final_norm: false,
        }
    }
}

/// A projector, predictor or auxiliary head.
///
/// The first layer slices its weight to the features it gets, so one projector serves every width.
/// Batch-norms use the batch's statistics and keep none.
#[derive(Clone, Debug)]
pub struct Head {
    name: String,
    spec: HeadSpec,
    params: ParamStore,
}

impl Head {
    /// A head with PyTorch's default initialisation. `name` prefixes its parameters and, with
    /// `seed`, fixes their values.
    ///
    /// # Errors
    /// [`NnError::Param`] for a specification without layers, or with another number of biases.
    pub fn init(name: &str, spec: HeadSpec, seed: u64, device: &Device) -> Result<Self, NnError> {
        let layers = spec.widths.len().saturating_sub(1);
        if layers == 0 || spec.biases.len() != layers || spec.widths.contains(&0) {
            return Err(NnError::Param {
                name: name.to_owned(),
                what: format!(
                    "no head has widths {:?} and biases {:?}",
                    spec.widths, spec.biases
                ),
            });
        }
        let mut specs = Vec::new();
        let mut data = Vec::new();
        let mut push = |part: String, shape: Vec<usize>, value: &dyn Fn(&ParamSpec) -> Vec<f32>| {
            let spec = ParamSpec {
                name: format!("{name}.{part}"),
                shape,
            };
            data.push(value(&spec));
            specs.push(spec);
        };
        for layer in 0..layers {
            let (inputs, out) = (spec.widths[layer], spec.widths[layer + 1]);
            let uniform = |spec: &ParamSpec| init::uniform(spec, seed, inputs);
            push(format!("{layer}.weight"), vec![out, inputs], &uniform);
            if spec.biases[layer] {
                push(format!("{layer}.bias"), vec![out], &uniform);
            }
            if layer + 1 < layers && spec.hidden_norms {
                for (part, gamma) in [("weight", true), ("bias", false)] {
                    let value = |spec: &ParamSpec| init::norm_param(spec, gamma);
                    push(format!("{layer}.bn.{part}"), vec![out], &value);
                }
            }
        }
        Ok(Self {
            name: name.to_owned(),
            params: ParamStore::new(specs, data, device)?,
            spec,
        })
    }

    /// The specification.
    pub fn spec(&self) -> &HeadSpec {
        &self.spec
    }

    /// The parameters.
    pub fn store(&self) -> &ParamStore {
        &self.params
    }

    /// The parameters, to be optimised or restored.
    pub fn store_mut(&mut self) -> &mut ParamStore {
        &mut self.params
    }

    /// A copy that shares nothing with this head and takes no gradients, for a momentum teacher.
    pub fn teacher(&self) -> Self {
        let device = self.params.device().clone().without_autodiff();
        Self {
            params: self.params.copy_to(&device),
            ..self.clone()
        }
    }

    /// `[batch, features] → [batch, dim]`, the leading `features` of the first layer.
    ///
    /// # Errors
    /// [`NnError::Param`] for more features than the first layer has.
    pub fn forward(&self, x: Tensor<2>) -> Result<Tensor<2>, NnError> {
        self.run(x, None)
    }

    /// As [`forward`](Self::forward) with weights fake-quantised to 8 bits: SSQL's projector in the
    /// quantised pass.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_quantised(&self, x: Tensor<2>, grid: WeightGrid) -> Result<Tensor<2>, NnError> {
        let rounding = WeightRounding {
            bits: 8,
            grid,
            detach_scale: false,
        };
        self.run(x, Some(rounding))
    }

    fn run(&self, x: Tensor<2>, rounding: Option<WeightRounding>) -> Result<Tensor<2>, NnError> {
        let mut x = self.params.adopt(x);
        let layers = self.spec.biases.len();
        for layer in 0..layers {
            let out = self.spec.widths[layer + 1];
            let shape = [out, x.dims()[1]];
            let name = |part: &str| format!("{}.{layer}.{part}", self.name);
            let weight = match rounding {
                Some(rounding) => self
                    .params
                    .quantised_block(&name("weight"), shape, rounding)?,
                None => self.params.block(&name("weight"), shape)?,
            };
            x = x.matmul(weight.transpose());
            if self.spec.biases[layer] {
                let bias: Tensor<1> = self.params.block(&name("bias"), [out])?;
                x = x + bias.reshape([1, out]);
            }
            if layer + 1 < layers && !self.spec.hidden_norms {
                x = relu(x);
            } else if layer + 1 < layers {
                let gamma = self.params.block(&name("bn.weight"), [out])?;
                let beta = self.params.block(&name("bn.bias"), [out])?;
                x = batch_norm_act(x, gamma, beta, EPS, Activation::Relu).output;
            } else if self.spec.final_norm {
                let device = x.device();
                let (one, zero) = (Tensor::ones([out], &device), Tensor::zeros([out], &device));
                x = batch_norm_act(x, one, zero, EPS, Activation::None).output;
            }
        }
        Ok(x)
    }
}
