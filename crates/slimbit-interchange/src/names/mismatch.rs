use std::fmt;

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
    /// Tensors of the architecture that the checkpoint lacks, by its names.
    pub missing: Vec<String>,
    /// Tensors of the checkpoint that the architecture has no place for.
    pub unexpected: Vec<String>,
    /// Tensors whose shapes differ.
    pub misshapen: Vec<Misshapen>,
}

impl Mismatch {
    pub(super) fn new(architecture: &str, scheme: &'static str) -> Self {
        Self {
            architecture: architecture.to_owned(),
            scheme,
            missing: Vec::new(),
            unexpected: Vec::new(),
            misshapen: Vec::new(),
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshapen.is_empty()
    }

    /// Number of tensors at fault.
    pub fn len(&self) -> usize {
        self.missing.len() + self.unexpected.len() + self.misshapen.len()
    }

    fn remedy(&self) -> &'static str {
        if self.missing.is_empty() && self.unexpected.is_empty() {
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

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the checkpoint is not a `{}` by the names of {}: {} missing, {} unexpected, {} misshapen; {}",
            self.architecture,
            self.scheme,
            self.missing.len(),
            self.unexpected.len(),
            self.misshapen.len(),
            self.remedy()
        )?;
        for name in &self.missing {
            write!(f, "\n  missing     {name}")?;
        }
        for name in &self.unexpected {
            write!(f, "\n  unexpected  {name}")?;
        }
        for Misshapen {
            name,
            found,
            wanted,
        } in &self.misshapen
        {
            write!(f, "\n  misshapen   {name}: {found:?}, wanted {wanted:?}")?;
        }
        Ok(())
    }
}
