//! What `quickstart` measures, as JSON and as a table.

use serde::{Deserialize, Serialize};
use slimbit_graph::{Point, Width};

use crate::page::Provenance;
use crate::table::Table;

/// Latency of one image, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// Median over the runs.
    pub median_ms: f64,
    /// Tenth percentile.
    pub p10_ms: f64,
    /// Ninetieth percentile.
    pub p90_ms: f64,
    /// Timed runs.
    pub runs: usize,
}

impl Latency {
    /// Summary of timed runs, in seconds.
    ///
    /// # Panics
    /// Where there are none.
    pub fn of(mut seconds: Vec<f64>) -> Self {
        assert!(!seconds.is_empty(), "no timed runs");
        seconds.sort_by(f64::total_cmp);
        let at = |q: f64| 1e3 * seconds[((seconds.len() - 1) as f64 * q).round() as usize];
        Self {
            median_ms: at(0.5),
            p10_ms: at(0.1),
            p90_ms: at(0.9),
            runs: seconds.len(),
        }
    }
}

/// The float network at one width: the baselines of a column.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WidthRow {
    /// The width.
    pub width: Width,
    /// kNN top-1 of the untrained network, in percent.
    pub random_knn: f64,
    /// kNN top-1 of the trained float network, in percent.
    pub float_knn: f64,
    /// Latency of the trained float network on Burn, one thread.
    pub float_latency: Latency,
}

/// One point of the grid, measured on the integer engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PointRow {
    /// The point.
    pub point: Point,
    /// kNN top-1 on the engine's features, in percent.
    pub knn: f64,
    /// Mean cosine between the engine's features and the float network's at the same width.
    pub cosine: f64,
    /// Bytes of the weights (bit-packed) and tables that this point reads.
    pub bytes: u64,
    /// Multiply-accumulates of one image.
    pub macs: u64,
    /// Latency of the engine, batch 1, one thread.
    pub latency: Latency,
    /// Engine latency over the float network's, measured in the same run.
    pub latency_ratio: f64,
}

/// What the one file weighs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct FileSize {
    /// Bytes of the file that holds every point.
    pub bytes: u64,
    /// Sum over the points of the bytes that each would need on its own: weights bit-packed at its
    /// width and bit-width, and tables.
    pub separate_bytes: u64,
}

/// Wall-clock seconds of each part of the job.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Seconds {
    /// Training without labels.
    pub pretrain: f64,
    /// Batch-norm re-estimation and ranges, per point.
    pub calibrate: f64,
    /// Lowering and writing the file.
    pub export: f64,
    /// kNN, agreement and latency.
    pub measure: f64,
    /// Everything.
    pub total: f64,
}

/// One logged training step.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LossRow {
    /// Iteration.
    pub step: u64,
    /// Loss of the full network against its teacher.
    pub base: f64,
    /// Mean loss of the students of the step, if it had any.
    pub students: Option<f64>,
}

/// Everything `quickstart` measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// When they were measured, and how.
    #[serde(default)]
    pub provenance: Provenance,
    /// The machine.
    pub machine: String,
    /// The resolved configuration, as TOML.
    pub config: String,
    /// kNN top-1 on raw pixels, in percent.
    pub raw_pixels_knn: f64,
    /// Training and test images of the kNN.
    pub images: [usize; 2],
    /// Float baselines per width.
    pub widths: Vec<WidthRow>,
    /// The grid.
    pub points: Vec<PointRow>,
    /// File size.
    pub file: FileSize,
    /// Where the time went.
    pub seconds: Seconds,
    /// Training losses.
    pub losses: Vec<LossRow>,
}

impl Results {
    /// The float baselines of a point's width.
    pub fn width(&self, width: Width) -> Option<&WidthRow> {
        self.widths.iter().find(|row| row.width == width)
    }

    /// The table that is printed, a row per point.
    pub fn table(&self) -> Table {
        let mut table = Table::new([
            "point",
            "kNN %",
            "float %",
            "random %",
            "pixels %",
            "cosine",
            "KiB",
            "MMAC",
            "ms",
            "ms/float ms",
        ]);
        for row in &self.points {
            let baseline = self.width(row.point.width);
            let percent = |get: fn(&WidthRow) -> f64| {
                baseline.map_or_else(String::new, |b| format!("{:.2}", get(b)))
            };
            table.row([
                row.point.to_string(),
                format!("{:.2}", row.knn),
                percent(|b| b.float_knn),
                percent(|b| b.random_knn),
                format!("{:.2}", self.raw_pixels_knn),
                format!("{:.4}", row.cosine),
                format!("{:.1}", row.bytes as f64 / 1024.0),
                format!("{:.2}", row.macs as f64 / 1e6),
                format!("{:.3}", row.latency.median_ms),
                format!("{:.3}", row.latency_ratio),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_percentiles_are_order_statistics() {
        let latency = Latency::of((0..11).rev().map(f64::from).collect());
        assert_eq!(
            (latency.p10_ms, latency.median_ms, latency.p90_ms),
            (1e3, 5e3, 9e3)
        );
    }
}
