//! Models whose elements are in other files.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{File, IMAGE};
use crate::onnx::import::{OnnxImport, import_in};
use crate::onnx::proto::{StringStringEntryProto, TensorProto, data_type};
use crate::{ImportError, Network};

/// The weights of a 1×1 convolution to two channels.
const WEIGHTS: [f32; 6] = [1.0, -2.0, 3.0, -4.0, 5.0, -6.0];

/// A folder with a file of four bytes that nobody reads, and the weights.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let elements: Vec<u8> = WEIGHTS.iter().flat_map(|w| w.to_le_bytes()).collect();
    fs::create_dir(folder.path().join("data")).unwrap();
    let file = folder.path().join("data/weights.bin");
    fs::write(file, [&[0xff; 4], &elements[..]].concat()).unwrap();
    folder
}

/// A tensor of `count` by 3 floats whose elements are elsewhere.
fn tensor(name: &str, count: i64, entries: &[(&str, &str)]) -> TensorProto {
    let entry = |&(key, value): &(&str, &str)| StringStringEntryProto {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    TensorProto {
        dims: vec![count, 3, 1, 1],
        data_type: data_type::FLOAT,
        name: name.to_owned(),
        data_location: 1,
        external_data: entries.iter().map(entry).collect(),
        ..TensorProto::default()
    }
}

fn read(folder: &Path, tensors: Vec<TensorProto>) -> Result<OnnxImport, ImportError> {
    let mut file = File::new(&IMAGE).node("Conv", "x w", "y", vec![]);
    for tensor in tensors {
        file = file.tensor(tensor);
    }
    import_in(folder, &file.bytes(&["y"]), None)
}

#[test]
fn elements_beside_the_model_are_read() {
    let folder = folder();
    let weights = |network: &Network| network.params.0["y.weight"].data.clone();
    let whole = [
        ("location", "./data/weights.bin"),
        ("offset", "4"),
        ("length", "24"),
        ("checksum", "unused"),
    ];
    let import = read(folder.path(), vec![tensor("w", 2, &whole)]).unwrap();
    assert_eq!(weights(&import.network), WEIGHTS);
    assert_eq!(import.data, [PathBuf::from("data/weights.bin")]);
    // The dimensions say how much there is.
    let part = [("location", "data/weights.bin"), ("offset", "16")];
    let import = read(folder.path(), vec![tensor("w", 1, &part)]).unwrap();
    assert_eq!(weights(&import.network), WEIGHTS[3..]);
}

#[test]
fn constant_nodes_have_their_elements_elsewhere_too() {
    let folder = folder();
    let value = [("location", "data/weights.bin"), ("offset", "4")];
    let attribute = crate::onnx::proto::AttributeProto {
        name: "value".to_owned(),
        t: Some(Box::new(tensor("", 2, &value))),
        r#type: 4,
        ..Default::default()
    };
    let bytes = File::new(&IMAGE)
        .node("Constant", "", "w", vec![attribute])
        .node("Conv", "x w", "y", vec![])
        .bytes(&["y"]);
    let import = import_in(folder.path(), &bytes, None).unwrap();
    assert_eq!(import.network.params.0["y.weight"].data, WEIGHTS);
}

#[test]
fn places_outside_of_the_folder_are_refused() {
    let folder = folder();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let absolute = folder.path().join("data/weights.bin");
    for location in [
        "../data/weights.bin",
        "a/../../data/weights.bin",
        "",
        ".",
        absolute.to_str().unwrap(),
    ] {
        let error = read(&inner, vec![tensor("w", 2, &[("location", location)])]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("tensor `w`"), "{location}: {error}");
        assert!(
            error.contains("not a file of the model's folder"),
            "{location}: {error}"
        );
    }
}

#[cfg(unix)]
#[test]
fn links_do_not_lead_out_of_the_folder() {
    let folder = folder();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    std::os::unix::fs::symlink("../data/weights.bin", inner.join("link")).unwrap();
    std::os::unix::fs::symlink("data/weights.bin", folder.path().join("link")).unwrap();
    let weights = || vec![tensor("w", 2, &[("location", "link"), ("offset", "4")])];
    let error = read(&inner, weights()).unwrap_err().to_string();
    assert!(error.contains("link to another folder"), "{error}");
    assert!(read(folder.path(), weights()).is_ok());
}

#[test]
fn elements_that_the_file_does_not_hold_are_named() {
    let folder = folder();
    let at = |offset, length| {
        let place = [
            ("location", "data/weights.bin"),
            ("offset", offset),
            ("length", length),
        ];
        vec![tensor("w", 2, &place)]
    };
    let missing = vec![tensor("w", 2, &[("location", "none.bin")])];
    let directory = vec![tensor("w", 2, &[("location", "data")])];
    let huge = vec![tensor("w", 1 << 40, &[("location", "data/weights.bin")])];
    let overflow = vec![tensor("w", 1 << 61, &[("location", "data/weights.bin")])];
    for (tensors, part) in [
        (at("8", "24"), "24 bytes from 8 on"),
        (at("18446744073709551615", "24"), "has 28"),
        (at("4", "20"), "20 bytes of elements"),
        (at("-4", "24"), "`offset`"),
        (missing, "`none.bin`, which cannot be read"),
        (directory, "is not a file"),
        (huge, "has 28"),
        (overflow, "another file"),
    ] {
        let error = read(folder.path(), tensors).unwrap_err().to_string();
        assert!(
            error.contains(part) && error.contains("`w`"),
            "{part}: {error}"
        );
    }
}

#[test]
fn a_small_model_does_not_multiply_a_large_file() {
    let folder = folder();
    let place = [("location", "data/weights.bin"), ("offset", "4")];
    let copies = |count: usize| {
        let more = (1..count).map(|i| tensor(&format!("copy{i}"), 2, &place));
        read(
            folder.path(),
            std::iter::once(tensor("w", 2, &place))
                .chain(more)
                .collect(),
        )
    };
    assert!(copies(2).is_ok());
    let error = copies(3).unwrap_err().to_string();
    assert!(
        error.contains("`copy2`") && error.contains("2 times"),
        "{error}"
    );
}
