//! One folder of pictures, with or without class folders, does everywhere.

use std::fs;
use std::path::Path;

use slimbit::data::{Dataset, Split};

use crate::command::{fails, json, run, succeeds, text};
use crate::trained::{TINY, trained};

/// Grey pictures of four kinds of clothes, ten of each: as `name(kind, number)` says.
fn photos(folder: &Path, name: impl Fn(u32, usize) -> String) {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/fashion-mnist");
    let dataset = Dataset::open_split(all, Split::Test).unwrap();
    let mut counts = [0; 4];
    for index in 0..dataset.len() {
        let kind = dataset.label(index).unwrap();
        let Some(count) = counts.get_mut(kind as usize).filter(|count| **count < 10) else {
            continue;
        };
        let path = folder.join(name(kind, *count));
        *count += 1;
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let pixels = dataset.image(index).unwrap().pixels;
        fs::write(path, [b"P5\n28 28\n255\n", &pixels[..]].concat()).unwrap();
    }
}

fn flat(folder: &Path) {
    photos(folder, |kind, number| format!("{kind}-{number}.pgm"));
}

fn classes(folder: &Path) {
    let kinds = ["top", "trousers", "pullover", "dress"];
    photos(folder, |kind, number| {
        format!("{}/{number}.pgm", kinds[kind as usize])
    });
}

/// The README's flow: no split is ever needed.
#[test]
fn a_flat_folder_trains_exports_and_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let (photos, out) = (folder.path().join("photos"), folder.path().join("run"));
    flat(&photos);
    let mut arguments = vec!["pretrain", "--data", text(&photos), "--out", text(&out)];
    arguments.extend(TINY);
    succeeds(&arguments);
    let points = ["--widths", "1", "--bits", "W8A8,W4A4"];
    let export = [&["export", text(&out), "--json"], &points[..]].concat();
    let summary = json(&succeeds(&export));
    assert_eq!(summary["calibration_images"], 40);
    let some = ["--images", text(&photos), "--calibration-images", "17"];
    let summary = json(&succeeds(&[&export[..], &some].concat()));
    assert_eq!(summary["calibration_images"], 17);

    let model = out.join("model.slim");
    let images = ["--images", text(&photos)];
    let verified = succeeds(&[&["verify", text(&model), "--limit", "3"][..], &images].concat());
    assert!(verified.contains("3 images"), "{verified}");
    let limits = ["--neighbours", "5", "--limit", "30", "--json"];
    for source in [&out, &model] {
        let readiness = [&["readiness", text(source)][..], &images, &limits].concat();
        assert_eq!(json(&succeeds(&readiness))["images"], 30);
    }
    let error = fails(&["probe", text(&model), "--data", text(&photos)]);
    assert!(error.contains("--holdout 20%"), "{error}");
    let error = fails(&[
        "probe",
        text(&model),
        "--data",
        text(&photos),
        "--holdout",
        "25%",
    ]);
    assert!(error.contains("needs labels"), "{error}");
}

#[test]
fn class_folders_without_splits_are_probed_on_what_is_held_out() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    classes(folder.path());
    let data = text(folder.path());
    let probe = |more: &[&str]| {
        let output = run(&[&["probe", text(&f.file), "--data", data, "--json"], more].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        (json(&String::from_utf8(output.stdout).unwrap()), said)
    };
    let point = ["--point", "1x W8A8"];
    let (rows, said) = probe(&[&point[..], &["--holdout", "20%", "--seed", "3"]].concat());
    assert!(
        said.contains("8 of 40 images, spread over 4 classes (seed 3)"),
        "{said}"
    );
    let (same, _) = probe(&[&point[..], &["--holdout", "8", "--holdout-seed", "3"]].concat());
    assert_eq!(rows, same);

    for (arguments, part) in [
        (
            &["probe", text(&f.file), "--data", data][..],
            "--holdout 20%",
        ),
        (
            &[
                "readiness",
                text(&f.file),
                "--images",
                data,
                "--neighbours",
                "5",
                "--check",
                data,
            ],
            "--holdout 20%",
        ),
        (
            &[
                "readiness",
                text(&f.file),
                "--images",
                data,
                "--holdout",
                "20%",
            ],
            "goes with --check",
        ),
        (
            &["probe", text(&f.file), "--data", data, "--holdout", "half"],
            "`half`",
        ),
        (
            &[
                "probe",
                text(&f.file),
                "--data",
                text(&f.data),
                "--holdout",
                "20%",
            ],
            "already",
        ),
    ] {
        let error = fails(arguments);
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    let check = ["--check", data, "--holdout", "25%", "--json"];
    let readiness = [
        "readiness",
        text(&f.file),
        "--images",
        data,
        "--neighbours",
        "5",
    ];
    let report = json(&succeeds(&[&readiness[..], &check].concat()));
    assert!(report["points"][0]["top1"].is_number(), "{report}");
}

#[test]
fn a_fine_tuning_is_measured_on_what_it_holds_out() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let (photos, out) = (folder.path().join("photos"), folder.path().join("tuned"));
    classes(&photos);
    let tuning = [
        "finetune",
        text(&f.run),
        "--data",
        text(&photos),
        "--out",
        text(&out),
    ];
    let settings = [
        "--epochs",
        "1",
        "--batch",
        "8",
        "--holdout",
        "30%",
        "--seed",
        "5",
        "--json",
    ];
    let summary = json(&succeeds(&[&tuning[..], &settings].concat()));
    assert_eq!(summary["labels"], 28);
    assert_eq!(summary["top1"]["images"], 12);
    // Resumed, it is measured on the same; and so is its file.
    assert_eq!(
        json(&succeeds(&["finetune", "--resume", text(&out), "--json"])),
        summary
    );
    let network = out.join("network.safetensors");
    let top1 = [
        "--kind",
        "top1",
        "--holdout",
        "30%",
        "--holdout-seed",
        "5",
        "--json",
    ];
    let probe = ["probe", text(&network), "--data", text(&photos)];
    let rows = json(&succeeds(&[&probe[..], &top1].concat()));
    assert_eq!(rows[0]["images"], 12);
    assert_eq!(rows[0]["correct"], summary["top1"]["correct"]);
}

#[test]
fn every_image_is_embedded_under_a_name_that_says_which() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let embed = |images: &Path, more: &[&str]| {
        let file = folder.path().join("features.npy");
        let to = ["--images", text(images), "-o", text(&file)];
        let said = succeeds(&[&["embed", text(&f.file)][..], &to, more].concat());
        let names = fs::read_to_string(file.with_extension("txt")).unwrap();
        let names: Vec<String> = names.lines().map(String::from).collect();
        let rows = format!("'shape': ({}, ", names.len());
        let header = fs::read(&file).unwrap();
        assert!(
            String::from_utf8_lossy(&header[..128]).contains(&rows),
            "{rows}"
        );
        (said, names)
    };
    let (said, names) = embed(&f.data, &[]);
    assert!(
        said.contains("320 images") && said.contains("`features`"),
        "{said}"
    );
    assert_eq!(
        (names[0].as_str(), names[256].as_str()),
        ("train/0", "test/0")
    );
    assert_eq!(embed(&f.data, &["--split", "test"]).1.len(), 64);

    let photos = folder.path().join("photos");
    flat(&photos);
    fs::rename(photos.join("0-0.pgm"), photos.join("new\nline\\n.pgm")).unwrap();
    let (said, names) = embed(&photos, &[]);
    assert!(
        said.contains("40 images") && said.contains("(all)"),
        "{said}"
    );
    assert!(
        names.contains(&"new\\nline\\\\n.pgm".to_owned()),
        "{names:?}"
    );

    let to = ["--images", text(&photos), "-o", "x.npy"];
    let embed = ["embed", text(&f.file)];
    let error = fails(&[&embed[..], &to, &["--output-name", "logits"]].concat());
    assert!(error.contains("vectors are features"), "{error}");
    let error = fails(&[&embed[..], &to, &["--split", "train"]].concat());
    assert!(error.contains("no train split"), "{error}");
}

/// Every number of things that zero of is nothing.
#[test]
fn zero_is_refused_before_anything_is_read() {
    for arguments in [
        "verify x.slim --images i --limit 0",
        "compare x.onnx x.slim --images i --limit 0",
        "export run --calibration-images 0",
        "export x.slim --onnx x.onnx --batch 0",
        "export x.slim --onnx x.onnx --check i --limit 0",
        "quantize x.safetensors --images i -o x.slim --calibration-images 0",
        "quantize x.safetensors --images i -o x.slim --memory 0",
        "import --random 1 --arch resnet18 -o x.safetensors --classes 0",
        "import x.pth -o x.safetensors --input 0x32",
        "import x.pth -o x.safetensors --resize 0",
        "probe x.slim --data i --limit 0",
        "probe x.slim --data i --seeds 0",
        "probe x.slim --data i --kind linear --lr 0",
        "probe x.slim --data i --holdout 0",
        "readiness x.slim --images i --limit 0",
        "finetune run --data i --epochs 0",
        "finetune run --data i --batch 1",
        "finetune run --data i --lr nan",
        "bench x.slim --repeat 0",
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let error = fails(&arguments);
        let refused = error.contains("invalid value") || error.contains("at least 1");
        assert!(refused, "{arguments:?}: {error}");
    }
}

/// Paths are bytes: what is not UTF-8 works, or is refused for what it is.
#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_not_utf8_work() {
    use std::ffi::{OsStr, OsString};
    use std::os::unix::ffi::OsStrExt;

    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let odd = |name: &[u8]| folder.path().join(OsStr::from_bytes(name)).into_os_string();
    let photos = odd(b"caf\xe9");
    flat(Path::new(&photos));
    let picture = Path::new(&photos).join("0-0.pgm");
    let (model, tuned) = (odd(b"m\xf6del.slim"), odd(b"t\xfcned"));
    let run = |arguments: &[&OsStr]| {
        let output = crate::command::slimbit(&[])
            .args(arguments)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!error.contains("panicked"), "{arguments:?}: {error}");
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
            error,
        )
    };
    let os = |text: &'static str| OsString::from(text);
    let export = [
        os("export"),
        f.run.clone().into(),
        os("--widths=1"),
        os("--bits=W8A8"),
        os("--json"),
    ];
    let more = [os("--images"), photos.clone(), os("-o"), model.clone()];
    for (arguments, part) in [
        ([&export[..], &more].concat(), "m\\\\xf6del.slim"),
        (
            vec![
                os("verify"),
                model.clone(),
                os("--limit=2"),
                os("--images"),
                photos.clone(),
            ],
            "2 images",
        ),
        (
            vec![
                os("run"),
                os("--json"),
                model.clone(),
                picture.clone().into(),
            ],
            "caf\\\\xe9/0-0.pgm",
        ),
        (
            vec![
                os("embed"),
                model.clone(),
                os("--images"),
                photos.clone(),
                os("-o"),
                odd(b"\xe9.npy"),
            ],
            "40 images",
        ),
    ] {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
        let (done, said, error) = run(&arguments);
        assert!(done && said.contains(part), "{arguments:?}: {said} {error}");
    }
    for arguments in [
        vec![
            os("pretrain"),
            os("--data"),
            photos.clone(),
            os("--out"),
            odd(b"run"),
        ],
        vec![
            os("finetune"),
            f.run.clone().into(),
            os("--data"),
            photos.clone(),
            os("--out"),
            tuned,
        ],
    ] {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
        let (done, _, error) = run(&arguments);
        assert!(
            !done && error.contains("caf\\xe9 is not UTF-8"),
            "{arguments:?}: {error}"
        );
    }
}
