use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use slimbit_data::DataError;
use slimbit_graph::GraphError;
use slimbit_nn::NnError;

use crate::watch::Finding;

/// Why training could not start or go on. Every message names the place and, where there is one, the remedy.
#[derive(Debug)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting that does not exist.
    UnknownKey {
        /// Where it was written: a file, or `override`.
        origin: String,
        /// The dotted key.
        key: String,
        /// The existing key that resembles it most.
        nearest: Option<String>,
    },
    /// Text that is not TOML, or not `key=value`.
    ConfigSyntax {
        /// Where it was written.
        origin: String,
        /// What is wrong.
        what: String,
    },
    /// A setting with a value that cannot be used.
    ConfigValue {
        /// The dotted key.
        key: String,
        /// The value, and what it should be.
        what: String,
    },
    /// A file or folder could not be read or written.
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A run directory that cannot be used as asked.
    RunDir {
        /// The directory.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// A checkpoint that is damaged or belongs to something else.
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Training diverged. Nothing of the offending step was written.
    NotFinite {
        /// The optimiser iteration, from 0.
        step: u64,
        /// Where in the iteration: `sub-step 1 (0.500x W4A8)`; 0 is the base, students follow.
        place: String,
        /// The learning rate.
        lr: f64,
        /// What was not finite: the loss and its value, or a parameter.
        what: String,
    },
    /// Networks collapsed, and the watch was to stop the run or could not save it.
    Collapsed(Finding),
    /// Features, labels or settings that a probe cannot use.
    Probe(String),
    /// The data cannot be read.
    Data(DataError),
    /// The network cannot be described.
    Graph(GraphError),
    /// The network cannot be run.
    Nn(NnError),
}

impl TrainError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn value(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self::ConfigValue {
            key: key.into(),
            what: what.into(),
        }
    }

    pub(crate) fn checkpoint(path: &Path, what: impl Into<String>) -> Self {
        Self::Checkpoint {
            path: path.to_owned(),
            what: what.into(),
        }
    }
}

impl fmt::Display for TrainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey {
                origin,
                key,
                nearest,
            } => {
                write!(f, "{origin}: there is no setting `{key}`")?;
                match nearest {
                    Some(nearest) => write!(f, "; did you mean `{nearest}`?"),
                    None => Ok(()),
                }
            }
            Self::ConfigSyntax { origin, what } => write!(f, "{origin}: {what}"),
            Self::ConfigValue { key, what } => write!(f, "setting `{key}`: {what}"),
            Self::Io {
                action,
                path,
                source,
            } if source.kind() == io::ErrorKind::StorageFull => {
                write!(
                    f,
                    "the disk is full: cannot {action} {}; free some space and resume, what was saved before is intact",
                    path.display()
                )
            }
            Self::Io {
                action,
                path,
                source,
            } => {
                write!(f, "cannot {action} {}: {source}", path.display())
            }
            Self::RunDir { path, what } => write!(f, "run directory {}: {what}", path.display()),
            Self::Checkpoint { path, what } => {
                write!(f, "checkpoint {} is refused: {what}", path.display())
            }
            Self::NotFinite {
                step,
                place,
                lr,
                what,
            } => write!(
                f,
                "step {step}, {place}, learning rate {lr}: {what}; lower optim.lr, raise \
                 schedule.warmup or raise the lowest bits, and resume from the last checkpoint, \
                 which is intact"
            ),
            Self::Collapsed(finding) => write!(
                f,
                "{finding}\nthe last checkpoint is intact; change the settings and start again, or let \
                 watch.action = \"rollback\" lower the rate by itself"
            ),
            Self::Probe(what) => write!(f, "probe: {what}"),
            Self::Data(error) => error.fmt(f),
            Self::Graph(error) => error.fmt(f),
            Self::Nn(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for TrainError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Data(error) => Some(error),
            Self::Graph(error) => Some(error),
            Self::Nn(error) => Some(error),
            _ => None,
        }
    }
}

impl From<DataError> for TrainError {
    fn from(error: DataError) -> Self {
        Self::Data(error)
    }
}

impl From<GraphError> for TrainError {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}

impl From<NnError> for TrainError {
    fn from(error: NnError) -> Self {
        Self::Nn(error)
    }
}
