use burn::tensor::{Device, Tensor};
use slimbit_graph::{Graph, Params, Precision, Shape, Stage, StageKind, Width};

use crate::deployed::{self, StageCodes};
use crate::forward::Forward;
use crate::{Init, Mode, NnError, Observer, Outputs, ParamStore, Quantisation, init};

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
    detach_scales: bool,
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
            detach_scales: false,
        })
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

    pub(crate) fn detaches_scales(&self) -> bool {
        self.detach_scales
    }

    /// The same network with constant parameters: evaluation without a tape. Cheap.
    pub fn frozen(&self) -> Self {
        self.with_store(self.params.frozen())
    }

    /// A copy that shares nothing with this network and takes no gradients, for a momentum teacher.
    pub fn teacher(&self) -> Self {
        let device = self.params.device().clone().without_autodiff();
        self.with_store(self.params.copy_to(&device))
    }

    fn with_store(&self, params: ParamStore) -> Self {
        Self {
            graph: self.graph.clone(),
            stages: self.stages.clone(),
            params,
            detach_scales: self.detach_scales,
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
