use std::fmt;
use std::io;
use std::path::PathBuf;

use slimbit_graph::GraphError;
use slimbit_kernels::KernelError;

use crate::SettingError;

/// What can go wrong between a file and its outputs.
#[derive(Debug)]
#[non_exhaustive]
pub enum EngineError {
    /// The operating system refused to read or write a file.
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Bytes that are no `.slim` file, or not the bytes that were written.
    Damaged {
        /// The part of the file.
        at: String,
        /// What is wrong with it.
        what: String,
    },
    /// A file of another version of the format.
    Version {
        /// What the file says.
        found: String,
    },
    /// A model whose parts contradict one another.
    Invalid {
        /// The part: a stage, a tensor, a point.
        at: String,
        /// What is wrong with it.
        what: String,
    },
    /// A well-formed network that the engine has no way to execute.
    Unsupported {
        /// The stage.
        stage: String,
        /// What it asks for, and what to do about it.
        what: String,
    },
    /// The network description inside a model.
    Graph(GraphError),
    /// A point that the model does not hold.
    Point {
        /// The point asked for.
        wanted: String,
        /// The points that the model holds.
        held: String,
    },
    /// An image with another number of bytes than the model takes.
    InputLength {
        /// `rows · columns · channels` of the model's input.
        wanted: usize,
        /// Bytes given.
        found: usize,
    },
    /// A size, a channel count or a normalisation that cannot be used.
    Setting(SettingError),
    /// An instruction set that this processor does not have.
    Isa(KernelError),
    /// Threads that the operating system refused to start.
    Threads {
        /// Threads asked for.
        threads: usize,
        /// Why.
        source: io::Error,
    },
    /// A model that needs more memory than there is.
    Memory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// A network that would take more than [`Model::with_memory_limit`](crate::Model::with_memory_limit)
    /// allows; nothing was allocated for it.
    MemoryLimit {
        /// The point.
        point: String,
        /// Bytes that it needs at least.
        needed: usize,
        /// Bytes that are allowed.
        limit: usize,
    },
    /// An integer form that does not equal the real function that it stands for.
    Refuted {
        /// The point.
        point: String,
        /// The stage, and the channel where there is one.
        at: String,
        /// The counterexample.
        what: String,
    },
}

impl EngineError {
    pub(crate) fn damaged(at: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Damaged {
            at: at.into(),
            what: what.into(),
        }
    }

    pub(crate) fn invalid(at: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Invalid {
            at: at.into(),
            what: what.into(),
        }
    }

    pub(crate) fn unsupported(stage: &str, what: impl Into<String>) -> Self {
        Self::Unsupported {
            stage: stage.to_owned(),
            what: what.into(),
        }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Damaged { at, what } => write!(
                f,
                "{at}: {what}; the file is damaged or no .slim file, copy or export it again"
            ),
            Self::Version { found } => write!(
                f,
                "format version `{found}` is not `{}`, the one that this build reads; export the \
                 model again or update slimbit",
                crate::format::VERSION
            ),
            Self::Invalid { at, what } => write!(f, "{at}: {what}; export the model again"),
            Self::Unsupported { stage, what } => write!(f, "stage `{stage}`: {what}"),
            Self::Graph(error) => write!(f, "network description: {error}"),
            Self::Point { wanted, held } => {
                write!(f, "no point `{wanted}` in this model; it holds {held}")
            }
            Self::InputLength { wanted, found } => write!(
                f,
                "an image of {found} bytes; this model takes {wanted} (rows · columns · channels)"
            ),
            Self::Setting(error) => error.fmt(f),
            Self::Isa(error) => write!(f, "{error}; leave SLIMBIT_ISA unset to use the best"),
            Self::Threads { threads, source } => {
                write!(f, "{threads} threads: {source}; ask for fewer")
            }
            Self::Memory { bytes } => write!(
                f,
                "{bytes} bytes for activations are more than there is; use a narrower point"
            ),
            Self::MemoryLimit {
                point,
                needed,
                limit,
            } => write!(
                f,
                "running {point} takes at least {}, more than the {} allowed; allow more \
                 (`--memory`), or run a smaller image or a narrower point",
                mebibytes(*needed),
                mebibytes(*limit)
            ),
            Self::Refuted { point, at, what } => write!(f, "{point}, {at}: {what}"),
        }
    }
}

/// A number of bytes as people read it, never rounded down to nothing.
fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

impl std::error::Error for EngineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } | Self::Threads { source, .. } => Some(source),
            Self::Graph(error) => Some(error),
            Self::Setting(error) => Some(error),
            Self::Isa(error) => Some(error),
            _ => None,
        }
    }
}

impl From<GraphError> for EngineError {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}

impl From<SettingError> for EngineError {
    fn from(error: SettingError) -> Self {
        Self::Setting(error)
    }
}
