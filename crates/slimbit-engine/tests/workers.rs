//! Several threads allocate nothing either. On its own, because it counts for the whole process.

use slimbit_engine::Session;

#[allow(dead_code)]
#[path = "engine/counting.rs"]
mod counting;
#[allow(dead_code)]
#[path = "engine/graphs.rs"]
mod graphs;
#[allow(dead_code)]
#[path = "engine/lowering.rs"]
mod lowering;

use lowering::{image, points, shared_model};

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
        let counted = counting::of_process(|| {
            for &point in &points {
                session.set_point(point).unwrap();
                session.run(&pixels).unwrap();
                let outputs = session.run_batch(&batch).unwrap();
                assert!(outputs.iter().all(|image| image.iter().count() > 0));
            }
        });
        assert_eq!(counted, 0, "{threads} threads");
    }
}
