//! The memory of the process.
//!
//! A training step takes and frees the same hundreds of megabytes again and again. The system's
//! allocator would return them to the kernel and fault every page in anew: a fifth of the time of
//! an operator on large maps.

#![allow(unsafe_code)]

use libmimalloc_sys::{mi_option_set, mi_option_t};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay`: milliseconds until freed memory is given back; negative: never.
const PURGE_DELAY: mi_option_t = 15;

/// From here on freed memory stays with the process, for the next step.
pub(crate) fn keep_freed_pages() {
    // SAFETY: it stores a number in the allocator's table of options, which has this entry.
    unsafe { mi_option_set(PURGE_DELAY, -1) }
}
