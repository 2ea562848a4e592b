//! What each method trains, and with what.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use slimbit_train::config::{Course, WatchAction};
use slimbit_train::{Checkpoint, Event, Outcome, TrainConfig, TrainError, Trainer};

use crate::tiny::{bits, config, images, network, run_until};

/// A whole run of a recipe at the tiny size, and its last state.
fn trained(recipe: &str, change: impl Fn(&mut TrainConfig)) -> (Trainer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(recipe, images(folder.path()));
    change(&mut config);
    let mut trainer = Trainer::with_graph(config, network(), &folder.path().join("run")).unwrap();
    assert_eq!(
        run_until(&mut trainer, u64::MAX),
        Outcome::Finished,
        "{recipe}"
    );
    (trainer, folder)
}

fn labels(folder: &Path) {
    let mut bytes = vec![0, 0, 8, 1];
    bytes.extend(24_u32.to_be_bytes());
    bytes.extend((0..24).map(|i| (i % 3) as u8));
    fs::write(folder.join("train-labels-idx1-ubyte"), bytes).unwrap();
}

#[test]
fn every_method_moves_the_network_and_its_measures_are_finite() {
    for recipe in [
        "byol/resnet18-cifar10",
        "simsiam/resnet18-cifar10",
        "simclr/resnet18-cifar10",
        "moco/resnet18-cifar10",
        "us3l/resnet18-cifar100-byol",
        "us3l/resnet18-imagenet-simsiam",
        "us/resnet18-cifar100",
        "us/naive-resnet18-cifar10",
        "individual/resnet18-cifar100-byol",
        "individual/resnet18-cifar100-simsiam",
        "switchable/resnet18-cifar100-simsiam",
        "ssql/resnet18-cifar10-moco",
        "ssql/reverse-resnet18-cifar10",
        "seed/resnet18-cifar100",
        "seed/resnet18-cifar100-mse",
        "seed/resnet18-cifar100-simclr",
    ] {
        let (trainer, _folder) = trained(recipe, |config| {
            config.objective.queue = 24;
        });
        let name = "net/a.conv.weight";
        let state = trainer.checkpoint();
        let config = trainer.config().clone();
        let folder = tempfile::tempdir().unwrap();
        let start = Trainer::with_graph(config.clone(), network(), folder.path()).unwrap();
        assert_ne!(
            state.tensors[name],
            start.checkpoint().tensors[name],
            "{recipe}"
        );
        for record in trainer.run_dir().metrics().unwrap() {
            for network in &record.networks {
                let measures = [network.loss, network.feature_std, network.effective_rank];
                assert!(
                    measures.iter().all(|v| v.is_finite()),
                    "{recipe}: {network:?}"
                );
                assert!(
                    network.agreement.abs() <= 1.0 + 1e-6,
                    "{recipe}: {network:?}"
                );
            }
            let widths: Vec<f64> = record.networks.iter().map(|n| n.width).collect();
            let expected: &[f64] = match recipe.split_once('/').unwrap().0 {
                "individual" => &[0.25],
                "switchable" => &[1.0, 0.75, 0.5, 0.25],
                "byol" | "simsiam" | "simclr" | "moco" | "seed" => &[1.0],
                "ssql" if recipe.contains("reverse") => &[1.0],
                "ssql" => &[1.0, 1.0],
                _ => continue,
            };
            assert_eq!(widths, expected, "{recipe}");
        }
    }
}

#[test]
fn a_classifier_learns_from_labels_and_teaches_its_narrow_networks() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("supervised/resnet18-cifar100", images(folder.path()));
    config.heads.dim = 3;
    let run = |name: &str| {
        Trainer::with_graph(config.clone(), network(), &folder.path().join(name)).unwrap()
    };
    let error = run("unlabelled").run(&mut |_| {}).unwrap_err().to_string();
    assert!(
        error.contains("no labels") && error.contains("data.path"),
        "{error}"
    );

    labels(folder.path());
    let mut trainer = run("labelled");
    assert_eq!(run_until(&mut trainer, u64::MAX), Outcome::Finished);
    let metrics = trainer.run_dir().metrics().unwrap();
    assert!(metrics.iter().all(|record| record.networks.len() == 4));
    let names: Vec<String> = trainer.checkpoint().tensors.into_keys().collect();
    assert!(names.iter().any(|name| name == "heads/projector.0.weight"));
    assert!(!names.iter().any(|name| name.starts_with("teacher/")));

    config.heads.dim = 2;
    let mut few = Trainer::with_graph(config, network(), &folder.path().join("few")).unwrap();
    let error = few.run(&mut |_| {}).unwrap_err().to_string();
    assert!(
        error.contains("2 classes are too few for label 2"),
        "{error}"
    );
}

/// With switchable batch-norm, widths share weights and nothing else.
#[test]
fn switched_norms_part_while_the_shared_weights_stay_shared() {
    let (trainer, _folder) = trained("switchable/resnet18-cifar100-byol", |_| {});
    let state = trainer.checkpoint();
    let leading = |name: &str| state.tensors[name].data[..8].to_vec();
    let shared = leading("net/stem.bn.weight");
    assert_ne!(shared, state.tensors["net/stem.bn.weight@0.5"].data);
    assert_eq!(state.tensors["net/stem.bn.weight@0.5"].data.len(), 8);
    let half = slimbit_graph::Width::new(0.5).unwrap();
    let seen = state.params_at(half).unwrap();
    assert_eq!(
        seen.get("stem.bn.weight").unwrap().data[..8],
        state.tensors["net/stem.bn.weight@0.5"].data
    );
    assert!(
        state
            .params_at(slimbit_graph::Width::new(0.6).unwrap())
            .is_err()
    );
}

#[test]
fn the_queue_holds_the_latest_keys_and_survives_a_resume() {
    let (trainer, folder) = trained("moco/resnet18-cifar10", |config| {
        config.objective.queue = 20;
        config.workers = 0;
    });
    let state = trainer.checkpoint();
    assert_eq!(state.tensors["queue/keys"].shape, [20, 16]);
    let other = folder.path().join("resumed");
    let config = trainer.config().clone();
    let mut resumed = Trainer::with_graph(config, network(), &other).unwrap();
    run_until(&mut resumed, 3);
    let mut resumed = Trainer::resume(&other).unwrap();
    run_until(&mut resumed, u64::MAX);
    assert_eq!(bits(&resumed.checkpoint()), bits(&state));
}

/// One chunk is the whole batch, bit for bit; two have batch statistics of their own.
#[test]
fn micro_batches_add_up() {
    let with = |size: usize| {
        let (trainer, _folder) = trained("combined/resnet18-cifar10", |c| c.micro_batch = size);
        let mut state = trainer.checkpoint();
        state.config.micro_batch = 0;
        (state, trainer.run_dir().metrics().unwrap())
    };
    let ((whole, _), (same, _), (halves, records)) = (with(0), with(8), with(4));
    assert_eq!(bits(&whole), bits(&same));
    let name = "net/a.conv.weight";
    assert_ne!(whole.tensors[name], halves.tensors[name]);
    assert!(
        records
            .iter()
            .all(|record| record.networks[0].loss.is_finite())
    );
}

/// What is computed again is what was there before.
#[test]
fn gradient_checkpointing_changes_no_bit() {
    for recipe in [
        "combined/resnet18-cifar10",
        "ssql/resnet18-cifar10",
        "us3l/resnet18-cifar100",
        "moco/resnet18-cifar10",
    ] {
        let [kept, again] = [false, true].map(|on| {
            let (trainer, _folder) = trained(recipe, |c| c.gradient_checkpointing = on);
            trainer.checkpoint()
        });
        let same = bits(&kept) == bits(&again);
        assert!(same, "{recipe}");
    }
}

#[test]
fn maps_are_distilled_through_their_own_projections() {
    let (trainer, _folder) = trained("us3l/resnet18-cifar100", |config| {
        config.objective.map_weight = 1.0;
        config.objective.maps = vec!["b.bn".to_owned()];
    });
    let state = trainer.checkpoint();
    assert_eq!(state.tensors["maps/map.0.weight"].shape, [16, 16, 1, 1]);
    assert!(state.tensors.contains_key("momentum/maps/map.0.weight"));
}

/// A run that falls again and again goes back, at half the rate each time, and gives up in the end; killed and resumed
/// in between, it does the same.
#[test]
fn the_watch_rolls_back_and_gives_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("us3l/resnet18-cifar100", images(folder.path()));
    config.objective.widths.schedule = Course::Static;
    config.epochs = 8;
    config.watch.action = WatchAction::Rollback;
    config.watch.window = 5;
    // No features spread that far: every network counts as fallen as soon as it is looked at.
    config.watch.least_std = 1.0;
    config.watch.most_rollbacks = 2;
    // No binary fraction, so that a checkpoint that rounded it would show.
    config.watch.lower_lr = 0.3;
    let run = |name: &str, kill: bool| {
        let path = folder.path().join(name);
        let mut trainer = Trainer::with_graph(config.clone(), network(), &path).unwrap();
        if kill {
            let stop = trainer.stop_flag();
            trainer
                .run(&mut |event| {
                    if let Event::RolledBack { .. } = event {
                        stop.store(true, Ordering::Relaxed);
                    }
                })
                .unwrap();
            trainer = Trainer::resume(&path).unwrap();
        }
        let mut back = Vec::new();
        let error = trainer
            .run(&mut |event| {
                if let Event::RolledBack { lr_factor, .. } = event {
                    back.push(lr_factor);
                }
            })
            .unwrap_err();
        assert!(matches!(error, TrainError::Collapsed(_)), "{error}");
        assert!(error.to_string().contains("likely cause"), "{error}");
        (back, trainer.checkpoint())
    };
    let (back, straight): (_, Checkpoint) = run("straight", false);
    assert_eq!(back, [0.3, 0.3_f32 * 0.3]);
    let (rest, killed) = run("killed", true);
    assert_eq!(rest, [0.3_f32 * 0.3]);
    assert_eq!(bits(&killed), bits(&straight));
    let log = fs::read_to_string(folder.path().join("straight/log.txt")).unwrap();
    assert!(
        log.contains("rolled back to iteration 4; the learning rate is 0.3"),
        "{log}"
    );
}
