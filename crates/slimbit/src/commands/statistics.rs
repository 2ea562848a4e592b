//! What calibration measured, kept in the run directory so that `verify --run` can repeat it.
//!
//! One file holds the statistics of every export, the latest first. Which of them a `.slim` file was
//! made of is decided by its coefficients, so that a file may be moved, copied or renamed, and an
//! export of other points or from other images takes nothing away.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use slimbit_engine::{Model, replace_file};
use slimbit_graph::{Params, Point, PointStatistics};
use slimbit_quant::is_lowered_from;

pub(super) const FILE: &str = "statistics.json";

/// Adds the statistics of an export to those of the run; the file is replaced whole.
pub(super) fn keep(run: &Path, statistics: &[PointStatistics]) -> Result<()> {
    let path = run.join(FILE);
    let mut all = statistics.to_vec();
    let older = match path.exists() {
        true => read(run).unwrap_or_else(|error| {
            log::warn!("{error:#}; its statistics are replaced");
            Vec::new()
        }),
        false => Vec::new(),
    };
    all.extend(older.into_iter().filter(|old| !statistics.contains(old)));
    replace_file(&path, &serde_json::to_vec(&all)?)
        .with_context(|| format!("writing {}", path.display()))
}

fn read(run: &Path) -> Result<Vec<PointStatistics>> {
    let path = run.join(FILE);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("reading {}; `slimbit export` writes it", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is damaged; export the run again", path.display()))
}

/// The statistics that a file's points were lowered from, in the order of `points`. `params` are those of the run.
pub(super) fn of_file(
    run: &Path,
    file: &Path,
    model: &Model,
    params: &Params,
    points: &[Point],
) -> Result<Vec<PointStatistics>> {
    let all = read(run)?;
    points
        .iter()
        .map(|&point| {
            let kept: Vec<&PointStatistics> = all.iter().filter(|s| s.point == point).collect();
            for statistics in &kept {
                if is_lowered_from(model, params, statistics)? {
                    return Ok((*statistics).clone());
                }
            }
            let (run, file) = (run.display(), file.display());
            match kept.len() {
                0 => bail!(
                    "{run} keeps no statistics of {point}, so {file} cannot be compared with its \
                     training; export that point again with `slimbit export {run} -o NEW.slim` and \
                     verify the new file, or leave --run away"
                ),
                count => bail!(
                    "{run} keeps {count} set{} of statistics of {point}, but {file} was made of none \
                     of them: the run has been trained further since, or the file comes from another \
                     run, from `quantize`, or from an export whose statistics were overwritten; export \
                     the run again with `slimbit export {run} -o NEW.slim` and verify the new file, or \
                     leave --run away",
                    if count == 1 { "" } else { "s" }
                ),
            }
        })
        .collect()
}
