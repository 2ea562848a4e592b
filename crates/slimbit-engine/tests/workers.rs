//! Several threads allocate nothing either. On its own, because it counts for the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use slimbit_engine::Session;

#[allow(dead_code)]
#[path = "engine/graphs.rs"]
mod graphs;
#[allow(dead_code)]
#[path = "engine/lowering.rs"]
mod lowering;

use lowering::{image, points, shared_model};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counting requests.
struct Counting;

// SAFETY: every request goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from `alloc` above, hence from the system, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn images_and_batches_on_several_threads_allocate_nothing() {
    let model = shared_model();
    let batch: Vec<u8> = (0..5).flat_map(|seed| image(&model, seed)).collect();
    let pixels = image(&model, 9);
    for threads in 1..=3 {
        let mut session = Session::with_threads(model.clone(), points()[0], threads).unwrap();
        for point in points() {
            session.set_point(point).unwrap();
            session.run_batch(&batch).unwrap();
        }
        let points = points();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for &point in &points {
            session.set_point(point).unwrap();
            session.run(&pixels).unwrap();
            let outputs = session.run_batch(&batch).unwrap();
            assert!(outputs.iter().all(|image| image.iter().count() > 0));
        }
        let counted = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(counted, 0, "{threads} threads");
    }
}
