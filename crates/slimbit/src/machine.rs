//! What a figure was measured on.

use anyhow::{Result, bail};
use serde::Serialize;
use slimbit_kernels::Isa;

use crate::console::count;

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// More threads than this are a slip of the keyboard: four of every core, and 64 on small machines.
pub fn most_threads() -> usize {
    (4 * cores()).max(64)
}

/// Reads a number of threads.
///
/// # Errors
/// Text that is not a number from 1 to [`most_threads`].
pub fn parse_threads(text: &str) -> Result<usize, String> {
    let most = most_threads();
    match text.parse() {
        Ok(threads) if (1..=most).contains(&threads) => Ok(threads),
        _ => Err(format!(
            "expected a number of threads of at least 1 and at most {most}; this machine has {}",
            count(cores(), "core")
        )),
    }
}

/// Refuses a `RAYON_NUM_THREADS` that would be ignored, or be more than the machine can start.
///
/// # Errors
/// As [`parse_threads`]; 0 means one thread per core there.
pub fn check_pool() -> Result<()> {
    let Some(value) = std::env::var_os("RAYON_NUM_THREADS") else {
        return Ok(());
    };
    let text = value.to_string_lossy();
    if text.is_empty() || text == "0" {
        return Ok(());
    }
    match parse_threads(&text) {
        Ok(_) => Ok(()),
        Err(what) => bail!("the environment sets RAYON_NUM_THREADS to `{text}`: {what}"),
    }
}

/// The machine a figure was measured on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processor name, as the operating system gives it.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// CPU level that the engine runs: the best one, or that of `SLIMBIT_ISA`.
    pub isa: String,
    /// Operating system and architecture.
    pub system: String,
}

impl Machine {
    /// This machine.
    pub fn detect() -> Self {
        let cpu = std::fs::read_to_string("/proc/cpuinfo")
            .ok()
            .and_then(|text| {
                let line = text.lines().find(|line| line.starts_with("model name"))?;
                Some(line.split_once(':')?.1.trim().to_owned())
            })
            .unwrap_or_else(|| "unknown processor".to_owned());
        Self {
            cpu,
            cores: cores(),
            isa: Isa::from_env()
                .unwrap_or_else(|_| Isa::detect())
                .to_string(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

/// Bytes of memory that this process may use: the machine's, or its container's where that is less.
/// Nothing where the system does not say.
pub fn memory() -> Option<usize> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        let kibibytes: usize = line.split_whitespace().nth(1)?.parse().ok()?;
        kibibytes.checked_mul(1024)
    });
    let limits = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    // `max`, or a number beyond every machine, where the container has no limit.
    let container = limits
        .into_iter()
        .filter_map(|path| read(path)?.trim().parse().ok());
    machine.into_iter().chain(container).min()
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}, {}, {}, {}",
            self.cpu,
            count(self.cores, "core"),
            self.isa,
            self.system
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_a_number_that_the_machine_can_start() {
        assert_eq!(parse_threads("1"), Ok(1));
        assert_eq!(
            parse_threads(&most_threads().to_string()),
            Ok(most_threads())
        );
        for text in ["0", "-1", "many", "1e3", "100000", "99999999999999999999"] {
            let error = parse_threads(text).unwrap_err();
            assert!(error.contains("this machine has"), "{error}");
        }
    }
}
