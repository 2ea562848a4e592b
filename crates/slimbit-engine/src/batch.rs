use crate::Outputs;
use crate::plan::Plan;
use crate::session::Slot;

/// What several images gave.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    pub(crate) slots: &'a [Slot],
    pub(crate) plan: &'a Plan,
    pub(crate) split: Split,
    pub(crate) images: usize,
}

impl<'a> Batch<'a> {
    /// The number of images.
    pub fn images(&self) -> usize {
        self.images
    }

    /// The outputs of an image; nothing beyond the last.
    pub fn get(&self, image: usize) -> Option<Outputs<'a>> {
        if image >= self.images {
            return None;
        }
        let (slot, turn) = self.split.place(image);
        let wide_len = self.plan.wide_len;
        Some(Outputs {
            outputs: &self.plan.outputs,
            wide: &self.slots[slot].wide[turn * wide_len..][..wide_len],
        })
    }

    /// The outputs of every image in turn.
    pub fn iter(&self) -> impl Iterator<Item = Outputs<'a>> {
        let copy = *self;
        (0..self.images).filter_map(move |image| copy.get(image))
    }
}

/// Which images run where: the same number in every slot, one after the other, and what remains in
/// the first.
#[derive(Clone, Copy)]
pub(crate) struct Split {
    pub(crate) slots: usize,
    /// Images of every slot that run on one thread.
    pub(crate) each: usize,
    /// Images that all threads share.
    rest: usize,
}

impl Split {
    pub(crate) fn of(images: usize, threads: usize) -> Self {
        if threads == 1 || images < threads {
            return Self {
                slots: 1,
                each: 0,
                rest: images,
            };
        }
        Self {
            slots: threads,
            each: images / threads,
            rest: images % threads,
        }
    }

    /// Images that run on one thread each.
    pub(crate) fn whole(self) -> usize {
        self.slots * self.each
    }

    pub(crate) fn most_per_slot(self) -> usize {
        self.each + self.rest
    }

    /// The slot of an image, and its turn there.
    pub(crate) fn place(self, image: usize) -> (usize, usize) {
        match image.checked_sub(self.whole()) {
            Some(rest) => (0, self.each + rest),
            None => (image / self.each, image % self.each),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_image_has_a_place_of_its_own() {
        for threads in 1..5 {
            for images in 1..12 {
                let split = Split::of(images, threads);
                let places: BTreeSet<_> = (0..images).map(|image| split.place(image)).collect();
                assert_eq!(places.len(), images);
                assert!(
                    places.iter().all(|&(slot, turn)| {
                        slot < split.slots && turn < split.most_per_slot()
                    })
                );
                assert!(
                    split.whole() <= images && images - split.whole() < threads.max(2)
                        || threads == 1
                );
            }
        }
    }
}
