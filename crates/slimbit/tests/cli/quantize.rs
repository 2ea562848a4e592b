//! Post-training quantisation on the command line: a network, a few images, a file with every point.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use crate::command::{fails, json, slimbit, succeeds, text};

/// A folder with a network of random weights for the repository's images.
struct Fixture {
    folder: TempDir,
    network: PathBuf,
    images: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let network = folder.path().join("net.safetensors");
        let random = "import --random 5 --arch resnet8 --classes 10 --input 28x28 -o";
        let mut arguments: Vec<&str> = random.split(' ').collect();
        arguments.push(text(&network));
        succeeds(&arguments);
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fashion-mnist");
        Self {
            folder,
            network,
            images,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn quantize<'a>(&'a self, output: &'a Path, images: &'a str) -> Vec<&'a str> {
        let mut arguments = vec![
            "quantize",
            text(&self.network),
            "--images",
            text(&self.images),
        ];
        arguments.extend(["--calibration-images", images, "-o", text(output)]);
        arguments
    }
}

#[test]
fn every_point_answers_as_the_float_network_does() {
    let f = Fixture::new();
    let file = f.path("net.slim");
    let mut arguments = f.quantize(&file, "64");
    arguments.push("--json");
    let summary = json(&succeeds(&arguments));
    assert_eq!(summary["calibration_images"], 64);
    assert_eq!(summary["points"].as_array().unwrap().len(), 4);

    let data = text(&f.images);
    let mut probe = vec!["probe", text(&file), "--kind", "top1", "--data", data];
    probe.extend(["--limit", "200", "--json"]);
    let compared = [&probe[..], &["--float", text(&f.network)]].concat();
    let rows = json(&succeeds(&compared));
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 5);
    assert_eq!(rows[0]["point"], "float");
    for (row, least) in rows[1..].iter().zip([0.999, 0.99, 0.98, 0.9]) {
        assert!(row["cosine"].as_f64().unwrap() > least, "{row}");
    }
    assert!(rows[1]["agreement"].as_f64().unwrap() > 90.0, "{}", rows[1]);

    let float = ["probe", text(&f.network), "--kind", "top1", "--data", data];
    let float = json(&succeeds(
        &[&float[..], &["--limit", "200", "--json"]].concat(),
    ));
    assert_eq!(float[0]["correct"], rows[0]["correct"]);

    let proof = json(&succeeds(&["inspect", text(&file), "--prove", "--json"]));
    assert!(proof.is_object());
}

#[test]
fn a_killed_run_leaves_the_old_file() {
    let f = Fixture::new();
    let file = f.path("net.slim");
    succeeds(&f.quantize(&file, "8"));
    let old = fs::read(&file).unwrap();
    let mut killed = 0;
    for wait in [5, 50, 150, 400] {
        let mut child = slimbit(&f.quantize(&file, "1024"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        killed += 1;
        assert!(fs::read(&file).unwrap() == old, "changed after {wait} ms");
    }
    assert!(killed > 0, "every run ended before it could be killed");
}

#[test]
fn what_cannot_be_quantised_is_named() {
    let f = Fixture::new();
    let file = f.path("net.slim");
    let refused = |arguments: &[&str], part: &str| {
        let error = fails(arguments);
        assert!(error.contains(part), "{error}");
        assert!(!file.exists());
    };
    let with = |more: &[&'static str]| [f.quantize(&file, "8"), more.to_vec()].concat();
    refused(&with(&["--observer", "median"]), "median");
    refused(&with(&["--bits", "W9A8"]), "W9A8");
    refused(&with(&["--grid", "odd"]), "grid");
    refused(&f.quantize(&file, "0"), "at least 1");
    let missing = f.path("none.safetensors");
    let nothing = [
        "quantize",
        text(&missing),
        "--images",
        text(&f.images),
        "-o",
        text(&file),
    ];
    refused(&nothing, "none.safetensors");
    let kind = ["probe", text(&f.network), "--data", text(&f.images)];
    refused(&kind, "top1");
}
