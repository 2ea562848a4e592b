//! Attributes, opsets and types that change what an operator computes.

use slimbit_graph::{Activation, Op};

use super::{File, IMAGE, last, ops, text};
use crate::onnx::proto::{AttributeProto, TensorProto, data_type};
use crate::onnx::writer::{float, int, ints};

#[test]
fn unknown_attributes_are_refused_by_name_and_value() {
    let pool = |more| vec![ints("kernel_shape", &[2, 2]), more];
    for (op, attributes, opset, named) in [
        ("Relu", vec![int("leak", 3)], 17, "`leak` = 3"),
        // The operators of a version before the one that has it.
        ("Shape", vec![int("start", 1)], 13, "`start` = 1"),
        ("Reshape", vec![int("allowzero", 1)], 13, "`allowzero` = 1"),
        (
            "AveragePool",
            pool(ints("dilations", &[2, 2])),
            17,
            "`dilations` = [2, 2]",
        ),
        ("MaxPool", pool(int("ceil_mode", 1)), 9, "`ceil_mode` = 1"),
        // And after the last.
        ("Clip", vec![float("max", 6.0)], 11, "`max` = 6"),
        (
            "ReduceMean",
            vec![ints("axes", &[2, 3])],
            18,
            "`axes` = [2, 3]",
        ),
        ("Squeeze", vec![ints("axes", &[2])], 13, "`axes` = [2]"),
        (
            "BatchNormalization",
            vec![int("spatial", 0)],
            9,
            "`spatial` = 0",
        ),
        // Of another type than it has.
        ("Flatten", vec![float("axis", 2.0)], 17, "`axis` = 2"),
        ("Softmax", vec![text("axis", "1")], 17, "`axis` = `1`"),
        // Understood in one value only.
        (
            "DequantizeLinear",
            vec![int("block_size", 16)],
            21,
            "`block_size` = 16",
        ),
    ] {
        let file = File::new(&IMAGE)
            .opset(opset)
            .node(op, "x x x x x", "y", attributes);
        let error = file.error("y");
        assert!(error.contains(&format!("{op} `y`")), "{error}");
        assert!(error.contains(named), "{error}");
    }
    let error = File::new(&IMAGE)
        .opset(13)
        .node("HardSwish", "x", "y", vec![])
        .error("y");
    assert!(error.contains("exists since opset 14"), "{error}");
    let twice = vec![int("axis", 1), int("axis", 0)];
    let error = File::new(&IMAGE)
        .node("Flatten", "x", "y", twice)
        .error("y");
    assert!(error.contains("`axis` twice"), "{error}");
    let operand = File::new(&IMAGE).opset(10).floats("six", &[], &[6.0]);
    let error = operand.node("Clip", "x six six", "y", vec![]).error("y");
    assert!(error.contains("3 operands"), "{error}");
}

#[test]
fn a_part_of_the_shape_is_that_part() {
    let file = |start, end| {
        File::new(&IMAGE)
            .node(
                "Shape",
                "x",
                "s",
                vec![int("start", start), int("end", end)],
            )
            .longs("rest", &[-1])
            .node("Concat", "s rest", "target", vec![int("axis", 0)])
            .node("Reshape", "x target", "y", vec![])
    };
    for (start, end) in [(0, 1), (-4, -3), (-9, 1)] {
        assert_eq!(ops(&file(start, end).network("y")), ["input", "flatten"]);
    }
    let error = file(2, 4).error("y");
    assert!(error.contains("[8, 8, 3]"), "{error}");
}

fn vector(file: File) -> File {
    file.node("GlobalAveragePool", "x", "p", vec![])
        .node("Flatten", "p", "f", vec![])
}

#[test]
fn a_softmax_that_keeps_no_order_is_refused() {
    let softmax = |opset, axis: Option<i64>, flat: bool| {
        let attributes = axis.map(|axis| int("axis", axis)).into_iter().collect();
        let from = if flat { "f" } else { "p" };
        vector(File::new(&IMAGE).opset(opset)).node("Softmax", from, "y", attributes)
    };
    for (opset, axis, flat) in [
        (13, None, true),
        (13, Some(1), true),
        (13, Some(1), false),
        (11, None, true),
        (11, None, false),
        (11, Some(1), false),
    ] {
        let import = softmax(opset, axis, flat).import("y");
        assert!(import.notes[0].contains("left out"), "{:?}", import.notes);
    }
    for (opset, axis, flat, named) in [
        (13, Some(0), true, "over the batch"),
        (11, Some(0), true, "over the batch"),
        // The last axis of [N, C, 1, 1].
        (13, None, false, "of one element"),
        (11, Some(2), false, "of one element"),
    ] {
        let error = softmax(opset, axis, flat).error("y");
        assert!(error.contains(named), "{error}");
    }
    let rows = File::new(&IMAGE).node("Softmax", "x", "y", vec![int("axis", 2)]);
    let error = rows.error("y");
    assert!(error.contains("not the channels"), "{error}");
}

#[test]
fn scores_and_their_probabilities_are_one_output() {
    let file = vector(File::new(&IMAGE))
        .floats("w", &[3, 2], &[1.0; 6])
        .node("MatMul", "f w", "scores", vec![])
        .node("Softmax", "scores", "likely", vec![]);
    let import = super::import(&file.bytes(&["likely", "scores"]), None).unwrap();
    let names: Vec<&str> = import.outputs.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["features", "logits"]);
    assert_eq!(import.outputs[1].tensor, "scores");
}

#[test]
fn training_is_refused_in_every_form() {
    let norm = |opset: i64, outputs: &str| {
        let mut file = File::new(&IMAGE).opset(opset);
        for name in ["g", "b", "m", "v"] {
            file = file.floats(name, &[3], &[1.0; 3]);
        }
        let attributes = match opset {
            14.. => vec![int("training_mode", 1)],
            _ => vec![],
        };
        file.node("BatchNormalization", "x g b m v", outputs, attributes)
    };
    for (opset, outputs) in [
        (9, "y m1 v1 m2 v2"),
        (13, "y m1 v1"),
        (15, "y"),
        (15, "y m1 v1"),
    ] {
        let error = norm(opset, outputs).error("y");
        assert!(error.contains("as in training"), "{opset}: {error}");
    }
    let dropout = |mode: i32| {
        let truth = TensorProto {
            data_type: data_type::BOOL,
            name: "mode".to_owned(),
            int32_data: vec![mode],
            ..TensorProto::default()
        };
        File::new(&IMAGE)
            .floats("ratio", &[], &[0.5])
            .tensor(truth)
            .node("Dropout", "x ratio mode", "d", vec![])
            .node("Relu", "d", "y", vec![])
    };
    assert_eq!(ops(&dropout(0).network("y")), ["input", "relu"]);
    let error = dropout(1).error("y");
    assert!(error.contains("as in training"), "{error}");
}

#[test]
fn clips_of_clips_and_bounds_as_operators_are_relus() {
    let scalars = |file: File| {
        file.floats("zero", &[], &[0.0])
            .floats("six", &[], &[6.0])
            .floats("far", &[], &[-3.402823e38])
            .floats("one", &[], &[1.0])
    };
    let relu6 = [
        scalars(File::new(&IMAGE))
            .node("Relu", "x", "r", vec![])
            .node("Clip", "r far six", "y", vec![]),
        scalars(File::new(&IMAGE))
            .node("Max", "x zero", "r", vec![])
            .node("Min", "six r", "y", vec![]),
        scalars(File::new(&IMAGE))
            .node("Min", "x six", "r", vec![])
            .node("Max", "r zero", "y", vec![]),
    ];
    for file in relu6 {
        let network = file.network("y");
        assert_eq!(ops(&network), ["input", "relu6"]);
        assert_eq!(last(&network), &Op::Activation(Activation::Relu6));
    }
    let free = File::new(&IMAGE)
        .node("Clip", "x", "c", vec![])
        .node("Relu", "c", "y", vec![]);
    assert_eq!(ops(&free.network("y")), ["input", "relu"]);
    for (op, bounds) in [("Clip", "r far one"), ("Min", "r one")] {
        let file = scalars(File::new(&IMAGE)).node("Relu", "x", "r", vec![]);
        let error = file.node(op, bounds, "y", vec![]).error("y");
        assert!(error.contains("clips to 0 .. 1"), "{error}");
    }
}

#[test]
fn a_bias_for_every_image_is_none_for_every_feature() {
    let error = vector(File::new(&[3, 3, 8, 8]))
        .floats("w", &[3, 3], &[1.0; 9])
        .floats("b", &[3, 1], &[1.0, 2.0, 3.0])
        .node("Gemm", "f w b", "y", vec![])
        .error("y");
    assert!(error.contains("only one bias for every feature"), "{error}");
}

#[test]
fn codes_are_read_with_the_scale_they_were_made_with() {
    let scalars = |file: File| {
        file.floats("s", &[], &[0.1])
            .floats("s2", &[], &[0.2])
            .tensor(TensorProto {
                data_type: data_type::UINT8,
                name: "z".to_owned(),
                int32_data: vec![128],
                ..TensorProto::default()
            })
            .tensor(TensorProto {
                data_type: data_type::UINT8,
                name: "top".to_owned(),
                int32_data: vec![255],
                ..TensorProto::default()
            })
    };
    let error = scalars(File::new(&IMAGE).conv(3, vec![]))
        .node("QuantizeLinear", "y s z", "q", vec![])
        .node("DequantizeLinear", "q s2 z", "d", vec![])
        .error("d");
    assert!(error.contains("0.1") && error.contains("0.2"), "{error}");
    // A clip that begins at the code of zero is a ReLU.
    let network = scalars(File::new(&IMAGE).conv(3, vec![]))
        .node("QuantizeLinear", "y s z", "q", vec![])
        .node("Clip", "q z top", "c", vec![])
        .node("DequantizeLinear", "c s z", "d", vec![])
        .network("d");
    assert_eq!(ops(&network), ["input", "conv2d", "relu"]);
    let error = scalars(File::new(&IMAGE).conv(3, vec![]))
        .node("QuantizeLinear", "y s z", "q", vec![])
        .node("Add", "q q", "d", vec![])
        .error("d");
    assert!(error.contains("computes on integers"), "{error}");
}

#[test]
fn integers_keep_their_type_and_their_range() {
    let value = |to: i64, value: f32| {
        File::new(&IMAGE)
            .floats("f", &[1], &[value])
            .node("Cast", "f", "c", vec![int("to", to)])
            .node("Add", "c c", "d", vec![])
            .node("Cast", "d", "e", vec![int("to", 1)])
            .node("Relu", "x", "r", vec![])
            .node("Mul", "r e", "y", vec![])
    };
    let network = value(7, -1.7).network("y");
    assert_eq!(network.params.0["y.weight"].data, [-2.0; 3]);
    for (to, number) in [(2, 300.0), (2, -1.0), (3, 100.0), (17, 1.0), (7, f32::NAN)] {
        let file = value(to, number);
        let refused = crate::onnx::import::import(&file.bytes(&["y"]), None);
        assert!(refused.is_err(), "{to} {number}");
    }
}

#[test]
fn weights_that_the_file_normalises_are_evaluated() {
    let network = File::new(&[1, 1, 4, 4])
        .floats("v", &[2, 1, 1, 2], &[3.0, 4.0, 6.0, 8.0])
        .node(
            "ReduceL2",
            "v",
            "n",
            vec![ints("axes", &[1, 2, 3]), int("keepdims", 1)],
        )
        .node("Div", "v n", "w", vec![])
        .node("Conv", "x w", "y", vec![])
        .network("y");
    let weights = &network.params.0["y.weight"].data;
    for (found, wanted) in weights.iter().zip([0.6, 0.8, 0.6, 0.8]) {
        assert!((found - wanted).abs() < 1e-6, "{weights:?}");
    }
}

#[test]
fn attributes_without_a_type_are_read_as_old_files_have_them() {
    let old = AttributeProto {
        r#type: 0,
        ..int("axis", 1)
    };
    let network = File::new(&IMAGE)
        .opset(9)
        .node("Flatten", "x", "y", vec![old]);
    assert_eq!(ops(&network.network("y")), ["input", "flatten"]);
}
