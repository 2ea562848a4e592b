//! A race on purpose, which `run` expects the sanitizer to see.

use std::cell::UnsafeCell;
use std::thread;

struct Shared(UnsafeCell<u64>);

// SAFETY: none; that is the point.
unsafe impl Sync for Shared {}

static SHARED: Shared = Shared(UnsafeCell::new(0));

fn main() {
    let count = || {
        for _ in 0..10_000 {
            // SAFETY: none; two threads do this at once.
            unsafe { *SHARED.0.get() += 1 };
        }
    };
    let other = thread::spawn(count);
    count();
    other.join().unwrap();
}
