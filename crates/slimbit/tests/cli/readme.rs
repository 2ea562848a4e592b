//! The README to the letter: every `slimbit` line of it, in order, on photos as a newcomer has them.

use std::fs;
use std::path::Path;

use safetensors::tensor::{SafeTensors, TensorView, serialize_to_file};

use crate::command::{slimbit, succeeds, text};

/// The commands of the README's code blocks, without their comments.
fn commands() -> Vec<Vec<String>> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = fs::read_to_string(readme).unwrap().replace("\\\n", " ");
    let mut inside = false;
    let mut commands = Vec::new();
    for line in readme.lines() {
        if line.starts_with("```") {
            inside = !inside;
        } else if inside && line.starts_with("slimbit ") {
            let line = line.split(" #").next().unwrap();
            commands.push(words(line));
        }
    }
    commands
}

/// What a shell makes of a line: words, some of them in double quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('"').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

/// What makes a command of the README a matter of seconds. Nothing else about it changes.
fn small(command: &str) -> &'static [&'static str] {
    match command {
        "pretrain" => &[
            "model.backbone=resnet8-b-s2",
            "epochs=1",
            "batch=16",
            "heads.hidden=32",
            "heads.dim=16",
            "preprocess.height=32",
            "preprocess.width=32",
        ],
        "finetune" => &["--epochs", "1"],
        "import" => &["--input", "32x32"],
        // Rounding the weights of a ResNet-18 by their layers' outputs is a matter of minutes.
        "quantize" => &["--calibration-images", "16", "--reconstruct", "0"],
        "bench" => &["--repeat", "3"],
        _ => &[],
    }
}

/// A picture of 60 by 45 pixels in the colours of its class, no two alike.
fn photo(path: &Path, class: usize, number: usize) {
    let (rows, columns) = (45, 60);
    let mut file = format!("P6\n{columns} {rows}\n255\n").into_bytes();
    for row in 0..rows {
        for column in 0..columns {
            let wave = (row * (2 + class) + column * (5 - class) + number * 7) % 200;
            let mut pixel = [40, 40, 40];
            pixel[class % 3] = 50 + wave;
            pixel[(class + number) % 3] += number;
            file.extend(pixel.map(|value| value as u8));
        }
    }
    fs::write(path, file).unwrap();
}

/// Forty photos: in one folder, or in a folder for each of four classes.
fn photos(folder: &Path, classes: bool) {
    for number in 0..40 {
        let class = number % 4;
        let folder = match classes {
            true => folder.join(["cat", "dog", "hen", "owl"][class]),
            false => folder.to_owned(),
        };
        fs::create_dir_all(&folder).unwrap();
        photo(&folder.join(format!("{number:02}.ppm")), class, number);
    }
}

/// A ResNet-18 of random weights by torchvision's names, as the README's checkpoint. What a file is, its first bytes
/// say: this one is safetensors.
fn checkpoint(folder: &Path) {
    let made = folder.join("made.safetensors");
    let random = [
        "import",
        "--random",
        "1",
        "--arch",
        "resnet18",
        "--classes",
        "4",
        "-o",
        text(&made),
    ];
    succeeds(&random);
    let bytes = fs::read(&made).unwrap();
    let ours = SafeTensors::deserialize(&bytes).unwrap();
    let theirs: Vec<(String, TensorView<'_>)> = ours
        .iter()
        .map(|(name, tensor)| (torchvision(name), tensor))
        .collect();
    serialize_to_file(theirs, None, &folder.join("resnet18.pth")).unwrap();
    fs::remove_file(&made).unwrap();
}

/// What torchvision calls a parameter of a ResNet.
fn torchvision(name: &str) -> String {
    let renamed = [
        ("stem.conv", "conv1"),
        ("stem.bn", "bn1"),
        (".a.conv", ".conv1"),
        (".a.bn", ".bn1"),
        (".b.conv", ".conv2"),
        (".b.bn", ".bn2"),
        (".shortcut.conv", ".downsample.0"),
        (".shortcut.bn", ".downsample.1"),
        ("classifier", "fc"),
    ];
    let replace = |name: String, (ours, theirs)| name.replace(ours, theirs);
    renamed.into_iter().fold(name.to_owned(), replace)
}

fn follow(classes: bool) {
    let folder = tempfile::tempdir().unwrap();
    photos(&folder.path().join("photos"), classes);
    photos(&folder.path().join("labelled"), true);
    checkpoint(folder.path());
    fs::write(folder.path().join("names.txt"), "cat\ndog\nhen\nowl\n").unwrap();
    let mut done = Vec::new();
    for mut words in commands() {
        words.remove(0);
        let command = words[0].clone();
        if command == "quickstart" {
            continue; // Minutes of training: it has a test of its own.
        }
        words.extend(small(&command).iter().map(|&word| word.to_owned()));
        let output = slimbit(&[])
            .args(&words)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "slimbit {}\n{error}",
            words.join(" ")
        );
        done.push(command);
    }
    for command in [
        "pretrain", "export", "verify", "probe", "import", "quantize", "predict", "evaluate",
    ] {
        assert!(
            done.iter().any(|done| done == command),
            "the README has no `{command}`"
        );
    }
}

#[test]
fn every_command_works_on_a_folder_of_photos() {
    follow(false);
}

#[test]
fn every_command_works_on_class_folders() {
    follow(true);
}
