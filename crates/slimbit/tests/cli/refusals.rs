//! Bad input, which is named, and after which nothing is lost.

use std::fs;
#[cfg(unix)]
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use crate::command::{fails, message, slimbit, succeeds, text};
use crate::trained::{TINY, trained};

#[test]
fn bad_settings_are_named() {
    let f = trained();
    let out = f.run.join("never");
    let pretrain = |setting: &str| {
        fails(&[
            "pretrain",
            "--data",
            text(&f.data),
            "--out",
            text(&out),
            setting,
        ])
    };
    assert!(pretrain("optim.lrr=1").contains("optim.lr"));
    assert!(pretrain("objective.widths.min=1.5").contains("objective.widths.min"));
    assert!(pretrain("objective.bits.weight=[1,8]").contains("objective.bits.weight"));
    assert!(pretrain("model.backbone=resnet19").contains("resnet18"));
    assert!(pretrain("mixed_precision=true").contains("cpu has no 16-bit floats"));
    assert!(pretrain("--device=cuda").contains("cpu, gpu, gpu:N"));
    #[cfg(not(feature = "gpu"))]
    assert!(pretrain("--device=gpu").contains("--features gpu"));
    let folder = tempfile::tempdir().unwrap();
    let (settings, nowhere) = (folder.path().join("settings.toml"), text(&out));
    fs::write(&settings, "epochs = 3").unwrap();
    let error = fails(&["pretrain", "--config", text(&settings), "--out", nowhere]);
    assert!(
        error.contains("data.path") && error.contains("--data"),
        "{error}"
    );
    let printed = succeeds(&["pretrain", "--config", text(&settings), "--print-config"]);
    assert!(printed.contains("epochs = 3"), "{printed}");
    assert!(!out.exists());
    assert!(fails(&["export", text(&f.run), "--bits", "W9A8"]).contains("W9A8"));
    assert!(fails(&["bench", text(&f.file), "--point", "0.3x W8A8"]).contains("1x W8A8"));
    assert!(fails(&["bench", text(&f.file), "--threads", "0"]).contains("at least 1"));
    let mut again = vec!["pretrain", "--data", text(&f.data), "--out", text(&f.run)];
    again.extend(TINY);
    assert!(fails(&again).contains("holds a run already"));
}

#[test]
fn bad_images_are_named() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(
        fails(&["pretrain", "--data", text(&empty), "--out", text(&out)]).contains(text(&empty))
    );
    assert!(
        fails(&["probe", text(&f.file), "--data", "/no/such/folder"]).contains("/no/such/folder")
    );
    let broken = folder.path().join("broken.png");
    fs::write(&broken, b"\x89PNG\r\n\x1a\n nothing").unwrap();
    assert!(fails(&["run", text(&f.file), text(&broken)]).contains("broken.png"));
}

#[test]
fn damaged_files_are_refused_and_nothing_is_lost() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let good = fs::read(&f.file).unwrap();
    let damaged = folder.path().join("damaged.slim");
    fs::write(&damaged, &good[..good.len() / 2]).unwrap();
    fails(&["inspect", text(&damaged)]);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 4;
    fs::write(&damaged, flipped).unwrap();
    fails(&["inspect", text(&damaged)]);

    let run = folder.path().join("run");
    let copy = Command::new("cp")
        .args(["-r", text(&f.run), text(&run)])
        .status()
        .unwrap();
    assert!(copy.success());
    let mut checkpoints: Vec<_> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    checkpoints.sort();
    for checkpoint in checkpoints {
        let bytes = fs::read(&checkpoint).unwrap();
        fs::write(&checkpoint, &bytes[..bytes.len() - 7]).unwrap();
    }
    fails(&["pretrain", "--resume", text(&run)]);
}

/// A file size limit stands in for a full disk: the write fails half-way.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_old_file() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model.slim");
    fs::copy(&f.file, &target).unwrap();
    let script = format!(
        "trap '' XFSZ; ulimit -f 8; exec {} export {} --widths 1 --bits W8A8 --calibration-images 64 -o {}",
        env!("CARGO_BIN_EXE_slimbit"),
        text(&f.run),
        text(&target)
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let error = message(&output, &["export to a full disk"]);
    assert!(error.contains("model.slim"), "{error}");
    assert_eq!(fs::read(&target).unwrap(), fs::read(&f.file).unwrap());
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "a temporary file is left"
    );
}

/// As of `slimbit recipes | head -0`.
#[cfg(unix)]
#[test]
fn a_reader_that_has_left_is_no_panic() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = slimbit(&["recipes"]).stdout(writer).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.is_empty(), "{error}");
    assert_eq!(output.status.signal(), Some(13));
}

#[cfg(unix)]
#[test]
fn a_python_that_ends_at_once_is_reported() {
    use std::os::unix::fs::PermissionsExt;
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let (python, onnx) = (folder.path().join("python"), folder.path().join("net.onnx"));
    fs::write(&python, "#!/bin/sh\necho no such module >&2\nexit 3\n").unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let error = fails(&[
        "export",
        text(&f.file),
        "--onnx",
        text(&onnx),
        "--check",
        text(&f.data),
        "--python",
        text(&python),
    ]);
    assert!(error.contains("no such module"), "{error}");
}
