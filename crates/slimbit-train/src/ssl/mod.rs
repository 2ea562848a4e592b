//! Objectives over all widths and bit-widths: which networks an iteration trains, and how.
//!
//! There is one step (`Learner::iterate`); US3L, SSQL, their combination and every baseline are settings of it
//! ([recipes](crate::config::recipes)).

mod learner;
mod objective;
mod queue;
mod sampling;
mod step;
mod teacher;

pub(crate) use learner::{Learner, head_macs};
pub(crate) use objective::views_of;
pub use sampling::{BitPair, Networks, Student};
pub(crate) use step::Moment;
pub(crate) use teacher::find_frozen;
