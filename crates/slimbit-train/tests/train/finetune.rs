//! A fine-tuning learns what it may, and resumes to the same bits.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use slimbit_graph::{Params, Width};
use slimbit_train::finetune::{FineTuneConfig, FineTuneRecord, FineTuner, Freeze};
use slimbit_train::probe::LabelBudget;
use slimbit_train::{Outcome, Trainer};

use crate::tiny::{config, images, network};

/// Two epochs of three batches of 8.
const STEPS: u64 = 6;

/// A run that was initialised, and its images with two classes: whose first row is bright, and others.
fn prepare(folder: &Path) -> FineTuneConfig {
    let data = folder.join("data");
    fs::create_dir(&data).unwrap();
    images(&data);
    let file = data.join("train-images-idx3-ubyte");
    let mut bytes = fs::read(&file).unwrap();
    let mut labels = vec![0, 0, 8, 1, 0, 0, 0, 24];
    for image in 0..24_usize {
        let bright = (image * 7 % 5 % 2) as u8;
        bytes[16 + image * 64..][..8].fill(255 * bright);
        labels.push(bright);
    }
    fs::write(file, bytes).unwrap();
    fs::write(data.join("train-labels-idx1-ubyte"), labels).unwrap();
    let run = folder.join("run");
    Trainer::with_graph(
        config("combined/resnet18-cifar10", data.clone()),
        network(),
        &run,
    )
    .unwrap();
    FineTuneConfig {
        epochs: 2,
        batch: 8,
        checkpoint_every: 2,
        ..FineTuneConfig::new(&run, &data, [8, 8])
    }
}

fn run_until(tuner: &mut FineTuner, step: u64) -> (Outcome, Vec<FineTuneRecord>) {
    let stop = tuner.stop_flag();
    let mut records = Vec::new();
    let outcome = tuner.run(&mut |record| {
        records.push(*record);
        stop.store(record.step + 1 == step, Ordering::Relaxed);
    });
    (outcome.unwrap(), records)
}

fn bits(params: &Params) -> Vec<(&str, Vec<u32>)> {
    let arrays = params.0.iter();
    arrays
        .map(|(name, a)| (name.as_str(), a.data.iter().map(|v| v.to_bits()).collect()))
        .collect()
}

fn tune(config: &FineTuneConfig, folder: &Path) -> (Params, Vec<FineTuneRecord>) {
    let mut tuner = FineTuner::new(config.clone(), folder).unwrap();
    let (outcome, records) = run_until(&mut tuner, u64::MAX);
    assert_eq!(outcome, Outcome::Finished);
    (tuner.tuned().unwrap().params, records)
}

#[test]
fn stopping_anywhere_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let base = prepare(folder.path());
    for (name, config) in [
        (
            "whole",
            FineTuneConfig {
                warm_head: 2,
                ..base.clone()
            },
        ),
        (
            "half",
            FineTuneConfig {
                width: Width::new(0.5).unwrap(),
                layer_decay: 0.5,
                ..base.clone()
            },
        ),
        (
            "linear",
            FineTuneConfig {
                freeze: Freeze::All,
                ..base.clone()
            },
        ),
    ] {
        let (straight, records) = tune(&config, &folder.path().join(name));
        assert_eq!(records.len() as u64, STEPS);
        for stop in [1, 2, 5] {
            let path = folder.path().join(format!("{name}-{stop}"));
            let mut tuner = FineTuner::new(config.clone(), &path).unwrap();
            assert_eq!(run_until(&mut tuner, stop).0, Outcome::Interrupted);
            let mut tuner = FineTuner::resume(&path).unwrap();
            assert_eq!(tuner.progress(), (stop, STEPS));
            assert_eq!(run_until(&mut tuner, u64::MAX).0, Outcome::Finished);
            assert_eq!(
                bits(&tuner.tuned().unwrap().params),
                bits(&straight),
                "{name} stopped at {stop}"
            );
            let lines = fs::read_to_string(path.join("metrics.jsonl")).unwrap();
            assert_eq!(lines.lines().count() as u64, STEPS);
        }
    }
}

#[test]
fn what_is_frozen_stays_and_the_rest_learns() {
    let folder = tempfile::tempdir().unwrap();
    let base = prepare(folder.path());
    let start = |config: &FineTuneConfig, name| {
        FineTuner::new(config.clone(), &folder.path().join(name))
            .unwrap()
            .tuned()
            .unwrap()
            .params
    };
    for (name, freeze, still) in [
        ("none", Freeze::First(0), &[][..]),
        ("stem", Freeze::First(1), &["stem."]),
        ("backbone", Freeze::All, &["stem.", "a.", "b."]),
    ] {
        let config = FineTuneConfig {
            freeze,
            ..base.clone()
        };
        let before = start(&config, format!("{name}-start"));
        let (after, _) = tune(&config, &folder.path().join(name));
        for ((parameter, before), (_, after)) in before.0.iter().zip(&after.0) {
            let frozen = still.iter().any(|prefix| parameter.starts_with(prefix));
            assert_eq!(before == after, frozen, "{name}: {parameter}");
        }
    }
}

#[test]
fn training_lowers_the_loss() {
    let folder = tempfile::tempdir().unwrap();
    let config = FineTuneConfig {
        epochs: 30,
        checkpoint_every: 1000,
        ..prepare(folder.path())
    };
    let (_, records) = tune(&config, &folder.path().join("tuned"));
    let mean =
        |part: &[FineTuneRecord]| part.iter().map(|r| r.loss).sum::<f64>() / part.len() as f64;
    let (first, last) = (mean(&records[..6]), mean(&records[84..]));
    assert!(last < 0.5 * first, "{first} to {last}");
    assert!(records[0].lr > 50.0 * records[89].lr);
}

#[test]
fn a_linear_start_is_better_than_none() {
    let folder = tempfile::tempdir().unwrap();
    let base = prepare(folder.path());
    let first_loss = |warm_head| {
        let config = FineTuneConfig {
            warm_head,
            ..base.clone()
        };
        tune(&config, &folder.path().join(format!("warm-{warm_head}"))).1[0].loss
    };
    assert!(first_loss(50) < first_loss(0));
}

#[test]
fn what_cannot_be_tuned_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let base = prepare(folder.path());
    let refused = |config: FineTuneConfig| {
        let path = folder.path().join("refused");
        FineTuner::new(config, &path)
            .err()
            .map(|error| error.to_string())
            .unwrap()
    };
    let error = refused(FineTuneConfig {
        labels: LabelBudget::PerClass(100),
        ..base.clone()
    });
    assert!(
        error.contains("asks for 100 images of each class"),
        "{error}"
    );
    let error = refused(FineTuneConfig {
        freeze: Freeze::First(3),
        ..base.clone()
    });
    assert!(
        error.contains("3 layers; freeze at most 2 or `all`"),
        "{error}"
    );
    let error = refused(FineTuneConfig {
        run: folder.path().join("nowhere"),
        ..base.clone()
    });
    assert!(error.contains("nowhere"), "{error}");
    fs::remove_file(base.data.join("train-labels-idx1-ubyte")).unwrap();
    let error = refused(base);
    assert!(
        error.contains("has no labels; give an image folder"),
        "{error}"
    );
    let error = FineTuner::resume(folder.path()).err().unwrap().to_string();
    assert!(error.contains("has no finetune.toml"), "{error}");
}

#[test]
fn a_tuning_is_made_longer_and_notices_other_images() {
    let folder = tempfile::tempdir().unwrap();
    let config = prepare(folder.path());
    let path = folder.path().join("tuned");
    let (_, records) = tune(&config, &path);
    assert!(records.iter().all(|record| record.lr == config.lr));
    let longer = 2 * config.epochs;
    let refused = FineTuner::resume_with(&path, Some(config.epochs - 1), false).err();
    let error = refused.expect("refused").to_string();
    assert!(
        error.contains("`epochs`") && error.contains("are done; choose more"),
        "{error}"
    );
    let mut tuner = FineTuner::resume_with(&path, Some(longer), false).unwrap();
    assert_eq!(tuner.progress(), (STEPS, 2 * STEPS));
    let (outcome, more) = run_until(&mut tuner, u64::MAX);
    assert_eq!((outcome, more.len() as u64), (Outcome::Finished, STEPS));
    // Of four epochs, the last is behind 60 % of them.
    assert_eq!((more[0].lr, more[5].lr), (config.lr, config.lr * 0.1));
    assert_eq!(FineTuner::resume(&path).unwrap().config().epochs, longer);
}
