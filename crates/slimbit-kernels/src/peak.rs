//! How many multiply-accumulates a second one core can do, measured: the limit that kernels are
//! held against.

use crate::{Isa, KernelError, Kernels};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Repeats the multiply-accumulate instruction of a level on registers alone, at least `steps`
/// times for each of enough independent accumulators to hide its latency, and returns the
/// multiply-accumulates done.
///
/// # Safety
/// The CPU has the level of the table that holds it.
pub(crate) type Probe = unsafe fn(steps: u32) -> u64;

/// Multiply-accumulates a second of one core at its best: the multiply-accumulate instruction of
/// the level (with the addition, where it does not accumulate by itself) and nothing else, for
/// about a millisecond.
///
/// Clocks change with load and temperature, so probe next to what is compared with it, in the same
/// process.
///
/// # Errors
/// [`KernelError::Unsupported`] when this CPU lacks the level.
pub fn peak(isa: Isa) -> Result<f64, KernelError> {
    /// Interruptions and a clock that has yet to rise make rounds slower, nothing makes them
    /// faster: the best one counts.
    const ROUNDS: usize = 8;
    const ROUND: Duration = Duration::from_micros(150);

    let probe = Kernels::of(isa)?.probe;
    let run = |steps: u32| {
        let start = Instant::now();
        // SAFETY: the table exists, so the CPU has the level.
        let done = unsafe { probe(steps) };
        (done, start.elapsed())
    };
    let mut steps = 64;
    while run(steps).1 < ROUND {
        steps *= 2;
    }
    let rates = (0..ROUNDS).map(|_| {
        let (done, time) = run(steps);
        done as f64 / time.as_secs_f64()
    });
    Ok(rates.fold(0.0, f64::max))
}

/// Plain multiplications and additions, as the compiler arranges them.
pub(crate) fn scalar(steps: u32) -> u64 {
    const ACCUMULATORS: usize = 16;
    let mut acc: [i32; ACCUMULATORS] = black_box(std::array::from_fn(|i| i as i32));
    let w = black_box(3i32);
    for _ in 0..steps {
        for acc in &mut acc {
            *acc = acc.wrapping_mul(w).wrapping_add(*acc);
        }
    }
    black_box(acc);
    u64::from(steps) * ACCUMULATORS as u64
}

/// `vpmaddubsw` and the `vpaddw` that adds its 32 products, two and two, to an accumulator: what the
/// fastest kernels do where no sum of 16 bits can saturate.
///
/// # Safety
/// The CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn avx2(steps: u32) -> u64 {
    use std::arch::x86_64::*;
    const ACCUMULATORS: usize = 12;
    let mut acc = black_box([_mm256_set1_epi16(5); ACCUMULATORS]);
    let w = black_box(_mm256_set1_epi8(7));
    for _ in 0..steps {
        // Products of the neighbour keep the compiler from taking them out of the loop.
        let mut products = acc;
        for (i, product) in products.iter_mut().enumerate() {
            *product = _mm256_maddubs_epi16(acc[(i + 1) % ACCUMULATORS], w);
        }
        for (acc, product) in acc.iter_mut().zip(products) {
            *acc = _mm256_add_epi16(*acc, product);
        }
    }
    black_box(acc);
    u64::from(steps) * (ACCUMULATORS * 32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_a_positive_and_finite_peak() {
        for isa in Isa::available() {
            let rate = peak(isa).unwrap();
            assert!(rate.is_finite() && rate > 0.0, "{isa}: {rate}");
        }
    }
}
