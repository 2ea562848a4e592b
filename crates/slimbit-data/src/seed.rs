use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The last word of a generator's key for the order of an epoch; views use 0 and 1.
const SHUFFLE: u64 = u64::MAX;

/// The last word of a generator's key for what is held out of a class.
const HOLDOUT: u64 = u64::MAX - 1;

/// The generator of one view of one image in one epoch.
///
/// The four numbers, little-endian, *are* the ChaCha8 key: no two views share a stream, and none
/// depends on what was drawn before it, so that batches can be made in any order, by any number of
/// threads, from any starting point.
pub(crate) fn view_rng(seed: u64, epoch: u64, index: usize, view: usize) -> ChaCha8Rng {
    keyed(seed, epoch, index as u64, view as u64)
}

/// The order in which an epoch visits `len` images.
pub(crate) fn epoch_order(seed: u64, epoch: u64, len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    order.shuffle(&mut keyed(seed, epoch, 0, SHUFFLE));
    order
}

/// The generator that decides which images of a class are held out.
pub(crate) fn holdout_rng(seed: u64, class: u32) -> ChaCha8Rng {
    keyed(seed, 0, class.into(), HOLDOUT)
}

fn keyed(seed: u64, epoch: u64, index: u64, purpose: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, epoch, index, purpose]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use rand::RngCore;

    use super::*;

    #[test]
    fn every_coordinate_changes_the_stream() {
        let first = |seed, epoch, index, view| view_rng(seed, epoch, index, view).next_u64();
        let draws = [
            first(0, 0, 0, 0),
            first(1, 0, 0, 0),
            first(0, 1, 0, 0),
            first(0, 0, 1, 0),
            first(0, 0, 0, 1),
        ];
        for (i, a) in draws.iter().enumerate() {
            assert!(draws[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn order_is_a_permutation_that_changes_with_the_epoch() {
        let (first, second) = (epoch_order(7, 0, 1000), epoch_order(7, 1, 1000));
        assert_ne!(first, second);
        assert_eq!(first, epoch_order(7, 0, 1000));
        let mut sorted = first;
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..1000));
    }
}
