//! A seed of the fuzzer with the operators that our own exporter does not write.

use std::fs;
use std::path::Path;

use super::{File, IMAGE, ops, text};
use crate::onnx::import::import;
use crate::onnx::writer::{float, int, ints};

/// A file as no single exporter writes it.
fn everything() -> File {
    let file = File::new(&IMAGE)
        .longs("pads", &[0, 0, 0, 0, 0, 0, 1, 1])
        .node("Pad", "x pads", "padded", vec![text("mode", "constant")])
        .floats("w", &[2, 3, 3, 3], &[0.5; 54])
        .node("Conv", "padded w", "y", vec![text("auto_pad", "VALID")])
        .floats("gain", &[2, 1, 1], &[2.0, -1.0])
        .node("Mul", "y gain", "scaled", vec![])
        .node(
            "HardSigmoid",
            "scaled",
            "gate",
            vec![float("alpha", 1.0 / 6.0)],
        )
        .node("Mul", "scaled gate", "swish", vec![])
        .floats("six", &[], &[6.0])
        .floats("zero", &[], &[0.0])
        .node("Clip", "swish zero six", "clipped", vec![])
        .longs("starts", &[0, 0])
        .longs("ends", &[i64::MAX, i64::MAX])
        .longs("axes", &[2, 3])
        .longs("steps", &[2, 2])
        .node("Slice", "clipped starts ends axes steps", "thin", vec![])
        .longs("channels", &[0, 1, 0, 0, 0, 1, 0, 0])
        .node("Pad", "thin channels", "wide", vec![])
        .node(
            "Transpose",
            "wide",
            "last",
            vec![ints("perm", &[0, 2, 3, 1])],
        )
        .node(
            "Transpose",
            "last",
            "first",
            vec![ints("perm", &[0, 3, 1, 2])],
        )
        .node(
            "AveragePool",
            "first",
            "mean",
            vec![
                ints("kernel_shape", &[2, 2]),
                ints("pads", &[1, 1, 0, 0]),
                int("count_include_pad", 1),
            ],
        )
        .node("Concat", "first mean", "joined", vec![int("axis", 1)]);
    file.longs("first_axis", &[0])
        .longs("rest", &[-1])
        .node("Shape", "joined", "dims", vec![])
        .node("Gather", "dims first_axis", "batch", vec![])
        .node("Cast", "batch", "batch_number", vec![int("to", 7)])
        .node(
            "Concat",
            "batch_number rest",
            "target",
            vec![int("axis", 0)],
        )
        .node("Reshape", "joined target", "flat", vec![])
        .longs("wide_shape", &[128, 2])
        .node("ConstantOfShape", "wide_shape", "w_flat", vec![])
        .node("MatMul", "flat w_flat", "product", vec![])
        .node("Softmax", "product", "probabilities", vec![])
}

/// `SLIMBIT_BLESS=1 cargo test -p slimbit-interchange corpus` writes the seed anew.
#[test]
fn the_seed_of_many_operators_is_read() {
    let bytes = everything().bytes(&["probabilities"]);
    let network = import(&bytes, None).unwrap().network;
    let kinds = [
        "input",
        "conv2d",
        "hard_swish",
        "relu6",
        "pad_shortcut",
        "conv2d",
        "concat",
        "flatten",
        "linear",
    ];
    assert_eq!(ops(&network), kinds);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/onnx_reader");
    let path = folder.join("everything.onnx");
    if std::env::var_os("SLIMBIT_BLESS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        fs::write(&path, &bytes).unwrap();
    }
    assert!(
        fs::read(&path).unwrap() == bytes,
        "{}: written otherwise today",
        path.display()
    );
}
