//! What the crate promises, on small networks of every block type.

mod deployed;
mod determinism;
mod losses;
mod networks;
mod quantisation;
mod recompute;
mod slices;
mod training;
