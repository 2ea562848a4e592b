use std::collections::BTreeMap;

use burn::tensor::Device;
use slimbit_graph::{Array, Graph, ParamSpec, Params, Width};
use slimbit_nn::{GroupReg, Head, HeadSpec, MapProjector, Net, NnError, ParamStore, Sgd};

use super::queue::Queue;
use super::teacher::Teacher;
use crate::checkpoint::Checkpoint;
use crate::config::{
    Algorithm, BatchNorms, Head as StudentHead, Init, Loss, Projector, Target, WidthsConfig,
};
use crate::{TrainConfig, TrainError};

/// The network that learns, what it learns through, its teacher and the optimiser.
pub(crate) struct Learner {
    pub(super) net: Net,
    pub(super) projector: Head,
    /// `h`, where the base loss is cosine.
    pub(super) predictor: Option<Head>,
    /// `h'`, where students have a head of their own.
    pub(super) auxiliary: Option<Head>,
    /// What students' intermediate maps are compared through.
    pub(super) maps: Option<MapProjector>,
    pub(super) teacher: Option<Teacher>,
    pub(super) queue: Option<Queue>,
    pub(super) sgd: Sgd,
    pub(super) group: Option<GroupReg>,
}

/// What a trained store is part of: its place in a checkpoint, and which penalties it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Net,
    Projector,
    Predictor,
    Maps,
}

impl Part {
    fn place(self) -> &'static str {
        match self {
            Self::Net => "net/",
            Self::Projector | Self::Predictor => HEADS,
            Self::Maps => "maps/",
        }
    }
}

/// Where a checkpoint keeps what.
pub(super) const HEADS: &str = "heads/";
/// The projector's name, which its parameters begin with.
pub(super) const PROJECTOR: &str = "projector";
const TEACHER_NET: &str = "teacher/net/";
const TEACHER_HEADS: &str = "teacher/heads/";
const MOMENTUM: &str = "momentum/";
const QUEUE: &str = "queue/keys";
const LOSS_SCALE: &str = "loss_scale";

impl Learner {
    /// A network and heads with random parameters, which depend on the seed and their names. `frozen` is the teacher
    /// of a run that has a frozen one.
    pub(crate) fn init(
        graph: Graph,
        config: &TrainConfig,
        frozen: Option<&Checkpoint>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let device = device.clone().autodiff();
        let init = match config.model.init {
            // What a checkpoint is loaded into may be anything.
            Init::Uniform | Init::From(_) => slimbit_nn::Init::KaimingUniform,
            Init::FanOut => slimbit_nn::Init::KaimingNormalFanOut,
        };
        let mut net = Net::init_with(graph, init, config.seed, &device)?;
        if config.model.zero_init_residual {
            net = net.with_zero_residuals();
        }
        Self::with_net(net, config, frozen)
    }

    /// A network of the given parameters, with random heads.
    pub(crate) fn start(
        graph: Graph,
        params: &Params,
        config: &TrainConfig,
        frozen: Option<&Checkpoint>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let net = Net::from_params(graph, params, &device.clone().autodiff())?;
        Self::with_net(net, config, frozen)
    }

    fn with_net(
        mut net: Net,
        config: &TrainConfig,
        frozen: Option<&Checkpoint>,
    ) -> Result<Self, TrainError> {
        let (heads, objective, seed) = (&config.heads, &config.objective, config.seed);
        net.detach_weight_scales(objective.bits.detach_scales);
        net.use_half_floats(config.mixed_precision);
        if config.model.batch_norm == BatchNorms::Switchable {
            net = net.with_switched_norms(&listed(&objective.widths)?)?;
        }
        let device = net.store().device().clone();
        let head = |name, spec| Head::init(name, spec, seed, &device);
        let hidden = match heads.predictor_hidden {
            0 => heads.hidden,
            own => own,
        };
        let predictor = |wanted: bool, name| {
            wanted
                .then(|| head(name, HeadSpec::predictor(heads.dim, hidden)))
                .transpose()
        };
        let projector = head(PROJECTOR, projector_of(net.graph(), config)?)?;
        let channels: Vec<usize> = objective
            .maps
            .iter()
            .map(|stage| net.map_channels(stage))
            .collect::<Result<_, _>>()?;
        let maps = (objective.map_weight > 0.0)
            .then(|| MapProjector::init("map", &channels, seed, &device));
        let teacher = match objective.target {
            Target::Ema => Some(Teacher::following(&net, &projector)),
            Target::Frozen => {
                let checkpoint = frozen.expect("found, or kept, before the learner is made");
                Some(Teacher::frozen(checkpoint, config, &device)?)
            }
            Target::Online | Target::Quantised => None,
        };
        let queues = matches!(objective.base_loss, Loss::Moco | Loss::Seed);
        let mut learner = Self {
            predictor: predictor(objective.base_loss == Loss::Cosine, "predictor")?,
            auxiliary: predictor(objective.head == StudentHead::Auxiliary, "auxiliary")?,
            maps: maps.transpose()?,
            teacher,
            queue: queues.then(|| Queue::init(objective.queue, heads.dim, seed)),
            group: group_reg(config),
            sgd: Sgd::new(0.0, 0.0, &[]),
            net,
            projector,
        };
        learner.sgd = descent(config, &learner.trained());
        Ok(learner)
    }

    pub(crate) fn graph(&self) -> &Graph {
        self.net.graph()
    }

    /// The device that it learns on.
    pub(crate) fn device(&self) -> Device {
        self.net.store().device().clone().without_autodiff()
    }

    /// Everything that is trained, and what it is part of.
    fn parts(&self) -> Vec<(Part, &ParamStore)> {
        let heads = [&self.predictor, &self.auxiliary].into_iter().flatten();
        [
            (Part::Net, self.net.store()),
            (Part::Projector, self.projector.store()),
        ]
        .into_iter()
        .chain(heads.map(|head| (Part::Predictor, head.store())))
        .chain(self.maps.as_ref().map(|maps| (Part::Maps, maps.store())))
        .collect()
    }

    fn trained(&self) -> Vec<&ParamStore> {
        self.parts().into_iter().map(|(_, store)| store).collect()
    }

    /// What each store that the optimiser moves is part of, in its order.
    pub(super) fn trained_parts(&self) -> Vec<Part> {
        self.parts().into_iter().map(|(part, _)| part).collect()
    }

    /// The optimiser, and what it moves in the order of [`Self::parts`].
    pub(super) fn descent(&mut self) -> (&mut Sgd, Vec<&mut ParamStore>) {
        let heads = [&mut self.predictor, &mut self.auxiliary]
            .into_iter()
            .flatten();
        let stores = [self.net.store_mut(), self.projector.store_mut()]
            .into_iter()
            .chain(heads.map(Head::store_mut))
            .chain(self.maps.as_mut().map(MapProjector::store_mut));
        (&mut self.sgd, stores.collect())
    }

    /// The state after `step` iterations.
    pub(crate) fn to_checkpoint(&self, config: &TrainConfig, step: u64) -> Checkpoint {
        let mut tensors = BTreeMap::new();
        let mut put = |prefix: &str, store: &ParamStore| {
            let arrays = store.to_params().0.into_iter();
            tensors.extend(arrays.map(|(name, array)| (format!("{prefix}{name}"), array)));
        };
        for (part, store) in self.parts() {
            put(part.place(), store);
        }
        if let Some(teacher) = self.teacher.as_ref().filter(|teacher| teacher.moves()) {
            put(TEACHER_NET, teacher.net.store());
            put(TEACHER_HEADS, teacher.projector.store());
        }
        tensors.extend(
            self.queue
                .iter()
                .map(|queue| (QUEUE.to_owned(), queue.to_array())),
        );
        tensors.extend(self.momentum());
        tensors.extend(self.sgd.loss_scale_state().map(|state| {
            let array = Array {
                shape: vec![state.len()],
                data: state.to_vec(),
            };
            (LOSS_SCALE.to_owned(), array)
        }));
        Checkpoint {
            step,
            config: config.clone(),
            graph: self.net.graph().clone(),
            tensors,
        }
    }

    /// The learner that [`Self::to_checkpoint`] described, bit for bit.
    pub(crate) fn from_checkpoint(
        checkpoint: &Checkpoint,
        config: &TrainConfig,
        frozen: Option<&Checkpoint>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let mut learner = Self::init(checkpoint.graph.clone(), config, frozen, device)?;
        let parts = learner.trained_parts();
        let (_, stores) = learner.descent();
        for (part, store) in parts.into_iter().zip(stores) {
            load(store, &params(checkpoint, part.place()))?;
        }
        if let Some(teacher) = learner.teacher.as_mut().filter(|teacher| teacher.moves()) {
            load(teacher.net.store_mut(), &params(checkpoint, TEACHER_NET))?;
            load(
                teacher.projector.store_mut(),
                &params(checkpoint, TEACHER_HEADS),
            )?;
        }
        if let (Some(queue), Some(array)) = (&mut learner.queue, checkpoint.tensors.get(QUEUE)) {
            *queue = Queue::from_array(array);
        }
        let bytes = learner.momentum_bytes(&checkpoint.tensors);
        let stores: Vec<ParamStore> = learner.trained().into_iter().cloned().collect();
        learner
            .sgd
            .load_bytes(&bytes, &stores.iter().collect::<Vec<_>>())?;
        if let Some(array) = checkpoint.tensors.get(LOSS_SCALE)
            && let [factor, steady] = array.data[..]
        {
            learner.sgd.load_loss_scale_state([factor, steady]);
        }
        Ok(learner)
    }

    fn trained_specs(&self) -> impl Iterator<Item = (String, &ParamSpec)> {
        self.parts().into_iter().flat_map(|(part, store)| {
            store
                .specs()
                .iter()
                .map(move |spec| (format!("{MOMENTUM}{}{}", part.place(), spec.name), spec))
        })
    }

    /// The optimiser's state as named tensors. A parameter that never had a gradient has none.
    fn momentum(&self) -> BTreeMap<String, Array> {
        let bytes = self.sgd.to_bytes();
        let mut rest = bytes.as_slice();
        let mut tensors = BTreeMap::new();
        for (name, spec) in self.trained_specs() {
            let moved = rest[0] != 0;
            rest = &rest[1..];
            if moved {
                let (values, after) = rest.split_at(4 * spec.shape.iter().product::<usize>());
                rest = after;
                let (values, _) = values.as_chunks::<4>();
                let data = values.iter().map(|&v| f32::from_le_bytes(v)).collect();
                tensors.insert(
                    name,
                    Array {
                        shape: spec.shape.clone(),
                        data,
                    },
                );
            }
        }
        tensors
    }

    /// What [`Sgd::to_bytes`] gave when [`Self::momentum`] was read.
    fn momentum_bytes(&self, tensors: &BTreeMap<String, Array>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, _) in self.trained_specs() {
            let array = tensors.get(&name);
            bytes.push(u8::from(array.is_some()));
            bytes.extend(
                array
                    .iter()
                    .flat_map(|a| &a.data)
                    .flat_map(|v| v.to_le_bytes()),
            );
        }
        bytes
    }
}

/// The projector of a network with the settings that it was trained with.
pub(super) fn projector_of(graph: &Graph, config: &TrainConfig) -> Result<HeadSpec, TrainError> {
    let heads = &config.heads;
    let features = graph.output_shape("features", Width::FULL)?.channels();
    Ok(match (heads.projector, heads.final_norm) {
        (Projector::Mlp3, true) => {
            HeadSpec::normalised_projector(features, heads.hidden, heads.dim)
        }
        (Projector::Mlp3, false) => {
            let middle_bias = config.objective.base_loss == Loss::InfoNce;
            HeadSpec::projector(features, heads.hidden, heads.dim, middle_bias)
        }
        (Projector::Mlp2, _) => HeadSpec::plain_projector(features, heads.hidden, heads.dim),
        (Projector::Linear, _) => HeadSpec::classifier(features, heads.dim),
    })
}

/// Multiply-accumulates of the heads for one image, and about as many parameters as they have.
pub(crate) fn head_macs(graph: &Graph, config: &TrainConfig) -> Result<f64, TrainError> {
    let heads = &config.heads;
    let widths = projector_of(graph, config)?.widths;
    let projector: usize = widths.windows(2).map(|pair| pair[0] * pair[1]).sum();
    let hidden = match heads.predictor_hidden {
        0 => heads.hidden,
        own => own,
    };
    Ok((projector + 2 * heads.dim * hidden) as f64)
}

/// The widths that are trained in every iteration.
fn listed(widths: &WidthsConfig) -> Result<Vec<Width>, TrainError> {
    let width = |&w: &f64| Width::new(w).map_err(TrainError::from);
    widths.list.iter().map(width).collect()
}

fn descent(config: &TrainConfig, stores: &[&ParamStore]) -> Sgd {
    let optim = &config.optim;
    let decay = match group_reg(config) {
        Some(_) => 0.0,
        None => optim.weight_decay,
    };
    let mut sgd = Sgd::new(optim.momentum, decay, stores);
    if config.mixed_precision {
        sgd = sgd.with_loss_scaling();
    }
    if optim.clip > 0.0 {
        sgd = sgd.with_clipping(optim.clip);
    }
    match optim.algorithm {
        Algorithm::Sgd => sgd,
        Algorithm::Lars => sgd.with_lars(optim.trust),
    }
}

fn group_reg(config: &TrainConfig) -> Option<GroupReg> {
    let group = &config.optim.group;
    (group.lambda > 0.0).then_some(GroupReg {
        lambda: group.lambda,
        alpha: group.alpha,
        groups: group.groups,
        warm_up: group.start as usize,
        epochs: config.epochs as usize,
    })
}

pub(super) fn params(checkpoint: &Checkpoint, prefix: &str) -> Params {
    let part = checkpoint.part(prefix);
    Params(
        part.map(|(name, array)| (name.to_owned(), array.clone()))
            .collect(),
    )
}

pub(super) fn load(store: &mut ParamStore, params: &Params) -> Result<(), NnError> {
    let device = store.device().clone();
    *store = ParamStore::from_params(store.specs().to_vec(), params, &device)?;
    Ok(())
}
