//! A run that is stopped and resumed ends with the same bits as one that is not.

use std::fs;

use slimbit_train::{Outcome, TrainError, Trainer};

use crate::tiny::{STEPS, bits, config, images, network, run_until};

#[test]
fn stopping_anywhere_changes_no_bit() {
    for recipe in [
        "combined/resnet18-cifar10",
        "us3l/resnet18-cifar100",
        "ssql/resnet18-cifar10",
        "seed/resnet18-cifar100",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(recipe, images(folder.path()));
        let mut straight =
            Trainer::with_graph(config.clone(), network(), &folder.path().join("straight"))
                .unwrap();
        assert_eq!(run_until(&mut straight, u64::MAX), Outcome::Finished);
        let straight = straight.checkpoint();
        assert_eq!(straight.step, STEPS);
        let names: Vec<&str> = straight.tensors.keys().map(String::as_str).collect();
        assert!(
            names.iter().any(|n| n.starts_with("momentum/net/")),
            "{names:?}"
        );

        for stops in [&[2_u64][..], &[3], &[5], &[1, 2, 4]] {
            let run_dir = folder.path().join(format!("{stops:?}"));
            config.workers = stops.len();
            let mut trainer = Trainer::with_graph(config.clone(), network(), &run_dir).unwrap();
            for &stop in stops {
                assert_eq!(run_until(&mut trainer, stop), Outcome::Interrupted);
                assert_eq!(trainer.progress(), (stop, STEPS));
                trainer = Trainer::resume(&run_dir).unwrap();
            }
            assert_eq!(run_until(&mut trainer, u64::MAX), Outcome::Finished);
            let resumed = trainer.checkpoint();
            assert_eq!(
                bits(&resumed),
                bits(&straight),
                "{recipe} stopped at {stops:?}"
            );
            let lines = trainer.run_dir().metrics().unwrap();
            assert!(lines.iter().map(|line| line.step).eq(0..STEPS));
        }
    }
}

/// A kill leaves the last periodic checkpoint, metrics beyond it, and perhaps half a file.
#[test]
fn a_killed_run_falls_back_and_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let config = config("combined/resnet18-cifar10", images(folder.path()));
    let mut straight =
        Trainer::with_graph(config.clone(), network(), &folder.path().join("straight")).unwrap();
    run_until(&mut straight, u64::MAX);

    let run_dir = folder.path().join("killed");
    let mut killed = Trainer::with_graph(config, network(), &run_dir).unwrap();
    run_until(&mut killed, 5);
    drop(killed);
    let half = run_dir.join("checkpoints/step-00000005.safetensors");
    let bytes = fs::read(&half).unwrap();
    fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();

    let mut resumed = Trainer::resume(&run_dir).unwrap();
    assert_eq!(resumed.progress(), (4, STEPS));
    run_until(&mut resumed, u64::MAX);
    assert_eq!(bits(&resumed.checkpoint()), bits(&straight.checkpoint()));
    assert!(
        resumed
            .run_dir()
            .metrics()
            .unwrap()
            .iter()
            .map(|line| line.step)
            .eq(0..STEPS)
    );
}

#[test]
fn divergence_names_the_step_and_leaves_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("combined/resnet18-cifar10", images(folder.path()));
    config.optim.lr = 1e6;
    config.epochs = 40;
    let run_dir = folder.path().join("run");
    let mut trainer = Trainer::with_graph(config, network(), &run_dir).unwrap();
    let error = trainer.run(&mut |_| {}).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("step ") && text.contains("lower optim.lr"),
        "{text}"
    );
    for tensor in Trainer::resume(&run_dir)
        .unwrap()
        .checkpoint()
        .tensors
        .values()
    {
        assert!(tensor.data.iter().all(|v| v.is_finite()));
    }
}

#[test]
fn changed_settings_are_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let config = config("us3l/resnet18-cifar100", images(folder.path()));
    drop(Trainer::with_graph(config, network(), &run_dir).unwrap());
    let path = run_dir.join("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("workers = 2", "workers = 1")).unwrap();
    Trainer::resume(&run_dir).unwrap();
    fs::write(&path, text.replace("lr = 0.05", "lr = 0.06")).unwrap();
    let error = Trainer::resume(&run_dir)
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("was changed"), "{error}");
}
