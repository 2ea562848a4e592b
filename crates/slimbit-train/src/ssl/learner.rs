use std::collections::BTreeMap;

use slimbit_graph::{Array, Graph, ParamSpec, Params, Width};
use slimbit_nn::{GroupReg, Head, HeadSpec, Net, NnError, ParamStore, Sgd, parse_device};

use crate::checkpoint::Checkpoint;
use crate::config::{Head as StudentHead, Loss, Target};
use crate::{TrainConfig, TrainError};

/// The network that learns, the heads that it learns through, its teacher and the optimiser.
pub(crate) struct Learner {
    pub(super) net: Net,
    pub(super) projector: Head,
    /// `h`, where the base loss is cosine.
    pub(super) predictor: Option<Head>,
    /// `h'`, where students have a head of their own.
    pub(super) auxiliary: Option<Head>,
    pub(super) teacher: Option<Teacher>,
    pub(super) sgd: Sgd,
    pub(super) group: Option<GroupReg>,
}

/// The momentum average of the network and its projector (spec section 3.4).
pub(super) struct Teacher {
    pub(super) net: Net,
    pub(super) projector: Head,
}

/// Where a checkpoint keeps what.
const NET: &str = "net/";
const HEADS: &str = "heads/";
const TEACHER_NET: &str = "teacher/net/";
const TEACHER_HEADS: &str = "teacher/heads/";
const MOMENTUM: &str = "momentum/";

impl Learner {
    /// A network and heads with random parameters, which depend on the seed and their names.
    pub(crate) fn init(graph: Graph, config: &TrainConfig) -> Result<Self, TrainError> {
        let device = parse_device("cpu")?.autodiff();
        Self::with_net(Net::init(graph, config.seed, &device)?, config)
    }

    fn with_net(net: Net, config: &TrainConfig) -> Result<Self, TrainError> {
        let (heads, objective) = (&config.heads, &config.objective);
        let features = net
            .graph()
            .output_shape("features", Width::FULL)?
            .channels();
        let projector = match heads.final_norm {
            true => HeadSpec::normalised_projector(features, heads.hidden, heads.dim),
            false => {
                let middle_bias = objective.base_loss == Loss::InfoNce;
                HeadSpec::projector(features, heads.hidden, heads.dim, middle_bias)
            }
        };
        let device = net.store().device().clone();
        let head = |name, spec| Head::init(name, spec, config.seed, &device);
        let predictor = |wanted: bool, name| {
            wanted
                .then(|| head(name, HeadSpec::predictor(heads.dim, heads.hidden)))
                .transpose()
        };
        let projector = head("projector", projector)?;
        let mut learner = Self {
            predictor: predictor(objective.base_loss == Loss::Cosine, "predictor")?,
            auxiliary: predictor(objective.head == StudentHead::Auxiliary, "auxiliary")?,
            teacher: (objective.target == Target::Ema).then(|| Teacher {
                net: net.teacher(),
                projector: projector.teacher(),
            }),
            group: group_reg(config),
            sgd: Sgd::new(0.0, 0.0, &[]),
            net,
            projector,
        };
        let decay = if learner.group.is_some() {
            0.0
        } else {
            config.optim.weight_decay
        };
        learner.sgd = Sgd::new(config.optim.momentum, decay, &learner.trained());
        Ok(learner)
    }

    /// Everything that is trained: the network, the projector, then the predictors that exist.
    fn trained(&self) -> Vec<&ParamStore> {
        let heads = [
            Some(&self.projector),
            self.predictor.as_ref(),
            self.auxiliary.as_ref(),
        ];
        [self.net.store()]
            .into_iter()
            .chain(heads.into_iter().flatten().map(Head::store))
            .collect()
    }

    /// The optimiser, and what it moves in the order of [`Self::trained`].
    pub(super) fn descent(&mut self) -> (&mut Sgd, Vec<&mut ParamStore>) {
        let heads = [
            Some(&mut self.projector),
            self.predictor.as_mut(),
            self.auxiliary.as_mut(),
        ];
        let heads = heads.into_iter().flatten().map(Head::store_mut);
        (
            &mut self.sgd,
            [self.net.store_mut()].into_iter().chain(heads).collect(),
        )
    }

    /// The state after `step` iterations.
    pub(crate) fn to_checkpoint(&self, config: &TrainConfig, step: u64) -> Checkpoint {
        let mut tensors = BTreeMap::new();
        let mut put = |prefix: &str, store: &ParamStore| {
            let arrays = store.to_params().0.into_iter();
            tensors.extend(arrays.map(|(name, array)| (format!("{prefix}{name}"), array)));
        };
        for (prefix, store) in self.trained_places() {
            put(prefix, store);
        }
        if let Some(teacher) = &self.teacher {
            put(TEACHER_NET, teacher.net.store());
            put(TEACHER_HEADS, teacher.projector.store());
        }
        tensors.extend(self.momentum());
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
    ) -> Result<Self, TrainError> {
        let device = parse_device("cpu")?.autodiff();
        let net = Net::from_params(checkpoint.graph.clone(), &checkpoint.params(), &device)?;
        let mut learner = Self::with_net(net, config)?;
        let heads = params(checkpoint, HEADS);
        for head in [learner.predictor.as_mut(), learner.auxiliary.as_mut()]
            .into_iter()
            .flatten()
        {
            load(head.store_mut(), &heads)?;
        }
        load(learner.projector.store_mut(), &heads)?;
        if let Some(teacher) = &mut learner.teacher {
            load(teacher.net.store_mut(), &params(checkpoint, TEACHER_NET))?;
            load(
                teacher.projector.store_mut(),
                &params(checkpoint, TEACHER_HEADS),
            )?;
        }
        let bytes = learner.momentum_bytes(&checkpoint.tensors);
        let stores: Vec<ParamStore> = learner.trained().into_iter().cloned().collect();
        learner
            .sgd
            .load_bytes(&bytes, &stores.iter().collect::<Vec<_>>())?;
        Ok(learner)
    }

    fn trained_places(&self) -> impl Iterator<Item = (&'static str, &ParamStore)> {
        let places = [NET].into_iter().chain(std::iter::repeat(HEADS));
        places.zip(self.trained())
    }

    fn trained_specs(&self) -> impl Iterator<Item = (String, &ParamSpec)> {
        self.trained_places().flat_map(|(prefix, store)| {
            store
                .specs()
                .iter()
                .map(move |spec| (format!("{MOMENTUM}{prefix}{}", spec.name), spec))
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

fn params(checkpoint: &Checkpoint, prefix: &str) -> Params {
    let part = checkpoint.part(prefix);
    Params(
        part.map(|(name, array)| (name.to_owned(), array.clone()))
            .collect(),
    )
}

fn load(store: &mut ParamStore, params: &Params) -> Result<(), NnError> {
    let device = store.device().clone();
    *store = ParamStore::from_params(store.specs().to_vec(), params, &device)?;
    Ok(())
}
