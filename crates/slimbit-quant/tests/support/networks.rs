//! Small networks with everything that lowering has to handle.

use slimbit_graph::backbones::CifarResNet;
use slimbit_graph::{Activation, Channels, Conv2d, Graph, GraphBuilder, Op, Pool};

/// ResNet-8 with parameter-free shortcuts on small colour images.
pub(crate) fn residual() -> Graph {
    CifarResNet::new(8, [3, 12, 12]).graph().unwrap()
}

/// Two inverted residuals, one of them with a sum.
pub(crate) fn inverted() -> Graph {
    let mut b = GraphBuilder::new("inverted");
    let x = b.input(3, 12, 12);
    let x = b.conv_bn("stem", x, Channels::slim(16), 3, 1);
    let mut x = b.activation("stem", x, Activation::Relu6);
    for (name, stride) in [("down", 2), ("same", 1)] {
        let inner = Channels::Slim { max: 48, ratio: 3 };
        let y = b.conv_bn(&format!("{name}.expand"), x, inner, 1, 1);
        let y = b.activation(&format!("{name}.expand"), y, Activation::Relu6);
        let y = b.depthwise_bn(&format!("{name}.depthwise"), y, 3, stride);
        let y = b.activation(&format!("{name}.depthwise"), y, Activation::Relu6);
        let y = b.conv_bn(&format!("{name}.project"), y, Channels::slim(16), 1, 1);
        x = if stride == 1 {
            b.add(format!("{name}.sum"), x, y)
        } else {
            y
        };
    }
    let x = b.conv_bn("tail", x, Channels::Fixed(24), 1, 1);
    let x = b.activation("tail", x, Activation::Relu6);
    let x = b.global_avg_pool("pool", x);
    b.finish(&[("features", x)]).unwrap()
}

/// Grey images; biases, tables, pools, concatenation, a flattened map and a classifier.
pub(crate) fn assorted() -> Graph {
    let mut b = GraphBuilder::new("assorted");
    let x = b.input(1, 10, 10);
    let stem = Conv2d {
        bias: true,
        ..Conv2d::same(Channels::slim(16), 3, 1)
    };
    let x = b.conv("stem", x, stem);
    let x = b.activation("stem", x, Activation::HardSwish);
    let pool = Pool {
        kernel: [2; 2],
        stride: [2; 2],
        padding: [0; 4],
    };
    let y = b.max_pool("max", x, 3, 2, 1);
    let z = b.push("avg", Op::AvgPool(pool), &[x]);
    let x = b.concat("both", &[y, z]);
    let x = b.conv_bn_relu("mix", x, Channels::slim(16), 3, 1);
    let x = b.push("flat", Op::Flatten, &[x]);
    let x = b.linear("hidden", x, Channels::slim(32));
    let x = b.activation("hidden", x, Activation::Relu);
    let x = b.linear("classifier", x, Channels::Fixed(10));
    b.finish(&[("logits", x)]).unwrap()
}
