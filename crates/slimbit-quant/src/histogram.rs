//! How often each value of a tensor occurs, in one pass over any number of batches.

/// Bins on each side of zero.
const BINS: usize = 4096;

/// Counts of values in bins of equal width, anchored at zero.
///
/// The width is a power of two and doubles whenever a value falls outside: every count then moves to
/// a bin that contains its own, so that the result depends on the values alone, not on their order
/// or on how they were cut into batches. Between 2,048 and 4,096 bins lie between zero and the value
/// of the largest magnitude.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Exponent of the bins' width; nothing before a value other than zero.
    exponent: Option<i32>,
    /// `below[i]` counts values in `(−(i+1)·w, −i·w]` short of zero, `above[i]` those in
    /// `[i·w, (i+1)·w)`.
    below: Vec<u64>,
    above: Vec<u64>,
    zeros: u64,
    not_finite: u64,
    min: f32,
    max: f32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            exponent: None,
            below: vec![0; BINS],
            above: vec![0; BINS],
            zeros: 0,
            not_finite: 0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
        }
    }
}

impl Histogram {
    /// Counts values; those that are not finite are [counted apart](Self::not_finite).
    pub fn extend(&mut self, values: &[f32]) {
        let (mut min, mut max) = (self.min, self.max);
        let mut finite = 0;
        for &x in values.iter().filter(|x| x.is_finite()) {
            finite += 1;
            min = min.min(x);
            max = max.max(x);
        }
        self.not_finite += values.len() as u64 - finite;
        (self.min, self.max) = (min, max);
        if min > max {
            return;
        }
        self.cover(min.abs().max(max.abs()));
        let scale = self.exponent.map_or(0.0, |e| exp2(-e));
        for &x in values.iter().filter(|x| x.is_finite()) {
            let bin = ((f64::from(x.abs()) * scale) as usize).min(BINS - 1);
            if x > 0.0 {
                self.above[bin] += 1;
            } else if x < 0.0 {
                self.below[bin] += 1;
            } else {
                self.zeros += 1;
            }
        }
    }

    /// Widens the bins until `magnitude` falls into one.
    fn cover(&mut self, magnitude: f32) {
        if magnitude == 0.0 {
            return;
        }
        let mut wanted = f64::from(magnitude).log2().floor() as i32 + 1 - BINS.ilog2() as i32;
        // The logarithm of a number just below a power of two may round up to it, which only costs
        // a bit of resolution, or not down: the last bin then has to be checked.
        if f64::from(magnitude) * exp2(-wanted) >= BINS as f64 {
            wanted += 1;
        }
        let Some(exponent) = self.exponent else {
            self.exponent = Some(wanted);
            return;
        };
        if wanted <= exponent {
            return;
        }
        let shift = (wanted - exponent) as u32;
        for side in [&mut self.below, &mut self.above] {
            let mut wide = vec![0; BINS];
            for (bin, count) in side.iter().enumerate() {
                wide[bin.checked_shr(shift).unwrap_or(0)] += count;
            }
            *side = wide;
        }
        self.exponent = Some(wanted);
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        let sides = self.below.iter().chain(&self.above);
        sides.sum::<u64>() + self.zeros
    }

    /// Values that were infinite or not a number.
    pub fn not_finite(&self) -> u64 {
        self.not_finite
    }

    /// The smallest value, and zero where nothing was counted.
    pub fn min(&self) -> f32 {
        if self.min.is_finite() { self.min } else { 0.0 }
    }

    /// The largest value, and zero where nothing was counted.
    pub fn max(&self) -> f32 {
        if self.max.is_finite() { self.max } else { 0.0 }
    }

    /// The values' bins other than zero's in ascending order: the middle of each, and its count.
    pub fn bins(&self) -> Vec<(f64, u64)> {
        let Some(exponent) = self.exponent else {
            return Vec::new();
        };
        let width = exp2(exponent);
        let middle = |bin: usize| (bin as f64 + 0.5) * width;
        let below = self.below.iter().enumerate().rev();
        let below = below.map(|(bin, &count)| (-middle(bin), count));
        let above = self.above.iter().enumerate();
        let above = above.map(|(bin, &count)| (middle(bin), count));
        below.chain(above).filter(|(_, count)| *count > 0).collect()
    }

    /// The value that `share` of all values do not exceed, to a bin's width; the largest value itself
    /// for a share of 1.
    pub fn quantile(&self, share: f64) -> f32 {
        let wanted = share * self.count() as f64;
        let half = exp2(self.exponent.unwrap_or(0) - 1);
        let mut seen = 0.0;
        let mut zeros = Some(self.zeros as f64);
        for (middle, count) in self.bins() {
            if middle > 0.0
                && let Some(zeros) = zeros.take()
            {
                seen += zeros;
                if seen >= wanted {
                    return 0.0;
                }
            }
            seen += count as f64;
            if seen >= wanted {
                return ((middle + half) as f32).clamp(self.min(), self.max());
            }
        }
        self.max()
    }
}

fn exp2(exponent: i32) -> f64 {
    f64::from(exponent).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Vec<f32> {
        (0..10_000)
            .map(|i| ((i * 7919) % 10_007) as f32 / 1000.0 - 2.0)
            .collect()
    }

    #[test]
    fn batches_and_their_order_do_not_matter() {
        let values = values();
        let mut whole = Histogram::default();
        whole.extend(&values);
        for size in [1, 17, 4096] {
            let mut parts = Histogram::default();
            values.rchunks(size).for_each(|part| parts.extend(part));
            assert_eq!(parts, whole, "batches of {size}");
        }
        assert_eq!(whole.count(), 10_000);
        let exact = |f: fn(f32, f32) -> f32| values.iter().copied().reduce(f).unwrap();
        assert_eq!(
            (whole.min(), whole.max()),
            (exact(f32::min), exact(f32::max))
        );
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values_to_a_bin() {
        let mut values = values();
        values.extend([0.0; 500]);
        let mut histogram = Histogram::default();
        histogram.extend(&values);
        values.sort_by(f32::total_cmp);
        for share in [0.001, 0.1, 0.2, 0.5, 0.9999] {
            let exact = values[(share * values.len() as f64).ceil() as usize - 1];
            let found = histogram.quantile(share);
            assert!(
                (found - exact).abs() <= 2.0 / 256.0,
                "{share}: {found} for {exact}"
            );
        }
        assert_eq!(histogram.quantile(1.0), histogram.max());
    }

    #[test]
    fn one_outlier_widens_the_bins_and_loses_no_count() {
        let mut histogram = Histogram::default();
        histogram.extend(&[1e-3, -1e-3, 0.0]);
        histogram.extend(&[1e6, f32::NAN, f32::INFINITY]);
        assert_eq!(histogram.count(), 4);
        assert_eq!((histogram.min(), histogram.max()), (-1e-3, 1e6));
        assert_eq!(Histogram::default().quantile(0.5), 0.0);
        for power in [0.5f32, 1.0, 2.0, 1024.0, 16_777_216.0] {
            let mut edge = Histogram::default();
            edge.extend(&[power, f32::from_bits(power.to_bits() - 1)]);
            let top = edge.bins().last().copied().unwrap();
            assert!((top.0 / f64::from(power) - 1.0).abs() < 1e-3, "{top:?}");
        }
    }
}
