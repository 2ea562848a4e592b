//! A few threads that work together on one operator after the other.

use std::any::Any;
use std::cell::UnsafeCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// How long a thread without work looks for some before it sleeps: longer than the pause between
/// two operators of a network, shorter than anyone would notice on a processor's bill.
const SPIN: Duration = Duration::from_micros(50);

/// Threads that each compute a part of the same operator: the caller and its workers.
///
/// A network is a sequence of short operators with a join after each, some of a few microseconds.
/// So workers spin for a while before they sleep, and who does what is settled by the number of the
/// thread alone. A team of one thread spawns nothing and touches no atomics. Workers end when the
/// team is dropped.
///
/// ```
/// use slimbit_kernels::Team;
///
/// let mut team = Team::new(2)?;
/// let mut sums = [0, 0];
/// team.each(&mut sums, |thread, sum| *sum = 10 * thread + 1);
/// assert_eq!(sums, [1, 11]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Team {
    /// Nothing for a team of one.
    shared: Option<Arc<Shared>>,
    workers: Vec<JoinHandle<()>>,
}

/// What one thread is to do, given its number. Its lifetime is erased: [`Team::run`] outlives it.
type Job = *const (dyn Fn(usize) + Sync);

#[derive(Default)]
struct Shared {
    /// The number of the round: it opens when the number changes.
    start: Gate,
    /// The number of workers that have yet to finish the round: it opens at 0.
    done: Gate,
    /// The job of the round; nothing sends the workers home.
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: the job is written by the owner of the team only while all workers wait for `start` to
// open, and read by them only between that and the step of `done` that tells the owner so; both
// gates order memory. A job is `Sync`, so workers may call it together.
unsafe impl Send for Shared {}
// SAFETY: as for `Send`.
unsafe impl Sync for Shared {}

impl Team {
    /// The caller and `threads - 1` workers; at least the caller.
    ///
    /// # Errors
    /// What the system says when it refuses a thread.
    pub fn new(threads: usize) -> io::Result<Team> {
        let mut team = Team::solo();
        if threads <= 1 {
            return Ok(team);
        }
        let shared = team.shared.insert(Arc::default());
        for index in 1..threads {
            let shared = Arc::clone(shared);
            let thread = Builder::new().name(format!("slimbit-{index}"));
            team.workers.push(thread.spawn(move || shared.work(index))?);
        }
        Ok(team)
    }

    /// The caller alone.
    pub const fn solo() -> Team {
        Team {
            shared: None,
            workers: Vec::new(),
        }
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work` once on every thread with its number, the caller being number 0, and returns
    /// when all calls have. Allocates nothing.
    ///
    /// # Panics
    /// With the panic of one of the calls, after all have ended.
    pub fn run(&mut self, work: impl Fn(usize) + Sync) {
        let Some(shared) = &self.shared else {
            return work(0);
        };
        let job: *const (dyn Fn(usize) + Sync + '_) = &raw const work;
        // SAFETY: only the lifetime changes. Workers use the job before they count down `done`, for
        // which this function waits before `work` ends, whether a call panics or not.
        let job = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job) };
        shared.publish(Some(job), self.workers.len() as u32);
        let own = catch_unwind(AssertUnwindSafe(|| work(0)));
        shared.done.wait(|remaining| remaining == 0);
        let theirs = lock(&shared.panic).take();
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    /// Calls `work` with each item and its index, on the thread of that number, and returns when
    /// all calls have. Allocates nothing.
    ///
    /// # Panics
    /// When there are more items than threads, or as [`run`](Team::run).
    pub fn each<T: Send>(&mut self, items: &mut [T], work: impl Fn(usize, &mut T) + Sync) {
        struct Items<T>(*mut T);
        // SAFETY: stands for a `&mut [T]` of which every thread uses another element.
        unsafe impl<T: Send> Sync for Items<T> {}
        impl<T> Items<T> {
            fn first(&self) -> *mut T {
                self.0
            }
        }

        let (count, threads) = (items.len(), self.threads());
        assert!(count <= threads, "{count} items for {threads} threads");
        let items = Items(items.as_mut_ptr());
        self.run(|thread| {
            if thread < count {
                // SAFETY: within the slice, which is borrowed for as long as `run` takes; no other
                // thread has this number.
                work(thread, unsafe { &mut *items.first().add(thread) });
            }
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.publish(None, 0);
        }
        for worker in self.workers.drain(..) {
            // A worker catches every panic of its jobs; there is none left to pass on.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Begins a round. All workers wait for it.
    fn publish(&self, job: Option<Job>, workers: u32) {
        self.done.value.store(workers, Ordering::Relaxed);
        // SAFETY: all workers have counted down the round before, and so wait for this one.
        unsafe { *self.job.get() = job };
        self.start.value.fetch_add(1, Ordering::SeqCst);
        self.start.wake();
    }

    fn work(&self, thread: usize) {
        let mut round = 0;
        loop {
            round = self.start.wait(|current| current != round);
            // SAFETY: the round has begun, so the job is written and stays until this worker
            // counts down.
            let Some(job) = (unsafe { *self.job.get() }) else {
                return;
            };
            // SAFETY: the job lives until this worker counts down.
            let call = AssertUnwindSafe(|| unsafe { (*job)(thread) });
            if let Err(panic) = catch_unwind(call) {
                *lock(&self.panic) = Some(panic);
            }
            if self.done.value.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.done.wake();
            }
        }
    }
}

/// A number to wait for: first awake, then asleep. On cache lines of its own, since others spin on
/// it.
#[derive(Default)]
#[repr(align(128))]
struct Gate {
    value: AtomicU32,
    sleepers: AtomicU32,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Gate {
    /// Returns the first value seen that is `open`.
    fn wait(&self, open: impl Fn(u32) -> bool) -> u32 {
        let mut start = None;
        loop {
            for _ in 0..64 {
                let value = self.value.load(Ordering::Acquire);
                if open(value) {
                    return value;
                }
                std::hint::spin_loop();
            }
            if start.get_or_insert_with(Instant::now).elapsed() > SPIN {
                break;
            }
        }
        // Either this thread sees the new value below, or who changed it sees the sleeper, and then
        // rings only once the lock is free, which is once this thread waits: no wake-up is lost.
        let mut guard = lock(&self.lock);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let value = loop {
            let value = self.value.load(Ordering::SeqCst);
            if open(value) {
                break value;
            }
            guard = self
                .bell
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        value
    }

    /// Wakes those asleep, after the value has changed.
    fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.lock));
            self.bell.notify_all();
        }
    }
}

/// No code that can panic runs under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    #[test]
    fn every_thread_works_once_a_round() {
        for threads in [0, 1, 2, 3, 5] {
            let mut team = Team::new(threads).unwrap();
            assert_eq!(team.threads(), threads.max(1));
            let calls: Vec<AtomicUsize> = (0..team.threads()).map(|_| 0.into()).collect();
            for round in 1..=300 {
                team.run(|thread| {
                    calls[thread].fetch_add(1, Ordering::Relaxed);
                });
                assert!(calls.iter().all(|n| n.load(Ordering::Relaxed) == round));
                if round % 100 == 0 {
                    thread::sleep(4 * SPIN);
                }
            }
        }
    }

    #[test]
    fn a_team_of_one_is_the_caller() {
        let caller = thread::current().id();
        Team::solo().run(|thread| {
            assert_eq!((thread, thread::current().id()), (0, caller));
        });
    }

    #[test]
    fn a_panic_on_any_thread_reaches_the_caller_and_the_team_lives_on() {
        let mut team = Team::new(3).unwrap();
        for culprit in 0..3 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                team.run(|thread| assert_ne!(thread, culprit, "on purpose"));
            }));
            let panic = outcome.unwrap_err();
            assert!(
                panic
                    .downcast_ref::<String>()
                    .unwrap()
                    .contains("on purpose")
            );
            let sum = AtomicUsize::new(0);
            team.run(|thread| {
                sum.fetch_add(thread + 1, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 6);
        }
    }

    #[test]
    fn items_go_to_the_threads_of_their_index() {
        let mut team = Team::new(4).unwrap();
        let mut items = vec![(0, None); 3];
        team.each(&mut items, |index, item| {
            *item = (index, thread::current().name().map(str::to_owned));
        });
        assert!(
            items
                .iter()
                .enumerate()
                .all(|(index, item)| item.0 == index)
        );
        assert_eq!(items[2].1.as_deref(), Some("slimbit-2"));
        let too_many = catch_unwind(AssertUnwindSafe(|| team.each(&mut [0; 5], |_, _| ())));
        assert!(too_many.is_err());
    }

    #[test]
    fn workers_end_with_their_team() {
        let mut team = Team::new(3).unwrap();
        let shared = Arc::downgrade(team.shared.as_ref().unwrap());
        team.run(|_| ());
        drop(team);
        assert!(shared.upgrade().is_none(), "a worker still holds the state");
    }
}
