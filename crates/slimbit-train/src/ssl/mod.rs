//! Self-supervised objectives over all widths and bit-widths: which networks an iteration trains, and how.
//!
//! There is one step, the combined one (`Learner::iterate`); US3L and SSQL are settings of it
//! ([`Preset`](crate::config::Preset)).

mod learner;
mod sampling;
mod step;

pub(crate) use learner::Learner;
pub use sampling::{BitPair, Networks, Student};
pub(crate) use step::Moment;
