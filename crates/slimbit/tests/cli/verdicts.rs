//! What is said of a `.slim` file: verdicts, the card, the level that ran, and the memory it may take.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use slimbit::engine::{
    Arithmetic, Image, InputCodes, Model, OutputQuant, PointModel, Preprocess, Session, StageModel,
};
use slimbit::graph::{GraphBuilder, Op, Pool};
use slimbit::num::{ActQuant, Table, WeightGrid};

use crate::command::{fails, json, run, slimbit, succeeds, text};
use crate::trained::trained;

/// The trained file with other points or other free text.
fn altered(path: &Path, change: impl FnOnce(&mut Vec<PointModel>, &mut BTreeMap<String, String>)) {
    let model = Model::open(&trained().file).unwrap();
    let (mut points, mut metadata) = (model.points().to_vec(), model.metadata().clone());
    change(&mut points, &mut metadata);
    let (graph, input) = (model.graph().clone(), model.input().clone());
    let weights = model.weights().clone();
    let made = Model::new(graph, model.grid(), input, weights, points, metadata).unwrap();
    made.write(path).unwrap();
}

fn ends(output: &str) -> [&str; 2] {
    let mut lines = output.lines();
    [lines.next().unwrap(), lines.next_back().unwrap()]
}

#[test]
fn verify_and_prove_begin_and_end_with_a_verdict() {
    let f = trained();
    let output = succeeds(&["inspect", "--prove", text(&f.file)]);
    let [first, last] = ends(&output);
    assert!(first.starts_with("proven: ") && first == last, "{output}");
    assert!(!output.contains("clip((m*sum"), "a summary: {output}");
    let all = succeeds(&["inspect", "--prove", "--all", text(&f.file)]);
    assert!(all.contains("clip((m*sum") && all.contains("1x W8A8"));

    let images = [
        "verify",
        text(&f.file),
        "--images",
        text(&f.data),
        "--limit",
        "1",
    ];
    let output = succeeds(&images);
    let [first, last] = ends(&output);
    assert!(
        first.starts_with("verified: all ") && first == last,
        "{output}"
    );
    assert!(output.contains("give it with --run"), "{output}");
    let with_run = succeeds(&[&images[..], &["--run", text(&f.run)]].concat());
    assert!(with_run.contains("next to a tie"), "{with_run}");
}

#[test]
fn a_renamed_point_is_not_proven() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("renamed.slim");
    altered(&path, |points, _| {
        points[0].point = "1x W7A8".parse().unwrap();
    });
    let arguments = ["inspect", "--prove", text(&path)];
    let output = run(&arguments);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.starts_with("NOT proven: 1x W7A8"), "{printed}");
    let error = fails(&arguments);
    assert!(
        error.contains("NOT proven") && error.contains("renamed.slim"),
        "{error}"
    );
    let output = run(&["inspect", "--prove", "--json", text(&path)]);
    assert!(!output.status.success());
    let report = json(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(report["proven"], false);
    assert!(
        report["refutation"]
            .as_str()
            .unwrap()
            .contains("made for other bits")
    );
}

#[test]
fn the_card_says_whose_network_it_is_and_the_digest_pins_it() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("card.slim");
    succeeds(&[
        "export",
        text(&f.run),
        "--widths",
        "1,0.5",
        "--bits",
        "W8A8,W4A4,W2A4",
        "--calibration-images",
        "128",
        "-o",
        text(&path),
        "--author",
        "Ada | \u{1b}[31mLovelace",
        "--license",
        "MIT",
        "--description",
        "Tells shoes from shirts.",
    ]);
    let card = succeeds(&["inspect", "--card", text(&path)]);
    for wanted in [
        "Tells shoes from shirts.",
        "| author | Ada \\| \\x1b[31mLovelace |",
        "| licence | MIT |",
        "| 0.5x W4A4 |",
        "Grey, 28 rows by 28 columns",
        "trained_steps",
    ] {
        assert!(card.contains(wanted), "{wanted}: {card}");
    }
    assert!(!card.contains('\u{1b}'));
    let plain = succeeds(&["inspect", text(&path)]);
    assert!(plain.contains("digest blake3:") && !plain.contains('\u{1b}'));

    let digest =
        |path: &Path| json(&succeeds(&["inspect", "--json", text(path)]))["digest"].clone();
    let own = digest(&path);
    assert_eq!(digest(&f.file), own, "the author is no part of the network");
    let other = folder.path().join("other.slim");
    altered(&other, |points, _| {
        points.pop();
    });
    assert_ne!(digest(&other), own);

    let named = folder.path().join("named.slim");
    altered(&named, |_, metadata| {
        metadata.insert("classes".to_owned(), r#"["shoe","shirt"]"#.to_owned());
    });
    let card = succeeds(&["inspect", "--card", text(&named)]);
    assert!(card.contains("2: shoe, shirt"), "{card}");
    assert!(card.contains("| author | not stated |"));
}

#[test]
fn bench_names_the_level_that_ran() {
    let f = trained();
    let bench = [
        "bench",
        text(&f.file),
        "--repeat",
        "2",
        "--point",
        "1x W8A8",
        "--per-op",
    ];
    let chosen = slimbit(&bench)
        .env("SLIMBIT_ISA", "scalar")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&chosen.stdout);
    assert!(printed.contains("scalar"), "{printed}");
    let best = slimbit::kernels::Isa::detect();
    if best != slimbit::kernels::Isa::Scalar {
        assert!(
            printed.contains("because SLIMBIT_ISA asks for it"),
            "{printed}"
        );
        assert!(
            printed.contains(&format!("this CPU has {best}")),
            "{printed}"
        );
    }
    assert!(printed.contains("others (--all)"), "a summary: {printed}");
    let all = succeeds(&[&bench[..], &["--all"]].concat());
    assert!(
        all.contains(&format!("CPU level {best}")) && !all.contains("others"),
        "{all}"
    );
    assert!(succeeds(&["bench", "--help"]).contains("SLIMBIT_ISA"));
}

/// A file of a few kilobytes whose activations take gigabytes.
fn hungry(path: &Path) {
    let mut b = GraphBuilder::new("hungry");
    let x = b.input(1, 40_000, 40_000);
    let window = Pool {
        kernel: [2; 2],
        stride: [2; 2],
        padding: [0; 4],
    };
    let x = b.push("pool", Op::MaxPool(window), &[x]);
    let graph = b.finish(&[("codes", x)]).unwrap();
    let quant = ActQuant {
        scale: 1.0 / (255.0 * 0.25),
        zero_point: 128,
        bits: 8,
    };
    let input = InputCodes {
        tables: vec![Table(std::array::from_fn(|p| p as u8))],
        quant,
        mean: vec![128.0 / 255.0],
        std: vec![0.25],
    };
    let stage = |arithmetic| StageModel {
        output: OutputQuant::Codes(quant),
        arithmetic,
    };
    let points = vec![PointModel {
        point: "1x W8A8".parse().unwrap(),
        stages: vec![stage(Arithmetic::Input), stage(Arithmetic::Copy)],
    }];
    let (weights, text) = (BTreeMap::new(), BTreeMap::new());
    let model = Model::new(graph, WeightGrid::Nested, input, weights, points, text).unwrap();
    model.write(path).unwrap();
}

#[test]
fn a_network_that_takes_too_much_memory_is_refused_with_the_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hungry.slim");
    hungry(&path);
    assert!(fs::metadata(&path).unwrap().len() < 8000);
    let error = fails(&["bench", text(&path), "--memory", "100", "--repeat", "1"]);
    assert!(
        error.contains("100.0 MiB") && error.contains("--memory") && error.contains("1x W8A8"),
        "{error}"
    );
    assert!(fails(&["bench", text(&path), "--memory", "0"]).contains("at least 1"));
    for command in [
        "run",
        "verify",
        "embed",
        "probe",
        "compare",
        "readiness",
        "bench",
    ] {
        assert!(
            succeeds(&[command, "--help"]).contains("--memory"),
            "{command}"
        );
    }
}

#[test]
fn a_device_gets_from_a_photo_what_the_command_line_gets() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("photo.ppm");
    let rgb: Vec<u8> = (0..90 * 61 * 3).map(|i| (i * 7 % 251) as u8).collect();
    fs::write(&picture, [&b"P6 90 61 255\n"[..], &rgb].concat()).unwrap();
    let printed = json(&succeeds(&["run", text(&f.file), text(&picture), "--json"]));

    let model = std::sync::Arc::new(Model::open(&f.file).unwrap());
    let preprocess = Preprocess::from_model(&model).unwrap();
    let point = model.points()[0].point;
    let mut session = Session::new(model, point).unwrap();
    let pixels = preprocess.codes(&Image::new(3, 61, 90, rgb).unwrap());
    let own = session
        .run(&pixels)
        .unwrap()
        .get("features")
        .unwrap()
        .to_f32();
    let own = serde_json::to_value(own).unwrap();
    assert_eq!(printed[0]["values"], own);
}
