//! `slimbit evaluate`, and how class folders are matched with a network's classes.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use crate::command::{fails, json, run, succeeds, text};
use crate::tuned::{copy, evaluate, tuned};

/// The names of the classes, as the file has them.
fn names(report: &Value) -> Vec<&str> {
    let classes = report["points"][0]["classes"].as_array().unwrap();
    classes
        .iter()
        .map(|class| class["class"].as_str().unwrap())
        .collect()
}

#[test]
fn the_matrix_adds_up_in_every_form() {
    let f = tuned();
    let folder = tempfile::tempdir().unwrap();
    let [picture, matrix, classes] =
        ["m.svg", "m.csv", "classes.csv"].map(|name| folder.path().join(name));
    let more = [
        "--point",
        "1x W4A4",
        "--confusion",
        text(&picture),
        "--confusion",
        text(&matrix),
    ];
    let more = [
        &more[..],
        &["--csv", text(&classes), "--float", text(&f.network)],
    ]
    .concat();
    let report = evaluate(&f.file, &f.data, &more);
    let points = report["points"].as_array().unwrap();
    assert_eq!(
        (&points[0]["point"], &points[1]["point"]),
        (&"float".into(), &"1x W4A4".into())
    );
    assert!(points[0]["agreement"].is_null() && points[1]["agreement"].as_f64().unwrap() > 80.0);
    let point = &points[1];
    let sum = |list: &str, key: &str| -> u64 {
        let list = point[list].as_array().unwrap().iter();
        list.map(|row| row[key].as_u64().unwrap()).sum()
    };
    assert_eq!(sum("classes", "images"), 36);
    assert_eq!(sum("classes", "predicted"), 36);
    let correct = point["correct"].as_u64().unwrap();
    assert_eq!(sum("classes", "correct"), correct);
    assert_eq!(sum("confusions", "images"), 36 - correct);
    let (low, high) = (&point["interval"][0], &point["interval"][1]);
    let top1 = point["top1"].as_f64().unwrap();
    assert!(
        low.as_f64().unwrap() < top1 && top1 <= high.as_f64().unwrap(),
        "{point}"
    );

    let mut reader = csv::Reader::from_path(&matrix).unwrap();
    let header: Vec<String> = reader
        .headers()
        .unwrap()
        .iter()
        .map(str::to_owned)
        .collect();
    assert_eq!(header[1..], names(&report));
    let rows: Vec<Vec<u64>> = reader
        .records()
        .map(|row| {
            row.unwrap()
                .iter()
                .skip(1)
                .map(|cell| cell.parse().unwrap())
                .collect()
        })
        .collect();
    assert!(
        rows.iter().all(|row| row.iter().sum::<u64>() == 12),
        "{rows:?}"
    );
    assert_eq!((0..3).map(|class| rows[class][class]).sum::<u64>(), correct);

    let rows = csv::Reader::from_path(&classes).unwrap().records().count();
    assert_eq!(rows, 6, "three classes of two networks");
    let picture = fs::read_to_string(&picture).unwrap();
    assert!(
        picture.contains("bag, &quot;big&quot; &amp; &lt;round&gt;") && picture.contains("100 %")
    );
    assert_eq!(
        picture.matches("<g>").count(),
        picture.matches("</g>").count()
    );

    let tables = succeeds(&["evaluate", text(&f.file), "--data", text(&f.data)]);
    assert!(
        tables.contains("95 % interval") && tables.contains("Ankle boot"),
        "{tables}"
    );
    let two = [
        "evaluate",
        text(&f.file),
        "--data",
        text(&f.data),
        "--confusion",
        text(&matrix),
    ];
    let two = [&two[..], &["--point", "1x W8A8", "--point", "1x W4A4"]].concat();
    assert!(fails(&two).contains("give one --point"));
    let other = [
        "evaluate",
        text(&f.file),
        "--data",
        text(&f.data),
        "--confusion",
        "m.png",
    ];
    assert!(fails(&other).contains("must end in .svg"));
}

/// Where a class stands among the folders decides nothing, its name does.
#[test]
fn folders_in_another_order_give_the_same_accuracy() {
    let f = tuned();
    let folder = tempfile::tempdir().unwrap();
    let whole = evaluate(&f.file, &f.data, &[]);
    let by_class = |report: &Value| -> BTreeMap<String, Value> {
        let classes = report["points"][0]["classes"].as_array().unwrap().iter();
        let with_images = classes.filter(|class| class["images"] != 0);
        with_images
            .map(|class| (class["class"].to_string(), class["recall"].clone()))
            .collect()
    };
    let expected = by_class(&whole);

    // Without the folder that comes first, every other stands elsewhere.
    let fewer = folder.path().join("fewer");
    copy(&f.data.join("test"), &fewer);
    fs::remove_dir_all(fewer.join("Ankle boot")).unwrap();
    let found = by_class(&evaluate(&f.file, &fewer, &[]));
    assert_eq!(found.len(), 2);
    assert!(
        found
            .iter()
            .all(|(class, recall)| expected[class] == *recall),
        "{found:?}"
    );

    // A folder of another name is refused, with what it may be and the remedy; told which class it is, it counts the same.
    let renamed = folder.path().join("renamed");
    copy(&f.data.join("test"), &renamed);
    fs::rename(renamed.join("Ankle boot"), renamed.join("zz boots")).unwrap();
    for command in [&["evaluate"][..], &["probe", "--kind", "top1"]] {
        let arguments = [command, &[text(&f.file), "--data", text(&renamed)]].concat();
        let error = fails(&arguments);
        for part in [
            "called `zz boots`",
            "without a folder are `Ankle boot`",
            "--map",
            "--classes",
        ] {
            assert!(error.contains(part), "{error}");
        }
        let told = [&arguments[..], &["--map", "zz boots=Ankle boot", "--json"]].concat();
        let told = json(&succeeds(&told));
        let row = told.get("points").map_or(&told[0], |points| &points[0]);
        assert_eq!(row["correct"], whole["points"][0]["correct"]);
    }
    // Underscores and case are likeness enough, and said.
    fs::rename(renamed.join("zz boots"), renamed.join("ankle_boot")).unwrap();
    let output = run(&[
        "evaluate",
        text(&f.file),
        "--data",
        text(&renamed),
        "--json",
    ]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("`ankle_boot` as Ankle boot"), "{said}");
    let report = json(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(
        report["points"][0]["correct"],
        whole["points"][0]["correct"]
    );
}

#[test]
fn classes_that_are_not_the_networks_are_refused_everywhere() {
    let f = tuned();
    let folder = tempfile::tempdir().unwrap();
    let [network, numbers, list, file] = ["net.safetensors", "numbers", "names.txt", "net.slim"]
        .map(|name| folder.path().join(name));
    let import = [
        "import",
        "--random",
        "1",
        "--arch",
        "resnet8",
        "--input",
        "28",
        "-o",
        text(&network),
    ];
    succeeds(&[&import[..], &["--classes", "7"]].concat());
    copy(&f.data.join("test").join("trouser"), &numbers.join("0"));
    copy(&f.data.join("test").join("trouser"), &numbers.join("7"));
    let top1 = ["probe", text(&network), "--kind", "top1", "--data"];
    for command in [&["evaluate", text(&network), "--data"][..], &top1] {
        let three = fails(&[command, &[text(&f.data)]].concat());
        assert!(
            three.contains("the network has 7 classes without names"),
            "{three}"
        );
        let seven = fails(&[command, &[text(&numbers)]].concat());
        assert!(seven.contains("`7` is no class of the network"), "{seven}");
        let flat = fails(&[command, &[text(&numbers.join("0"))]].concat());
        assert!(flat.contains("labels"), "{flat}");
    }

    // Names are given at any step, must be as many as the logits, and stay in the file.
    fs::write(&list, "a\nb\nc\n").unwrap();
    for arguments in [
        &[
            "predict",
            text(&network),
            text(&numbers),
            "--classes",
            text(&list),
        ][..],
        &[
            "evaluate",
            text(&network),
            "--data",
            text(&numbers),
            "--classes",
            text(&list),
        ],
        &[
            "quantize",
            text(&network),
            "--images",
            text(&numbers),
            "-o",
            text(&file),
            "--classes",
            text(&list),
        ],
    ] {
        let error = fails(arguments);
        assert!(
            error.contains("names.txt") && error.contains("3 for 7 logits"),
            "{error}"
        );
    }
    assert!(!file.exists());
    fs::write(&list, "a\n\nc\n").unwrap();
    let blank = [
        "predict",
        text(&network),
        text(&numbers),
        "--classes",
        text(&list),
    ];
    assert!(fails(&blank).contains("line 2 is blank"));
    fs::write(
        &list,
        "[\"a\", \"b\", \"trouser\", \"d\", \"e\", \"f\", \"g\"]",
    )
    .unwrap();
    succeeds(&[&import[..], &["--classes", text(&list)]].concat());
    let quantize = [
        "quantize",
        text(&network),
        "--images",
        text(&f.data),
        "-o",
        text(&file),
    ];
    succeeds(
        &[
            &quantize[..],
            &["--bits", "W8A8", "--calibration-images", "8"],
        ]
        .concat(),
    );
    assert!(succeeds(&["inspect", text(&file)]).contains("7 classes: `a`, `b`, `trouser`"));
    let only = f.data.join("test").join("trouser");
    let nested = folder.path().join("nested");
    copy(&only, &nested.join("trouser"));
    let report = evaluate(&file, &nested, &[]);
    assert_eq!(report["points"][0]["classes"][2]["images"], 12);
    assert!(report["points"][0]["top5"].is_number());
    let again = folder.path().join("again.safetensors");
    let mut number = vec!["import", text(&network), "-o", text(&again)];
    number.extend(["--classes", "7"]);
    assert!(fails(&number).contains("how many classes it has"));
}
