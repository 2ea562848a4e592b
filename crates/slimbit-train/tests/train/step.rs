//! What an iteration does to which parameters.

use slimbit_graph::Array;
use slimbit_train::config::Update;
use slimbit_train::{Checkpoint, TrainConfig, Trainer};

use crate::tiny::{STEPS, config, images, network, run_until};

/// The state at the start, and after each number of iterations.
fn states<const N: usize>(
    change: impl Fn(&mut TrainConfig),
    recipe: &str,
    steps: [u64; N],
) -> (Checkpoint, [Checkpoint; N]) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(recipe, images(folder.path()));
    change(&mut config);
    let mut trainer = Trainer::with_graph(config, network(), &folder.path().join("run")).unwrap();
    let start = trainer.checkpoint();
    let states = steps.map(|step| {
        run_until(&mut trainer, step);
        trainer
            .stop_flag()
            .store(false, std::sync::atomic::Ordering::Relaxed);
        trainer.checkpoint()
    });
    (start, states)
}

fn distance(a: &Array, b: &Array) -> f32 {
    a.data
        .iter()
        .zip(&b.data)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// The teacher averages what the network was *before* the gradient step (spec section 3.4).
#[test]
fn the_teacher_follows_one_iteration_behind() {
    let (start, [one, two]) = states(|_| {}, "combined/resnet18-cifar10", [1, 2]);
    let name = "net/stem.conv.weight";
    let teacher = |state: &Checkpoint| state.tensors[&format!("teacher/{name}")].clone();
    assert!(distance(&one.tensors[name], &start.tensors[name]) > 1e-4);
    assert!(distance(&teacher(&one), &start.tensors[name]) < 1e-7);
    let average = |(old, new): (&f32, &f32)| 0.99 * old + 0.01 * new;
    let expected = Array {
        shape: teacher(&one).shape,
        data: teacher(&one)
            .data
            .iter()
            .zip(&one.tensors[name].data)
            .map(average)
            .collect(),
    };
    assert!(distance(&teacher(&two), &expected) < 1e-7);
}

/// US3L's first quarter trains the full width alone: the students' head waits, and never used is never decayed.
#[test]
fn a_head_without_students_stays_where_it_is() {
    let (start, [one, end]) = states(|_| {}, "us3l/resnet18-cifar100", [1, STEPS]);
    let name = "heads/auxiliary.0.weight";
    assert_eq!(one.tensors[name], start.tensors[name]);
    assert!(!one.tensors.contains_key(&format!("momentum/{name}")));
    assert!(distance(&end.tensors[name], &start.tensors[name]) > 0.0);
    assert!(end.tensors.contains_key(&format!("momentum/{name}")));
    assert!(!end.tensors.keys().any(|name| name.contains("predictor")));
}

#[test]
fn simsiam_has_no_teacher_and_ssql_has_one_step_per_iteration() {
    let (_, [end]) = states(|_| {}, "ssql/resnet18-cifar10", [1]);
    assert!(!end.tensors.keys().any(|name| name.starts_with("teacher/")));

    // At a small rate, two steps on the two gradients move twice as far as one on their mean; not
    // exactly, as the first changes which weights the student rounds up.
    let once = |config: &mut TrainConfig| {
        config.optim.lr = 1e-4;
        config.optim.momentum = 0.0;
    };
    let twice = |config: &mut TrainConfig| {
        once(config);
        config.objective.update = Update::PerStudent;
    };
    let (start, [once]) = states(once, "ssql/resnet18-cifar10-byol", [1]);
    let (_, [twice]) = states(twice, "ssql/resnet18-cifar10-byol", [1]);
    let name = "net/a.conv.weight";
    let moved = |state: &Checkpoint, factor: f32| Array {
        shape: start.tensors[name].shape.clone(),
        data: (state.tensors[name]
            .data
            .iter()
            .zip(&start.tensors[name].data))
        .map(|(now, then)| factor * (now - then))
        .collect(),
    };
    let (doubled, twice) = (moved(&once, 2.0), moved(&twice, 1.0));
    let none = moved(&start, 0.0);
    let error = distance(&doubled, &twice) / distance(&twice, &none);
    assert!(error < 0.25, "{error}");
}

/// Neither the loader's threads nor the optimiser's may leave a trace.
#[test]
fn the_number_of_loader_threads_changes_nothing() {
    let run = |workers| {
        states(
            |config| config.workers = workers,
            "combined/resnet18-cifar10",
            [STEPS],
        )
        .1
    };
    let ([none], [three]) = (run(0), run(3));
    assert_eq!(none.tensors, three.tensors);
}
