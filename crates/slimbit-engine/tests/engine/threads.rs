use std::sync::Arc;
use std::thread;

use slimbit_engine::{Model, Plan, Session};

use crate::lowering::{image, points, random_model};

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
