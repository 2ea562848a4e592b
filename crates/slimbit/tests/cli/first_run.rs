//! The first hour of `pretrain`: settings that nobody chose, Ctrl-C, and two runs in one folder.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use slimbit::train::TrainConfig;

use crate::command::{fails, json, run, slimbit, succeeds, text};
use crate::trained::{TINY, trained};

/// Colour photos that are wider than high.
fn photos(folder: &Path, count: usize) {
    fs::create_dir_all(folder).unwrap();
    for photo in 0..count {
        let mut bytes = b"P6 64 48 255\n".to_vec();
        bytes.extend((0..64 * 48 * 3).map(|i| ((i * (photo + 2) / 3) % 253) as u8));
        fs::write(folder.join(format!("{photo}.ppm")), bytes).unwrap();
    }
}

/// The parts of a command that trains on photos, with a network that is fast enough for a test.
fn on_photos<'a>(data: &'a Path, out: &'a Path) -> Vec<&'a str> {
    let mut arguments = vec!["pretrain", "--data", text(data), "--out", text(out)];
    arguments.extend(["model.backbone=resnet8-b-s2", "epochs=2"]);
    arguments
}

#[test]
fn twenty_photos_train_with_chosen_settings_and_longer() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("photos"), folder.path().join("run"));
    photos(&data, 20);
    let mut printed = on_photos(&data, &out);
    printed.push("--print-config");
    let printed = run(&printed);
    let settings = String::from_utf8(printed.stdout).unwrap();
    assert!(
        settings.contains("# Images per iteration.\nbatch = 16\n"),
        "{settings}"
    );
    assert!(!out.exists());

    let trained = run(&on_photos(&data, &out));
    let told = String::from_utf8(trained.stderr).unwrap();
    assert!(trained.status.success(), "{told}");
    for part in [
        "20 colour images, typically 64x48",
        "shorter side to 54, then the centre: stretching would distort them",
        "model.backbone = resnet8-b-s2",
        "as you asked",
        "1 step an epoch",
        "better: epochs=4",
    ] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    let read = |text: &str| TrainConfig::from_toml(text, &[""; 0]).unwrap();
    let written = fs::read_to_string(out.join("config.toml")).unwrap();
    assert_eq!(read(&written), read(&settings));

    let longer = run(&["pretrain", "--resume", text(&out), "epochs=4"]);
    let told = String::from_utf8(longer.stderr).unwrap();
    assert!(
        longer.status.success() && told.contains("epochs = 2 before, 4 now"),
        "{told}"
    );
    let lines = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 4);
    let error = fails(&["pretrain", "--resume", text(&out), "batch=8"]);
    assert!(
        error.contains("`batch`") && error.contains("only epochs,"),
        "{error}"
    );

    fs::remove_file(data.join("3.ppm")).unwrap();
    let error = fails(&["pretrain", "--resume", text(&out)]);
    assert!(
        error.contains(r#"1 removed ("3.ppm")"#) && error.contains("--allow-changed-data"),
        "{error}"
    );
    succeeds(&["pretrain", "--resume", text(&out), "--allow-changed-data"]);
}

#[test]
fn one_photo_is_too_few_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("photos"), folder.path().join("run"));
    photos(&data, 1);
    let error = fails(&on_photos(&data, &out));
    assert!(error.contains("at least 2"), "{error}");
    assert!(!out.exists());
}

#[test]
fn a_run_starts_from_a_network_file() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (
        folder.path().join("net.safetensors"),
        folder.path().join("run"),
    );
    let arch = "resnet8-b-s2";
    succeeds(&["import", "--random", "1", "--arch", arch, "-o", text(&file)]);
    let init = format!("model.init={}", text(&file));
    let data = text(&f.data);
    let begun = run(&[
        "pretrain",
        "--data",
        data,
        "--out",
        text(&out),
        &init,
        "epochs=1",
    ]);
    let told = String::from_utf8(begun.stderr).unwrap();
    assert!(begun.status.success(), "{told}");
    assert!(
        told.contains("the backbone starts from") && told.contains("left out: classifier"),
        "{told}"
    );
    let settings = fs::read_to_string(out.join("config.toml")).unwrap();
    // Grey images, in the colours that the network takes.
    assert!(
        settings.contains("channels = 3") && settings.contains(arch),
        "{settings}"
    );
    let other = folder.path().join("other");
    let wide = "model.backbone=resnet8-b-x2-s2";
    let error = fails(&[
        "pretrain",
        "--data",
        data,
        "--out",
        text(&other),
        &init,
        wide,
    ]);
    assert!(error.contains("does not fit the backbone"), "{error}");
}

#[test]
fn settings_are_explained() {
    let schema = json(&succeeds(&["recipes", "--schema"]));
    let lr = &schema["properties"]["optim"]["properties"]["lr"];
    assert_eq!(lr["description"], "The initial learning rate.");
    let error = fails(&["pretrain", "--print-config", "recipe=foo"]);
    assert!(error.contains("the methods are byol"), "{error}");
}

/// A run whose steps take far longer than Ctrl-C may.
fn long_steps<'a>(data: &'a Path, out: &'a Path) -> Vec<&'a str> {
    let mut arguments = vec!["pretrain", "--data", text(data), "--out", text(out)];
    arguments.extend(["recipe=combined/resnet18-cifar10", "batch=256", "epochs=4"]);
    arguments.extend(&TINY[7..]);
    arguments
}

fn start(arguments: &[&str]) -> Child {
    slimbit(arguments).stderr(Stdio::piped()).spawn().unwrap()
}

fn wait_for(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(120), "it never came");
        sleep(Duration::from_millis(5));
    }
}

#[cfg(unix)]
fn interrupt(child: Child) -> (Output, Duration) {
    let pid = child.id().to_string();
    let sent = Instant::now();
    let status = Command::new("kill").args(["-INT", &pid]).status().unwrap();
    assert!(status.success());
    let output = child.wait_with_output().unwrap();
    (output, sent.elapsed())
}

#[cfg(unix)]
#[test]
fn ctrl_c_drops_a_long_step_and_a_second_run_in_the_folder_is_refused() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let child = start(&long_steps(&f.data, &out));
    let begun =
        || fs::read_to_string(out.join("log.txt")).is_ok_and(|log| log.contains("starting"));
    wait_for(begun);
    let error = fails(&["pretrain", "--resume", text(&out)]);
    assert!(
        error.contains("another process is training") && error.contains(text(&out)),
        "{error}"
    );
    let error = fails(&long_steps(&f.data, &out));
    assert!(error.contains("holds a run already"), "{error}");
    sleep(Duration::from_millis(300));

    let (output, taken) = interrupt(child);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(taken < Duration::from_millis(2500), "{taken:?}");
    assert!(told.contains("resumes at iteration 0"), "{told}");
    let checkpoints: Vec<_> = fs::read_dir(out.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(checkpoints, ["step-00000000.safetensors"]);
    // The lock went with the process.
    let again = slimbit::train::RunLock::take(&out);
    assert!(again.is_ok(), "{again:?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_after_a_short_step() {
    let f = trained();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut arguments = vec!["pretrain", "--data", text(&f.data), "--out", text(&out)];
    arguments.extend(TINY);
    arguments.push("epochs=500");
    let child = start(&arguments);
    let lines = || fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |t| t.lines().count());
    wait_for(|| lines() >= 3);
    let (output, _) = interrupt(child);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{told}");
    let done = lines();
    assert!(
        told.contains(&format!("saved at iteration {done}")),
        "{told}"
    );
    let newest = format!("checkpoints/step-{done:08}.safetensors");
    assert!(out.join(newest).exists());
}
