//! Arguments that several commands share.

use std::path::PathBuf;

use clap::Args;

use crate::machine;

/// How much memory a network may take.
#[derive(Args, Debug, Clone, Copy, Default)]
pub struct MemoryArgs {
    /// Refuse a network that takes more than this for activations and weights, in MiB; by default
    /// three quarters of the machine's memory.
    #[arg(long, value_name = "MIB", value_parser = super::numbers::at_least_one)]
    pub memory: Option<usize>,
}

impl MemoryArgs {
    /// The limit in bytes; nothing where none was given and the machine does not say what it has.
    pub fn limit(self) -> Option<usize> {
        match self.memory {
            Some(mebibytes) => Some(mebibytes.saturating_mul(1 << 20)),
            None => machine::memory().map(|bytes| bytes / 4 * 3),
        }
    }
}

/// What `--csv` and its like write to: a file, or `-` for standard output.
pub(crate) const STANDARD_OUTPUT: &str = "-";

/// A table for another program.
#[derive(Args, Debug, Clone, Default)]
pub struct CsvArgs {
    /// Write the table as CSV to this file too; with `-`, print it instead of everything else.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
}

/// What a file says about itself, for `inspect --card`.
#[derive(Args, Debug, Clone, Default)]
pub struct CardArgs {
    /// Who made the network; kept in the file.
    #[arg(long, value_name = "TEXT")]
    pub author: Option<String>,
    /// Its licence, best as an SPDX identifier such as `MIT`; kept in the file.
    #[arg(long, value_name = "TEXT", visible_alias = "licence")]
    pub license: Option<String>,
    /// What it is for, in a sentence or two; kept in the file.
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

impl CardArgs {
    /// Keys and values of the file's free text.
    pub fn metadata(&self) -> impl Iterator<Item = (String, String)> {
        let Self {
            author,
            license,
            description,
        } = self.clone();
        [
            ("author", author),
            ("license", license),
            ("description", description),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
    }
}
