//! The numeric contract: quantisers, exact fixed-point requantisation and tables, as pure integer functions.
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

pub use accumulator::{AccumulatorOverflow, accumulator_interval};
pub use activation::ActQuant;
pub use add::{AddAffine, AddCounterexample, AddRequant, prove_add, solve_add};
pub use affine::{Affine, Clip, Interval, Rounding};
pub use error::SolveError;
pub use rational::Rational;
pub use requant::{Counterexample, Requant, prove, prove_with};
pub use solve::{Limits, MAX_STEPS, Slope, Solution, solve, solve_with};
pub use table::Table;
pub use weight::{ParseGridError, WeightGrid};
