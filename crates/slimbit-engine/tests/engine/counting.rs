//! The system's allocator, counting requests.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    static OF_THREAD: Cell<usize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    /// Bytes that are taken and not given back, and the most there were.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

static OF_PROCESS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every request goes to the system's allocator unchanged; counting touches plain cells
// that need neither memory nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        OF_PROCESS.fetch_add(1, Ordering::Relaxed);
        OF_THREAD.set(OF_THREAD.get() + 1);
        LARGEST.set(LARGEST.get().max(layout.size()));
        LIVE.set(LIVE.get() + layout.size() as isize);
        PEAK.set(PEAK.get().max(LIVE.get()));
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
        // SAFETY: `block` came from `alloc` above, hence from the system, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Requests of this thread during `work`.
pub(crate) fn of_thread(work: impl FnOnce()) -> usize {
    let before = OF_THREAD.get();
    work();
    OF_THREAD.get() - before
}

/// Requests of all threads of the process during `work`.
pub(crate) fn of_process(work: impl FnOnce()) -> usize {
    let before = OF_PROCESS.load(Ordering::Relaxed);
    work();
    OF_PROCESS.load(Ordering::Relaxed) - before
}

/// Bytes of this thread's largest request during `work`.
pub(crate) fn largest_of_thread(work: impl FnOnce()) -> usize {
    LARGEST.set(0);
    work();
    LARGEST.get()
}

/// The most bytes that this thread held at once during `work`, beyond those that it held before.
pub(crate) fn peak_of_thread(work: impl FnOnce()) -> usize {
    let before = LIVE.get();
    PEAK.set(before);
    work();
    (PEAK.get() - before).max(0) as usize
}
