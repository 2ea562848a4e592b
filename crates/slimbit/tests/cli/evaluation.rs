//! What tells how good a network is: probes, readiness, embeddings, fine-tuning.

use std::fs;

use crate::command::{fails, json, succeeds, text};
use crate::trained::trained;

#[test]
fn few_labels_are_drawn_by_seed_beside_the_float_network() {
    let f = trained();
    let probe = |more: &[&str]| {
        let (file, data) = (text(&f.file), text(&f.data));
        let mut arguments = vec!["probe", file, "--data", data, "--json"];
        arguments.extend(more);
        json(&succeeds(&arguments))
    };
    let few = ["--labels", "3", "--seeds", "2", "--float", text(&f.run)];
    let rows = probe(&few);
    assert_eq!(rows, probe(&few));
    let names: Vec<&str> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["point"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 8);
    assert_eq!((names[0], names[4]), ("1x float", "0.5x float"));
    for row in rows.as_array().unwrap() {
        let runs: Vec<f64> = row["runs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap())
            .collect();
        let (mean, spread) = (
            (runs[0] + runs[1]) / 2.0,
            (runs[0] - runs[1]).abs() / 2.0_f64.sqrt(),
        );
        assert!((row["top1"].as_f64().unwrap() - mean).abs() < 1e-9, "{row}");
        assert!(
            (row["spread"].as_f64().unwrap() - spread).abs() < 1e-9,
            "{row}"
        );
    }
    let linear = [
        "--kind", "linear", "--labels", "10%", "--epochs", "2", "--lr", "1", "--point", "1x W8A8",
    ];
    assert!(probe(&linear)[0]["spread"].is_null());
}

#[test]
fn probes_refuse_what_would_change_nothing() {
    let f = trained();
    let error = |more: &[&str]| {
        let mut arguments = vec!["probe", text(&f.file), "--data", text(&f.data)];
        arguments.extend(more);
        fails(&arguments)
    };
    for (more, part) in [
        (&["--labels", "0%"][..], "got `0%`"),
        (&["--labels", "200"], "asks for 200 images of each class"),
        (&["--epochs", "3"], "--epochs belongs to --kind linear"),
        (&["--seeds", "2"], "every seed gives the same neighbours"),
        (
            &["--kind", "top1", "--labels", "1%"],
            "uses no training labels",
        ),
    ] {
        let error = error(more);
        assert!(error.contains(part), "{error}");
    }
}

/// S4: a network whose statistics were never estimated is nothing like one whose were, however they were averaged.
#[test]
fn a_run_is_probed_at_any_width_and_needs_its_statistics() {
    let f = trained();
    let probe = |more: &[&str]| {
        let mut arguments = vec!["probe", text(&f.run), "--data", text(&f.data), "--json"];
        arguments.extend(more);
        let rows = json(&succeeds(&arguments));
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| {
            (
                row["point"].as_str().unwrap().to_owned(),
                row["top1"].as_f64().unwrap(),
            )
        })
        .collect::<Vec<_>>()
    };
    let widths = ["--widths", "1,0.8,0.5"];
    let rows = probe(&widths);
    let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["1x float", "0.8x float", "0.5x float"]);
    let exponential = probe(&[&widths[..], &["--batch-norm", "exponential"]].concat());
    let none = probe(&[&widths[..], &["--batch-norm", "none"]].concat());
    for (index, (name, none)) in none.iter().enumerate() {
        for estimated in [&rows[index], &exponential[index]] {
            // Of 64 images, and training ends with other bits on other kinds of CPU.
            assert!(estimated.1 > none + 5.0, "{name}: {estimated:?}, {none}");
        }
    }

    let beside = [
        "probe",
        text(&f.file),
        "--data",
        text(&f.data),
        "--float",
        text(&f.run),
        "--json",
    ];
    assert_eq!(json(&succeeds(&beside))[0]["top1"], rows[0].1);
    let refused = |file, more: &[&str]| {
        let arguments = [&["probe", file, "--data", text(&f.data)], more].concat();
        fails(&arguments)
    };
    let (run, file) = (text(&f.run), text(&f.file));
    assert!(refused(run, &["--kind", "top1"]).contains("has no classifier"));
    assert!(refused(run, &["--point", "1x W8A8"]).contains("is probed at --widths"));
    assert!(refused(file, &["--widths", "1"]).contains("--widths goes with a run directory"));
}

#[test]
fn readiness_agrees_less_with_fewer_bits_and_names_stages() {
    let f = trained();
    let images = [
        "--images",
        text(&f.data),
        "--neighbours",
        "5",
        "--trace-images",
        "4",
        "--json",
    ];
    let readiness = |more: &[&str]| {
        let mut arguments = vec!["readiness"];
        arguments.extend(more);
        arguments.extend(images);
        json(&succeeds(&arguments))
    };
    let report = readiness(&[text(&f.file), "--check", text(&f.data)]);
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 6);
    let by_bits = |point: &str| {
        let found = points.iter().find(|row| row["point"] == point);
        found
            .map(|row| row["bits"]["alignment"].as_f64().unwrap())
            .unwrap_or_else(|| panic!("{report}"))
    };
    assert!(by_bits("1x W8A8") > 0.95, "{report}");
    assert!(by_bits("1x W8A8") > by_bits("1x W2A4"));
    for point in points {
        let stages = point["stages"].as_array().unwrap();
        assert_eq!(stages.len(), 3);
        let noise: Vec<f64> = stages
            .iter()
            .map(|stage| stage["own_sqnr"].as_f64().unwrap())
            .collect();
        assert!(noise.is_sorted(), "{point}");
    }
    let correlation = report["rank_correlation"].as_f64().unwrap();
    assert!((-1.0..=1.0).contains(&correlation));

    let of_run = readiness(&[text(&f.run), "--point", "1x W8A8"]);
    assert_eq!(of_run["points"][0]["light"], "green", "{of_run}");
    assert!(of_run["rank_correlation"].is_null());
}

#[test]
fn readiness_needs_a_float_network_and_enough_images() {
    let f = trained();
    let alone = f.run.join("../alone.slim");
    fs::copy(&f.file, &alone).unwrap();
    let error = fails(&["readiness", text(&alone), "--images", text(&f.data)]);
    assert!(
        error.contains("give the run or the network file with --float"),
        "{error}"
    );
    let error = fails(&[
        "readiness",
        text(&f.file),
        "--images",
        text(&f.data),
        "--neighbours",
        "64",
    ]);
    assert!(
        error.contains("64 images, too few for 64 neighbours"),
        "{error}"
    );
}

#[test]
fn a_tuned_width_is_quantised_and_classifies() {
    let f = trained();
    let out = f.run.join("../tuned");
    let tuning = [
        "finetune",
        text(&f.run),
        "--data",
        text(&f.data),
        "--out",
        text(&out),
        "--width",
        "0.5",
        "--epochs",
        "2",
        "--freeze",
        "1",
        "--warm-head",
        "20",
        "--json",
    ];
    let summary = json(&succeeds(&tuning));
    assert_eq!(summary["labels"], 256);
    assert_eq!(summary["top1"]["images"], 64);
    // Ten classes; a classifier that learnt nothing gets 6 of 64.
    let float = summary["top1"]["correct"].as_u64().unwrap();
    assert!(float > 12, "{summary}");

    let (network, slim) = (out.join("network.safetensors"), out.join("tuned.slim"));
    succeeds(&[
        "quantize",
        text(&network),
        "--images",
        text(&f.data),
        "-o",
        text(&slim),
        "--bits",
        "W8A8",
    ]);
    let rows = json(&succeeds(&[
        "probe",
        text(&slim),
        "--data",
        text(&f.data),
        "--kind",
        "top1",
        "--json",
    ]));
    let integers = rows[0]["correct"].as_u64().unwrap();
    assert!(
        float.abs_diff(integers) <= 3,
        "{float} in float, {integers} in integers"
    );

    assert!(fails(&tuning).contains("holds a fine-tuning already; resume it"));
    let again = json(&succeeds(&["finetune", "--resume", text(&out), "--json"]));
    assert_eq!(again, summary);
}
