use std::collections::BTreeSet;

use prost::Message;
use slimbit_graph::{Activation, Conv2d, Graph, Op, Pool, Shape};

use super::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto,
    ValueInfoProto, attribute_type, data_type,
};

/// An ONNX model under construction: values are strings, made unique here.
pub(super) struct ModelWriter {
    graph: GraphProto,
    names: BTreeSet<String>,
    batch: Option<usize>,
}

impl ModelWriter {
    /// A model with no nodes. `batch` images at a time, or any number.
    pub(super) fn new(name: &str, batch: Option<usize>) -> Self {
        Self {
            graph: GraphProto {
                name: name.to_owned(),
                ..GraphProto::default()
            },
            names: BTreeSet::new(),
            batch,
        }
    }

    /// `wanted`, or `wanted` with a number where another value has that name.
    pub(super) fn fresh(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut suffix = 1;
        while !self.names.insert(name.clone()) {
            name = format!("{wanted}_{suffix}");
            suffix += 1;
        }
        name
    }

    /// One name per node of the graph: its output's where it is one, otherwise its own.
    pub(super) fn value_names(&mut self, graph: &Graph) -> Vec<String> {
        // Outputs first: theirs are the names that users see.
        let mut names = vec![None; graph.nodes().len()];
        for (output, id) in graph.outputs() {
            let name = &mut names[id.index()];
            if name.is_none() {
                *name = Some(self.fresh(output));
            }
        }
        let nodes = graph.nodes().iter().zip(names);
        nodes
            .map(|(node, name)| name.unwrap_or_else(|| self.fresh(&node.name)))
            .collect()
    }

    /// Declares the image.
    pub(super) fn input(&mut self, name: &str, shape: Shape) {
        let info = self.value_info(name, shape);
        self.graph.input.push(info);
    }

    /// Declares the outputs of `graph`, whose nodes have the given value names. A second output of
    /// one node is a copy of the first.
    pub(super) fn outputs(&mut self, graph: &Graph, values: &[String], shapes: &[Shape]) {
        for (output, id) in graph.outputs() {
            let value = values[id.index()].clone();
            let taken = self.graph.output.iter().any(|info| info.name == value);
            let name = if taken {
                let copy = self.fresh(output);
                self.node("Identity", &[&value], &copy, Vec::new());
                copy
            } else {
                value
            };
            let info = self.value_info(&name, shapes[id.index()]);
            self.graph.output.push(info);
        }
    }

    /// Appends a node named after its output.
    pub(super) fn node(
        &mut self,
        op: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: op.to_owned(),
            attribute,
            domain: String::new(),
        });
    }

    /// Adds a constant of `f32`; an empty shape is a scalar. Gives its name.
    pub(super) fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, data_type::FLOAT, shape, raw)
    }

    /// Adds a constant of `i64`.
    pub(super) fn longs(&mut self, name: &str, values: &[i64]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, data_type::INT64, &[values.len()], raw)
    }

    /// Adds a constant of `i32`.
    pub(super) fn ints(&mut self, name: &str, values: &[i32]) -> String {
        let raw = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, data_type::INT32, &[values.len()], raw)
    }

    /// Adds a scalar of `u8`.
    pub(super) fn byte(&mut self, name: &str, value: u8) -> String {
        self.constant(name, data_type::UINT8, &[], vec![value])
    }

    /// Adds signed codes of 8 bits.
    pub(super) fn int8(&mut self, name: &str, shape: &[usize], codes: &[i8]) -> String {
        let raw = codes.iter().map(|code| code.cast_unsigned()).collect();
        self.constant(name, data_type::INT8, shape, raw)
    }

    /// Adds signed codes of 4 bits, two in a byte, the first in the lower half.
    pub(super) fn int4(&mut self, name: &str, shape: &[usize], codes: &[i8]) -> String {
        let nibble = |code: &i8| code.cast_unsigned() & 0x0f;
        let pairs = codes.chunks(2);
        let raw = pairs
            .map(|pair| nibble(&pair[0]) | pair.get(1).map_or(0, nibble) << 4)
            .collect();
        self.constant(name, data_type::INT4, shape, raw)
    }

    fn constant(&mut self, name: &str, data_type: i32, shape: &[usize], raw: Vec<u8>) -> String {
        let name = self.fresh(name);
        self.graph.initializer.push(TensorProto {
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type,
            name: name.clone(),
            raw_data: raw.into(),
            ..TensorProto::default()
        });
        name
    }

    fn value_info(&self, name: &str, shape: Shape) -> ValueInfoProto {
        let batch = match self.batch {
            Some(n) => extent(n),
            None => DimensionProto {
                dim_param: Some("N".to_owned()),
                ..DimensionProto::default()
            },
        };
        let mut dim = vec![batch, extent(shape.channels())];
        if let Shape::Map { height, width, .. } = shape {
            dim.extend([extent(height), extent(width)]);
        }
        let tensor = TensorTypeProto {
            elem_type: data_type::FLOAT,
            shape: Some(TensorShapeProto { dim }),
        };
        ValueInfoProto {
            name: name.to_owned(),
            r#type: Some(TypeProto {
                tensor_type: Some(tensor),
            }),
        }
    }

    /// The bytes of the file, for operators of version `opset`.
    pub(super) fn finish(
        self,
        opset: i64,
        metadata: impl IntoIterator<Item = (String, String)>,
    ) -> Vec<u8> {
        let model = ModelProto {
            // The least version of the container in which 4-bit integers exist, or an older one
            // that old runtimes take.
            ir_version: if opset >= 21 { 10 } else { 8 },
            producer_name: "slimbit".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: opset,
            }],
            metadata_props: metadata
                .into_iter()
                .map(|(key, value)| StringStringEntryProto { key, value })
                .collect(),
            functions: Vec::new(),
        };
        model.encode_to_vec()
    }
}

fn extent(size: usize) -> DimensionProto {
    DimensionProto {
        dim_value: Some(size as i64),
        ..DimensionProto::default()
    }
}

/// An attribute that is one integer.
pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        i: Some(value),
        r#type: attribute_type::INT,
        ..AttributeProto::default()
    }
}

/// An attribute that is a list of integers.
pub(super) fn ints(name: &str, values: &[usize]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        ints: values.iter().map(|&v| v as i64).collect(),
        r#type: attribute_type::INTS,
        ..AttributeProto::default()
    }
}

/// An attribute that is one number.
pub(super) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        f: Some(value),
        r#type: attribute_type::FLOAT,
        ..AttributeProto::default()
    }
}

/// The attributes of a convolution with `groups` groups.
pub(super) fn convolution(conv: &Conv2d, groups: usize) -> Vec<AttributeProto> {
    vec![
        ints("kernel_shape", &conv.kernel),
        ints("strides", &conv.stride),
        ints("pads", &conv.padding),
        ints("dilations", &conv.dilation),
        int("group", groups as i64),
    ]
}

/// The attributes of a pooling window.
pub(super) fn pooling(pool: &Pool) -> Vec<AttributeProto> {
    vec![
        ints("kernel_shape", &pool.kernel),
        ints("strides", &pool.stride),
        ints("pads", &pool.padding),
    ]
}

impl ModelWriter {
    /// Appends the float meaning of a node without parameters: one ONNX operator, or a few.
    ///
    /// # Panics
    /// For an operator with parameters, and for the input.
    pub(super) fn plain(
        &mut self,
        graph: &Graph,
        index: usize,
        shapes: &[Shape],
        inputs: &[&str],
        output: &str,
    ) {
        let node = &graph.nodes()[index];
        match &node.op {
            Op::Activation(activation) => self.activation(*activation, inputs[0], output),
            Op::Add => self.node("Add", inputs, output, Vec::new()),
            Op::Concat => self.node("Concat", inputs, output, vec![int("axis", 1)]),
            Op::MaxPool(pool) => self.node("MaxPool", inputs, output, pooling(pool)),
            Op::AvgPool(pool) => self.node("AveragePool", inputs, output, pooling(pool)),
            Op::GlobalAvgPool => {
                let map = self.fresh(&format!("{output}.map"));
                self.node("GlobalAveragePool", inputs, &map, Vec::new());
                self.node("Flatten", &[&map], output, vec![int("axis", 1)]);
            }
            Op::Flatten => self.node("Flatten", inputs, output, vec![int("axis", 1)]),
            Op::PadShortcut { stride, .. } => {
                let [from, to] = [node.inputs[0].index(), index].map(|i| shapes[i].channels());
                let thinned = self.subsample(*stride, inputs[0], output);
                self.pad_channels([from, to], &thinned, output);
            }
            Op::Input { .. } | Op::Conv2d(_) | Op::Linear(_) | Op::BatchNorm { .. } => {
                unreachable!("`{}` is not an operator without parameters", node.name)
            }
        }
    }

    /// Appends a non-linearity.
    pub(super) fn activation(&mut self, activation: Activation, input: &str, output: &str) {
        match activation {
            Activation::Relu => self.node("Relu", &[input], output, Vec::new()),
            Activation::Relu6 => self.clip([0.0, 6.0], input, output),
            Activation::HardSwish => self.node("HardSwish", &[input], output, Vec::new()),
        }
    }

    /// Appends `min(max(x, low), high)`.
    pub(super) fn clip(&mut self, [low, high]: [f32; 2], input: &str, output: &str) {
        let low = self.floats(&format!("{output}.min"), &[], &[low]);
        let high = self.floats(&format!("{output}.max"), &[], &[high]);
        self.node("Clip", &[input, &low, &high], output, Vec::new());
    }

    /// Every `stride`-th row and column; gives the name of the result.
    pub(super) fn subsample(&mut self, stride: usize, input: &str, output: &str) -> String {
        if stride == 1 {
            return input.to_owned();
        }
        let thinned = self.fresh(&format!("{output}.strided"));
        let starts = self.longs(&format!("{output}.starts"), &[0, 0]);
        let ends = self.longs(&format!("{output}.ends"), &[i64::MAX; 2]);
        let axes = self.longs(&format!("{output}.axes"), &[2, 3]);
        let steps = self.longs(&format!("{output}.steps"), &[stride as i64; 2]);
        let inputs = [input, &starts, &ends, &axes, &steps];
        self.node("Slice", &inputs, &thinned, Vec::new());
        thinned
    }

    /// Zero channels before and after, so that `from` channels become `to`.
    pub(super) fn pad_channels(&mut self, [from, to]: [usize; 2], input: &str, output: &str) {
        let before = (to - from) / 2;
        let after = to - from - before;
        let pads = [0, before, 0, 0, 0, after, 0, 0].map(|n| n as i64);
        let pads = self.longs(&format!("{output}.pads"), &pads);
        self.node("Pad", &[input, &pads], output, Vec::new());
    }
}
