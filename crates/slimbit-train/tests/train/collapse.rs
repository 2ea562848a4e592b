//! What is known to bring networks down does so on real images, and the watch says why (spec section 7.2). Networks
//! without shortcuts then fall within a hundred iterations: all images come to lie on one line, which a classifier, or the
//! spread alone, tells late.

use std::path::Path;

use slimbit_train::{Event, Finding, Outcome, TrainConfig, Trainer};

/// A plain network of 13 convolutions on the repository's pictures.
const SETTINGS: &str = r#"
epochs = 1
batch = 96
workers = 1

[model]
backbone = "plain14-s2"

[heads]
hidden = 128
dim = 64

[preprocess]
channels = 1
height = 28
width = 28
mean = [0.2862745]
std = [0.353]

[objective.widths]
schedule = "static"
per_step = 2

[schedule]
warmup = 0

[watch]
window = 80
"#;

/// What the watch found, and the effective rank of the narrowest network in the end.
fn fate(changes: &[&str]) -> (Vec<Finding>, f64) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fashion-mnist");
    let folder = tempfile::tempdir().unwrap();
    let place = format!("data.path={:?}", data.display().to_string());
    let overrides = [&[place.as_str()], changes].concat();
    let config = TrainConfig::from_toml(SETTINGS, &overrides).unwrap();
    let mut trainer = Trainer::new(config, &folder.path().join("run")).unwrap();
    let (mut findings, mut ranks) = (vec![], vec![]);
    let outcome = trainer.run(&mut |event| match event {
        Event::Step { record, .. } => {
            ranks.extend(record.networks.last().map(|network| network.effective_rank));
        }
        Event::Collapsed(finding) => findings.push(finding),
        _ => {}
    });
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    let last = &ranks[ranks.len() - 10..];
    (findings, last.iter().sum::<f64>() / 10.0)
}

#[test]
fn us3l_stays_up() {
    let (findings, rank) = fate(&["recipe=us3l/resnet20-cifar10"]);
    assert!(findings.is_empty(), "{findings:?}");
    assert!(rank > 1.8, "{rank}");
}

/// S1. At the recipe's rate the base falls too, and on some kinds of CPU before the students; at a lower one they fall alone.
#[test]
fn naive_slimmable_networks_fall() {
    let remedy = "student_target = \"base\"";
    let fallen = ["optim.lr=0.05", "optim.lr=0.02"].map(|rate| {
        let (told, rank) = told(&["recipe=us/resnet20-cifar10", rate]);
        assert!(!told.is_empty(), "{rate}: nothing fell");
        told.iter().any(|text| text.contains(remedy)) && rank < 1.5
    });
    assert!(fallen.contains(&true));
}

/// S3 (d): students that match the raw target.
#[test]
fn cosine_students_without_a_head_fall() {
    let changes = [
        "recipe=us3l/resnet20-cifar10",
        "objective.base_loss=cosine",
        "objective.head=none",
        "optim.lr=0.05",
    ];
    falls(&changes, "head = \"auxiliary\"");
}

/// Thrown back to its beginning, a run that was too fast goes on at a rate that it bears.
#[test]
fn a_rate_that_is_far_too_high_is_lowered_until_networks_stay_up() {
    let (findings, rank) = fate(&[
        "recipe=us3l/resnet20-cifar10",
        "optim.lr=40",
        "watch.action=rollback",
        "watch.lower_lr=0.003",
    ]);
    assert_eq!(findings.len(), 1, "{findings:?}");
    let told = findings[0].to_string();
    assert!(told.contains("the learning rate: 40 is over"), "{told}");
    // What falls ends below 1.5; how far above it this run ends depends on the kind of CPU.
    assert!(rank > 1.6, "{rank}");
}

/// What the watch told, and the effective rank of the narrowest network in the end.
fn told(changes: &[&str]) -> (Vec<String>, f64) {
    let (findings, rank) = fate(changes);
    (findings.iter().map(ToString::to_string).collect(), rank)
}

fn falls(changes: &[&str], remedy: &str) {
    let (told, rank) = told(changes);
    assert!(told.iter().any(|text| text.contains(remedy)), "{told:?}");
    assert!(rank < 1.5, "{rank}");
}
