//! Who gives the targets, where it is not the network itself.

use burn::tensor::Device;
use slimbit_graph::Width;
use slimbit_nn::{Head, Net};
use toml::Table;

use super::learner::{HEADS, PROJECTOR, load, params, projector_of};
use crate::checkpoint::Checkpoint;
use crate::config::Target;
use crate::run_dir::RunDir;
use crate::{TrainConfig, TrainError};

/// A network and its projector that give targets and take no gradients.
pub(super) struct Teacher {
    pub(super) net: Net,
    pub(super) projector: Head,
    /// The width of a frozen teacher; one that follows teaches at the width that it is asked for.
    pub(super) frozen_at: Option<Width>,
}

impl Teacher {
    /// The momentum average of a network and its projector (spec section 3.4), at its beginning.
    pub(super) fn following(net: &Net, projector: &Head) -> Self {
        Self {
            net: net.teacher(),
            projector: projector.teacher(),
            frozen_at: None,
        }
    }

    /// The trained network and projector of another run (spec section 3.11), at the largest width that it was trained at.
    /// Its own momentum average, where it has one, plays no part: every method has these two, and they are what
    /// is exported.
    pub(super) fn frozen(
        checkpoint: &Checkpoint,
        config: &TrainConfig,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let own = &checkpoint.config;
        if own.heads.dim != config.heads.dim {
            let what = format!(
                "{} is not the {} of the teacher's embedding; write heads.dim={1}",
                config.heads.dim, own.heads.dim
            );
            return Err(TrainError::value("heads.dim", what));
        }
        let differing = differing_input(own, config);
        if !differing.is_empty() {
            let what = format!(
                "the teacher sees another input; write {}",
                differing.join(" ")
            );
            return Err(TrainError::value("preprocess", what));
        }
        let device = device.clone().without_autodiff();
        let width = Width::new(own.objective.widths.max)?;
        let mut net = Net::from_params(
            checkpoint.graph.clone(),
            &checkpoint.params_at(width)?,
            &device,
        )?;
        net.use_half_floats(config.mixed_precision);
        let spec = projector_of(&checkpoint.graph, own)?;
        let mut projector = Head::init(PROJECTOR, spec, own.seed, &device)?;
        load(projector.store_mut(), &params(checkpoint, HEADS))?;
        Ok(Self {
            net: net.teacher(),
            projector: projector.teacher(),
            frozen_at: Some(width),
        })
    }

    /// Whether it follows the network that it teaches.
    pub(super) fn moves(&self) -> bool {
        self.frozen_at.is_none()
    }
}

/// Settings of the teacher's input that are not those of the run, as overrides that make them so.
fn differing_input(teacher: &TrainConfig, config: &TrainConfig) -> Vec<String> {
    // By way of text, which has as few digits as an `f32` needs.
    let [taught, own] = [teacher, config].map(|config| {
        let text = toml::to_string(&config.preprocess);
        let text = text.expect("settings hold nothing that TOML cannot");
        text.parse::<Table>().expect("it was just written")
    });
    let differing = taught
        .iter()
        .filter(|(key, value)| own.get(*key) != Some(value));
    differing
        .map(|(key, value)| format!("preprocess.{key}={value}"))
        .collect()
}

/// The frozen teacher that the settings name, without what it does not need to teach; `None` where the target is
/// another one.
pub(crate) fn find_frozen(config: &TrainConfig) -> Result<Option<Checkpoint>, TrainError> {
    let (target, path) = (config.objective.target, &config.objective.teacher);
    if target != Target::Frozen {
        return Ok(None);
    }
    let refuse = |what: String| Err(TrainError::value("objective.teacher", what));
    if path.as_os_str().is_empty() {
        return refuse(
            "target = \"frozen\" learns from the network of a finished run, and none is named; write \
             objective.teacher=RUN_DIR"
                .to_owned(),
        );
    }
    let place = path.display();
    let mut checkpoint = if path.is_file() {
        Checkpoint::open(path)?
    } else {
        let (run, own) = match RunDir::open(path) {
            Err(TrainError::RunDir { .. }) => {
                return refuse(format!(
                    "{place} holds no run; name the folder of a finished one, or a checkpoint file"
                ));
            }
            opened => opened?,
        };
        match run.checkpoints(own.run.keep).latest()? {
            Some(checkpoint) => checkpoint,
            None => return refuse(format!("{place} has no checkpoint yet; train it first")),
        }
    };
    let projector = format!("{HEADS}{PROJECTOR}.");
    (checkpoint.tensors).retain(|name, _| name.starts_with("net/") || name.starts_with(&projector));
    if checkpoint.step == 0 {
        return refuse(format!(
            "{place} has not learnt anything yet; train it first"
        ));
    }
    log::info!("{place} at iteration {} is the teacher", checkpoint.step);
    Ok(Some(checkpoint))
}
