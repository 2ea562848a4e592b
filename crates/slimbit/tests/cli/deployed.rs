//! What is done with a `.slim` file.

use std::fs;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{ListAccessor, RowAccessor};

use crate::command::{fails, json, succeeds, text};
use crate::trained::{Trained, trained};

#[test]
fn inspect_proves_every_point() {
    let file = text(&trained().file);
    let report = json(&succeeds(&["inspect", "--prove", "--json", file]));
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 6);
    for stage in points
        .iter()
        .flat_map(|point| point["proof"].as_array().unwrap())
    {
        assert_eq!(stage["float_operations"], 0);
    }
    assert!(succeeds(&["inspect", "--prove", file]).contains("proven"));
}

#[test]
fn verify_finds_no_difference() {
    let f = trained();
    let arguments = [
        "verify",
        text(&f.file),
        "--images",
        text(&f.data),
        "--run",
        text(&f.run),
        "--limit",
        "2",
        "--json",
    ];
    let report = json(&succeeds(&arguments));
    for stage in report["stages"].as_array().unwrap() {
        let row = &stage[1];
        assert!(
            row["levels"]
                .as_object()
                .unwrap()
                .values()
                .all(|count| count == 0),
            "{stage}"
        );
        assert_eq!(row["stored"], 0, "{stage}");
        assert!(row["simulation"].is_u64(), "{stage}");
    }
}

#[test]
fn probe_embed_run_and_bench_agree_on_the_file() {
    let f = trained();
    let probe = json(&succeeds(&[
        "probe",
        text(&f.file),
        "--data",
        text(&f.data),
        "--json",
    ]));
    assert_eq!(probe.as_array().unwrap().len(), 6);
    let linear = [
        "probe",
        text(&f.file),
        "--data",
        text(&f.data),
        "--kind",
        "linear",
        "--point",
        "1x W8A8",
        "--json",
    ];
    assert_eq!(json(&succeeds(&linear)).as_array().unwrap().len(), 1);

    let npy = f.run.join("features.npy");
    succeeds(&[
        "embed",
        text(&f.file),
        "--images",
        text(&f.data),
        "-o",
        text(&npy),
        "--point",
        "0.5x W4A4",
    ]);
    let bytes = fs::read(&npy).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY"));
    assert_eq!(
        fs::read_to_string(f.run.join("features.txt"))
            .unwrap()
            .lines()
            .count(),
        320,
        "all images, of both splits"
    );

    the_parquet_table_holds_what_the_array_does(f, &bytes);

    let picture = f.run.join("picture.pgm");
    fs::write(&picture, [&b"P5 30 20 255\n"[..], &[77; 600]].concat()).unwrap();
    let outputs = json(&succeeds(&["run", text(&f.file), text(&picture), "--json"]));
    assert_eq!(outputs[0]["values"].as_array().unwrap().len(), 64);

    let bench = json(&succeeds(&[
        "bench",
        text(&f.file),
        "--repeat",
        "3",
        "--threads",
        "2",
        "--batch",
        "5",
        "--per-op",
        "--json",
    ]));
    assert_eq!((&bench["threads"], &bench["batch"]), (&2.into(), &5.into()));
    assert_eq!(bench["points"].as_array().unwrap().len(), 6);
    let stages = bench["points"][0]["stages"].as_array().unwrap();
    let shares = stages.iter().map(|stage| stage["share"].as_f64().unwrap());
    assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9);
}

/// `array` is the same embedding as `.npy`.
fn the_parquet_table_holds_what_the_array_does(f: &Trained, array: &[u8]) {
    let path = f.run.join("features.parquet");
    let (data, output) = (text(&f.data), text(&path));
    let point = ["--point", "0.5x W4A4"];
    succeeds(
        &[
            &["embed", text(&f.file), "--images", data, "-o", output],
            &point[..],
        ]
        .concat(),
    );
    let table = SerializedFileReader::new(fs::File::open(&path).unwrap()).unwrap();
    let metadata = table
        .metadata()
        .file_metadata()
        .key_value_metadata()
        .unwrap();
    assert_eq!(metadata[0].value.as_deref(), Some("0.5x W4A4"));
    let (mut values, mut names) = (vec![], vec![]);
    for row in table.get_row_iter(None).unwrap() {
        let row = row.unwrap();
        names.push(row.get_string(0).unwrap().clone() + "\n");
        // The classes of this data are digits.
        assert_eq!(
            row.get_int(1).unwrap().to_string(),
            *row.get_string(2).unwrap()
        );
        let list = row.get_list(3).unwrap();
        values.extend((0..list.len()).flat_map(|i| list.get_float(i).unwrap().to_le_bytes()));
    }
    assert_eq!(
        names.concat(),
        fs::read_to_string(f.run.join("features.txt")).unwrap()
    );
    assert!(array.ends_with(&values) && values.len() == 4 * 320 * 64 / 2);

    let elsewhere = f.run.join("features.csv");
    let error = fails(&[
        "embed",
        text(&f.file),
        "--images",
        data,
        "-o",
        text(&elsewhere),
    ]);
    assert!(error.contains("must end in .npy or .parquet"), "{error}");
}
