//! Weights that a run starts from instead of random ones: `model.init`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use slimbit_data::Preprocess;
use slimbit_graph::{Graph, Params, Width};
use slimbit_interchange::checkpoint::Tensors;
use slimbit_interchange::{Network, names};

use crate::checkpoint::Checkpoint;
use crate::config::Init;
use crate::run_dir::RunDir;
use crate::{TrainConfig, TrainError};

/// The key of a float network file's metadata that holds its evaluation transform, as JSON.
const PREPROCESS: &str = "preprocess";
/// Tensors that a message names.
const EXAMPLES: usize = 4;

/// A trained network as it was found.
pub(crate) struct Source {
    /// Where from, for people.
    place: String,
    /// The backbone's name; of a file of one's own the graph's.
    pub(crate) backbone: String,
    params: Params,
    /// The largest width that it was trained at.
    width: f64,
    /// Its input, where it is known.
    pub(crate) preprocess: Option<Preprocess>,
}

/// What a run starts from, and what to tell of it.
pub(crate) struct Start {
    pub(crate) params: Params,
    pub(crate) notes: Vec<String>,
}

fn refuse(what: String) -> TrainError {
    TrainError::value("model.init", what)
}

impl Source {
    /// Reads a run's folder (its newest checkpoint), a checkpoint file, a float network file, or a checkpoint of another
    /// library, whose names are read as `slimbit import` reads them. `backbone` is what such a checkpoint is taken for;
    /// without, it is guessed.
    ///
    /// # Errors
    /// [`TrainError::ConfigValue`] for `model.init`, with the reason.
    pub(crate) fn open(path: &Path, backbone: Option<&str>) -> Result<Self, TrainError> {
        let place = path.display();
        if path.is_dir() {
            let (run, config) = match RunDir::open(path) {
                Err(TrainError::RunDir { .. }) => {
                    return Err(refuse(format!(
                        "{place} holds no run; name a run's folder, a checkpoint, or a network file"
                    )));
                }
                opened => opened?,
            };
            let checkpoint = run.checkpoints(config.run.keep).latest()?;
            let checkpoint =
                checkpoint.ok_or_else(|| refuse(format!("{place} has no checkpoint yet")))?;
            return Self::of_checkpoint(&checkpoint, path);
        }
        if !path.exists() {
            return Err(refuse(format!(
                "`{place}` is neither `uniform` nor `fanout`, and there is no such file or folder"
            )));
        }
        let unreadable = |error: &dyn std::fmt::Display| refuse(format!("{place}: {error}"));
        let bytes = fs::read(path).map_err(|e| unreadable(&e))?;
        let metadata: HashMap<String, String> = SafeTensors::read_metadata(&bytes)
            .ok()
            .and_then(|(_, metadata)| metadata.metadata().clone())
            .unwrap_or_default();
        if metadata.contains_key(Checkpoint::ENTRY) {
            return Self::of_checkpoint(&Checkpoint::open(path)?, path);
        }
        if metadata.contains_key("format_version") {
            let network = Network::from_bytes(&bytes).map_err(|e| unreadable(&e))?;
            return Ok(Self {
                place: place.to_string(),
                backbone: network.graph.name().to_owned(),
                preprocess: (network.metadata.get(PREPROCESS))
                    .and_then(|text| serde_json::from_str(text).ok()),
                params: network.params,
                width: 1.0,
            });
        }
        drop(bytes);
        let tensors = Tensors::open(path).map_err(|e| unreadable(&e))?;
        let architecture = match backbone {
            Some(name) => name.to_owned(),
            None => names::guess(&tensors).map_err(|e| unreadable(&e))?,
        };
        let architecture = names::canonical(&architecture).to_owned();
        let side = names::default_side(&architecture);
        let imported =
            names::import(&tensors, &architecture, [side; 2]).map_err(|e| unreadable(&e))?;
        Ok(Self {
            place: format!("{place} (names of {})", imported.scheme),
            backbone: architecture,
            params: imported.network.params,
            width: 1.0,
            preprocess: None,
        })
    }

    fn of_checkpoint(checkpoint: &Checkpoint, path: &Path) -> Result<Self, TrainError> {
        let config = &checkpoint.config;
        let width = config.objective.widths.max;
        Ok(Self {
            place: format!("{} at iteration {}", path.display(), checkpoint.step),
            backbone: config.model.backbone.clone(),
            params: checkpoint.params_at(Width::new(width)?)?,
            width,
            preprocess: Some(config.preprocess.clone()),
        })
    }

    /// The parameters for `graph`, which must all be there in their shapes.
    fn start(self, graph: &Graph, config: &TrainConfig) -> Result<Start, TrainError> {
        let widest = config.objective.widths.max;
        if self.width < widest {
            return Err(refuse(format!(
                "{} was trained up to width {}, and objective.widths.max = {widest}; choose {0} there, or a wider network",
                self.place, self.width
            )));
        }
        let mut params = Params::default();
        let mut wrong = Vec::new();
        let specs = graph.params(Width::FULL)?;
        let mut left = self.params.0;
        for spec in &specs {
            match left.remove(&spec.name) {
                Some(array) if array.shape == spec.shape => {
                    params.0.insert(spec.name.clone(), array);
                }
                Some(array) => wrong.push(format!(
                    "{} is {:?}, wanted {:?}",
                    spec.name, array.shape, spec.shape
                )),
                None => wrong.push(format!("{} is missing", spec.name)),
            }
        }
        if !wrong.is_empty() {
            let more = wrong.len().saturating_sub(EXAMPLES);
            wrong.truncate(EXAMPLES);
            let more = match more {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            return Err(refuse(format!(
                "{} is `{}` and does not fit the backbone `{}` with {} channels: {}{more}; choose the same \
                 model.backbone and preprocess.channels",
                self.place,
                self.backbone,
                config.model.backbone,
                config.preprocess.channels,
                wrong.join(", ")
            )));
        }
        let count = match specs.len() {
            1 => "1 tensor".to_owned(),
            count => format!("{count} tensors"),
        };
        let mut notes = vec![format!(
            "the backbone starts from {}, {count}; projector and predictors start at random",
            self.place
        )];
        if !left.is_empty() {
            let names: Vec<&str> = left.keys().take(EXAMPLES).map(String::as_str).collect();
            notes.push(format!("left out: {}", names.join(", ")));
        }
        if let Some(own) = self.preprocess
            && (&own.mean, &own.std) != (&config.preprocess.mean, &config.preprocess.std)
        {
            notes.push(format!(
                "its images were normalised by preprocess.mean={:?} preprocess.std={:?}, and this run's are by {:?} and {:?}",
                own.mean, own.std, config.preprocess.mean, config.preprocess.std
            ));
        }
        Ok(Start { params, notes })
    }
}

/// What `model.init` names, for `graph`; `None` where weights begin at random.
///
/// # Errors
/// As [`Source::open`], and where the network does not fit.
pub(crate) fn find_start(config: &TrainConfig, graph: &Graph) -> Result<Option<Start>, TrainError> {
    match &config.model.init {
        Init::Uniform | Init::FanOut => Ok(None),
        Init::From(path) => {
            let source = Source::open(path, Some(&config.model.backbone))?;
            source.start(graph, config).map(Some)
        }
    }
}
