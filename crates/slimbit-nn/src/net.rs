use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use slimbit_graph::{
    Graph, Node, Op, ParamSpec, Params, Precision, Shape, Stage, StageKind, Width,
};

use crate::deployed::{self, StageCodes};
use crate::forward::Forward;
use crate::params::to_vec;
use crate::{
    Init, Mode, NnError, Observer, Outputs, ParamStore, Quantisation, Value, has_half_floats, init,
};

fn switched_name(name: &str, width: Width) -> String {
    format!("{name}{}{}", Net::SWITCH, width.get())
}

/// A graph and its parameters on a device: runs at any width, float or fake-quantised.
///
/// A network holds parameters and nothing else. In particular there are no running batch-norm
/// statistics: passes of different widths and bit-widths do not influence each other, and a copy
/// can share nothing by accident.
#[derive(Clone, Debug)]
pub struct Net {
    graph: Graph,
    stages: Vec<Stage>,
    params: ParamStore,
    /// Widths whose batch-norms have scales and shifts of their own.
    switched: Vec<Width>,
    detach_scales: bool,
    /// Whether convolutions take the fast way without a tape, as they do with one.
    teaches: bool,
    /// Whether convolutions multiply 16-bit floats.
    half_floats: bool,
}

impl Net {
    /// A network with PyTorch's default initialisation ([`Init::KaimingUniform`]).
    ///
    /// # Errors
    /// As [`Net::init_with`].
    pub fn init(graph: Graph, seed: u64, device: &Device) -> Result<Self, NnError> {
        Self::init_with(graph, Init::default(), seed, device)
    }

    /// A network with random parameters, which depend on `seed` and the parameters' names only.
    ///
    /// # Errors
    /// [`NnError::Graph`] for a graph without parameters of sensible shape.
    pub fn init_with(
        graph: Graph,
        init: Init,
        seed: u64,
        device: &Device,
    ) -> Result<Self, NnError> {
        let (specs, data) = init::graph_params(&graph, init, seed)?;
        let params = ParamStore::new(specs, data, device)?;
        Self::new(graph, params)
    }

    /// A network with the given full-width parameters.
    ///
    /// # Errors
    /// [`NnError::Graph`] where they do not fit the graph.
    pub fn from_params(graph: Graph, params: &Params, device: &Device) -> Result<Self, NnError> {
        params.check(&graph)?;
        let params = ParamStore::from_params(graph.params(Width::FULL)?, params, device)?;
        Self::new(graph, params)
    }

    fn new(graph: Graph, params: ParamStore) -> Result<Self, NnError> {
        let stages = graph.stages()?;
        Ok(Self {
            graph,
            stages,
            params,
            switched: vec![],
            detach_scales: false,
            teaches: false,
            half_floats: false,
        })
    }

    /// Begins every residual block as the identity: the scale of the batch-norm that ends it is 0.
    #[must_use]
    pub fn with_zero_residuals(mut self) -> Self {
        for node in init::residual_ends(&self.graph) {
            self.params.fill(&format!("{node}.weight"), 0.0);
        }
        self
    }

    /// Stands between the name of a batch-norm's parameter and the width whose own it is.
    pub const SWITCH: char = '@';

    /// Gives every width of `widths` batch-norm scales and shifts of its own, beginning with those
    /// of the full width: switchable batch-norm (Yu et al. 2019, Slimmable Neural Networks). The
    /// full width and widths that are not listed go on with the shared ones.
    ///
    /// # Errors
    /// [`NnError::Graph`] for a width at which the graph has no shapes.
    pub fn with_switched_norms(mut self, widths: &[Width]) -> Result<Self, NnError> {
        let mut specs = self.params.specs().to_vec();
        let mut data: Vec<Vec<f32>> = self.params.values().iter().map(to_vec).collect();
        for &width in widths.iter().filter(|w| **w != Width::FULL) {
            for spec in self.graph.params(width)? {
                let (node, _) = spec.name.rsplit_once('.').unwrap_or((&spec.name, ""));
                let nodes = self.graph.nodes().iter();
                let norm = |n: &Node| n.name == node && matches!(n.op, Op::BatchNorm { .. });
                if nodes.clone().any(norm) {
                    let mut values = self.params.array(&spec.name)?.data;
                    values.truncate(spec.shape[0]);
                    data.push(values);
                    specs.push(ParamSpec {
                        name: switched_name(&spec.name, width),
                        shape: spec.shape,
                    });
                }
            }
            self.switched.push(width);
        }
        self.params = ParamStore::new(specs, data, self.params.device())?;
        Ok(self)
    }

    /// The name of a batch-norm's parameter at `width`.
    pub(crate) fn norm_param(&self, name: String, width: Width) -> String {
        match self.switched.contains(&width) {
            true => switched_name(&name, width),
            false => name,
        }
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The graph's stages, in execution order.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The parameters as plain arrays, at full width.
    pub fn params(&self) -> Params {
        self.params.to_params()
    }

    /// The parameters.
    pub fn store(&self) -> &ParamStore {
        &self.params
    }

    /// The parameters, to be optimised or restored.
    pub fn store_mut(&mut self) -> &mut ParamStore {
        &mut self.params
    }

    /// Whether fake quantisation treats the weight scales as constants. The reference does not:
    /// there, the gradient also reaches each channel's largest weight (spec section 4.2).
    pub fn detach_weight_scales(&mut self, detach: bool) {
        self.detach_scales = detach;
    }

    /// Whether convolutions multiply 16-bit floats where the device [has them](crate::has_half_floats),
    /// and give 32-bit floats: mixed precision. Gradients pass through 16-bit floats as well, so that
    /// losses want [scaling](crate::Sgd::with_loss_scaling). Parameters and all else stay 32-bit.
    pub fn use_half_floats(&mut self, on: bool) {
        self.half_floats = on && has_half_floats(self.params.device());
    }

    pub(crate) fn uses_half_floats(&self) -> bool {
        self.half_floats
    }

    pub(crate) fn teaches(&self) -> bool {
        self.teaches
    }

    pub(crate) fn detaches_scales(&self) -> bool {
        self.detach_scales
    }

    /// The same network with constant parameters: evaluation without a tape. Cheap.
    pub fn frozen(&self) -> Self {
        self.with_store(self.params.frozen())
    }

    /// A copy that shares nothing with this network and takes no gradients, for a momentum teacher.
    /// It convolves as fast as a network in training.
    pub fn teacher(&self) -> Self {
        let device = self.params.device().clone().without_autodiff();
        Self {
            teaches: true,
            ..self.with_store(self.params.copy_to(&device))
        }
    }

    /// The same network with constant parameters, which convolves as in training.
    pub(crate) fn without_tape(&self) -> Self {
        Self {
            teaches: true,
            ..self.frozen()
        }
    }

    fn with_store(&self, params: ParamStore) -> Self {
        Self {
            graph: self.graph.clone(),
            stages: self.stages.clone(),
            params,
            switched: self.switched.clone(),
            detach_scales: self.detach_scales,
            teaches: self.teaches,
            half_floats: self.half_floats,
        }
    }

    /// Runs normalised images `[images, channels, rows, columns]`.
    ///
    /// An `observer` collects ranges and batch statistics; it has nothing to collect from a
    /// [deployed](Quantisation::Deployed) pass.
    ///
    /// # Errors
    /// [`NnError::Shape`] for images that the graph does not take, [`NnError::Statistics`] where
    /// the mode's statistics lack a stage or have another width, [`NnError::Bits`], and
    /// [`NnError::Mode`] for a deployed pass with batch statistics.
    pub fn forward(
        &self,
        images: &Tensor<4>,
        mode: &Mode<'_>,
        observer: Option<&mut Observer>,
    ) -> Result<Outputs, NnError> {
        self.check_images(images)?;
        mode.check()?;
        match mode.quant {
            Quantisation::Deployed { .. } => deployed::outputs(self, images, mode),
            _ => Forward::new(self, mode, observer)?.run(images),
        }
    }

    /// Channels of the map that a stage gives at full width.
    ///
    /// # Errors
    /// [`NnError::Param`] for a name that no stage with a map has.
    pub fn map_channels(&self, stage: &str) -> Result<usize, NnError> {
        let found = self.stages.iter().find(|s| s.name == stage);
        let shape = match found {
            Some(stage) => Some(self.graph.shapes(Width::FULL)?[stage.node.index()]),
            None => None,
        };
        match shape {
            Some(Shape::Map { channels, .. }) => Ok(channels),
            _ => Err(NnError::Param {
                name: stage.to_owned(),
                what: "names no stage whose output is a map".to_owned(),
            }),
        }
    }

    /// As [`forward`](Self::forward), and the maps that the named stages give, in the order of
    /// `taps`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); [`NnError::Param`] for a name that no stage with a map has, and
    /// [`NnError::Mode`] for a deployed pass.
    pub fn forward_tapped(
        &self,
        images: &Tensor<4>,
        mode: &Mode<'_>,
        observer: Option<&mut Observer>,
        taps: &[String],
    ) -> Result<(Outputs, Vec<Tensor<4>>), NnError> {
        self.check_images(images)?;
        mode.check()?;
        if matches!(mode.quant, Quantisation::Deployed { .. }) {
            return Err(NnError::Mode("a deployed pass has codes, not maps to tap"));
        }
        let mut seen = BTreeMap::new();
        let outputs =
            Forward::new(self, mode, observer)?.run_visited(images, &mut |stage, value| {
                if let Value::Map(map) = value
                    && taps.contains(&stage.name)
                {
                    seen.insert(stage.name.clone(), map.clone());
                }
            })?;
        let maps = taps.iter().map(|name| {
            seen.get(name).cloned().ok_or_else(|| NnError::Param {
                name: name.clone(),
                what: "names no stage whose output is a map".to_owned(),
            })
        });
        Ok((outputs, maps.collect::<Result<_, _>>()?))
    }

    /// The integer codes of every stage in a [deployed](Quantisation::Deployed) pass over
    /// normalised images, in execution order: what the engine must reproduce.
    ///
    /// # Errors
    /// As [`Net::forward`]; [`NnError::Mode`] for any other quantisation.
    pub fn codes(&self, images: &Tensor<4>, mode: &Mode<'_>) -> Result<Vec<StageCodes>, NnError> {
        self.check_images(images)?;
        mode.check()?;
        deployed::stage_codes(self, images, mode)
    }

    pub(crate) fn check_images(&self, images: &Tensor<4>) -> Result<(), NnError> {
        let [_, channels, height, width] = images.dims();
        let got = Shape::Map {
            channels,
            height,
            width,
        };
        let wanted = self.graph.input_shape();
        if got == wanted && images.dims()[0] > 0 {
            return Ok(());
        }
        Err(NnError::Shape {
            tensor: "image batch",
            got: images.dims().to_vec(),
            wanted: format!("at least one image of {wanted}"),
        })
    }

    /// Names of the stages whose weights, and of those whose outputs, training rounds.
    pub fn quantised_stages(&self) -> (Vec<&str>, Vec<&str>) {
        let names = |rounds: fn(&Stage) -> bool| {
            let stages = self.stages.iter().filter(|stage| rounds(stage));
            stages.map(|stage| stage.name.as_str()).collect()
        };
        (names(rounds_weights), names(rounds_output))
    }
}

/// Whether training rounds the weights: all convolutions and inner linear layers. The classifier
/// trains in float.
pub(crate) fn rounds_weights(stage: &Stage) -> bool {
    match stage.kind {
        StageKind::Conv { .. } => true,
        StageKind::Linear { .. } => !stage.eight_bit_weights,
        _ => false,
    }
}

/// Whether training rounds the output: what follows a non-linearity, the stem's (at 8 bits)
/// included.
pub(crate) fn rounds_output(stage: &Stage) -> bool {
    match stage.precision {
        Precision::Point => true,
        Precision::Eight => stage.activation.is_some(),
        Precision::Operand | Precision::Wide => false,
    }
}
