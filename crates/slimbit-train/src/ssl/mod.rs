//! Self-supervised objectives over all widths and bit-widths: which networks an iteration trains, and how.

mod group;
mod sampling;

pub use sampling::{BitPair, Networks, Student};
