use std::sync::Arc;
use std::thread;

use slimbit_engine::{EngineError, Model, Outputs, Plan, Session, reference};
use slimbit_graph::Point;
use slimbit_kernels::Isa;

use crate::lowering::{image, points, random_model, shared_model};

fn send<T: Send>() {}
fn sync<T: Send + Sync>() {}

#[test]
fn sessions_move_between_threads_and_models_are_shared() {
    send::<Session>();
    sync::<Model>();
    sync::<Plan>();
}

#[test]
fn eight_threads_on_one_model_agree() {
    let model = random_model(3);
    let pixels = image(&model, 9);
    let alone: Vec<_> = points()
        .iter()
        .map(|&point| {
            Session::new(model.clone(), point)
                .unwrap()
                .trace(&pixels)
                .unwrap()
        })
        .collect();
    thread::scope(|scope| {
        for start in 0..8 {
            let (model, pixels, alone) = (Arc::clone(&model), &pixels, &alone);
            scope.spawn(move || {
                let points = points();
                let mut session = Session::new(model, points[start % 4]).unwrap();
                for turn in start..start + 12 {
                    session.set_point(points[turn % 4]).unwrap();
                    assert_eq!(session.trace(pixels).unwrap(), alone[turn % 4]);
                }
            });
        }
    });
}

#[test]
fn any_number_of_threads_equals_the_reference_at_every_stage() {
    let models = [
        shared_model(),
        random_model(1),
        random_model(2),
        random_model(5),
    ];
    for (seed, model) in models.iter().enumerate() {
        let pixels = image(model, seed as u64);
        for point in points() {
            let expected = reference::run(model, point, &pixels).unwrap();
            for isa in Isa::available() {
                let mut session = Session::with_isa(model.clone(), point, isa).unwrap();
                for threads in [2, 3, 5, 1] {
                    session.set_threads(threads).unwrap();
                    assert_eq!(session.threads(), threads);
                    let found = session.trace(&pixels).unwrap();
                    assert!(
                        found == expected,
                        "{} {point} on {threads} threads of {isa}",
                        model.graph().name()
                    );
                }
            }
        }
    }
}

fn integers(outputs: Outputs<'_>) -> Vec<i32> {
    let outputs = outputs.iter();
    outputs
        .flat_map(|(_, tensor)| tensor.codes.to_vec())
        .collect()
}

#[test]
fn a_batch_is_its_images_one_by_one() {
    let model = shared_model();
    let images: Vec<Vec<u8>> = (0..7).map(|seed| image(&model, seed)).collect();
    for threads in 1..=3 {
        let mut session = Session::with_threads(model.clone(), points()[0], threads).unwrap();
        for point in points() {
            session.set_point(point).unwrap();
            let alone: Vec<Vec<i32>> = images
                .iter()
                .map(|pixels| integers(session.run(pixels).unwrap()))
                .collect();
            for count in [7, 1, 3, 6] {
                let batch = session.run_batch(&images[..count].concat()).unwrap();
                assert_eq!(batch.images(), count);
                let together: Vec<Vec<i32>> = batch.iter().map(integers).collect();
                assert_eq!(together, alone[..count], "{threads} threads, {point}");
                assert!(batch.get(count).is_none());
            }
        }
    }
}

#[test]
fn a_batch_is_a_whole_number_of_images() {
    let model = shared_model();
    let pixels = image(&model, 0);
    let mut session = Session::new(model, points()[0]).unwrap();
    for length in [0, 1, pixels.len() - 1] {
        let error = session.run_batch(&pixels[..length]).map(drop).unwrap_err();
        assert!(matches!(error, EngineError::InputLength { found, .. } if found == length));
    }
}

/// Sessions of one to three threads over shared plans, each moving from point to point.
#[test]
fn ten_thousand_inferences_from_eight_threads_give_the_same_bytes() {
    let (model, pixels, expected) = stress_case();
    let per_thread = stress_inferences() / 8;
    thread::scope(|scope| {
        for start in 0..8 {
            let (model, pixels, expected) = (&model, &pixels, &expected);
            scope.spawn(move || {
                let points = points();
                let threads = [1, 1, 2, 1, 1, 3, 1, 1][start];
                let mut session =
                    Session::with_threads(model.clone(), points[start % 4], threads).unwrap();
                for turn in start..start + per_thread {
                    // Now and then back to where it was, and not always in the same order.
                    let at = turn * (1 + start / 4 * 2) / 3 % 4;
                    session.set_point(points[at]).unwrap();
                    assert!(
                        integers(session.run(pixels).unwrap()) == expected[at],
                        "thread {start}, turn {turn}, {}",
                        points[at]
                    );
                }
            });
        }
    });
}

/// `race/run` asks for fewer: a race detector makes each much slower.
fn stress_inferences() -> usize {
    match std::env::var("SLIMBIT_STRESS") {
        Ok(count) => count.parse().expect("SLIMBIT_STRESS is a number"),
        Err(_) => 10_000,
    }
}

fn stress_case() -> (Arc<Model>, Vec<u8>, Vec<Vec<i32>>) {
    let model = shared_model();
    let pixels = image(&model, 4);
    let expected = |point: Point| {
        let mut session = Session::new(model.clone(), point).unwrap();
        integers(session.run(&pixels).unwrap())
    };
    let expected = points().into_iter().map(expected).collect();
    (model, pixels, expected)
}
