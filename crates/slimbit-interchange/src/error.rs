use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use slimbit_graph::GraphError;

use crate::kind::FileKind;
use crate::names::{Mismatch, ONNX_ROUTE};
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
    /// A file of a kind that the reader does not read.
    Kind {
        /// What it is.
        kind: FileKind,
        /// What the reader reads.
        wanted: &'static str,
    },
    /// Bytes that contradict one another.
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

/// Longest name from a file that a message quotes, in characters.
pub(crate) const NAME: usize = 200;

/// Nodes that a message lists.
const NODES: usize = 40;

/// Longest sentence with names and numbers from a file.
const TEXT: usize = 1000;

/// Text from a file as a message may show it: on one line, without control characters, and of one that is longer than
/// `longest` characters the beginning and how many there are more.
pub fn plain(text: &str, longest: usize) -> String {
    let mut plain = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == longest {
            let more = text.chars().count() - longest;
            plain += &format!("… ({more} more characters)");
            break;
        }
        match character {
            _ if character.is_control() => plain.extend(character.escape_default()),
            // Marks that turn the writing's direction, and line separators.
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                plain.extend(character.escape_unicode());
            }
            _ => plain.push(character),
        }
    }
    plain
}

/// A count and its noun, of which the plural has an `s`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Kind { kind, wanted } => {
                write!(f, "{wanted}: it is {kind}")?;
                match kind {
                    FileKind::Foreign(foreign) => write!(f, "; {}", foreign.remedy()),
                    _ => Ok(()),
                }
            }
            Self::Damaged { at, what } => write!(
                f,
                "{}: {}; the file is damaged: copy or download it again",
                plain(at, NAME),
                plain(what, TEXT)
            ),
            Self::Invalid { at, what } => write!(f, "{}: {}", plain(at, NAME), plain(what, TEXT)),
            Self::Refused { global, why } => write!(
                f,
                "`{}` {}, and slimbit never runs code from a checkpoint; save the weights \
                 alone, with `torch.save(model.state_dict(), path)` or as safetensors",
                plain(global, NAME),
                plain(why, TEXT)
            ),
            Self::Mismatch(mismatch) => write!(f, "{mismatch}"),
            Self::Architecture { what, known } => write!(
                f,
                "the checkpoint does not say what network it is: {what}; pass --arch with one of \
                 {known}; for any other network, {ONNX_ROUTE}"
            ),
            Self::Unsupported(nodes) => {
                write!(f, "{} cannot be imported:", counted(nodes.len(), "node"))?;
                for node in nodes.iter().take(NODES) {
                    write!(f, "\n  {}", plain(&node.to_string(), TEXT))?;
                }
                match nodes.len().saturating_sub(NODES) {
                    0 => Ok(()),
                    more => write!(f, "\n  and {more} more"),
                }
            }
            Self::Graph(error) => {
                write!(
                    f,
                    "network description: {}",
                    plain(&error.to_string(), TEXT)
                )
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_a_file_stay_on_their_line() {
        let error = ImportError::invalid("tensor `a\n\u{1b}[31mb\u{202e}`", "x".repeat(300_000));
        let text = error.to_string();
        assert!(
            text.starts_with(r"tensor `a\n\u{1b}[31mb\u{202e}`: xxx"),
            "{}",
            &text[..60]
        );
        assert!(
            text.ends_with("… (299000 more characters)"),
            "{}",
            text.len()
        );
        assert!(!text.contains(char::is_control));
    }
}
