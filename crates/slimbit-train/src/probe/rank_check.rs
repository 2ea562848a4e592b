//! How far a rank correlation between predictions and measured accuracies can be trusted.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::rank_correlation;

/// Draws of test images. The ends of a 95 % interval are then the means of neighbours far from the last.
const DRAWS: usize = 2000;

/// Standard errors that two accuracies must lie apart to be told apart, at 95 %.
const APART: f64 = 1.96;

/// A rank correlation, and what the labelled images behind it can measure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RankCheck {
    /// Spearman's correlation of predictions and accuracies.
    pub correlation: f64,
    /// The middle 95 % of it over test images drawn again, with replacement, from those there are. Other networks, other
    /// training seeds and other points are not in it.
    pub interval: [f64; 2],
    /// Predictions.
    pub points: usize,
    /// Labelled images that each accuracy is measured on.
    pub images: usize,
    /// The least and the greatest accuracy, 0 to 1.
    pub accuracy: [f64; 2],
    /// Pairs of points.
    pub pairs: usize,
    /// Pairs whose accuracies differ by more than chance would have it, at 95 %, on the same images.
    pub told_apart: usize,
}

impl RankCheck {
    /// Of a prediction per point, the larger the better, and of whether each test image was classified correctly at that
    /// point; all points on the same images. Nothing for fewer than two points or images, or where all predictions or
    /// all accuracies are equal.
    pub fn new(predicted: &[f64], right: &[Vec<bool>]) -> Option<Self> {
        let images = right.first()?.len();
        if predicted.len() != right.len() || right.iter().any(|r| r.len() != images) || images < 2 {
            return None;
        }
        let counts = |drawn: &mut dyn Iterator<Item = usize>| {
            let mut counts = vec![0.0; right.len()];
            for image in drawn {
                for (count, right) in counts.iter_mut().zip(right) {
                    *count += f64::from(u8::from(right[image]));
                }
            }
            counts
        };
        let correlate = |counts: &[f64]| {
            let pairs: Vec<(f64, f64)> = predicted
                .iter()
                .copied()
                .zip(counts.iter().copied())
                .collect();
            rank_correlation(&pairs)
        };
        let all = counts(&mut (0..images));
        let correlation = correlate(&all)?;
        // Always the same draws, so that a check can be repeated.
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut drawn: Vec<f64> = (0..DRAWS)
            .filter_map(|_| {
                let mut images = (0..images).map(|_| rng.random_range(0..images));
                correlate(&counts(&mut images))
            })
            .collect();
        drawn.sort_by(f64::total_cmp);
        let quantile = |share: f64| drawn[((drawn.len() - 1) as f64 * share).round() as usize];
        let interval = match drawn.is_empty() {
            true => [-1.0, 1.0],
            false => [quantile(0.025), quantile(0.975)],
        };
        let share = |count: f64| count / images as f64;
        let (mut pairs, mut told_apart) = (0, 0);
        for (index, a) in right.iter().enumerate() {
            for b in &right[..index] {
                pairs += 1;
                told_apart += usize::from(apart(a, b));
            }
        }
        Some(Self {
            correlation,
            interval,
            points: right.len(),
            images,
            accuracy: [
                share(all.iter().copied().fold(f64::INFINITY, f64::min)),
                share(all.iter().copied().fold(0.0, f64::max)),
            ],
            pairs,
            told_apart,
        })
    }

    /// Whether fewer than half of the pairs can be told apart: the order of the points is then mostly chance.
    pub fn is_mostly_chance(&self) -> bool {
        2 * self.told_apart < self.pairs
    }
}

/// Whether two accuracies on the same images differ by more than chance: the differences image by image, and their
/// standard error.
fn apart(a: &[bool], b: &[bool]) -> bool {
    let count = a.len() as f64;
    let only = |x: &[bool], y: &[bool]| x.iter().zip(y).filter(|(x, y)| **x && !**y).count() as f64;
    let (more, fewer) = (only(a, b), only(b, a));
    let mean = (more - fewer) / count;
    let variance = (more + fewer) / count - mean * mean;
    mean.abs() > APART * (variance / count).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `share` of the images of a point, spread by a seed.
    fn right(share: f64, images: usize, seed: u64) -> Vec<bool> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..images)
            .map(|_| rng.random_range(0.0..1.0) < share)
            .collect()
    }

    #[test]
    fn points_that_differ_are_told_apart() {
        let predicted: Vec<f64> = (0..8).map(f64::from).collect();
        let points: Vec<Vec<bool>> = (0..8)
            .map(|i| right(0.2 + 0.08 * i as f64, 2000, i))
            .collect();
        let check = RankCheck::new(&predicted, &points).unwrap();
        assert_eq!((check.points, check.images, check.pairs), (8, 2000, 28));
        assert!(check.correlation > 0.95, "{check:?}");
        assert!(
            check.interval[0] > 0.9 && check.interval[1] <= 1.0,
            "{check:?}"
        );
        assert!(
            check.told_apart >= 26 && !check.is_mostly_chance(),
            "{check:?}"
        );
    }

    /// Accuracies that differ by less than the images can measure leave the correlation open, whatever it comes to.
    #[test]
    fn points_that_are_alike_leave_the_correlation_open() {
        let predicted: Vec<f64> = (0..8).map(f64::from).collect();
        let points: Vec<Vec<bool>> = (0..8).map(|i| right(0.75, 400, 20 + i)).collect();
        let check = RankCheck::new(&predicted, &points).unwrap();
        assert!(check.interval[1] - check.interval[0] > 0.6, "{check:?}");
        assert!(check.interval[0] <= check.correlation && check.correlation <= check.interval[1]);
        assert!(
            check.told_apart < 6 && check.is_mostly_chance(),
            "{check:?}"
        );
        assert_eq!(RankCheck::new(&predicted, &points), Some(check));
    }

    #[test]
    fn too_little_to_correlate_is_nothing() {
        let one = vec![true, false, true];
        assert_eq!(RankCheck::new(&[1.0], std::slice::from_ref(&one)), None);
        assert_eq!(
            RankCheck::new(&[1.0, 2.0], &[one.clone(), one.clone()]),
            None
        );
        assert_eq!(RankCheck::new(&[1.0, 2.0], &[one, vec![true]]), None);
    }
}
