use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::atomic::write_atomically;
use crate::checkpoint::{Checkpoint, Checkpoints};
use crate::config::Target;
use crate::lock::RunLock;
use crate::tensorboard::EventFile;
use crate::{TrainConfig, TrainError};

const CONFIG: &str = "config.toml";
const METRICS: &str = "metrics.jsonl";
const LOG: &str = "log.txt";
const CHECKPOINTS: &str = "checkpoints";
const HEALTHY: &str = "healthy";
const TEACHER: &str = "teacher.safetensors";
const START: &str = "start.safetensors";
pub(crate) const IMAGES: &str = "images.jsonl.gz";
/// What a run writes besides its settings, its lock and TensorBoard's events.
const WRITTEN: [&str; 7] = [METRICS, LOG, CHECKPOINTS, HEALTHY, TEACHER, START, IMAGES];

/// What one network of an iteration did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Width multiplier.
    pub width: f64,
    /// Bits of weights and activations; `None` is float.
    pub bits: Option<[u8; 2]>,
    /// Its loss.
    pub loss: f64,
    /// Spread of the first view's backbone features, see [`slimbit_nn::feature_std`]: 0 where the network has
    /// collapsed, 0.4 to 0.6 where it is healthy.
    pub feature_std: f64,
    /// Directions along which those features vary, see [`slimbit_nn::effective_rank`].
    pub effective_rank: f64,
    /// Mean cosine of predictions and targets; for a classifier, the share of equal answers.
    pub agreement: f64,
    /// L2 norm of the gradient on which the optimiser stepped after this network; `None` where it did not.
    pub gradient_norm: Option<f64>,
    /// What rounding does to the embedding, of quantised networks of the base's width.
    pub rounding: Option<RoundingError>,
}

/// The difference `e` that rounding makes to an embedding `z`: SSQL's second term, and its cross term with the residual of
/// the two views, which must stay small for the terms to part (spec section 4.9).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundingError {
    /// `|e|² / |z|²`, both summed over the batch.
    pub relative: f64,
    /// Mean cosine of `e` and the difference of the two views' `z`.
    pub alignment: f64,
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The iteration, from 0.
    pub step: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The learning rate.
    pub lr: f64,
    /// The base network first, then students.
    pub networks: Vec<NetworkRecord>,
    /// Training images per second of this iteration, data loading included.
    pub images_per_second: f64,
}

impl StepRecord {
    fn scalars(&self) -> impl Iterator<Item = (String, f64)> {
        let of = |name: String, network: &NetworkRecord| {
            let norm = network.gradient_norm;
            let rounding = network.rounding;
            [
                (
                    format!("rounding_error/{name}"),
                    rounding.map(|error| error.relative),
                ),
                (format!("loss/{name}"), Some(network.loss)),
                (format!("feature_std/{name}"), Some(network.feature_std)),
                (
                    format!("effective_rank/{name}"),
                    Some(network.effective_rank),
                ),
                (format!("agreement/{name}"), Some(network.agreement)),
                (format!("gradient_norm/{name}"), norm),
            ]
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
        };
        // Widths and bits vary from step to step: a curve per position, not per network.
        let networks =
            self.networks
                .iter()
                .enumerate()
                .flat_map(move |(index, network)| match index {
                    0 => of("base".to_owned(), network),
                    _ => of(format!("student{index}"), network),
                });
        [
            ("lr".to_owned(), self.lr),
            ("images_per_second".to_owned(), self.images_per_second),
        ]
        .into_iter()
        .chain(networks)
    }
}

/// The folder of one run: `config.toml` (every setting), `metrics.jsonl` (a line per logged iteration), TensorBoard
/// events, `log.txt`, `images.jsonl.gz` (names and sizes of the images), `checkpoints/`, `healthy/` for the watch,
/// `teacher.safetensors` where a frozen network teaches, and `start.safetensors` where the weights began with others.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes the folder of a new run and writes its settings.
    ///
    /// # Errors
    /// [`TrainError::RunDir`] where there is a run already, or something else of a name that the run would write
    /// to; [`TrainError::Io`].
    pub fn create(path: &Path, config: &TrainConfig) -> Result<Self, TrainError> {
        let run = Self::vacant(path)?;
        for folder in [CHECKPOINTS, HEALTHY].map(|name| run.file(name)) {
            fs::create_dir_all(&folder)
                .map_err(|e| TrainError::io("make the folder", &folder, e))?;
        }
        write_atomically(&run.file(CONFIG), config.to_toml().as_bytes())?;
        Ok(run)
    }

    /// Removes what an earlier run wrote, if there was one; other files in its folder stay.
    ///
    /// # Errors
    /// [`TrainError::RunDir`] where another process trains in it; [`TrainError::Io`] where something cannot be removed.
    pub fn remove(path: &Path) -> Result<(), TrainError> {
        let run = Self {
            path: path.to_owned(),
        };
        if !run.file(CONFIG).exists() {
            return Ok(());
        }
        // Nobody trains in it.
        let _lock = RunLock::take(path)?;
        let entries = fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(|e| TrainError::io("read the folder", path, e))?;
        for entry in entries {
            let name = entry.file_name();
            let written = name.to_str().is_some_and(|name| {
                WRITTEN.contains(&name) || crate::tensorboard::is_event_file(name)
            });
            if written {
                remove(&entry.path())?;
            }
        }
        // Last, because it tells that there is a run: what is interrupted can be done again.
        remove(&run.file(CONFIG))?;
        remove(&run.file(RunLock::FILE))
    }

    /// A folder that holds no run yet. Nothing is written.
    ///
    /// # Errors
    /// [`TrainError::RunDir`] where there is a run already, or something else of a name that the run would write
    /// to.
    pub fn vacant(path: &Path) -> Result<Self, TrainError> {
        let run = Self {
            path: path.to_owned(),
        };
        if run.file(CONFIG).exists() {
            return Err(TrainError::RunDir {
                path: run.path,
                what: "holds a run already; resume it, or choose another folder".to_owned(),
            });
        }
        match WRITTEN.iter().find(|name| is_used(&run.file(name))) {
            None => Ok(run),
            Some(name) => Err(TrainError::RunDir {
                path: run.path,
                what: format!(
                    "holds `{name}`, which a run would write to, but no run; choose another folder"
                ),
            }),
        }
    }

    /// The folder of an earlier run, and its settings.
    ///
    /// # Errors
    /// [`TrainError::RunDir`] where there is no run; what reading its settings gives.
    pub fn open(path: &Path) -> Result<(Self, TrainConfig), TrainError> {
        let run = Self {
            path: path.to_owned(),
        };
        if !run.file(CONFIG).exists() {
            return Err(TrainError::RunDir {
                path: run.path,
                what: format!("has no {CONFIG}; start a run there before resuming it"),
            });
        }
        let config = TrainConfig::load(&run.file(CONFIG), &[""; 0])?;
        Ok((run, config))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoints, of which `keep` are kept.
    pub fn checkpoints(&self, keep: usize) -> Checkpoints {
        Checkpoints::new(self.file(CHECKPOINTS), keep)
    }

    /// The last checkpoint that the collapse watch thought healthy, where the run may roll back to it.
    pub(crate) fn healthy(&self) -> Checkpoints {
        Checkpoints::new(self.file(HEALTHY), 1)
    }

    /// Keeps a frozen teacher, so that the run depends on no other one from here on.
    pub(crate) fn keep_teacher(&self, teacher: &Checkpoint) -> Result<(), TrainError> {
        teacher.write(&self.file(TEACHER))
    }

    /// The frozen teacher that was kept; `None` for settings without one.
    pub(crate) fn teacher(&self, config: &TrainConfig) -> Result<Option<Checkpoint>, TrainError> {
        if config.objective.target != Target::Frozen {
            return Ok(None);
        }
        let path = self.file(TEACHER);
        if !path.exists() {
            return Err(TrainError::RunDir {
                path: self.path.clone(),
                what: format!(
                    "has lost its {TEACHER}, which it learns from; restore it, or start a new run"
                ),
            });
        }
        Checkpoint::open(&path).map(Some)
    }

    /// Replaces the settings of a run that goes on with others.
    pub(crate) fn change_config(&self, config: &TrainConfig) -> Result<(), TrainError> {
        write_atomically(&self.file(CONFIG), config.to_toml().as_bytes())
    }

    /// The file with the names and sizes of the images.
    pub(crate) fn images(&self) -> PathBuf {
        self.file(IMAGES)
    }

    /// Keeps the state that a run with weights of another network began with, to which it may have to roll back.
    pub(crate) fn keep_start(&self, start: &Checkpoint) -> Result<(), TrainError> {
        start.write(&self.file(START))
    }

    /// The state that was kept; `None` where weights began at random.
    pub(crate) fn start(&self) -> Result<Option<Checkpoint>, TrainError> {
        let path = self.file(START);
        match path.exists() {
            true => Checkpoint::open(&path).map(Some),
            false => Ok(None),
        }
    }

    /// The lines of `metrics.jsonl`, oldest first. A last line that was cut off is left out.
    ///
    /// # Errors
    /// [`TrainError::Io`] where the file is there and cannot be read.
    pub fn metrics(&self) -> Result<Vec<StepRecord>, TrainError> {
        let path = self.file(METRICS);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(&path).map_err(|e| TrainError::io("read", &path, e))?;
        Ok(text
            .lines()
            .map_while(|line| serde_json::from_str(line).ok())
            .collect())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Whether something is there that is not an empty folder.
fn is_used(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => fs::symlink_metadata(path).is_ok(),
    }
}

fn remove(path: &Path) -> Result<(), TrainError> {
    let folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let removed = match folder {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    removed.map_err(|e| TrainError::io("remove", path, e))
}

/// The open logs of a run.
pub(crate) struct Recorder {
    metrics: (PathBuf, File),
    log: (PathBuf, File),
    events: EventFile,
    started: Instant,
}

impl Recorder {
    /// Opens the logs of a run that resumes after `step` iterations, and removes what a killed process wrote about
    /// later ones, so that no iteration is told twice.
    pub(crate) fn open(run: &RunDir, step: u64) -> Result<Self, TrainError> {
        let mut kept = String::new();
        for record in run.metrics()?.iter().filter(|record| record.step < step) {
            kept += &json_line(record);
        }
        let metrics = run.file(METRICS);
        write_atomically(&metrics, kept.as_bytes())?;
        Ok(Self {
            events: EventFile::create(run.path(), step)?,
            metrics: open_to_append(metrics)?,
            log: open_to_append(run.file(LOG))?,
            started: Instant::now(),
        })
    }

    /// Appends a line to `metrics.jsonl` and an event to TensorBoard's file.
    pub(crate) fn record(&mut self, record: &StepRecord) -> Result<(), TrainError> {
        append(&mut self.metrics, &json_line(record))?;
        self.events.scalars(record.step, record.scalars())
    }

    /// Appends a line to `log.txt`, with the seconds since this process began to train.
    pub(crate) fn log(&mut self, line: &str) -> Result<(), TrainError> {
        log::info!("{line}");
        let seconds = self.started.elapsed().as_secs_f64();
        append(&mut self.log, &format!("[{seconds:9.1} s] {line}\n"))
    }
}

fn json_line(record: &StepRecord) -> String {
    serde_json::to_string(record).expect("numbers are JSON") + "\n"
}

fn open_to_append(path: PathBuf) -> Result<(PathBuf, File), TrainError> {
    match OpenOptions::new().create(true).append(true).open(&path) {
        Ok(file) => Ok((path, file)),
        Err(error) => Err(TrainError::io("write", &path, error)),
    }
}

fn append((path, file): &mut (PathBuf, File), text: &str) -> Result<(), TrainError> {
    file.write_all(text.as_bytes())
        .map_err(|e| TrainError::io("write", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> StepRecord {
        let network = NetworkRecord {
            width: 1.0,
            bits: Some([4, 8]),
            loss: 0.1,
            feature_std: 0.5,
            effective_rank: 8.0,
            agreement: 0.9,
            gradient_norm: None,
            rounding: None,
        };
        StepRecord {
            step,
            epoch: 0,
            lr: 0.1,
            networks: vec![network],
            images_per_second: 1e3,
        }
    }

    #[test]
    fn a_resumed_run_tells_no_step_twice() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(folder.path(), &TrainConfig::default()).unwrap();
        let mut recorder = Recorder::open(&run, 0).unwrap();
        (0..5).for_each(|step| recorder.record(&record(step)).unwrap());
        append(&mut recorder.metrics, "{\"step\":5,\"epo").unwrap();
        drop(recorder);

        let mut recorder = Recorder::open(&run, 3).unwrap();
        (3..6).for_each(|step| recorder.record(&record(step)).unwrap());
        assert_eq!(
            run.metrics().unwrap(),
            (0..6).map(record).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_run_is_neither_overwritten_nor_invented() {
        let folder = tempfile::tempdir().unwrap();
        let error = RunDir::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("has no config.toml"), "{error}");
        let config = TrainConfig {
            epochs: 3,
            ..TrainConfig::default()
        };
        // A log of something else, and a user's own file.
        let notes = folder.path().join("notes");
        fs::write(&notes, "mine").unwrap();
        fs::write(folder.path().join(LOG), "not of a run").unwrap();
        let error = RunDir::create(folder.path(), &config).unwrap_err();
        assert!(error.to_string().contains("`log.txt`"), "{error}");
        RunDir::remove(folder.path()).unwrap();
        assert!(folder.path().join(LOG).exists());
        fs::remove_file(folder.path().join(LOG)).unwrap();

        let run = RunDir::create(folder.path(), &config).unwrap();
        Recorder::open(&run, 0).unwrap().log("a line").unwrap();
        RunDir::remove(folder.path()).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert!(left.len() == 1 && notes.exists(), "{left:?}");

        RunDir::create(folder.path(), &config).unwrap();
        let error = RunDir::create(folder.path(), &config)
            .unwrap_err()
            .to_string();
        assert!(error.contains("resume it"), "{error}");
        assert_eq!(RunDir::open(folder.path()).unwrap().1, config);
    }
}
