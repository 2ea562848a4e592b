//! Learning from the network of a finished run.

use std::fs;
use std::path::Path;

use slimbit_graph::{Channels, Graph, GraphBuilder};
use slimbit_train::config::WatchAction;
use slimbit_train::{Event, TrainConfig, TrainError, Trainer};

use crate::tiny::{bits, config, finished, images, network, run_until};

fn seed(folder: &Path) -> TrainConfig {
    config("seed/resnet18-cifar100", images(folder))
}

fn other_network() -> Graph {
    let mut b = GraphBuilder::new("other");
    let x = b.input(1, 8, 8);
    let x = b.conv_bn_relu("first", x, Channels::slim(8), 3, 2);
    let x = b.global_avg_pool("pool", x);
    b.finish(&[("features", x)]).unwrap()
}

/// The queue holds the teacher's embeddings and nothing else, so it tells whether the teacher is what it was.
#[test]
fn the_teacher_is_the_same_whoever_learns_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = seed(folder.path());
    let keys = |config: &TrainConfig, graph: Graph, name: &str| {
        let path = folder.path().join(name);
        let mut trainer = Trainer::with_graph(config.clone(), graph, &path).unwrap();
        let kept = fs::read(path.join("teacher.safetensors")).unwrap();
        run_until(&mut trainer, u64::MAX);
        assert!(kept == fs::read(path.join("teacher.safetensors")).unwrap());
        let state = trainer.checkpoint();
        assert!(!state.tensors.keys().any(|name| name.starts_with("teacher")));
        state.tensors["queue/keys"].data.clone()
    };
    let first = keys(&config, network(), "first");
    assert_eq!(first, keys(&config, other_network(), "second"));

    // A copy teaches as its original does, so that a run can be repeated from its own folder.
    let mut changed = config.clone();
    changed.objective.teacher = folder.path().join("first/teacher.safetensors");
    assert_eq!(first, keys(&changed, network(), "third"));

    // A narrow run teaches at the width that it was trained at.
    for recipe in [
        "individual/resnet18-cifar100-byol",
        "switchable/resnet18-cifar100-byol",
    ] {
        changed.objective.teacher = finished(recipe, folder.path());
        assert_ne!(first, keys(&changed, network(), &format!("of {recipe}")));
    }
}

#[test]
fn a_run_outlives_the_run_that_it_learns_from() {
    let folder = tempfile::tempdir().unwrap();
    let config = seed(folder.path());
    let [straight, stopped] = ["straight", "stopped"].map(|name| folder.path().join(name));
    let mut whole = Trainer::with_graph(config.clone(), network(), &straight).unwrap();
    run_until(&mut whole, u64::MAX);

    let mut trainer = Trainer::with_graph(config.clone(), network(), &stopped).unwrap();
    fs::remove_dir_all(&config.objective.teacher).unwrap();
    run_until(&mut trainer, 3);
    let mut resumed = Trainer::resume(&stopped).unwrap();
    run_until(&mut resumed, u64::MAX);
    assert_eq!(bits(&resumed.checkpoint()), bits(&whole.checkpoint()));

    let kept = stopped.join("teacher.safetensors");
    let bytes = fs::read(&kept).unwrap();
    let refused = || {
        Trainer::resume(&stopped)
            .err()
            .expect("refused")
            .to_string()
    };
    fs::write(&kept, &bytes[..bytes.len() / 2]).unwrap();
    assert!(refused().contains("truncated or damaged"), "{}", refused());
    fs::remove_file(&kept).unwrap();
    assert!(
        refused().contains("has lost its teacher.safetensors"),
        "{}",
        refused()
    );
}

/// Thrown back to its beginning, a run learns from the same teacher, of which it has the only copy by then.
#[test]
fn a_run_that_rolls_back_keeps_its_teacher() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = seed(folder.path());
    let mut straight =
        Trainer::with_graph(config.clone(), network(), &folder.path().join("straight")).unwrap();
    run_until(&mut straight, 2);

    config.watch.action = WatchAction::Rollback;
    config.watch.window = 2;
    // No features spread that far: the run goes back after two iterations, and after two more it gives up.
    config.watch.least_std = 1.0;
    config.watch.most_rollbacks = 1;
    let mut trainer =
        Trainer::with_graph(config.clone(), network(), &folder.path().join("back")).unwrap();
    fs::remove_dir_all(&config.objective.teacher).unwrap();
    let mut back = 0;
    let error = trainer.run(&mut |event| {
        back += u32::from(matches!(event, Event::RolledBack { .. }));
    });
    assert!(matches!(error, Err(TrainError::Collapsed(_))), "{error:?}");
    assert_eq!((back, trainer.progress().0), (1, 2));
    let keys = |trainer: &Trainer| trainer.checkpoint().tensors["queue/keys"].data.clone();
    assert_eq!(keys(&trainer), keys(&straight));
}

#[test]
fn a_teacher_that_cannot_teach_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let good = seed(folder.path());
    let empty = folder.path().join("begun");
    fs::create_dir_all(empty.join("checkpoints")).unwrap();
    fs::write(empty.join("config.toml"), good.to_toml()).unwrap();
    let untrained = folder.path().join("untrained");
    drop(Trainer::with_graph(good.clone(), network(), &untrained).unwrap());
    type Change<'a> = &'a dyn Fn(&mut TrainConfig);
    let cases: [(Change, &str); 8] = [
        (
            &|c| c.objective.teacher = "".into(),
            "write objective.teacher=RUN_DIR",
        ),
        (
            &|c| c.objective.teacher = "nowhere".into(),
            "`objective.teacher`: nowhere holds no run",
        ),
        (
            &|c| c.objective.teacher = empty.clone(),
            "has no checkpoint yet; train it first",
        ),
        (
            &|c| c.objective.teacher = untrained.clone(),
            "has not learnt anything yet; train it first",
        ),
        (
            &|c| c.objective.teacher = good.data.path.join("train-images-idx3-ubyte"),
            "checkpoint",
        ),
        (
            &|c| c.heads.dim = 8,
            "8 is not the 16 of the teacher's embedding; write heads.dim=16",
        ),
        (
            &|c| c.preprocess.mean = vec![0.5],
            "sees another input; write preprocess.mean=[0.28",
        ),
        (
            &|c| c.objective.target = slimbit_train::config::Target::Ema,
            "SEED distils the finished network",
        ),
    ];
    for (change, message) in cases {
        let mut config = good.clone();
        change(&mut config);
        let run_dir = folder.path().join("run");
        let error = Trainer::with_graph(config, network(), &run_dir).err();
        let error = error.expect(message).to_string();
        assert!(error.contains(message), "{error}");
        assert!(!run_dir.exists(), "{message}");
    }
    let error = TrainConfig::from_toml("", &["objective.teacher=runs/a"]).unwrap_err();
    assert!(error.to_string().contains("name no teacher"), "{error}");
}
