//! The machine that trains: its memory, and how fast it is.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What this process may have at most: of the machine, of its container, of its own limits.
    pub(crate) total: u64,
    /// What is free now.
    pub(crate) available: u64,
}

impl Memory {
    /// The memory of this machine, as far as the system tells; else as much as can be.
    pub(crate) fn detect() -> Self {
        let only_memory =
            RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(only_memory);
        let known = |bytes: u64| if bytes == 0 { u64::MAX } else { bytes };
        let mut memory = Self {
            total: known(system.total_memory()),
            available: known(system.available_memory()),
        };
        if let Some(limits) = system.cgroup_limits() {
            memory.total = memory.total.min(known(limits.total_memory));
            // Not `free_memory`, which takes cached files for used.
            let free = limits.total_memory.saturating_sub(limits.rss);
            memory.available = memory.available.min(known(free));
        }
        if let Some(limit) = address_space() {
            memory.total = memory.total.min(limit);
            memory.available = memory.available.min(limit);
        }
        memory
    }
}

/// The limit that `ulimit -v` sets, where the system tells it in this way.
fn address_space() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A number of bytes for people: `1.5 GB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} bytes"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_and_written_for_people() {
        let memory = Memory::detect();
        assert!(
            memory.total >= 1 << 20 && memory.available > 0,
            "{memory:?}"
        );
        assert_eq!(human_bytes(999), "999 bytes");
        assert_eq!(human_bytes(1_550_000_000), "1.6 GB");
        assert_eq!(human_bytes(u64::MAX), "18.4 EB");
    }
}
