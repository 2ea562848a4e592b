//! Elements and shapes, as files hold or compute them.

use super::{File, IMAGE, ops};
use crate::onnx::proto::{TensorProto, data_type};
use crate::onnx::writer::{float, int};

#[test]
fn shapes_that_the_file_computes_are_known() {
    let network = File::new(&IMAGE)
        .longs("axis", &[0])
        .longs("rest", &[-1])
        .tensor(TensorProto {
            data_type: data_type::INT64,
            name: "first".to_owned(),
            int64_data: vec![0],
            ..TensorProto::default()
        })
        .node("Shape", "x", "s", vec![])
        .node("Gather", "s first", "n", vec![int("axis", 0)])
        .node("Unsqueeze", "n axis", "n1", vec![])
        .node("Concat", "n1 rest", "target", vec![int("axis", 0)])
        .node("Reshape", "x target", "flat", vec![])
        .floats("w", &[192, 2], &[1.0; 384])
        .floats("b", &[2], &[1.0, 2.0])
        .node("MatMul", "flat w", "p", vec![])
        .node("Add", "p b", "y", vec![])
        .node("Softmax", "y", "s2", vec![])
        .network("s2");
    assert_eq!(ops(&network), ["input", "flatten", "linear"]);
    let names: Vec<&str> = network
        .graph
        .outputs()
        .iter()
        .map(|o| o.0.as_str())
        .collect();
    assert_eq!(names, ["features", "logits"]);
    assert_eq!(network.params.0["p.bias"].data, [1.0, 2.0]);
}

#[test]
fn gemm_is_scaled_and_transposed() {
    let network = File::new(&[1, 2, 1, 1])
        .node("GlobalAveragePool", "x", "p", vec![])
        .node("Flatten", "p", "f", vec![])
        .floats("w", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .floats("b", &[1], &[10.0])
        .node(
            "Gemm",
            "f w b",
            "y",
            vec![float("alpha", 2.0), float("beta", 0.5)],
        )
        .network("y");
    assert_eq!(
        network.params.0["y.weight"].data,
        [2.0, 8.0, 4.0, 10.0, 6.0, 12.0]
    );
    assert_eq!(network.params.0["y.bias"].data, [5.0; 3]);
}

#[test]
fn halves_bytes_and_nibbles_are_read() {
    let half = |v: f32| half::f16::from_f32(v).to_bits();
    let raw: Vec<u8> = [0.5, -2.0]
        .iter()
        .flat_map(|&v| half(v).to_le_bytes())
        .collect();
    let tensor = |data_type, raw: Vec<u8>, name: &str| TensorProto {
        dims: vec![2, 1, 1, 1],
        data_type,
        name: name.to_owned(),
        raw_data: raw.into(),
        ..TensorProto::default()
    };
    let network = File::new(&[1, 1, 4, 4])
        .tensor(tensor(data_type::FLOAT16, raw, "w"))
        .node("Conv", "x w", "y", vec![])
        .network("y");
    assert_eq!(network.params.0["y.weight"].data, [0.5, -2.0]);
    for (kind, raw) in [
        (data_type::INT8, vec![3, 0xfe]),
        (data_type::INT4, vec![0xe3]),
    ] {
        let network = File::new(&[1, 1, 4, 4])
            .tensor(tensor(kind, raw, "q"))
            .floats("s", &[2], &[0.5, 2.0])
            .node("DequantizeLinear", "q s", "w", vec![int("axis", 0)])
            .node("Conv", "x w", "y", vec![])
            .network("y");
        assert_eq!(network.params.0["y.weight"].data, [1.5, -4.0]);
    }
}
