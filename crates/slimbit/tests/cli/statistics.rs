//! What an export measured stays with the run, whatever is exported after it.

use std::fs;

use crate::command::{fails, json, succeeds, text};
use crate::trained::trained;

#[test]
fn a_second_export_takes_nothing_from_the_first() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    copy(&f.run, &run);
    let path = |name: &str| folder.path().join(name);
    let export = |name: &str, more: &[&str]| {
        let (file, images) = (path(name), text(&f.data).to_owned());
        let arguments = ["export", text(&run), "--images", &images, "-o", text(&file)];
        succeeds(&[&arguments[..], more].concat());
    };
    export("first.slim", &["--widths", "1", "--bits", "W8A8,W4A4"]);
    // The same point again, from other images, and other points.
    let other = [
        "--widths",
        "1,0.5",
        "--bits",
        "W8A8",
        "--calibration-images",
        "7",
    ];
    export("second.slim", &other);
    let verify = |name: &str| {
        let file = path(name);
        let arguments = [
            "verify",
            text(&file),
            "--images",
            text(&f.data),
            "--limit",
            "2",
        ];
        [&arguments[..], &["--run", text(&run), "--json"]]
            .concat()
            .iter()
            .map(|s| (*s).to_owned())
            .collect::<Vec<String>>()
    };
    for name in ["first.slim", "second.slim"] {
        let arguments = verify(name);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let report = json(&succeeds(&arguments));
        for stage in report["stages"].as_array().unwrap() {
            // Only what rounds to `f32` may differ from the formula, and no more.
            let found = stage[1]["formula"].as_u64().unwrap_or(0);
            let codes = stage[1]["codes"].as_u64().unwrap();
            assert!(found * 1000 <= codes, "{name}: {stage}");
        }
    }

    // Statistics as older versions left them: those of the last export alone.
    let file = run.join("statistics.json");
    let all: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let latest: Vec<_> = all.as_array().unwrap()[..2].to_vec();
    fs::write(&file, serde_json::to_vec(&latest).unwrap()).unwrap();
    let run_verify = |name: &str, works: bool| {
        let arguments = verify(name);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match works {
            true => succeeds(&arguments),
            false => fails(&arguments),
        }
    };
    run_verify("second.slim", true);
    let error = run_verify("first.slim", false);
    assert!(
        error.contains("was made of none of them") && error.contains("slimbit export"),
        "{error}"
    );
    fs::write(&file, b"[]").unwrap();
    let error = run_verify("second.slim", false);
    assert!(error.contains("keeps no statistics of 1x W8A8"), "{error}");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => fs::copy(entry.path(), target).map(|_| ()).unwrap(),
        }
    }
}
