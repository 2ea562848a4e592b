//! What a file does to its image before anything else.

use super::{File, IMAGE, ops};
use crate::Network;
use crate::onnx::Normalisation;
use crate::onnx::import::import;
use crate::onnx::proto::{TensorProto, data_type};
use crate::onnx::writer::{int, ints};

fn weights(network: &Network) -> &[f32] {
    &network.params.0["y.weight"].data
}

fn per_channel(import: &crate::onnx::OnnxImport) -> (Vec<f32>, Vec<f32>) {
    match &import.normalisation {
        Normalisation::PerChannel { gain, shift } => (gain.clone(), shift.clone()),
        other => panic!("{other:?}"),
    }
}

/// A 1×1 convolution of `from` to `y`, whose weights are 1, 2 and 3.
fn conv(file: File, from: &str) -> File {
    file.floats("w", &[1, 3, 1, 1], &[1.0, 2.0, 3.0]).node(
        "Conv",
        &format!("{from} w"),
        "y",
        vec![],
    )
}

#[test]
fn bytes_with_channels_last_are_normalised_by_the_file() {
    let file = File::new(&[-1, 8, 8, 3])
        .of_bytes()
        .floats("scale", &[], &[1.0 / 127.5])
        .floats("one", &[], &[1.0])
        .node("Cast", "x", "f", vec![int("to", 1)])
        .node("Mul", "f scale", "m", vec![])
        .node("Sub", "m one", "s", vec![])
        .node("Transpose", "s", "t", vec![ints("perm", &[0, 3, 1, 2])]);
    let import = conv(file, "t").import("y");
    assert!(import.takes_bytes && import.channels_last);
    assert_eq!(ops(&import.network), ["input", "conv2d"]);
    let (gain, shift) = per_channel(&import);
    assert_eq!((gain, shift), (vec![1.0 / 127.5; 3], vec![-1.0; 3]));
    assert_eq!(weights(&import.network), [1.0, 2.0, 3.0]);
}

#[test]
fn mean_and_deviation_per_channel_are_read() {
    let file = File::new(&IMAGE)
        .floats("mean", &[3, 1, 1], &[0.25, 0.5, 0.75])
        .floats("std", &[1, 3, 1, 1], &[0.5, 0.25, 0.125])
        .node("Sub", "x mean", "m", vec![])
        .node("Div", "m std", "s", vec![]);
    let import = conv(file, "s").import("y");
    assert_eq!(ops(&import.network), ["input", "conv2d"]);
    let (gain, shift) = per_channel(&import);
    assert_eq!(gain, [2.0, 4.0, 8.0]);
    assert_eq!(shift, [-0.5, -2.0, -6.0]);
}

#[test]
fn a_mean_image_is_a_mean_where_its_pixels_are_alike() {
    let file = |last: f32| {
        let mut mean = [vec![1.0; 64], vec![2.0; 64], vec![3.0; 64]].concat();
        mean[191] = last;
        let file = File::new(&IMAGE).floats("mean", &[1, 3, 8, 8], &mean);
        conv(file.node("Sub", "x mean", "s", vec![]), "s")
    };
    assert_eq!(per_channel(&file(3.0).import("y")).1, [-1.0, -2.0, -3.0]);
    let error = file(3.5).error("y");
    assert!(error.contains("from pixel to pixel"), "{error}");
}

#[test]
fn a_batch_norm_of_the_image_is_its_normalisation() {
    let mut file = File::new(&IMAGE);
    for (name, value) in [("g", 1.0), ("b", 0.0), ("m", 0.5), ("v", 0.25)] {
        file = file.floats(name, &[3], &[value; 3]);
    }
    let epsilon = crate::onnx::writer::float("epsilon", 0.0);
    let file = file.node("BatchNormalization", "x g b m v", "n", vec![epsilon]);
    let import = conv(file, "n").import("y");
    assert_eq!(per_channel(&import), (vec![2.0; 3], vec![-1.0; 3]));
}

/// All the ways to swap red and blue, with means that were swapped too.
#[test]
fn the_order_of_the_channels_goes_into_the_first_convolution() {
    let reversed = |name: &str| {
        let file = File::new(&IMAGE);
        match name {
            "gather" => file.longs("order", &[2, 1, 0]).node(
                "Gather",
                "x order",
                "bgr",
                vec![int("axis", 1)],
            ),
            "split" => file.node("Split", "x", "r g b", vec![int("axis", 1)]).node(
                "Concat",
                "b g r",
                "bgr",
                vec![int("axis", 1)],
            ),
            "slice" => file
                .longs("starts", &[-1])
                .longs("ends", &[i64::MIN])
                .longs("axes", &[1])
                .longs("steps", &[-1])
                .node("Slice", "x starts ends axes steps", "bgr", vec![]),
            _ => {
                let mut file = file;
                let one = |name: &str, value| TensorProto {
                    data_type: data_type::INT64,
                    name: name.to_owned(),
                    int64_data: vec![value],
                    ..TensorProto::default()
                };
                file = file.longs("axis", &[1]);
                for (at, name) in ["r", "g", "b"].into_iter().enumerate() {
                    let index = format!("index_{name}");
                    file = file
                        .tensor(one(&index, at as i64))
                        .node(
                            "Gather",
                            &format!("x {index}"),
                            &format!("{name}3"),
                            vec![int("axis", 1)],
                        )
                        .node("Unsqueeze", &format!("{name}3 axis"), name, vec![]);
                }
                file.node("Concat", "b g r", "bgr", vec![int("axis", 1)])
            }
        }
    };
    for name in ["gather", "split", "slice", "gather one by one"] {
        let import = conv(reversed(name), "bgr").import("y");
        assert_eq!(ops(&import.network), ["input", "conv2d"], "{name}");
        assert_eq!(weights(&import.network), [3.0, 2.0, 1.0], "{name}");
        assert_eq!(import.normalisation, Normalisation::None, "{name}");
        let normalised = reversed(name)
            .floats("mean", &[3, 1, 1], &[10.0, 20.0, 30.0])
            .node("Sub", "bgr mean", "s", vec![]);
        let import = conv(normalised, "s").import("y");
        assert_eq!(weights(&import.network), [3.0, 2.0, 1.0], "{name}");
        assert_eq!(per_channel(&import).1, [-30.0, -20.0, -10.0], "{name}");
    }
    // A layer that cannot take it in gets a convolution before it.
    let pooled =
        reversed("gather").node("MaxPool", "bgr", "y", vec![ints("kernel_shape", &[2, 2])]);
    assert_eq!(ops(&pooled.network("y")), ["input", "conv2d", "max_pool"]);
}

#[test]
fn an_inverted_image_turns_the_weights_round() {
    let file = File::new(&[-1, 1, 8, 8])
        .floats("one", &[], &[1.0])
        .node("Sub", "one x", "s", vec![])
        .floats("w", &[1, 1, 1, 1], &[5.0])
        .node("Conv", "s w", "y", vec![]);
    let import = file.import("y");
    // The network's input is x - 1.
    assert_eq!(per_channel(&import), (vec![1.0], vec![-1.0]));
    assert_eq!(weights(&import.network), [-5.0]);
}

#[test]
fn zeros_around_a_centred_image_can_win_a_maximum() {
    let file = |shift: f32| {
        File::new(&IMAGE)
            .of_bytes()
            .floats("c", &[], &[shift])
            .node("Cast", "x", "f", vec![int("to", 1)])
            .node("Add", "f c", "s", vec![])
            .longs("pads", &[0, 0, 1, 1, 0, 0, 1, 1])
            .node("Pad", "s pads", "p", vec![])
            .node("MaxPool", "p", "y", vec![ints("kernel_shape", &[3, 3])])
    };
    assert_eq!(ops(&file(1.0).network("y")), ["input", "max_pool"]);
    let error = file(-1.0).error("y");
    assert!(error.contains("Pad `p`"), "{error}");
}

#[test]
fn an_image_that_is_read_in_two_ways_stays_as_it_is() {
    let file = conv(
        File::new(&IMAGE)
            .floats("two", &[], &[2.0])
            .node("Mul", "x two", "m", vec![]),
        "m",
    )
    .floats("v", &[1, 3, 1, 1], &[1.0; 3])
    .node("Conv", "x v", "z", vec![])
    .node("Add", "y z", "sum", vec![]);
    let import = file.import("sum");
    assert_eq!(import.normalisation, Normalisation::Mixed);
    assert_eq!(
        ops(&import.network),
        ["input", "conv2d", "conv2d", "conv2d", "add"]
    );
}

#[test]
fn pixels_are_not_computed_with_before_they_are_floats() {
    let file = File::new(&IMAGE)
        .of_bytes()
        .tensor(TensorProto {
            data_type: data_type::UINT8,
            name: "c".to_owned(),
            int32_data: vec![7],
            ..TensorProto::default()
        })
        .node("Sub", "x c", "s", vec![])
        .node("Cast", "s", "f", vec![int("to", 1)]);
    let error = conv(file, "f").error("y");
    assert!(error.contains("computes on integers"), "{error}");
    let dequantised = File::new(&IMAGE)
        .of_bytes()
        .floats("s", &[], &[0.5])
        .tensor(TensorProto {
            data_type: data_type::UINT8,
            name: "z".to_owned(),
            int32_data: vec![128],
            ..TensorProto::default()
        })
        .node("DequantizeLinear", "x s z", "d", vec![]);
    let import = conv(dequantised, "d").import("y");
    assert_eq!(per_channel(&import), (vec![0.5; 3], vec![-64.0; 3]));
    let mut other = File::new(&IMAGE).node("Relu", "x", "y", vec![]);
    let image = other.0.input[0].r#type.as_mut().unwrap();
    image.tensor_type.as_mut().unwrap().elem_type = data_type::INT8;
    let error = import_error(other);
    assert!(error.contains("element type 3"), "{error}");
}

fn import_error(file: File) -> String {
    import(&file.bytes(&["y"]), None).unwrap_err().to_string()
}

#[test]
fn selected_channels_in_the_middle_go_into_the_convolution_behind_them() {
    let network = File::new(&IMAGE)
        .floats("first", &[4, 3, 1, 1], &[1.0; 12])
        .node("Conv", "x first", "c", vec![])
        .node("Relu", "c", "r", vec![])
        .node("Split", "r", "a b", vec![int("axis", 1)])
        .node("Concat", "b a", "swapped", vec![int("axis", 1)])
        .floats("w", &[1, 4, 1, 1], &[1.0, 2.0, 3.0, 4.0])
        .node("Conv", "swapped w", "y", vec![])
        .network("y");
    assert_eq!(ops(&network), ["input", "conv2d", "relu", "conv2d"]);
    assert_eq!(weights(&network), [3.0, 4.0, 1.0, 2.0]);
    let error = File::new(&IMAGE)
        .node("Relu", "x", "r", vec![])
        .longs("order", &[2, 1, 0])
        .node("Gather", "r order", "s", vec![int("axis", 1)])
        .node("Relu", "s", "y", vec![])
        .error("y");
    assert!(error.contains("reorders channels"), "{error}");
}
