//! What becomes part of the layer before it, or of an activation.

use slimbit_graph::{Activation, Groups, Op};

use super::{File, IMAGE, last, ops};
use crate::onnx::writer::float;

#[test]
fn hard_swish_is_found_in_every_form() {
    let scalars = |file: File| {
        file.floats("three", &[], &[3.0])
            .floats("zero", &[], &[0.0])
            .floats("six", &[], &[6.0])
    };
    let gate = |file: File| {
        scalars(file)
            .node("Add", "x three", "a", vec![])
            .node("Clip", "a zero six", "c", vec![])
    };
    let sigmoid = vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)];
    let forms = [
        File::new(&IMAGE).node("HardSwish", "x", "y", vec![]),
        File::new(&IMAGE)
            .node("HardSigmoid", "x", "g", sigmoid)
            .node("Mul", "x g", "y", vec![]),
        gate(File::new(&IMAGE))
            .node("Div", "c six", "g", vec![])
            .node("Mul", "g x", "y", vec![]),
        gate(File::new(&IMAGE))
            .node("Mul", "x c", "p", vec![])
            .node("Div", "p six", "y", vec![]),
    ];
    for form in forms {
        let network = form.network("y");
        assert_eq!(ops(&network), ["input", "hard_swish"]);
    }
    let other = gate(File::new(&IMAGE)).node("Mul", "x c", "y", vec![]);
    let error = other.error("y");
    assert!(error.contains("another form than hard swish"), "{error}");
}

#[test]
fn clips_are_relus_by_operand_and_by_attribute() {
    let attributes = vec![float("min", 0.0), float("max", 6.0)];
    let network = File::new(&IMAGE)
        .opset(10)
        .node("Clip", "x", "y", attributes)
        .network("y");
    assert_eq!(last(&network), &Op::Activation(Activation::Relu6));
    let open = File::new(&IMAGE)
        .floats("zero", &[], &[0.0])
        .node("Clip", "x zero", "y", vec![]);
    assert_eq!(last(&open.network("y")), &Op::Activation(Activation::Relu));
    let error = File::new(&IMAGE)
        .opset(10)
        .node(
            "Clip",
            "x",
            "y",
            vec![float("min", -1.0), float("max", 1.0)],
        )
        .error("y");
    assert!(error.contains("clips to -1 .. 1"), "{error}");
}

#[test]
fn constants_behind_a_convolution_are_folded_into_it() {
    let network = File::new(&IMAGE)
        .conv(3, vec![])
        .floats("gain", &[2, 1, 1], &[2.0, -1.0])
        .floats("shift", &[1, 2, 1, 1], &[5.0, 7.0])
        .node("Mul", "y gain", "m", vec![])
        .node("Add", "shift m", "z", vec![])
        .network("z");
    assert_eq!(ops(&network), ["input", "conv2d"]);
    let weights = &network.params.0["y.weight"].data;
    assert_eq!((weights[1], weights[27]), (2.0, -27.0));
    assert_eq!(network.params.0["y.bias"].data, [5.0, 7.0]);
}

#[test]
fn a_batch_norm_stays_behind_its_convolution_and_becomes_one_elsewhere() {
    let norm = |file: File, from: &str, channels: usize| {
        let ones = vec![1.0; channels];
        let mut file = file;
        for name in ["g", "b", "m"] {
            file = file.floats(name, &[channels as i64], &ones);
        }
        file.floats("v", &[channels as i64], &vec![4.0; channels])
            .node(
                "BatchNormalization",
                &format!("{from} g b m v"),
                "z",
                vec![float("epsilon", 0.0)],
            )
    };
    let behind = norm(File::new(&IMAGE).conv(3, vec![]), "y", 2).network("z");
    assert_eq!(ops(&behind), ["input", "conv2d", "batch_norm"]);
    assert_eq!(behind.norms["z"], (vec![1.0; 2], vec![4.0; 2]));
    let relu = File::new(&IMAGE).node("Relu", "x", "r", vec![]);
    let alone = norm(relu, "r", 3).network("z");
    assert!(matches!(last(&alone), Op::Conv2d(c) if c.groups == Groups::Depthwise));
    assert_eq!(alone.params.0["z.weight"].data, [0.5; 3]);
    assert_eq!(alone.params.0["z.bias"].data, [0.5; 3]);
}
