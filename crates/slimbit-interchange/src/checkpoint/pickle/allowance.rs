use crate::ImportError;

/// Memory that the pickles of one file may take, in bytes: eight times the file's size, and 64 MiB.
///
/// An instruction of one byte can make an object of many, so that a small file could ask for any amount. The
/// dictionary of a large checkpoint takes a few megabytes.
#[derive(Debug)]
pub(in crate::checkpoint) struct Allowance {
    left: usize,
    whole: usize,
}

/// How many times the file's size.
const TIMES: usize = 8;

/// What the smallest file may take.
const LEAST: usize = 64 << 20;

impl Allowance {
    /// That of a file of this many bytes.
    pub(in crate::checkpoint) fn of(bytes: usize) -> Self {
        let whole = bytes.saturating_mul(TIMES).saturating_add(LEAST);
        Self { left: whole, whole }
    }

    /// Notes that `bytes` are about to be allocated.
    ///
    /// # Errors
    /// [`ImportError::Invalid`] where they are more than is left.
    pub(in crate::checkpoint) fn take(&mut self, bytes: usize) -> Result<(), ImportError> {
        self.check(bytes)?;
        self.left -= bytes;
        Ok(())
    }

    /// Whether `bytes` may be allocated.
    ///
    /// # Errors
    /// As [`Allowance::take`].
    pub(in crate::checkpoint) fn check(&self, bytes: usize) -> Result<(), ImportError> {
        if bytes > self.left {
            let what = format!(
                "its instructions ask for more than {} MiB of memory, which no dictionary of tensors needs; save the \
                 weights alone, with `torch.save(model.state_dict(), path)`",
                self.whole >> 20
            );
            return Err(ImportError::invalid("pickle", what));
        }
        Ok(())
    }
}
