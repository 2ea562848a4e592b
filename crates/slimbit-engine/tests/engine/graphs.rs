//! Random networks.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use slimbit_graph::{Activation, Channels, Conv2d, Graph, GraphBuilder, Groups, NodeId, Op, Pool};

/// A map under construction.
#[derive(Clone, Copy)]
struct Map {
    id: NodeId,
    /// Nothing after a concatenation, whose channels are no single dimension.
    channels: Option<Channels>,
    size: [usize; 2],
}

struct Writer<'a> {
    builder: GraphBuilder,
    rng: &'a mut ChaCha8Rng,
    names: usize,
}

/// A network of five to twelve operators behind a stem, with one or two outputs.
pub(crate) fn random(rng: &mut ChaCha8Rng) -> Graph {
    let size = [rng.random_range(5..12), rng.random_range(5..12)];
    let channels = if rng.random_bool(0.5) { 1 } else { 3 };
    let mut builder = GraphBuilder::new("random");
    let id = builder.input(channels, size[0], size[1]);
    let mut writer = Writer {
        builder,
        rng,
        names: 0,
    };
    let input = Map {
        id,
        channels: Some(Channels::Fixed(channels)),
        size,
    };
    let mut x = writer.conv(input);
    for _ in 0..writer.rng.random_range(4..11) {
        x = writer.operator(x);
    }
    writer.finish(x)
}

impl Writer<'_> {
    fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    fn operator(&mut self, x: Map) -> Map {
        match self.rng.random_range(0..10) {
            0 | 1 => self.conv(x),
            2 => self.depthwise(x),
            3 | 4 => self.residual(x),
            5 => self.concat(x),
            6 => self.pool(x, true),
            7 => self.pool(x, false),
            8 => self.activation(x, Activation::HardSwish),
            _ => self.shortcut(x),
        }
    }

    fn clamp(&mut self, x: NodeId) -> NodeId {
        let activation = match self.rng.random_range(0..3) {
            0 => Activation::Relu,
            1 => Activation::Relu6,
            _ => return x,
        };
        let name = self.name("clamp");
        self.builder.activation(&name, x, activation)
    }

    fn conv(&mut self, x: Map) -> Map {
        let out = Channels::slim(8 * self.rng.random_range(1..4));
        let mut conv = Conv2d::same(out, 1, 1);
        for axis in 0..2 {
            conv.kernel[axis] = self.rng.random_range(1..4);
            conv.stride[axis] = self.rng.random_range(1..3);
            conv.dilation[axis] = self.rng.random_range(1..3);
        }
        for side in &mut conv.padding {
            *side = self.rng.random_range(0..3);
        }
        if matches!(x.channels, Some(Channels::Slim { .. })) && self.rng.random_bool(0.3) {
            conv.groups = Groups::Fixed(if self.rng.random_bool(0.5) { 2 } else { 4 });
        }
        conv.bias = self.rng.random_bool(0.5);
        self.windowed(x, conv)
    }

    fn depthwise(&mut self, x: Map) -> Map {
        let stride = self.rng.random_range(1..3);
        let conv = Conv2d {
            groups: Groups::Depthwise,
            ..Conv2d::same(Channels::Fixed(1), 3, stride)
        };
        self.windowed(x, conv)
    }

    /// `conv` where it fits, nothing where it does not.
    fn windowed(&mut self, x: Map, conv: Conv2d) -> Map {
        let [top, left, bottom, right] = conv.padding;
        let [height, width] = [(0, top + bottom), (1, left + right)].map(|(axis, padding)| {
            let reach = conv.dilation[axis] * (conv.kernel[axis] - 1) + 1;
            let room = (x.size[axis] + padding).checked_sub(reach)?;
            Some(room / conv.stride[axis] + 1)
        });
        let (Some(height), Some(width)) = (height, width) else {
            return x;
        };
        let name = self.name("conv");
        let id = self.builder.conv(&name, x.id, conv);
        let id = if self.rng.random_bool(0.7) {
            self.builder.batch_norm(&name, id)
        } else {
            id
        };
        let id = self.clamp(id);
        Map {
            id,
            channels: match conv.groups {
                Groups::Depthwise => x.channels,
                Groups::Fixed(_) => Some(conv.out),
            },
            size: [height, width],
        }
    }

    fn same(&mut self, x: Map, out: Channels) -> Map {
        self.windowed(x, Conv2d::same(out, 3, 1))
    }

    fn residual(&mut self, x: Map) -> Map {
        let Some(channels) = x.channels else {
            return self.conv(x);
        };
        let y = if self.rng.random_bool(0.9) {
            self.same(x, channels)
        } else {
            x
        };
        let name = self.name("add");
        let id = self.builder.add(name, y.id, x.id);
        Map {
            id: self.clamp(id),
            ..x
        }
    }

    fn concat(&mut self, x: Map) -> Map {
        let branch = self.same(x, Channels::slim(8));
        let name = self.name("concat");
        let id = self.builder.concat(name, &[x.id, branch.id, x.id]);
        Map {
            id,
            channels: None,
            size: x.size,
        }
    }

    fn pool(&mut self, x: Map, max: bool) -> Map {
        if x.size.iter().any(|&n| n < 3) {
            return x;
        }
        let kernel = [self.rng.random_range(2..4), self.rng.random_range(2..4)];
        let stride = [self.rng.random_range(1..3), self.rng.random_range(1..3)];
        let padding = if max { [1, 0, 1, 1] } else { [0; 4] };
        let pool = Pool {
            kernel,
            stride,
            padding,
        };
        let [top, left, bottom, right] = padding;
        let size = [(0, top + bottom), (1, left + right)]
            .map(|(axis, border)| (x.size[axis] + border - kernel[axis]) / stride[axis] + 1);
        let op = if max {
            Op::MaxPool(pool)
        } else {
            Op::AvgPool(pool)
        };
        let name = self.name("pool");
        let id = self.builder.push(name, op, &[x.id]);
        Map { id, size, ..x }
    }

    fn activation(&mut self, x: Map, activation: Activation) -> Map {
        let name = self.name("table");
        let id = self.builder.activation(&name, x.id, activation);
        Map { id, ..x }
    }

    fn shortcut(&mut self, x: Map) -> Map {
        let Some(Channels::Slim { max, .. }) = x.channels else {
            return x;
        };
        let stride = self.rng.random_range(1..3);
        let out = Channels::slim(max + 16);
        let name = self.name("shortcut");
        let id = self
            .builder
            .push(name, Op::PadShortcut { out, stride }, &[x.id]);
        Map {
            id,
            channels: Some(out),
            size: x.size.map(|n| n.div_ceil(stride)),
        }
    }

    fn finish(mut self, x: Map) -> Graph {
        let b = &mut self.builder;
        let outputs = match self.rng.random_range(0..5) {
            0 => vec![("features", b.global_avg_pool("pool", x.id))],
            1 => {
                let pooled = b.global_avg_pool("pool", x.id);
                vec![("logits", b.linear("fc", pooled, Channels::Fixed(10)))]
            }
            2 => {
                let flat = b.push("flat", Op::Flatten, &[x.id]);
                let hidden = b.linear("hidden", flat, Channels::slim(16));
                let hidden = b.activation("hidden", hidden, Activation::Relu);
                vec![
                    ("hidden", hidden),
                    ("logits", b.linear("fc", hidden, Channels::Fixed(7))),
                ]
            }
            3 => {
                let padded = b.conv("last", x.id, Conv2d::same(Channels::slim(8), 3, 1));
                let logits = b.linear("fc", x.id, Channels::Fixed(5));
                vec![("map", padded), ("logits", logits), ("again", logits)]
            }
            _ => {
                let flat = b.push("flat", Op::Flatten, &[x.id]);
                let swish = b.activation("swish", flat, Activation::HardSwish);
                vec![("flat", flat), ("swish", swish)]
            }
        };
        self.builder
            .finish(&outputs)
            .expect("the writer keeps track of shapes")
    }
}

/// A CIFAR-style residual network with parameter-free shortcuts, as the zoo has them.
pub(crate) fn residual() -> Graph {
    let mut b = GraphBuilder::new("residual");
    let x = b.input(3, 8, 8);
    let x = b.conv_bn_relu("stem", x, Channels::slim(16), 3, 1);
    let y = b.conv_bn_relu("block.a", x, Channels::slim(32), 3, 2);
    let y = b.conv_bn("block.b", y, Channels::slim(32), 3, 1);
    let shortcut = Op::PadShortcut {
        out: Channels::slim(32),
        stride: 2,
    };
    let x = b.push("block.shortcut", shortcut, &[x]);
    let x = b.add("block", y, x);
    let x = b.activation("block", x, Activation::Relu);
    let x = b.global_avg_pool("pool", x);
    b.finish(&[("features", x)]).unwrap()
}
