//! Small files that ask for much memory or time.

use std::time::{Duration, Instant};

use super::{File, IMAGE};
use crate::ImportError;
use crate::onnx::import::import;
use crate::onnx::proto::{TensorProto, data_type};
use crate::onnx::writer::int;

#[test]
fn dimensions_without_end_are_counted_and_not_listed() {
    let dims: Vec<i64> = vec![1; 100_000];
    let error = File::new(&IMAGE)
        .floats("w", &dims, &[1.0])
        .node("Conv", "x w", "y", vec![])
        .error("y");
    assert!(error.contains("100000 dimensions"), "{error}");
    assert!(error.len() < 500, "{} bytes", error.len());
    let error = File::new(&IMAGE)
        .longs("shape", &dims)
        .node("Reshape", "x shape", "y", vec![])
        .error("y");
    assert!(error.len() < 500, "{} bytes", error.len());
}

#[test]
fn names_in_messages_are_short_and_plain() {
    let name = format!("a\u{1b}[31m\n{}", "b".repeat(10_000));
    let mut file = File::new(&IMAGE).node("Tanh", "x", "y", vec![]);
    file.0.node[0].name = name;
    let error = file.error("y");
    assert!(
        !error.contains('\u{1b}') && error.lines().count() == 2,
        "{error}"
    );
    assert!(error.len() < 500, "{} bytes", error.len());
}

#[test]
fn thousands_of_refusals_are_counted() {
    let mut file = File::new(&IMAGE);
    for i in 0..5_000 {
        file = file.node("Tanh", "x", &format!("t{i}"), vec![]);
    }
    let error = file.error("t0");
    assert!(error.starts_with("5000 nodes"), "{}", &error[..100]);
    assert!(error.len() < 10_000, "{} bytes", error.len());
}

#[test]
fn shared_parameters_do_not_multiply_the_file() {
    let channels = 1 << 16;
    let mut file = File::new(&[1, channels, 1, 1]);
    for name in ["g", "b", "m", "v"] {
        file = file.floats(name, &[channels], &vec![1.0; 1 << 16]);
    }
    let mut from = "x".to_owned();
    for i in 0..200 {
        let to = format!("n{i}");
        file = file.node(
            "BatchNormalization",
            &format!("{from} g b m v"),
            &to,
            vec![],
        );
        from = to;
    }
    let error = file.error("n199");
    assert!(error.contains("out of all proportion"), "{error}");
}

/// Adds a node from one name to the next.
type Link = fn(File, &str, &str) -> File;

#[test]
fn long_chains_take_no_more_than_their_length() {
    const LENGTH: usize = 20_000;
    let scalar = |file: File| file.floats("c", &[], &[1.0]);
    let chains: [(&str, Link); 5] = [
        ("Relu", |f, a, b| f.node("Relu", a, b, vec![])),
        ("Add", |f, a, b| f.node("Add", &format!("{a} c"), b, vec![])),
        ("Identity", |f, a, b| f.node("Identity", a, b, vec![])),
        ("Sum", |f, a, b| {
            f.node("Add", &format!("{a} {a}"), b, vec![])
        }),
        ("Softmax", |f, a, b| {
            f.node("Softmax", a, b, vec![int("axis", 1)])
        }),
    ];
    for (name, link) in chains {
        let mut file = scalar(File::new(&[1, 3, 1, 1]).conv_1x1());
        let mut from = "y".to_owned();
        for i in 0..LENGTH {
            let to = format!("n{i}");
            file = link(file, &from, &to);
            file.0.node.last_mut().unwrap().name = "same".to_owned();
            from = to;
        }
        // The last is the first to be read.
        file.0.node.reverse();
        let bytes = file.bytes(&[&from]);
        let start = Instant::now();
        match import(&bytes, None) {
            Ok(_) | Err(ImportError::Unsupported(_)) => {}
            Err(error) => panic!("{name}: {error}"),
        }
        let took = start.elapsed();
        assert!(took < Duration::from_secs(20), "{name}: {took:?}");
    }
}

#[test]
fn empty_messages_are_refused_before_they_are_decoded() {
    // A graph, field 7, of a million nodes without content.
    let nodes = [10, 0].repeat(1_000_000);
    let mut bytes = vec![0x3a];
    let mut length = nodes.len();
    while length > 127 {
        bytes.push(length as u8 | 128);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(nodes);
    let error = import(&bytes, None).unwrap_err().to_string();
    assert!(error.contains("next to nothing"), "{error}");
}

#[test]
fn a_circle_and_a_segment_are_refused() {
    let circle = File::new(&IMAGE)
        .node("Add", "x b", "a", vec![])
        .node("Relu", "a", "b", vec![]);
    let error = circle.error("b");
    assert!(error.contains("its own result"), "{error}");
    let part = TensorProto {
        dims: vec![1, 3, 1, 1],
        data_type: data_type::FLOAT,
        name: "w".to_owned(),
        float_data: vec![1.0; 3],
        segment: Some(vec![8, 0].into()),
        ..TensorProto::default()
    };
    let file = File::new(&IMAGE)
        .tensor(part)
        .node("Conv", "x w", "y", vec![]);
    let error = file.error("y");
    assert!(error.contains("segment"), "{error}");
}
