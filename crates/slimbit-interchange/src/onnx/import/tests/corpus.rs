//! Seeds of the fuzzer with what our own exporter does not write.

use std::fs;
use std::path::Path;

use super::{File, IMAGE, ops, text};
use crate::onnx::import::import_in;
use crate::onnx::proto::{StringStringEntryProto, TensorProto, data_type};
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

/// Weights whose codes are bytes of another seed.
fn elements_elsewhere() -> File {
    let entry = |key: &str, value: &str| StringStringEntryProto {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    File::new(&IMAGE)
        .tensor(TensorProto {
            dims: vec![2, 3, 3, 3],
            data_type: data_type::INT8,
            name: "codes".to_owned(),
            data_location: 1,
            external_data: vec![
                entry("location", "everything.onnx"),
                entry("offset", "8"),
                entry("length", "54"),
            ],
            ..TensorProto::default()
        })
        .floats("scales", &[2], &[0.5, 0.25])
        .node(
            "DequantizeLinear",
            "codes scales",
            "w",
            vec![int("axis", 0)],
        )
        .node("Conv", "x w", "y", vec![])
}

/// `SLIMBIT_BLESS=1 cargo test -p slimbit-interchange corpus` writes the seeds anew.
#[test]
fn the_seeds_of_many_operators_and_of_several_files_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/onnx_reader");
    let everything = [
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
    let seeds = [
        (
            "everything.onnx",
            self::everything(),
            "probabilities",
            &everything[..],
        ),
        (
            "external.onnx",
            elements_elsewhere(),
            "y",
            &["input", "conv2d"],
        ),
    ];
    for (name, file, output, kinds) in seeds {
        let bytes = file.bytes(&[output]);
        let path = folder.join(name);
        if std::env::var_os("SLIMBIT_BLESS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let network = import_in(&folder, &bytes, None).unwrap().network;
        assert_eq!(ops(&network), kinds, "{name}");
        assert!(
            fs::read(&path).unwrap() == bytes,
            "{}: written otherwise today",
            path.display()
        );
    }
}
