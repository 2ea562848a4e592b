use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use slimbit_engine::{Model, Session};
use slimbit_kernels::Isa;

use crate::corpus::seeds;
use crate::lowering::{image, points, random_model};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting requests per thread.
struct Counting;

// SAFETY: every request goes to the system's allocator unchanged; counting touches plain cells
// that need neither memory nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        LARGEST.set(LARGEST.get().max(layout.size()));
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

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn running_an_image_and_returning_to_a_point_allocate_nothing() {
    assert_eq!(allocations(|| drop(vec![0u8; 64])), 1);
    for seed in 0..12 {
        let model = random_model(seed);
        let pixels = image(&model, seed);
        for isa in Isa::available() {
            let mut session = Session::with_isa(model.clone(), points()[0], isa).unwrap();
            points()
                .into_iter()
                .for_each(|point| session.set_point(point).unwrap());
            for point in points() {
                let counted = allocations(|| {
                    session.set_point(point).unwrap();
                    let outputs = session.run(&pixels).unwrap();
                    assert!(outputs.iter().all(|(_, output)| !output.codes.is_empty()));
                });
                assert_eq!(counted, 0, "seed {seed}, {point} on {isa}");
            }
        }
    }
}

#[test]
fn no_request_of_the_reader_exceeds_the_file() {
    for (name, bytes, _) in seeds() {
        LARGEST.set(0);
        let outcome = Model::from_bytes(&bytes[..]).map(drop);
        let (largest, length) = (LARGEST.get(), bytes.len());
        assert!(
            largest <= length.max(4096),
            "{name}: {largest} for {length}, {outcome:?}"
        );
    }
}
