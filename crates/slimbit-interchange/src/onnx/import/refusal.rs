use std::fmt;

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
        write!(f, "{op} `{node}`: {why}; {remedy}")
    }
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

/// The number of elements of a tensor, with dimensions of 0 counted as 1: where it is known, no
/// product of some of the dimensions overflows either.
pub(super) fn bounded(dims: &[usize]) -> Option<usize> {
    dims.iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))
}
