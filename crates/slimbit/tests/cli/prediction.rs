//! `slimbit predict` as a user sees it.

use std::fs;
use std::path::Path;

use crate::command::{fails, json, message, run, succeeds, text};
use crate::trained::trained;
use crate::tuned::{CLASSES, copy, evaluate, tuned};

#[test]
fn predictions_name_the_folders_that_the_network_was_tuned_to() {
    let f = tuned();
    let test = f.data.join("test");
    for file in [&f.file, &f.network] {
        let report = json(&succeeds(&["predict", text(file), text(&test), "--json"]));
        let images = report["images"].as_array().unwrap();
        assert_eq!(images.len(), 36);
        assert_eq!(report["skipped"].as_array().unwrap().len(), 0);
        let mut right = 0;
        for image in images {
            let path = Path::new(image["image"].as_str().unwrap());
            let folder = path
                .parent()
                .unwrap()
                .file_name()
                .unwrap()
                .to_str()
                .unwrap();
            let classes = image["classes"].as_array().unwrap();
            right += usize::from(classes[0]["class"] == folder);
            let probabilities: Vec<f64> = classes
                .iter()
                .map(|class| class["probability"].as_f64().unwrap())
                .collect();
            assert!(probabilities.is_sorted_by(|a, b| a >= b), "{image}");
            assert!(
                (probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-5,
                "{image}"
            );
        }
        assert!(right > 24, "{right} of 36");
        // The same network on the same images, counted by another command.
        let counted = evaluate(file, &f.data, &[]);
        assert_eq!(counted["points"][0]["correct"], right);
    }
    let one = test.join("trouser").join("00.pgm");
    let line = succeeds(&[
        "predict",
        text(&f.file),
        text(&one),
        "--top",
        "1",
        "--threads",
        "1",
    ]);
    assert!(
        line.contains("00.pgm: trouser ") && line.trim_end().ends_with('%'),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1);
}

#[test]
fn a_csv_table_of_predictions_escapes_names() {
    let f = tuned();
    let folder = tempfile::tempdir().unwrap();
    let test = f.data.join("test");
    let table = folder.path().join("predictions.csv");
    let to_file = [
        "predict",
        text(&f.file),
        text(&test),
        "--csv",
        text(&table),
        "--top",
        "2",
    ];
    assert!(succeeds(&to_file).contains("36 images"));
    let written = fs::read_to_string(&table).unwrap();
    let printed = succeeds(&[
        "predict",
        text(&f.file),
        text(&test),
        "--csv",
        "-",
        "--top",
        "2",
    ]);
    assert_eq!(printed, written);
    let mut reader = csv::Reader::from_reader(written.as_bytes());
    let header = [
        "image",
        "class_1",
        "probability_1",
        "class_2",
        "probability_2",
    ];
    assert_eq!(
        reader.headers().unwrap(),
        &csv::StringRecord::from(&header[..])
    );
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 36);
    assert!(rows.iter().any(|row| &row[1] == CLASSES[0].0));
    // What is not whole leaves nothing behind.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let both = [
        "predict",
        text(&f.file),
        text(&test),
        "--csv",
        "-",
        "--json",
    ];
    assert!(fails(&both).contains("both write to standard output"));
}

#[test]
fn damaged_images_are_skipped_and_counted() {
    let f = tuned();
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    copy(
        &f.data.join("test").join("trouser"),
        &photos.join("deep").join("er"),
    );
    fs::write(photos.join("half.png"), b"\x89PNG\r\n\x1a\n nothing").unwrap();
    fs::write(photos.join("notes.txt"), "no image").unwrap();
    let output = run(&["predict", text(&f.file), text(&photos), "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("half.png") && said.contains("1 of 13 images"),
        "{said}"
    );
    let report = json(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(report["images"].as_array().unwrap().len(), 12);
    assert_eq!(report["skipped"].as_array().unwrap().len(), 1);

    let half = photos.join("half.png");
    let alone = ["predict", text(&f.file), text(&half)];
    let error = message(&run(&alone), &alone);
    assert!(error.contains("of 1 image, none can be read"), "{error}");
    let missing = ["predict", text(&f.file), text(&photos), "no-such.jpg"];
    let output = run(&missing);
    assert!(output.stdout.is_empty(), "work began before the error");
    assert!(message(&output, &missing).contains("no-such.jpg"));
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(fails(&["predict", text(&f.file), text(&empty)]).contains("empty"));
}

#[test]
fn a_network_without_a_classifier_says_which_command_helps() {
    let f = trained();
    for arguments in [
        &["predict", text(&f.file), text(&f.data)][..],
        &["evaluate", text(&f.file), "--data", text(&f.data)],
        &[
            "probe",
            text(&f.file),
            "--kind",
            "top1",
            "--data",
            text(&f.data),
        ],
    ] {
        let error = fails(arguments);
        for part in ["no classifier", "slimbit embed", "slimbit finetune"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

/// IDX files, which name no classes, and images in them.
#[test]
fn records_are_images_too() {
    let f = tuned();
    let images = trained().data.join("t10k-images-idx3-ubyte");
    let report = json(&succeeds(&[
        "predict",
        text(&f.file),
        text(&images),
        "--json",
    ]));
    assert_eq!(report["images"].as_array().unwrap().len(), 64);
    assert!(
        fails(&[
            "predict",
            text(&f.network),
            text(&images),
            "--point",
            "1x W8A8"
        ])
        .contains("is a float network and has no points")
    );
}
