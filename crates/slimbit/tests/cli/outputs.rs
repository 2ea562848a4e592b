//! Outputs that would destroy something, or that cannot be written, are refused before work begins.

use std::fs;
use std::path::Path;

use crate::command::{fails, succeeds, text};
use crate::trained::trained;

/// The command must fail with this in its message, and leave the file as it is.
fn refuses(arguments: &[&str], file: &Path, part: &str) {
    let before = fs::read(file).unwrap();
    let error = fails(arguments);
    assert!(error.contains(part), "{arguments:?}: {error}");
    assert!(fs::read(file).unwrap() == before, "{arguments:?} wrote");
}

#[test]
fn no_input_is_overwritten() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (net, slim, link) = (path("net.safetensors"), path("a.slim"), path("link"));
    let random = "import --random 1 --arch resnet8 --classes 10 --input 28x28 -o";
    let mut import: Vec<&str> = random.split(' ').collect();
    import.push(text(&net));
    succeeds(&import);
    // The same kind of file may be replaced.
    succeeds(&import);
    fs::copy(&f.file, &slim).unwrap();
    fs::hard_link(&net, &link).unwrap();
    let (net, slim, link, data) = (text(&net), text(&slim), text(&link), text(&f.data));

    refuses(
        &["export", slim, "--onnx", slim],
        slim.as_ref(),
        "the input",
    );
    refuses(&["export", net, "--onnx", net], net.as_ref(), "the input");
    refuses(&["import", net, "-o", net], net.as_ref(), "the input");
    let quantize = ["quantize", net, "--images", data, "-o"];
    refuses(&[&quantize[..], &[net]].concat(), net.as_ref(), "the input");
    let other = "under another name";
    refuses(&[&quantize[..], &[link]].concat(), net.as_ref(), other);
}

#[test]
fn no_file_of_another_kind_is_overwritten() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (run, slim, data) = (text(&f.run), text(&f.file), text(&f.data));
    let config = f.run.join("config.toml");
    let different = "exists and is not a .slim file";
    refuses(&["export", run, "-o", text(&config)], &config, different);
    let notes = path("notes.npy");
    fs::write(&notes, "no array").unwrap();
    let embed = ["embed", slim, "--images", data, "-o", text(&notes)];
    refuses(&embed, &notes, "is not a .npy array");

    // A list of names goes with its array, and with nothing else.
    let (array, names) = (path("array.npy"), path("array.txt"));
    fs::write(&names, "my notes\n").unwrap();
    let embed = ["embed", slim, "--images", data, "-o", text(&array)];
    refuses(&embed, &names, "is not the list of names");
    assert!(!array.exists());
    fs::remove_file(&names).unwrap();
    succeeds(&embed);
    succeeds(&embed);

    let out = path("out");
    fs::create_dir(&out).unwrap();
    let report = out.join("results.json");
    fs::write(&report, "my results").unwrap();
    let quickstart = ["quickstart", "--data", data, "--out", text(&out)];
    refuses(&quickstart, &report, "is not a JSON file");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn a_folder_that_cannot_be_written_is_named_at_once() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing/a.slim");
    let (run, data) = (text(&f.run), text(&f.data));
    let error = fails(&["export", run, "-o", text(&missing)]);
    assert!(error.contains("missing does not exist"), "{error}");
    let error = fails(&["export", run, "-o", text(folder.path())]);
    assert!(error.contains("is a folder"), "{error}");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let inside = file.join("run");
    for command in ["pretrain", "quickstart"] {
        let error = fails(&[command, "--data", data, "--out", text(&inside)]);
        assert!(error.contains("file is not a folder"), "{error}");
    }
    let tune = ["finetune", run, "--data", data, "--out", text(&inside)];
    let error = fails(&tune);
    assert!(error.contains("file is not a folder"), "{error}");
}
