//! The numeric contract of Slimbit: which integers a network is made of, and what a device computes with them.
//!
//! This crate is pure integer functions and the mathematics that finds their constants. It has no dependencies, no `unsafe`, no
//! floating point at run time, and needs only `alloc`. Everything else in Slimbit calls these functions or imitates them;
//! hardware that reproduces this page reproduces every output byte.
//!
//! # The contract on one page
//!
//! | quantity | integer | meaning |
//! |---|---|---|
//! | weight | `i8`, 2 to 8 bits | `w ≈ s_w·q_w`, one scale per output channel, no zero point ([`WeightGrid`]) |
//! | activation | `u8`, 1 to 8 bits | `x ≈ s_x·(q_x − z_x)`, one scale and zero point per tensor ([`ActQuant`]) |
//! | accumulator | `i32` | `acc = Σ q_w·(q_x − z_x)`, cannot overflow ([`accumulator_interval`]) |
//! | rescaling | `i32`, `i64`, shift | `q_y = clip((m·acc + c) >> k)` in 64 bits ([`Requant`]) |
//! | residual add | `i32` twice, `i64`, shift | `q_y = clip((m_a·q_a + m_b·q_b + c) >> k)` in 64 bits ([`AddRequant`]) |
//! | pointwise function | 256 bytes | `q_y = table[q_x]` ([`Table`]) |
//! | average pooling | `i32` sum | rescaled like an accumulator ([`pooling`]) |
//!
//! Between the input bytes and the output codes there is nothing else. `>>` is an arithmetic shift: it rounds towards minus infinity,
//! for negative numbers too (a division in C or Rust does not). `clip` saturates to the codes of the output.
//!
//! ## Rounding
//!
//! On the device there is one rule: **half up**, `floor(v + 1/2)`, so that ties go towards plus infinity on both sides of zero. In
//! `(m·acc + c) >> k` the half is part of `c` and the floor is the shift. Only the quantisers of floats, which run at training
//! and export, round ties to even, because the training method is defined so; their order of operations in `f32` is part of
//! their documentation.
//!
//! ## Widths and bit-widths
//!
//! Weights are quantised over the full width and then sliced: the codes of a narrower network are the leading block of the full
//! network's. On the nested grids the code at `b` bits is the rounded-off upper part of the 8-bit code,
//! `(q_8 + 2^(7−b)) >> (8−b)` saturated at the top, with the scale `s_8·2^(8−b)`: one stored copy holds every bit-width.
//!
//! ## Zero points
//!
//! A kernel may sum the raw products `Σ q_w·q_x`. That is `acc + z_x·Σ q_w`, and
//! [`Requant::with_input_offset`] moves the difference into `c`. Borders are padded with the code `z_x`.
//!
//! # One multiply, exactly
//!
//! Batch-norm, bias, activation clipping and the change of scale are one real function of the accumulator,
//! `q_y = clip(floor(a·acc + b + 1/2))` ([`Affine`]), whose `a` and `b` are floats and therefore exact rationals
//! ([`Rational`]). [`solve`] finds integers with
//!
//! ```text
//! clip((m·acc + c) >> k)  =  clip(floor(a·acc + b + 1/2))      for EVERY integer acc of the interval
//! ```
//!
//! and among all such integers those with the least `k`, then the least `|m|`, then the least `c`. It is not an approximation, and
//! [`prove`] re-checks it from the five numbers alone. How:
//!
//! * Both sides are staircases. The right one rises at finitely many thresholds, at most one per output code, which exact
//!   integer division finds. Equality at both sides of every step is equality everywhere (Lemma 1): the width of the
//!   interval does not matter, and nothing is sampled.
//! * A line `m·x + c` must pass on or above the point after each step and below the point before it. For given `m/2^k` the room
//!   left for `c/2^k` is a concave function of the slope; a constant exists exactly if it is positive (Theorem 1). So the
//!   admissible slopes are an open interval with rational ends ([`Solution::slope_lo`], [`Solution::slope_hi`]), and it contains `a`.
//! * The least `k` is the first power of two with a multiple inside that interval (Theorem 2). An `f32` slope is itself a
//!   multiple of a power of two with a 24-bit multiplier, so **`m` never needs more than 24 bits**, and for typical
//!   layers much less (Theorem 3).
//!
//! A decreasing function (negative batch-norm scale) gives a negative `m`; a function that is constant on its interval gives
//! `m = k = 0`. When the smallest exact form exceeds what the hardware holds ([`Limits`]), the error says which limit. The
//! theorems are those of the fixed-point batch-norm method (after D. Lin et al., *Optimal Quantization for Batch
//! Normalization in Neural Network Deployments and Beyond*, arXiv 2008.13128).
//!
//! # A layer, from floats to bytes
//!
//! ```
//! use slimbit_num::{ActQuant, Affine, WeightGrid, accumulator_interval, prove, solve};
//!
//! // Export. One output channel of a linear layer, at 4 bits on the nested grid, from the stored 8-bit codes:
//! let weights = [0.31f32, -0.74, 0.02, 0.55];
//! let max_abs = 0.74;
//! let stored = weights.map(|w| WeightGrid::Nested.code(w, max_abs, 8));
//! let kernel = stored.map(|code| WeightGrid::Nested.narrow(code, 4));
//! assert_eq!((stored, kernel), ([53, -128, 3, 95], [3, -8, 0, 6]));
//!
//! // Its input and output tensors, the accumulator they allow, and the folded batch-norm (scale 1.7, shift -0.2):
//! let input = ActQuant::from_range(-1.0, 3.0, 8);
//! let output = ActQuant::from_range(0.0, 2.5, 4);
//! let domain = accumulator_interval(kernel, input.clip(), input.zero_point)?;
//! let weight_scale = WeightGrid::Nested.scale(max_abs, 4);
//! let folded = Affine::from_floats(
//!     1.7 * weight_scale * input.scale / output.scale,
//!     -0.2 / f64::from(output.scale) + f64::from(output.zero_point),
//! )?;
//! let requant = solve(&folded, domain, output.clip())?.requant;
//! prove(&folded, domain, output.clip(), requant)?;
//!
//! // Device. Raw bytes in, codes out; the zero point is inside the constant.
//! let weight_sum: i64 = kernel.iter().map(|&w| i64::from(w)).sum();
//! let requant = requant.with_input_offset(weight_sum * i64::from(input.zero_point)).unwrap();
//! let bytes = [1.9f32, -0.3, 0.0, 0.8].map(|x| input.quantise(x));
//! let raw: i32 = kernel.iter().zip(bytes).map(|(&w, q)| i32::from(w) * i32::from(q)).sum();
//! let code = requant.apply(raw, output.clip());
//! assert_eq!(code, 11);
//!
//! // What the float network computes: 1.7 · 1.251 − 0.2 = 1.927. The difference is the weights' rounding to 4 bits.
//! assert!((output.dequantise(code as u8) - 1.927).abs() < 0.1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # For hardware
//!
//! * Multiplier: 32 × 32 → 64 bits signed suffices for every solution; [`Limits::multiplier_bits`] asks for a narrower one.
//! * The 64-bit sum `m·acc + c` cannot overflow on the proven interval; [`prove`] checks that as well.
//! * A single shift per layer: bring every channel to the layer's largest `k` with [`Requant::with_shift`]; exactness is kept.
//! * Sign-only outputs (1 bit) that change at all always solve with `k = 0`, `m = ±1`: a comparison with a threshold.
//!
//! ```
//! use slimbit_num::{Affine, Clip, Interval, Requant, solve};
//! let sign = Affine::from_floats(0.00071, -0.25)?;
//! let domain = Interval { lo: -131072, hi: 131071 };
//! assert_eq!(solve(&sign, domain, Clip::unsigned(1))?.requant, Requant { m: 1, c: -1056, k: 0 });     // acc >= 1057
//! # Ok::<(), slimbit_num::SolveError>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod accumulator;
mod activation;
mod add;
mod affine;
mod error;
mod int;
pub mod pooling;
mod rational;
mod requant;
mod round;
mod solve;
mod staircase;
mod table;
mod weight;

pub use accumulator::{AccumulatorOverflow, SignedSums, accumulator_interval};
pub use activation::ActQuant;
pub use add::{AddAffine, AddCounterexample, AddRequant, prove_add, solve_add};
pub use affine::{Affine, Clip, Interval, Rounding};
pub use error::SolveError;
pub use rational::Rational;
pub use requant::{Counterexample, Requant, prove, prove_with};
pub use solve::{Limits, MAX_STEPS, Slope, Solution, solve, solve_with};
pub use table::Table;
pub use weight::{ParseGridError, WeightGrid};
