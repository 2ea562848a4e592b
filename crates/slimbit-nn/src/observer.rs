use std::collections::BTreeMap;

use slimbit_graph::Range;

/// How batch-norm statistics of successive batches are combined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Averaging {
    /// The mean over all batches: best for a given number of images.
    Cumulative,
    /// `s ← (1 − momentum)·s + momentum·batch`, beginning with the first batch (PyTorch begins with
    /// 0 and 1, which makes no difference after a few dozen batches). The papers use 0.1.
    Exponential {
        /// Weight of the newest batch.
        momentum: f64,
    },
}

/// Collects, over any number of forward passes, what calibration needs: the range of every stage's
/// output, and, in passes with batch statistics, mean and variance of every batch-norm.
#[derive(Clone, Debug)]
pub struct Observer {
    averaging: Averaging,
    passes: u64,
    ranges: BTreeMap<String, Range>,
    norms: BTreeMap<String, Moments>,
}

#[derive(Clone, Debug)]
struct Moments {
    batches: u64,
    mean: Vec<f64>,
    variance: Vec<f64>,
}

impl Observer {
    /// Nothing observed yet.
    pub fn new(averaging: Averaging) -> Self {
        Self {
            averaging,
            passes: 0,
            ranges: BTreeMap::new(),
            norms: BTreeMap::new(),
        }
    }

    /// Forward passes observed.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// Smallest and largest value of each stage's output over all passes, by stage name, for stages
    /// that have a range.
    pub fn ranges(&self) -> &BTreeMap<String, Range> {
        &self.ranges
    }

    /// Averaged batch mean and biased batch variance, by node name.
    pub fn norms(&self) -> BTreeMap<String, (Vec<f32>, Vec<f32>)> {
        let single = |v: &[f64]| v.iter().map(|&x| x as f32).collect();
        let norms = self.norms.iter();
        norms
            .map(|(name, m)| (name.clone(), (single(&m.mean), single(&m.variance))))
            .collect()
    }

    /// Forgets the ranges and keeps the batch-norm statistics.
    pub fn reset_ranges(&mut self) {
        self.ranges.clear();
    }

    pub(crate) fn pass(&mut self) {
        self.passes += 1;
    }

    pub(crate) fn range(&mut self, stage: &str, seen: Range) {
        match self.ranges.get_mut(stage) {
            Some(range) => {
                range.min = range.min.min(seen.min);
                range.max = range.max.max(seen.max);
            }
            None => {
                self.ranges.insert(stage.to_owned(), seen);
            }
        }
    }

    pub(crate) fn norm(&mut self, node: &str, mean: &[f32], variance: &[f32]) {
        let Some(moments) = self.norms.get_mut(node) else {
            let double = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect();
            let moments = Moments {
                batches: 1,
                mean: double(mean),
                variance: double(variance),
            };
            self.norms.insert(node.to_owned(), moments);
            return;
        };
        moments.batches += 1;
        let share = match self.averaging {
            Averaging::Cumulative => 1.0 / moments.batches as f64,
            Averaging::Exponential { momentum } => momentum,
        };
        for (average, batch) in [(&mut moments.mean, mean), (&mut moments.variance, variance)] {
            for (average, &batch) in average.iter_mut().zip(batch) {
                *average += share * (f64::from(batch) - *average);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(averaging: Averaging, batches: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mut observer = Observer::new(averaging);
        for &batch in batches {
            observer.norm("bn", &[batch], &[2.0 * batch]);
        }
        observer.norms()["bn"].clone()
    }

    #[test]
    fn cumulative_averaging_is_the_mean() {
        let (mean, variance) = after(Averaging::Cumulative, &[1.0, 2.0, 6.0]);
        assert_eq!((mean[0], variance[0]), (3.0, 6.0));
    }

    #[test]
    fn exponential_averaging_favours_the_newest() {
        let (mean, _) = after(Averaging::Exponential { momentum: 0.5 }, &[1.0, 2.0, 6.0]);
        assert_eq!(mean[0], 3.75);
    }

    #[test]
    fn ranges_only_grow() {
        let mut observer = Observer::new(Averaging::Cumulative);
        for (min, max) in [(0.0, 1.0), (-1.0, 0.5), (0.2, 3.0)] {
            observer.range("a", Range { min, max });
        }
        assert_eq!(
            observer.ranges()["a"],
            Range {
                min: -1.0,
                max: 3.0
            }
        );
    }
}
