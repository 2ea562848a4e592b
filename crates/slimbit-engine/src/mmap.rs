//! The bytes of a file: mapped, or owned.
#![allow(unsafe_code)] // Mapping a file is the one thing here that the compiler cannot check.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// The bytes of a whole `.slim` file.
#[derive(Debug)]
pub(crate) enum FileBytes {
    /// Paged in from the file on demand, and shared by all processes that open it.
    Mapped(Mmap),
    /// Held in memory.
    Owned(Vec<u8>),
}

impl FileBytes {
    /// Maps a file for reading.
    pub(crate) fn map(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is private and never written through, and the bytes are only ever
        // read as plain integers, for which every bit pattern is valid. What remains is the rule
        // that nobody changes the file while it is mapped: `Model::write` keeps it by renaming a
        // new file over the old one, and the documentation of `Model::open` asks it of others.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self::Mapped(map))
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}
