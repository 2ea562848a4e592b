//! How far the walk through all points has come.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use slimbit_engine::weight_bits;
use slimbit_graph::{Point, Width};
use slimbit_num::WeightGrid;

use super::budget::{Budget, Method};
use super::layer::Layer;
use super::{Job, Layers};
use crate::{Progress, Task};

/// One unit of progress, in multiplications and additions.
const UNIT: u64 = 1_000_000;

/// Work done of all there is, by estimate, so that a layer which takes most of the time also makes up
/// most of the progress.
pub(super) struct Work<'a> {
    progress: &'a (dyn Fn(Progress) + Sync),
    total: u64,
    done: AtomicU64,
}

/// The work of settling what so many bit-widths of a layer share.
pub(super) fn sharing(layer: &Layer, bits: usize) -> f64 {
    let weights = layer.weights();
    let tried = match bits {
        1 => 1,
        _ => 200 * bits,
    };
    (weights.channels() * weights.per_channel() * tried) as f64
}

impl<'a> Work<'a> {
    /// Of points in the order of their turns, before any has begun.
    pub(super) fn new(
        job: &Job,
        layers: &Layers,
        turns: &[Point],
        progress: &'a (dyn Fn(Progress) + Sync),
    ) -> Self {
        let nested = job.settings.grid != WeightGrid::MinMax;
        let mut decided: BTreeMap<usize, BTreeSet<u8>> = BTreeMap::new();
        let mut total = 0;
        for (&index, layer) in layers {
            let stage = &job.net.stages()[index];
            let bits: BTreeSet<u8> = turns.iter().map(|&p| weight_bits(stage, p)).collect();
            total += sharing(layer, bits.len()) as u64;
        }
        for &point in turns {
            for (index, stage) in job.net.stages().iter().enumerate() {
                let layer = layers.get(&index);
                total += job.budget.walking_work(index, layer) as u64;
                let Some(layer) = layer else { continue };
                let bits = weight_bits(stage, point);
                let before = decided.entry(index).or_default();
                let bound = nested && !before.is_empty();
                if before.insert(bits) {
                    let method = match job.would_reconstruct(bound, bits) {
                        true if point.width == Width::FULL => {
                            job.budget.settle(index, layer).method
                        }
                        _ => Method::Nearest,
                    };
                    total += Budget::rounding_work(method, layer) as u64;
                }
            }
        }
        Self {
            progress,
            total,
            done: AtomicU64::new(0),
        }
    }

    /// Adds work that has been done at a point and stage.
    pub(super) fn advance(&self, point: Point, stage: &str, work: f64) {
        let work = work as u64;
        let done = self.done.fetch_add(work, Ordering::Relaxed) + work;
        self.tell(point, stage, done);
    }

    /// Says that all is done: points that could be decided without running the network are less work
    /// than was estimated.
    pub(super) fn finish(&self, point: Point) {
        self.tell(point, "", self.total);
    }

    fn tell(&self, point: Point, stage: &str, done: u64) {
        let units = |work: u64| work.div_ceil(UNIT) as usize;
        (self.progress)(Progress {
            task: Task::Reconstruct,
            point,
            stage,
            done: units(done.min(self.total)),
            total: units(self.total),
        });
    }
}
