use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use slimbit_graph::GraphError;

use crate::names::Mismatch;
use crate::onnx::UnsupportedNode;

/// What can go wrong between a foreign file and a [`Network`](crate::Network).
#[derive(Debug)]
#[non_exhaustive]
pub enum ImportError {
    /// The operating system refused to read or write a file.
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Bytes that are not a file of the kind they claim to be.
    Damaged {
        /// The part of the file: a tensor, an entry, a byte.
        at: String,
        /// What is wrong with it.
        what: String,
    },
    /// Parts of a network that contradict one another.
    Invalid {
        /// The part: a node, a tensor.
        at: String,
        /// What is wrong with it.
        what: String,
    },
    /// A checkpoint that only running its code could load.
    Refused {
        /// The Python name, or the part of the file, that asks for it.
        global: String,
        /// What it is.
        why: String,
    },
    /// Tensors that are not those of the architecture.
    Mismatch(Box<Mismatch>),
    /// Tensors from which no single architecture follows.
    Architecture {
        /// Why not.
        what: String,
        /// The names to choose from.
        known: String,
    },
    /// ONNX nodes without a counterpart, all of them.
    Unsupported(Vec<UnsupportedNode>),
    /// The graph itself.
    Graph(GraphError),
}

impl ImportError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

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
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Damaged { at, what } => write!(f, "{at}: {what}; the file is damaged"),
            Self::Invalid { at, what } => write!(f, "{at}: {what}"),
            Self::Refused { global, why } => write!(
                f,
                "`{global}` {why}, and slimbit never runs code from a checkpoint; save the weights \
                 alone, with `torch.save(model.state_dict(), path)` or as safetensors"
            ),
            Self::Mismatch(mismatch) => write!(f, "{mismatch}"),
            Self::Architecture { what, known } => write!(
                f,
                "the checkpoint does not say what network it is: {what}; pass --arch with one of \
                 {known}"
            ),
            Self::Unsupported(nodes) => {
                write!(f, "{} nodes cannot be imported:", nodes.len())?;
                nodes.iter().try_for_each(|node| write!(f, "\n  {node}"))
            }
            Self::Graph(error) => write!(f, "network description: {error}"),
        }
    }
}

impl std::error::Error for ImportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Graph(error) => Some(error),
            _ => None,
        }
    }
}

impl From<GraphError> for ImportError {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}
