//! How much memory all pictures that are decoded at a time may take together.

use std::cell::Cell;
use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes for which pictures wait for one another.
pub(crate) struct Budget {
    most: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// A part of a budget, given back when it is dropped.
pub(crate) struct Permit<'a> {
    budget: &'a Budget,
    bytes: u64,
}

thread_local! {
    /// Permits of this thread. One that has some is never made to wait, or it might wait for itself.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

impl Budget {
    pub(crate) const fn new(most: u64) -> Self {
        Budget {
            most,
            used: Mutex::new(0),
            freed: Condvar::new(),
        }
    }

    /// Waits until there is room. What is larger than the whole budget waits to be alone.
    pub(crate) fn take(&self, bytes: u64) -> Permit<'_> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while HELD.get() == 0 && *used > 0 && *used + bytes > self.most {
            used = self
                .freed
                .wait(used)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        HELD.set(HELD.get() + 1);
        Permit {
            budget: self,
            bytes,
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut used = self
            .budget
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *used -= self.bytes;
        HELD.set(HELD.get() - 1);
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn together_they_keep_to_the_budget() {
        let (budget, used, most) = (Budget::new(100), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let (budget, used, most) = (&budget, &used, &most);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let bytes = 20 + 5 * thread;
                        let permit = budget.take(bytes);
                        let now = used.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        most.fetch_max(now, Ordering::SeqCst);
                        std::thread::yield_now();
                        used.fetch_sub(bytes, Ordering::SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert!((20..=100).contains(&most.into_inner()));
        // More than all there is waits to be alone, and a thread never waits for itself.
        let large = budget.take(1000);
        let nested = budget.take(1);
        drop((large, nested));
        assert_eq!(*budget.used.lock().unwrap(), 0);
    }
}
