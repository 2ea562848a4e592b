//! Files as exporters write them, made of the messages themselves.

use prost::Message;
use slimbit_graph::{Activation, Groups, Op};

use super::import;
use crate::onnx::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto,
    ValueInfoProto, data_type,
};
use crate::onnx::writer::{float, int, ints};
use crate::{ImportError, Network};

/// A file under construction; the image is `x`.
#[derive(Default)]
struct File(GraphProto);

impl File {
    fn new(image: &[i64]) -> Self {
        let mut file = Self::default();
        let dim = image.iter().map(|&n| DimensionProto {
            dim_value: (n > 0).then_some(n),
            dim_param: None,
        });
        file.0.input.push(ValueInfoProto {
            name: "x".to_owned(),
            r#type: Some(TypeProto {
                tensor_type: Some(TensorTypeProto {
                    elem_type: data_type::FLOAT,
                    shape: Some(TensorShapeProto { dim: dim.collect() }),
                }),
            }),
        });
        file
    }

    fn node(
        mut self,
        op: &str,
        inputs: &str,
        output: &str,
        attribute: Vec<AttributeProto>,
    ) -> Self {
        let names = |list: &str| {
            let parts = list.split(' ').map(|n| n.trim_matches('_').to_owned());
            parts.collect::<Vec<String>>()
        };
        self.0.node.push(NodeProto {
            input: if inputs.is_empty() {
                Vec::new()
            } else {
                names(inputs)
            },
            output: names(output),
            op_type: op.to_owned(),
            attribute,
            ..NodeProto::default()
        });
        self
    }

    fn tensor(mut self, tensor: TensorProto) -> Self {
        self.0.initializer.push(tensor);
        self
    }

    fn floats(self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        self.tensor(TensorProto {
            dims: dims.to_vec(),
            data_type: data_type::FLOAT,
            name: name.to_owned(),
            float_data: values.to_vec(),
            ..TensorProto::default()
        })
    }

    fn longs(self, name: &str, values: &[i64]) -> Self {
        self.tensor(TensorProto {
            dims: vec![values.len() as i64],
            data_type: data_type::INT64,
            name: name.to_owned(),
            int64_data: values.to_vec(),
            ..TensorProto::default()
        })
    }

    /// A convolution of `x` to `y` with two output channels.
    fn conv(self, channels: usize, attributes: Vec<AttributeProto>) -> Self {
        let weights: Vec<f32> = (0..2 * channels * 9).map(|i| i as f32).collect();
        self.floats("w", &[2, channels as i64, 3, 3], &weights)
            .node("Conv", "x w", "y", attributes)
    }

    fn bytes(mut self, outputs: &[&str]) -> Vec<u8> {
        self.0.output = outputs
            .iter()
            .map(|&name| ValueInfoProto {
                name: name.to_owned(),
                r#type: None,
            })
            .collect();
        let model = ModelProto {
            ir_version: 8,
            graph: Some(self.0),
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: 17,
            }],
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }

    fn network(self, output: &str) -> Network {
        import(&self.bytes(&[output]), None).unwrap().network
    }

    fn error(self, output: &str) -> String {
        import(&self.bytes(&[output]), None)
            .unwrap_err()
            .to_string()
    }
}

fn text(name: &str, value: &'static str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        s: Some(value.into()),
        r#type: 3,
        ..AttributeProto::default()
    }
}

fn ops(network: &Network) -> Vec<&'static str> {
    network.graph.nodes().iter().map(|n| n.op.name()).collect()
}

fn last(network: &Network) -> &Op {
    &network.graph.nodes().last().unwrap().op
}

const IMAGE: [i64; 4] = [-1, 3, 8, 8];

#[test]
fn same_padding_puts_the_odd_row_where_it_says() {
    for (mode, padding) in [("SAME_UPPER", [0, 0, 1, 1]), ("SAME_LOWER", [1, 1, 0, 0])] {
        let attributes = vec![text("auto_pad", mode), ints("strides", &[2, 2])];
        let network = File::new(&IMAGE).conv(3, attributes).network("y");
        let Op::Conv2d(conv) = last(&network) else {
            panic!("{network:?}")
        };
        assert_eq!((conv.padding, conv.stride), (padding, [2, 2]), "{mode}");
    }
}

#[test]
fn a_border_joins_the_convolution_behind_it() {
    let network = File::new(&IMAGE)
        .longs("pads", &[0, 0, 1, 2, 0, 0, 3, 4])
        .node("Pad", "x pads", "padded", vec![])
        .floats("w", &[1, 3, 3, 3], &[1.0; 27])
        .node("Conv", "padded w", "y", vec![ints("pads", &[1, 1, 1, 1])])
        .network("y");
    assert_eq!(ops(&network), ["input", "conv2d"]);
    assert!(matches!(last(&network), Op::Conv2d(c) if c.padding == [2, 3, 4, 5]));
}

#[test]
fn zeros_before_a_maximum_count_only_where_they_cannot_win() {
    let file = |relu: bool| {
        let file = File::new(&IMAGE).longs("pads", &[0, 0, 1, 1, 0, 0, 1, 1]);
        let (file, from) = match relu {
            true => (file.node("Relu", "x", "r", vec![]), "r pads"),
            false => (file, "x pads"),
        };
        let pool = vec![ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2])];
        file.node("Pad", from, "padded", vec![])
            .node("MaxPool", "padded", "y", pool)
    };
    let network = file(true).network("y");
    assert!(matches!(last(&network), Op::MaxPool(p) if p.padding == [1; 4]));
    let error = file(false).error("y");
    assert!(error.contains("Pad `padded`"), "{error}");
}

#[test]
fn pooling_that_rounds_up_gets_a_border_below_and_right() {
    let pool = vec![
        ints("kernel_shape", &[3, 3]),
        ints("strides", &[2, 2]),
        int("ceil_mode", 1),
    ];
    let network = File::new(&IMAGE)
        .node("MaxPool", "x", "y", pool)
        .network("y");
    assert!(matches!(last(&network), Op::MaxPool(p) if p.padding == [0, 0, 1, 1]));
}

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
        .node("Clip", "x", "y", attributes)
        .network("y");
    assert_eq!(last(&network), &Op::Activation(Activation::Relu6));
    let open = File::new(&IMAGE)
        .floats("zero", &[], &[0.0])
        .node("Clip", "x zero", "y", vec![]);
    assert_eq!(last(&open.network("y")), &Op::Activation(Activation::Relu));
    let error = File::new(&IMAGE)
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
    let alone = norm(File::new(&IMAGE), "x", 3).network("z");
    assert!(matches!(last(&alone), Op::Conv2d(c) if c.groups == Groups::Depthwise));
    assert_eq!(alone.params.0["z.weight"].data, [0.5; 3]);
    assert_eq!(alone.params.0["z.bias"].data, [0.5; 3]);
}

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
