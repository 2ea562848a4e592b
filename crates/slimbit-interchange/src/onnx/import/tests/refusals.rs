//! Files that cannot be read, and what is said about them.

use super::{File, IMAGE};
use crate::ImportError;
use crate::onnx::import::import;
use crate::onnx::import::operators::{ON_CONSTANTS, ON_TENSORS};
use crate::onnx::import::schema::is_known;
use crate::onnx::proto::{StringStringEntryProto, TensorProto, data_type};
use crate::onnx::writer::{float, int};

#[test]
fn every_node_without_a_counterpart_is_named_at_once() {
    let error = File::new(&IMAGE)
        .node("LRN", "x", "a", vec![])
        .node("Tanh", "x", "b", vec![])
        .node("Relu", "b", "c", vec![])
        .node("Add", "a c", "y", vec![])
        .error("y");
    assert!(error.starts_with("2 nodes"), "{error}");
    assert!(
        error.contains("LRN `a`") && error.contains("Tanh `b`"),
        "{error}"
    );
}

#[test]
fn nodes_behind_a_refused_one_are_named_too() {
    let clip = |low, high| vec![float("min", low), float("max", high)];
    let error = File::new(&IMAGE)
        .node("Clip", "x", "first", clip(-1.0, 1.0))
        .node("Relu", "first", "r", vec![])
        .longs("pads", &[0, 0, 1, 1, 0, 0, 1, 1])
        .node("Pad", "r pads", "padded", vec![])
        .node("LayerNormalization", "padded", "n", vec![])
        .node("Shape", "n", "shape", vec![])
        .node("Sqrt", "shape", "root", vec![])
        .node("Conv", "n root", "c", vec![])
        .node("Gelu", "c", "y", vec![])
        .error("y");
    assert!(error.starts_with("3 nodes"), "{error}");
    for named in ["Clip `first`", "LayerNormalization `n`", "Gelu `y`"] {
        assert!(error.contains(named), "{named}: {error}");
    }
}

#[test]
fn the_operators_that_are_understood_are_looked_at() {
    for op in ON_TENSORS {
        let error = import(
            &File::new(&IMAGE).node(op, "x", "y", vec![]).bytes(&["y"]),
            None,
        );
        let error = error.map_or_else(|error| error.to_string(), |_| String::new());
        assert!(!error.contains("has no counterpart"), "{op}: {error}");
        assert!(is_known(op), "{op} is in no table of attributes");
    }
    for op in ON_CONSTANTS {
        let error = File::new(&IMAGE)
            .longs("c", &[1])
            .node(op, "c c", "y", vec![])
            .error("y");
        assert!(!error.contains("is not evaluated"), "{op}: {error}");
        assert!(is_known(op), "{op} is in no table of attributes");
    }
}

#[test]
fn elements_in_other_files_are_refused() {
    let error = File::new(&IMAGE)
        .tensor(TensorProto {
            dims: vec![1, 3, 1, 1],
            data_type: data_type::FLOAT,
            name: "w".to_owned(),
            data_location: 1,
            external_data: vec![StringStringEntryProto {
                key: "location".to_owned(),
                value: "../../etc/passwd".to_owned(),
            }],
            ..TensorProto::default()
        })
        .node("Conv", "x w", "y", vec![])
        .error("y");
    assert!(
        error.contains("`w`") && error.contains("another file"),
        "{error}"
    );
}

#[test]
fn hostile_files_give_errors_that_name_the_node() {
    let huge = File::new(&IMAGE)
        .longs("shape", &[1 << 30, 1 << 30, 0])
        .node("ConstantOfShape", "shape", "w", vec![]);
    let unknown = File::new(&IMAGE).node("Relu", "nothing", "y", vec![]);
    let twice = File::new(&IMAGE).node("Relu", "x", "x", vec![]);
    let misfit = File::new(&IMAGE).conv(4, vec![]);
    let short = File::new(&IMAGE)
        .floats("w", &[1, 3, 1 << 40, 1], &[0.0])
        .node("Conv", "x w", "y", vec![]);
    let mut doubling = File::new(&[1, 1 << 20, 1, 1]).node("Identity", "x", "c0", vec![]);
    for i in 0..64 {
        let (from, to) = (format!("c{i} c{i}"), format!("c{}", i + 1));
        doubling = doubling.node("Concat", &from, &to, vec![int("axis", 1)]);
    }
    for (file, output, named) in [
        (huge, "w", "`w`"),
        (unknown, "y", "`nothing`"),
        (twice, "x", "`x`"),
        (misfit, "y", "`y`"),
        (short, "y", "`w`"),
        (doubling, "c64", "`c2"),
    ] {
        let error = file.error(output);
        assert!(error.contains(named), "{named}: {error}");
    }
    assert!(matches!(
        import(&[], None),
        Err(ImportError::Damaged { .. })
    ));
    assert!(import(b"\x08\x08no onnx", None).is_err());
}
