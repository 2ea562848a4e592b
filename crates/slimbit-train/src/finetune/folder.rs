//! What a fine-tuning keeps on disk: `finetune.toml`, `metrics.jsonl`, `images.jsonl.gz` and `checkpoints/`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::FineTuneConfig;
use crate::atomic::write_atomically;
use crate::run_dir::IMAGES;
use crate::{Checkpoints, TrainError};

const CONFIG: &str = "finetune.toml";
const METRICS: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoints";
/// Checkpoints kept.
const KEEP: usize = 2;

/// One line of `metrics.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FineTuneRecord {
    /// The step, from 0.
    pub step: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The classifier's learning rate.
    pub lr: f64,
    /// Cross-entropy of the batch.
    pub loss: f64,
    /// Share of the batch that is classified right, 0 to 1.
    pub accuracy: f64,
}

pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A folder that holds no run yet; nothing is written before [`begin`](Self::begin).
    pub(super) fn vacant(path: &Path) -> Result<Self, TrainError> {
        for (name, what) in [
            (
                CONFIG,
                "holds a fine-tuning already; resume it, or choose another folder",
            ),
            (
                CHECKPOINTS,
                "holds checkpoints of another run; choose another folder",
            ),
        ] {
            if path.join(name).exists() {
                return Err(refuse(path, what));
            }
        }
        Ok(Self {
            path: path.to_owned(),
        })
    }

    pub(super) fn begin(&self, config: &FineTuneConfig) -> Result<(), TrainError> {
        let checkpoints = self.path.join(CHECKPOINTS);
        fs::create_dir_all(&checkpoints)
            .map_err(|e| TrainError::io("make the folder", &checkpoints, e))?;
        self.write_config(config)
    }

    pub(super) fn write_config(&self, config: &FineTuneConfig) -> Result<(), TrainError> {
        let text = toml::to_string(config).expect("settings hold nothing that TOML cannot");
        write_atomically(&self.path.join(CONFIG), text.as_bytes())
    }

    pub(super) fn open(path: &Path) -> Result<(Self, FineTuneConfig), TrainError> {
        let file = path.join(CONFIG);
        if !file.exists() {
            return Err(refuse(
                path,
                "has no finetune.toml; start a fine-tuning there before resuming it",
            ));
        }
        let text = fs::read_to_string(&file).map_err(|e| TrainError::io("read", &file, e))?;
        let config = toml::from_str(&text).map_err(|error| TrainError::ConfigSyntax {
            origin: file.display().to_string(),
            what: error.message().to_owned(),
        })?;
        Ok((
            Self {
                path: path.to_owned(),
            },
            config,
        ))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file with the names and sizes of the images.
    pub(super) fn images(&self) -> PathBuf {
        self.path.join(IMAGES)
    }

    pub(super) fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(self.path.join(CHECKPOINTS), KEEP)
    }

    /// Opens the metrics of a fine-tuning that resumes after `step` steps, without what a killed process wrote about
    /// later ones.
    pub(super) fn metrics(&self, step: u64) -> Result<Metrics, TrainError> {
        let path = self.path.join(METRICS);
        let text = match path.exists() {
            true => fs::read_to_string(&path).map_err(|e| TrainError::io("read", &path, e))?,
            false => String::new(),
        };
        let records = text
            .lines()
            .map_while(|line| serde_json::from_str::<FineTuneRecord>(line).ok());
        let kept: String = records
            .filter(|record| record.step < step)
            .map(|record| line(&record))
            .collect();
        write_atomically(&path, kept.as_bytes())?;
        match OpenOptions::new().append(true).open(&path) {
            Ok(file) => Ok(Metrics { path, file }),
            Err(error) => Err(TrainError::io("write", &path, error)),
        }
    }
}

fn refuse(path: &Path, what: &str) -> TrainError {
    TrainError::RunDir {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}

fn line(record: &FineTuneRecord) -> String {
    serde_json::to_string(record).expect("numbers are JSON") + "\n"
}

pub(super) struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    pub(super) fn record(&mut self, record: &FineTuneRecord) -> Result<(), TrainError> {
        let written = self.file.write_all(line(record).as_bytes());
        written.map_err(|e| TrainError::io("write", &self.path, e))
    }
}
