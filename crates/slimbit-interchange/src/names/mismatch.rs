use std::fmt;

use super::ONNX_ROUTE;
use crate::error::{NAME, plain};

/// A tensor of another shape than the architecture has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshapen {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape in the checkpoint.
    pub found: Vec<usize>,
    /// The architecture's.
    pub wanted: Vec<usize>,
}

/// Everything in which a checkpoint and an architecture differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The architecture asked for.
    pub architecture: String,
    /// Whose names were expected.
    pub scheme: &'static str,
    /// What all names begin with.
    pub prefix: String,
    /// Tensors of the architecture that the checkpoint lacks, by its names.
    pub missing: Vec<String>,
    /// Tensors of the checkpoint that the architecture has no place for.
    pub unexpected: Vec<String>,
    /// Tensors whose shapes differ.
    pub misshapen: Vec<Misshapen>,
    /// Tensors of the architecture that are there and are not plain floats, and what they are.
    pub strange: Vec<(String, String)>,
}

/// Tensors of each kind that a message lists.
const LISTED: usize = 12;

impl Mismatch {
    pub(super) fn new(architecture: &str, scheme: &'static str, prefix: &str) -> Self {
        Self {
            architecture: architecture.to_owned(),
            scheme,
            prefix: prefix.to_owned(),
            missing: Vec::new(),
            unexpected: Vec::new(),
            misshapen: Vec::new(),
            strange: Vec::new(),
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tensors at fault.
    pub fn len(&self) -> usize {
        let named = self.missing.len() + self.unexpected.len();
        named + self.misshapen.len() + self.strange.len()
    }

    fn remedy(&self) -> &'static str {
        if self.missing.is_empty() && self.unexpected.is_empty() && self.misshapen.is_empty() {
            "store those tensors as plain floats: `.to_dense()` of sparse ones, `.dequantize()` of quantised ones, and \
             integers times their scale"
        } else if self.missing.is_empty() && self.unexpected.is_empty() {
            "the names fit and the shapes do not: it may be a wider, narrower or deeper relative; \
             pass its name with --arch"
        } else if self.missing.is_empty() {
            "the checkpoint holds more than the network: save the model's own state_dict, or pass \
             the name of the larger network with --arch"
        } else if self.unexpected.is_empty() {
            "the checkpoint is not whole: save the model's whole state_dict, or pass the name of a \
             smaller network with --arch"
        } else {
            "pass the name of the network that was trained with --arch, or rename the tensors to \
             those of torchvision or timm"
        }
    }
}

/// At most [`LISTED`] lines, and how many more there would be.
fn list(
    f: &mut fmt::Formatter<'_>,
    kind: &str,
    lines: impl ExactSizeIterator<Item = String>,
) -> fmt::Result {
    let more = lines.len().saturating_sub(LISTED);
    for line in lines.take(LISTED) {
        write!(f, "\n  {kind:<10}  {}", plain(&line, NAME))?;
    }
    match more {
        0 => Ok(()),
        _ => write!(f, "\n  {kind:<10}  and {more} more"),
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the checkpoint is not a `{}` by the names of {}",
            self.architecture, self.scheme
        )?;
        if !self.prefix.is_empty() {
            write!(f, ", below `{}`", plain(&self.prefix, NAME))?;
        }
        write!(
            f,
            ": {} missing, {} unexpected, {} misshapen",
            self.missing.len(),
            self.unexpected.len(),
            self.misshapen.len(),
        )?;
        if !self.strange.is_empty() {
            write!(f, ", {} of another type", self.strange.len())?;
        }
        write!(f, "; {}", self.remedy())?;
        list(f, "missing", self.missing.iter().cloned())?;
        list(f, "unexpected", self.unexpected.iter().cloned())?;
        let misshapen = self.misshapen.iter().map(|tensor| {
            let Misshapen {
                name,
                found,
                wanted,
            } = tensor;
            format!("{name}: {found:?}, wanted {wanted:?}")
        });
        list(f, "misshapen", misshapen)?;
        let strange = self
            .strange
            .iter()
            .map(|(name, what)| format!("{name}: {what}"));
        list(f, "not floats", strange)?;
        write!(f, "\nany other network comes in through ONNX: {ONNX_ROUTE}")
    }
}
