use std::fmt::{self, Write};

/// A node that cannot be taken over, as a list of all of them shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// The operator.
    pub op: String,
    /// The node's name, or that of its first output.
    pub node: String,
    /// What about it is unsupported.
    pub why: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for UnsupportedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            op,
            node,
            why,
            remedy,
        } = self;
        write!(f, "{} {}: {why}; {remedy}", plain(op), quoted(node))
    }
}

/// Longest name that messages show whole.
const LONGEST_NAME: usize = 80;

/// Most elements of a list that messages show.
const LONGEST_LIST: usize = 8;

/// A name of the file between backticks: control characters escaped, cut where it is long.
pub(super) fn quoted(name: &str) -> String {
    format!("`{}`", plain(name))
}

fn plain(name: &str) -> String {
    let mut plain = String::new();
    for (count, c) in name.chars().enumerate() {
        if count == LONGEST_NAME {
            plain.push('…');
            break;
        }
        match c.is_control() {
            true => plain.extend(c.escape_default()),
            false => plain.push(c),
        }
    }
    plain
}

/// A list of the file, cut where it is long.
pub(super) fn shown<T: fmt::Display>(values: &[T]) -> String {
    let mut text = String::from("[");
    for (index, value) in values.iter().take(LONGEST_LIST).enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        write!(text, "{separator}{value}").expect("strings take everything");
    }
    match values.len().checked_sub(LONGEST_LIST) {
        Some(more @ 1..) => write!(text, ", and {more} more]").expect("strings take everything"),
        _ => text.push(']'),
    }
    text
}

/// Why one node was not taken over.
pub(super) enum Refusal {
    /// It is fine, but has no counterpart here. Others are looked at all the same.
    Unsupported { why: String, remedy: &'static str },
    /// It contradicts the standard or itself.
    Damaged(String),
}

pub(super) fn unsupported<T>(why: impl Into<String>, remedy: &'static str) -> Result<T, Refusal> {
    Err(Refusal::Unsupported {
        why: why.into(),
        remedy,
    })
}

pub(super) fn damaged<T>(what: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Damaged(what.into()))
}

/// Elements that may still be made out of nothing: a file of a few bytes must not fill the memory.
pub(super) struct Budget(usize);

impl Budget {
    /// For a file of `bytes` bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self(bytes.saturating_mul(4).saturating_add(1 << 20))
    }

    /// Takes `elements`.
    pub(super) fn take(&mut self, elements: usize) -> Result<(), Refusal> {
        match self.0.checked_sub(elements) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => damaged(format!(
                "makes {elements} elements, out of all proportion to the size of the file"
            )),
        }
    }

    /// Takes as many elements as a tensor of these dimensions has, and gives their number.
    pub(super) fn take_dims(&mut self, dims: &[usize]) -> Result<usize, Refusal> {
        self.take(bounded(dims).unwrap_or(usize::MAX))?;
        Ok(dims.iter().product())
    }
}

/// Most dimensions of a tensor; runtimes know eight or so.
pub(super) const MAX_RANK: usize = 16;

/// The number of elements of a tensor, with dimensions of 0 counted as 1: where it is known, no
/// product of some of the dimensions overflows either. None for more dimensions than tensors have.
pub(super) fn bounded(dims: &[usize]) -> Option<usize> {
    if dims.len() > MAX_RANK {
        return None;
    }
    dims.iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))
}
