//! Gradient checkpointing (Chen et al. 2016): a pass that keeps a tensor here and there, and
//! computes those between again when its gradient is asked for.

use std::ops::Range;

use burn::tensor::{Gradients, Tensor};
use slimbit_graph::Stage;

use crate::forward::{Forward, last_use};
use crate::{Mode, Net, NnError, Observer, Value};

/// The name of the output that a pass gives.
const FEATURES: &str = "features";

/// A pass without a tape, from which the gradients of the parameters can be had nevertheless. They
/// are those of [`Net::forward`], bit for bit.
pub struct Recomputed<'a> {
    net: &'a Net,
    mode: Mode<'a>,
    /// Stages that are computed together, after the stage whose output is kept.
    parts: Vec<(Range<usize>, Value)>,
    features: Tensor<2>,
}

impl Net {
    /// As [`forward`](Self::forward), for the output `features`, with one part of the network's
    /// tensors in memory at a time.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); [`NnError::Mode`] for a network without that output, or where
    /// it is a map.
    pub fn forward_recomputed<'a>(
        &'a self,
        images: &Tensor<4>,
        mode: &Mode<'a>,
        observer: Option<&mut Observer>,
    ) -> Result<Recomputed<'a>, NnError> {
        self.check_images(images)?;
        mode.check()?;
        let mut outputs = self.graph().outputs().iter();
        let end = outputs
            .find(|(name, _)| name == FEATURES)
            .and_then(|(_, id)| self.stages().iter().position(|stage| stage.node == *id))
            .ok_or(NnError::Mode(
                "gradient checkpointing needs a network with an output `features`",
            ))?;
        let plain = self.without_tape();
        let mut forward = Forward::new(&plain, mode, observer)?;
        let mut value = forward.input(images);
        let mut parts = Vec::new();
        for part in parts_of(&self.stages()[..=end]) {
            let next = forward.run_part(part.clone(), value.clone())?;
            parts.push((part, value));
            value = next;
        }
        let Value::Vector(features) = value else {
            return Err(NnError::Mode(
                "gradient checkpointing needs features that are vectors",
            ));
        };
        Ok(Recomputed {
            net: self,
            mode: *mode,
            parts,
            features: features.autodiff().require_grad(),
        })
    }
}

impl Recomputed<'_> {
    /// The features `[images, channels]`, a leaf of whatever is computed from them.
    pub fn features(&self) -> Tensor<2> {
        self.features.clone()
    }

    /// Takes the features' gradient out of `gradients`, and gives those of the network's parameters,
    /// part by part. None where nothing depends on the features.
    ///
    /// # Errors
    /// As [`Net::forward`].
    pub fn backward(self, gradients: &mut Gradients) -> Result<Vec<Gradients>, NnError> {
        let Some(slope) = self.features.grad_remove(gradients) else {
            return Ok(vec![]);
        };
        let mut slope = Value::Vector(slope);
        let mut of_parts = Vec::with_capacity(self.parts.len());
        for (index, (part, input)) in self.parts.into_iter().enumerate().rev() {
            let input = match input {
                Value::Map(x) => Value::Map(x.autodiff()),
                Value::Vector(x) => Value::Vector(x.autodiff()),
            };
            // The image needs no gradient.
            let input = if index > 0 { input.leaf() } else { input };
            let output = Forward::new(self.net, &self.mode, None)?.run_part(part, input.clone())?;
            let mut gradients = output.product(slope).backward();
            let next = match &input {
                Value::Map(x) => x.grad_remove(&mut gradients).map(Value::Map),
                Value::Vector(x) => x.grad_remove(&mut gradients).map(Value::Vector),
            };
            of_parts.push(gradients);
            let Some(next) = next else { break };
            slope = next;
        }
        Ok(of_parts)
    }
}

impl Value {
    fn leaf(self) -> Self {
        match self {
            Self::Map(x) => Self::Map(x.require_grad()),
            Self::Vector(x) => Self::Vector(x.require_grad()),
        }
    }

    /// The sum of products, whose gradient in `self` is `slope`.
    fn product(self, slope: Self) -> Tensor<1> {
        match (self, slope) {
            (Self::Map(y), Self::Map(slope)) => (y * slope.autodiff()).sum(),
            (Self::Vector(y), Self::Vector(slope)) => (y * slope.autodiff()).sum(),
            _ => unreachable!("a gradient has the shape of its tensor"),
        }
    }
}

/// Cuts the stages after the first, where a single tensor goes on, into about as many parts as each
/// has stages: that keeps the fewest tensors.
fn parts_of(stages: &[Stage]) -> Vec<Range<usize>> {
    let last_use = last_use(stages);
    let wanted = stages.len().isqrt().max(1);
    let mut parts = Vec::new();
    let (mut first, mut live_until) = (0, 0);
    for index in 1..stages.len() {
        live_until = live_until.max(last_use[index - 1]);
        let ends = index + 1 == stages.len();
        if ends || live_until <= index && index - first >= wanted {
            parts.push(first + 1..index + 1);
            first = index;
        }
    }
    parts
}
