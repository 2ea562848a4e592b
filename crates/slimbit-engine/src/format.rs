//! The `.slim` file: a safetensors file whose every tensor `docs/format.md` describes.
//!
//! [`columns`] holds one point's tables in the form in which the file has them; [`encode`] and
//! [`read`] go from a model to bytes and back.

mod columns;
mod digest;
mod encode;
mod nibbles;
mod read;
mod unique;

use std::path::Path;

pub(crate) use encode::{digest, encode};
pub(crate) use read::read;

use crate::{EngineError, Model, replace_file};

/// The version of the format that this crate writes and reads.
pub(crate) const VERSION: &str = "1";

/// What the `format` key says.
const FORMAT: &str = "slimbit";

/// The key of the digest, which files from before it lack.
const DIGEST: &str = "digest";

/// Keys of `__metadata__` that belong to the format; all others are the writer's free text.
const RESERVED: [&str; 8] = [
    "checksum",
    DIGEST,
    "format",
    "format_version",
    "graph",
    "grid",
    "points",
    "stages",
];

/// Whether a metadata key is one of the format's own.
pub(crate) fn is_reserved(key: &str) -> bool {
    RESERVED.contains(&key)
}

/// How the checksum's field begins in the header.
const CHECKSUM_KEY: &[u8] = b"\"checksum\":\"";

/// Hexadecimal digits of the checksum.
const CHECKSUM_DIGITS: usize = 8;

/// Where the checksum's digits lie in a file whose header is `bytes[8..8 + header]`.
fn checksum_digits(bytes: &[u8], header: usize) -> Option<std::ops::Range<usize>> {
    let text = bytes.get(8..8usize.checked_add(header)?)?;
    let key = text
        .windows(CHECKSUM_KEY.len())
        .position(|window| window == CHECKSUM_KEY)?;
    let start = 8 + key + CHECKSUM_KEY.len();
    let digits = start..start + CHECKSUM_DIGITS;
    (digits.end <= 8 + header).then_some(digits)
}

/// CRC-32 of the whole file with the checksum's own digits taken as zeros.
fn checksum(bytes: &[u8], digits: &std::ops::Range<usize>) -> String {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..digits.start]);
    hasher.update(&[b'0'; CHECKSUM_DIGITS]);
    hasher.update(&bytes[digits.end..]);
    format!("{:08x}", hasher.finalize())
}

/// Writes the whole file or nothing.
pub(crate) fn write(model: &Model, path: &Path) -> Result<(), EngineError> {
    replace_file(path, &encode(model)).map_err(|source| EngineError::Io {
        path: path.to_owned(),
        source,
    })
}
