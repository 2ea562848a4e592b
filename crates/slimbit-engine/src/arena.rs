//! One block of memory for all tensors of a network, and who lies where in it.

use std::ops::Range;

use crate::EngineError;

/// Alignment of every tensor: a cache line, and the widest vector register.
pub const ALIGNMENT: usize = 64;

/// When a tensor is needed, and how large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Bytes.
    pub bytes: usize,
    /// The step that writes it.
    pub first: usize,
    /// The last step that reads it; not before `first`.
    pub last: usize,
}

impl Lifetime {
    fn meets(&self, other: &Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Where each tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Parallel to the lifetimes; multiples of [`ALIGNMENT`].
    pub offsets: Vec<usize>,
    /// Bytes of the whole block.
    pub bytes: usize,
}

/// Places tensors so that those alive at the same step never overlap: the largest first, each into
/// the smallest gap that holds it (greedy by size, Pisarchyk and Lee, "Efficient Memory Management
/// for Deep Neural Net Inference", 2020).
///
/// Nothing if the sizes add up to more than a `usize`.
///
/// ```
/// use slimbit_engine::{Lifetime, place};
///
/// let chain = [(300, 0, 1), (100, 1, 2), (200, 2, 3)]
///     .map(|(bytes, first, last)| Lifetime { bytes, first, last });
/// let placement = place(&chain).unwrap();
/// assert_eq!(placement.offsets, [0, 320, 0]); // the third takes the place of the first
/// assert_eq!(placement.bytes, 320 + 128);
/// ```
pub fn place(lifetimes: &[Lifetime]) -> Option<Placement> {
    let mut order: Vec<usize> = (0..lifetimes.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lifetimes[i].bytes), i));
    let mut offsets = vec![0; lifetimes.len()];
    let mut placed: Vec<(Range<usize>, usize)> = Vec::with_capacity(lifetimes.len());
    let mut bytes = 0;
    for index in order {
        let lifetime = &lifetimes[index];
        let size = lifetime.bytes.checked_next_multiple_of(ALIGNMENT)?;
        let alive = placed
            .iter()
            .filter(|(_, other)| lifetimes[*other].meets(lifetime));
        let (mut best, mut best_gap, mut end) = (None, usize::MAX, 0);
        for (range, _) in alive {
            if range.start > end {
                let gap = range.start - end;
                if gap >= size && gap < best_gap {
                    (best, best_gap) = (Some(end), gap);
                }
            }
            end = end.max(range.end);
        }
        let start = best.unwrap_or(end);
        let range = start..start.checked_add(size)?;
        bytes = bytes.max(range.end);
        offsets[index] = start;
        let position = placed.partition_point(|(other, _)| other.start < start);
        placed.insert(position, (range, index));
    }
    Some(Placement { offsets, bytes })
}

/// The bytes that are alive at the busiest step: no placement can do with less.
pub fn largest_live_set(lifetimes: &[Lifetime]) -> usize {
    let alive_at = |step: usize| {
        let alive = lifetimes
            .iter()
            .filter(|l| l.first <= step && step <= l.last);
        alive.map(|l| l.bytes).sum()
    };
    lifetimes
        .iter()
        .map(|l| alive_at(l.first))
        .max()
        .unwrap_or(0)
}

/// The block itself: aligned, and zero at first.
#[derive(Default)]
pub(crate) struct Arena {
    memory: Vec<u8>,
    range: Range<usize>,
}

impl Arena {
    /// One allocation of `bytes`.
    ///
    /// # Errors
    /// [`EngineError::Memory`].
    pub(crate) fn new(bytes: usize) -> Result<Self, EngineError> {
        let mut memory = Vec::new();
        let padded = bytes
            .checked_add(ALIGNMENT)
            .ok_or(EngineError::Memory { bytes })?;
        memory
            .try_reserve_exact(padded)
            .map_err(|_| EngineError::Memory { bytes })?;
        memory.resize(padded, 0);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let range = start..start + bytes;
        Ok(Self { memory, range })
    }

    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lifetime() -> impl Strategy<Value = Lifetime> {
        (0usize..2000, 0usize..20, 0usize..6).prop_map(|(bytes, first, length)| Lifetime {
            bytes,
            first,
            last: first + length,
        })
    }

    proptest! {
        #[test]
        fn tensors_alive_together_never_overlap(
            lifetimes in proptest::collection::vec(lifetime(), 0..30),
        ) {
            let placement = place(&lifetimes).unwrap();
            prop_assert!(placement.bytes >= largest_live_set(&lifetimes));
            let end = |i: usize| placement.offsets[i] + lifetimes[i].bytes;
            for a in 0..lifetimes.len() {
                prop_assert!(placement.offsets[a].is_multiple_of(ALIGNMENT));
                prop_assert!(end(a) <= placement.bytes);
                for b in 0..a {
                    if lifetimes[a].meets(&lifetimes[b]) && lifetimes[b].bytes > 0 {
                        let apart = end(a) <= placement.offsets[b] || end(b) <= placement.offsets[a];
                        prop_assert!(apart || lifetimes[a].bytes == 0, "{a} and {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_smallest_gap_that_fits_is_taken() {
        let all = |bytes: usize| Lifetime {
            bytes,
            first: 0,
            last: 9,
        };
        let early = |bytes: usize| Lifetime {
            bytes,
            first: 0,
            last: 1,
        };
        let late = |bytes: usize| Lifetime {
            bytes,
            first: 5,
            last: 6,
        };
        // Gaps of 640 and 256 open between tensors that stay; the late one fits both.
        let lifetimes = [
            all(1024),
            early(640),
            all(512),
            early(256),
            all(192),
            late(128),
        ];
        let placement = place(&lifetimes).unwrap();
        assert_eq!(placement.offsets[5], placement.offsets[3]);
        assert_eq!(placement.bytes, 1024 + 640 + 512 + 256 + 192);
    }

    #[test]
    fn an_arena_is_aligned_and_an_absurd_one_is_refused() {
        let mut arena = Arena::new(100).unwrap();
        assert_eq!(arena.bytes_mut().as_ptr().align_offset(ALIGNMENT), 0);
        assert_eq!(arena.len(), 100);
        assert!(matches!(
            Arena::new(usize::MAX - 8),
            Err(EngineError::Memory { .. })
        ));
        assert_eq!(
            place(&[Lifetime {
                bytes: usize::MAX,
                first: 0,
                last: 0
            }]),
            None
        );
    }
}
