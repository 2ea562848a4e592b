//! Small networks of every block type, and what the behaviour tests share.

use burn::tensor::{Device, Tensor, TensorData};
use slimbit_graph::{
    Activation, Channels, Conv2d, Graph, GraphBuilder, Groups, Linear, Op, Params, Width,
};

/// Stem, a basic block with an identity shortcut, and one with a projection.
pub(crate) fn residual() -> Graph {
    let mut b = GraphBuilder::new("residual");
    let x = b.input(3, 8, 8);
    let x = b.conv_bn_relu("stem", x, Channels::slim(16), 3, 1);
    let y = b.conv_bn_relu("a1", x, Channels::slim(16), 3, 1);
    let y = b.conv_bn("a2", y, Channels::slim(16), 3, 1);
    let x = b.add("a", x, y);
    let x = b.activation("a", x, Activation::Relu);
    let y = b.conv_bn_relu("b1", x, Channels::slim(32), 3, 2);
    let y = b.conv_bn("b2", y, Channels::slim(32), 3, 1);
    let s = b.conv_bn("b3", x, Channels::slim(32), 1, 2);
    let x = b.add("b", y, s);
    let x = b.activation("b", x, Activation::Relu);
    let x = b.global_avg_pool("pool", x);
    b.finish(&[("features", x)]).unwrap()
}

/// A bottleneck block behind a stem with max-pooling.
pub(crate) fn bottleneck() -> Graph {
    let mut b = GraphBuilder::new("bottleneck");
    let x = b.input(3, 16, 16);
    let x = b.conv_bn_relu("stem", x, Channels::slim(16), 7, 2);
    let x = b.max_pool("max", x, 3, 2, 1);
    let y = b.conv_bn_relu("c1", x, Channels::slim(16), 1, 1);
    let y = b.conv_bn_relu("c2", y, Channels::slim(16), 3, 2);
    let y = b.conv_bn("c3", y, Channels::slim(64), 1, 1);
    let s = b.conv_bn("c4", x, Channels::slim(64), 1, 2);
    let x = b.add("c", y, s);
    let x = b.activation("c", x, Activation::Relu);
    let x = b.global_avg_pool("pool", x);
    let y = b.linear("fc", x, Channels::Fixed(5));
    b.finish(&[("features", x), ("logits", y)]).unwrap()
}

/// An inverted residual: expansion by 6, depthwise, linear projection, identity shortcut.
pub(crate) fn inverted_residual() -> Graph {
    let (narrow, wide) = (Channels::slim(24), Channels::Slim { max: 144, ratio: 6 });
    let mut b = GraphBuilder::new("inverted");
    let x = b.input(3, 8, 8);
    let x = b.conv_bn("stem", x, narrow, 3, 1);
    let x = b.activation("stem", x, Activation::Relu6);
    let y = b.conv_bn("expand", x, wide, 1, 1);
    let y = b.activation("expand", y, Activation::Relu6);
    let y = b.depthwise_bn("depth", y, 3, 1);
    let y = b.activation("depth", y, Activation::Relu6);
    let y = b.conv_bn("project", y, narrow, 1, 1);
    let x = b.add("sum", x, y);
    let x = b.conv_bn("tail", x, Channels::Fixed(40), 1, 1);
    let x = b.activation("tail", x, Activation::HardSwish);
    let x = b.global_avg_pool("pool", x);
    b.finish(&[("features", x)]).unwrap()
}

/// The operators that the others lack: padded shortcut, concatenation, average pooling, grouped
/// convolution with a bias and no batch-norm, flattening, an inner linear layer.
pub(crate) fn assorted() -> Graph {
    let mut b = GraphBuilder::new("assorted");
    let x = b.input(3, 8, 8);
    let x = b.conv_bn_relu("stem", x, Channels::slim(16), 3, 1);
    let y = b.conv_bn("down", x, Channels::slim(32), 3, 2);
    let pad = Op::PadShortcut {
        out: Channels::slim(32),
        stride: 2,
    };
    let s = b.push("short", pad, &[x]);
    let x = b.add("sum", y, s);
    let x = b.activation("sum", x, Activation::Relu);
    let grouped = Conv2d {
        groups: Groups::Fixed(4),
        bias: true,
        ..Conv2d::same(Channels::slim(32), 3, 1)
    };
    let y = b.conv("grouped", x, grouped);
    let x = b.concat("both", &[x, y]);
    let half = slimbit_graph::Pool {
        kernel: [2; 2],
        stride: [2; 2],
        padding: [0; 4],
    };
    let x = b.push("half", Op::AvgPool(half), &[x]);
    let x = b.push("flat", Op::Flatten, &[x]);
    let x = b.linear("inner", x, Channels::slim(32));
    let x = b.activation("inner", x, Activation::Relu);
    let x = b.linear("fc", x, Channels::Fixed(5));
    b.finish(&[("logits", x)]).unwrap()
}

pub(crate) fn all() -> [Graph; 4] {
    [residual(), bottleneck(), inverted_residual(), assorted()]
}

pub(crate) fn width(multiplier: f64) -> Width {
    Width::new(multiplier).unwrap()
}

/// A network whose full width is `graph`'s `width`, with the leading blocks of `params`.
pub(crate) fn extract(graph: &Graph, params: &Params, width: Width) -> (Graph, Params) {
    let fixed = |channels: Channels| Channels::Fixed(channels.at(width));
    let mut nodes = graph.nodes().to_vec();
    for node in &mut nodes {
        match &mut node.op {
            Op::Conv2d(Conv2d { out, .. })
            | Op::Linear(Linear { out, .. })
            | Op::PadShortcut { out, .. } => *out = fixed(*out),
            _ => {}
        }
    }
    let narrow = Graph::new(graph.name(), nodes, graph.outputs().to_vec()).unwrap();
    let specs = graph.params(width).unwrap();
    let arrays = specs.into_iter().map(|spec| {
        let block = params.get(&spec.name).unwrap().leading(&spec.shape);
        (spec.name, block)
    });
    (narrow, Params(arrays.collect()))
}

/// Repeatable values that look random, about `[-1, 1]`.
pub(crate) fn values(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let draw = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(draw).collect()
}

pub(crate) fn images(graph: &Graph, n: usize, seed: u32, device: &Device) -> Tensor<4> {
    let shape = graph.input_shape();
    let (h, w) = shape.spatial();
    let dims = [n, shape.channels(), h, w];
    let data = TensorData::new(values(n * shape.elements(), seed), dims);
    Tensor::from_data(data, device)
}

pub(crate) fn to_vec<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.clone()
        .without_autodiff()
        .into_data()
        .try_to_vec()
        .unwrap()
}
