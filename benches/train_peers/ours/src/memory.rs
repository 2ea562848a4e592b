//! Resident memory as Linux counts it.

use std::fs;

use crate::protocol::Result;

/// Bytes resident now; from here on [`peak`] counts anew.
pub(crate) fn settle() -> Result<u64> {
    fs::write("/proc/self/clear_refs", "5")?;
    field("VmRSS:")
}

/// The most bytes that were resident since [`settle`].
pub(crate) fn peak() -> Result<u64> {
    field("VmHWM:")
}

fn field(name: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|line| line.split_whitespace().next());
    Ok(1024 * kibibytes.ok_or("no such memory figure")?.parse::<u64>()?)
}
