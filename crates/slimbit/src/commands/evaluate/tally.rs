//! Counts of right and wrong answers.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Answers within which the right one counts for the top-5 accuracy.
const TOP: usize = 5;

/// What a classifier said of images whose classes are known.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    classes: usize,
    /// Images by their class and the class that they were taken for; none where there are none.
    pairs: BTreeMap<(u32, u32), u64>,
    within_top: u64,
}

/// One class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClassCounts {
    /// Images of the class.
    pub(super) images: u64,
    /// Images taken for it.
    pub(super) predicted: u64,
    /// Images of the class taken for it.
    pub(super) correct: u64,
}

impl ClassCounts {
    /// Share of the class's images that are taken for it; nothing where it has none.
    pub(super) fn recall(self) -> Option<f64> {
        share(self.correct, self.images)
    }

    /// Share of the images taken for the class that are of it; nothing where none is.
    pub(super) fn precision(self) -> Option<f64> {
        share(self.correct, self.predicted)
    }
}

/// Images of one class that were taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Confusion {
    pub(super) class: u32,
    pub(super) taken_for: u32,
    pub(super) images: u64,
}

impl Tally {
    /// Nothing counted yet, of a network with so many classes.
    pub(super) fn new(classes: usize) -> Self {
        Self {
            classes,
            pairs: BTreeMap::new(),
            within_top: 0,
        }
    }

    /// Counts an image of a class by its logits; of equal logits the first wins.
    pub(super) fn add(&mut self, class: u32, logits: &[f32]) {
        let own = logits[class as usize];
        let ahead = |&(other, &logit): &(usize, &f32)| {
            logit > own || logit == own && other < class as usize
        };
        let rank = logits.iter().enumerate().filter(ahead).count();
        self.within_top += u64::from(rank < TOP);
        *self.pairs.entry((class, choice(logits))).or_default() += 1;
    }

    /// Images counted.
    pub(super) fn images(&self) -> u64 {
        self.pairs.values().sum()
    }

    /// Images taken for what they are.
    pub(super) fn correct(&self) -> u64 {
        let right = self
            .pairs
            .iter()
            .filter(|((class, choice), _)| class == choice);
        right.map(|(_, images)| images).sum()
    }

    /// Images whose class is among the five most probable; nothing where there are no more than five, for then
    /// all are.
    pub(super) fn within_top(&self) -> Option<u64> {
        (self.classes > TOP).then_some(self.within_top)
    }

    /// Images of one class taken for another.
    pub(super) fn pair(&self, class: u32, taken_for: u32) -> u64 {
        self.pairs.get(&(class, taken_for)).copied().unwrap_or(0)
    }

    /// Every pair with images: class, class that they were taken for, images.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (u32, u32, u64)> {
        self.pairs
            .iter()
            .map(|(&(class, choice), &images)| (class, choice, images))
    }

    /// Counts of every class.
    pub(super) fn by_class(&self) -> Vec<ClassCounts> {
        let mut counts = vec![ClassCounts::default(); self.classes];
        for (&(class, choice), &images) in &self.pairs {
            counts[class as usize].images += images;
            counts[choice as usize].predicted += images;
            if class == choice {
                counts[class as usize].correct += images;
            }
        }
        counts
    }

    /// Wrong answers, the most frequent first.
    pub(super) fn confusions(&self) -> Vec<Confusion> {
        let wrong = self
            .pairs
            .iter()
            .filter(|((class, choice), _)| class != choice);
        let mut confusions: Vec<Confusion> = wrong
            .map(|(&(class, taken_for), &images)| Confusion {
                class,
                taken_for,
                images,
            })
            .collect();
        confusions.sort_by_key(|confusion| Reverse(confusion.images));
        confusions
    }
}

/// The class with the largest logit; of equal ones the first.
pub(in crate::commands) fn choice(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a });
    best.unwrap_or(0) as u32
}

/// A part of a whole; nothing where that is nothing.
pub(super) fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Wilson's interval for a share (Wilson, 1927), with 95 % confidence: where the accuracy on ever more images like these
/// may be expected to lie.
pub(in crate::commands) fn interval(correct: u64, images: u64) -> [f64; 2] {
    const Z: f64 = 1.959_963_984_540_054;
    if images == 0 {
        return [0.0, 1.0];
    }
    let (n, p) = (images as f64, correct as f64 / images as f64);
    let square = Z * Z / n;
    let centre = (p + square / 2.0) / (1.0 + square);
    let half = Z / (1.0 + square) * (p * (1.0 - p) / n + square / (4.0 * n)).sqrt();
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two classes of three images and one of two; class 2 is taken for 0 once and for 1 once.
    fn tally() -> Tally {
        let mut tally = Tally::new(3);
        for (class, choice) in [
            (0, 0),
            (0, 0),
            (0, 1),
            (1, 1),
            (1, 1),
            (1, 1),
            (2, 0),
            (2, 1),
        ] {
            let mut logits = [0.0; 3];
            logits[choice] = 1.0;
            tally.add(class, &logits);
        }
        tally
    }

    #[test]
    fn counts_add_up() {
        let tally = tally();
        assert_eq!((tally.images(), tally.correct()), (8, 5));
        assert_eq!(tally.within_top(), None);
        let counts = tally.by_class();
        let of = |class: usize| {
            (
                counts[class].images,
                counts[class].predicted,
                counts[class].correct,
            )
        };
        assert_eq!([of(0), of(1), of(2)], [(3, 3, 2), (3, 5, 3), (2, 0, 0)]);
        assert_eq!(counts[2].recall(), Some(0.0));
        assert_eq!(counts[2].precision(), None);
        assert_eq!(counts[1].precision(), Some(0.6));
        let wrong: u64 = tally
            .confusions()
            .iter()
            .map(|confusion| confusion.images)
            .sum();
        assert_eq!(wrong, 3);
    }

    #[test]
    fn the_first_of_equal_logits_wins() {
        let mut tally = Tally::new(7);
        tally.add(1, &[0.0, 2.0, 2.0, 1.0, 0.0, 0.0, 0.0]);
        tally.add(2, &[0.0, 2.0, 2.0, 1.0, 0.0, 0.0, 0.0]);
        tally.add(6, &[1.0; 7]);
        assert_eq!(tally.correct(), 1);
        assert_eq!(tally.pair(2, 1), 1);
        assert_eq!(tally.within_top(), Some(2));
    }

    /// The first as R's `prop.test(8, 10, correct = FALSE)` gives it; of no image out of n, it ends at z²/(n + z²).
    #[test]
    fn intervals_are_wilsons() {
        for (correct, images, expected) in [
            (8, 10, [0.490_162_472, 0.943_317_823]),
            (0, 20, [0.0, 0.161_125_159]),
            (1682, 2000, [0.824_322_149, 0.856_370_425]),
        ] {
            let found = interval(correct, images);
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
        assert_eq!(interval(0, 0), [0.0, 1.0]);
    }
}
