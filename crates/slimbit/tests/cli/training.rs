//! Runs of `pretrain` and `quickstart`.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::command::{json, slimbit, succeeds, text};
use crate::trained::{TINY, trained};

/// Killed in several iterations, at another point of each: what was begun leaves no trace, and iterations after the last
/// checkpoint are done again.
#[test]
fn a_run_that_is_killed_again_and_again_ends_with_the_same_bits() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut arguments = vec![
        "pretrain",
        "--data",
        text(&f.data),
        "--out",
        text(&run),
        "run.checkpoint_every=3",
    ];
    arguments.extend(TINY);
    let lines =
        || fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    for (iterations, share) in [(2, 0.9), (6, 0.2), (9, 0.4), (12, 0.7)] {
        let mut child = slimbit(&arguments).stderr(Stdio::null()).spawn().unwrap();
        let (mut seen, mut last, mut iteration) = (lines(), Instant::now(), Duration::ZERO);
        while seen < iterations && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(1));
            if lines() > seen {
                (seen, iteration, last) = (lines(), last.elapsed(), Instant::now());
            }
        }
        sleep(iteration.mul_f64(share));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(lines() < 16, "the run ended before it could be killed");
        arguments = vec!["pretrain", "--resume", text(&run)];
    }
    succeeds(&arguments);
    let weights = |run: &Path| {
        let (dir, config) = slimbit::train::RunDir::open(run).unwrap();
        dir.checkpoints(config.run.keep)
            .latest()
            .unwrap()
            .unwrap()
            .tensors
    };
    assert!(weights(&run) == weights(&f.run), "resumed weights differ");
    assert_eq!(lines(), 16);
}

#[test]
fn quickstart_writes_everything() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("quickstart");
    let mut arguments = vec![
        "quickstart",
        "--out",
        text(&out),
        "--data",
        text(&f.data),
        "--json",
    ];
    arguments.extend(&TINY[1..7]);
    let results = json(&succeeds(&arguments));
    assert_eq!(results["points"].as_array().unwrap().len(), 20);
    assert_eq!(results["widths"].as_array().unwrap().len(), 4);
    let report = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.contains("0.25x W2A4") && !report.contains("<script src"));
    for name in [
        "fashion.slim",
        "results.json",
        "run/metrics.jsonl",
        "run/config.toml",
    ] {
        assert!(out.join(name).exists(), "{name}");
    }
}
