//! Files as exporters write them, made of the messages themselves.

mod corpus;
mod external;
mod folding;
mod hostile;
mod images;
mod refusals;
mod schema;
mod values;
mod windows;

use prost::Message;
use slimbit_graph::Op;

use super::{OnnxImport, import};
use crate::Network;
use crate::onnx::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, data_type,
};

/// A file under construction; the image is `x`, the opset 17.
#[derive(Default)]
struct File(GraphProto, Option<i64>);

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

    /// The same with operators of another version.
    fn opset(mut self, version: i64) -> Self {
        self.1 = Some(version);
        self
    }

    /// The same with an image of pixels in bytes.
    fn of_bytes(mut self) -> Self {
        let image = self.0.input[0].r#type.as_mut().unwrap();
        image.tensor_type.as_mut().unwrap().elem_type = data_type::UINT8;
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

    /// A 1×1 convolution of three channels of `x` to `y`.
    fn conv_1x1(self) -> Self {
        self.floats("w", &[3, 3, 1, 1], &[0.1; 9])
            .node("Conv", "x w", "y", vec![])
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
                version: self.1.unwrap_or(17),
            }],
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }

    fn network(self, output: &str) -> Network {
        import(&self.bytes(&[output]), None).unwrap().network
    }

    fn import(self, output: &str) -> OnnxImport {
        import(&self.bytes(&[output]), None).unwrap()
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
