use slimbit_graph::{
    Activation, Channels, Conv2d, Graph, GraphBuilder, Groups, Op, Pool, Width, backbones,
};
use slimbit_interchange::onnx::{FloatOptions, export_float, import, with_outputs};

use crate::random_network;

/// A network with every operator.
fn assorted() -> Graph {
    let mut b = GraphBuilder::new("assorted");
    let x = b.input(3, 18, 14);
    let x = b.conv_bn("stem", x, Channels::Fixed(8), 3, 2);
    let x = b.activation("stem", x, Activation::HardSwish);
    let grouped = Conv2d {
        groups: Groups::Fixed(2),
        dilation: [2, 1],
        padding: [2, 0, 2, 1],
        bias: true,
        ..Conv2d::same(Channels::Fixed(8), 3, 1)
    };
    let y = b.conv("grouped", x, grouped);
    let window = Pool {
        kernel: [2, 2],
        stride: [1, 1],
        padding: [0, 0, 1, 1],
    };
    let y = b.push("thickest", Op::MaxPool(window), &[y]);
    let z = b.depthwise_bn("spread", x, 3, 1);
    let z = b.activation("spread", z, Activation::Relu6);
    let window = Pool {
        padding: [0; 4],
        ..window
    };
    let z = b.push("mean", Op::AvgPool(window), &[z]);
    let y = b.push("mean2", Op::AvgPool(window), &[y]);
    let fits = b.concat("both", &[z, z]);
    let shortcut = Op::PadShortcut {
        out: Channels::Fixed(21),
        stride: 2,
    };
    let w = b.push("shortcut", shortcut, &[fits]);
    let flat = b.push("flat", Op::Flatten, &[w]);
    let fc = b.linear("fc", flat, Channels::Fixed(5));
    let fc = b.activation("fc", fc, Activation::Relu);
    b.finish(&[("map", y), ("small", fc)]).unwrap()
}

fn graphs() -> Vec<Graph> {
    let mut graphs = vec![assorted()];
    for name in [
        "resnet8",
        "resnet14-b",
        "mobilenetv2-cifar",
        "efficientnet-lite0",
    ] {
        graphs.push(backbones::by_name(name, 3, 32, 32, Some(10)).unwrap());
    }
    graphs.push(backbones::by_name("resnet8", 1, 28, 28, None).unwrap());
    graphs
}

/// Channel counts as one width has them, which is all that ONNX knows.
fn fixed(graph: &Graph) -> Vec<(Op, Vec<usize>)> {
    let shapes = graph.shapes(Width::FULL).unwrap();
    let nodes = graph.nodes().iter().zip(shapes);
    nodes
        .map(|(node, shape)| {
            let out = Channels::Fixed(shape.channels());
            let op = match node.op.clone() {
                Op::Conv2d(conv) if conv.groups == Groups::Depthwise => Op::Conv2d(Conv2d {
                    out: Channels::Fixed(0),
                    ..conv
                }),
                Op::Conv2d(conv) => Op::Conv2d(Conv2d { out, ..conv }),
                Op::Linear(linear) => Op::Linear(slimbit_graph::Linear { out, ..linear }),
                Op::PadShortcut { stride, .. } => Op::PadShortcut { out, stride },
                op => op,
            };
            (op, node.inputs.iter().map(|i| i.index()).collect())
        })
        .collect()
}

#[test]
fn with_its_norms_a_network_comes_back_as_it_was() {
    for (graph, seed) in graphs().into_iter().zip(1..) {
        let network = random_network(graph, seed);
        let options = FloatOptions {
            keep_norms: true,
            batch: None,
        };
        let bytes = export_float(&network, options).unwrap();
        let back = import(&bytes, None).unwrap();
        let name = network.graph.name();
        assert_eq!(fixed(&back.network.graph), fixed(&network.graph), "{name}");
        let values = |n: &slimbit_interchange::Network| {
            let all = n.graph.params(Width::FULL).unwrap();
            let arrays = all.into_iter().map(|spec| n.params.0[&spec.name].clone());
            arrays.collect::<Vec<_>>()
        };
        assert_eq!(values(&back.network), values(&network), "{name}");
        assert_eq!(back.network.norms, network.norms, "{name}");
        let outputs = |g: &Graph| {
            let named = g
                .outputs()
                .iter()
                .map(|(name, id)| (name.clone(), id.index()));
            named.collect::<Vec<_>>()
        };
        if network
            .graph
            .outputs()
            .iter()
            .any(|(name, _)| name == "features")
        {
            assert_eq!(
                outputs(&back.network.graph),
                outputs(&network.graph),
                "{name}"
            );
        }
    }
}

#[test]
fn folded_norms_scale_weights_and_a_second_trip_changes_nothing() {
    for (graph, seed) in graphs().into_iter().zip(11..) {
        let network = random_network(graph, seed);
        let options = FloatOptions {
            keep_norms: false,
            batch: Some(2),
        };
        let once = import(&export_float(&network, options).unwrap(), None).unwrap();
        assert_eq!(once.batch, Some(2));
        assert!(once.network.norms.is_empty());
        let stages = network.graph.stages().unwrap();
        let folded = once.network.graph.stages().unwrap();
        assert_eq!(stages.len(), folded.len(), "{}", network.graph.name());
        let bytes = export_float(&once.network, options).unwrap();
        let twice = import(&bytes, None).unwrap();
        assert_eq!(twice.network.params, once.network.params);
        assert_eq!(export_float(&twice.network, options).unwrap(), bytes);
    }
    let graph = backbones::by_name("resnet8", 3, 32, 32, None).unwrap();
    let network = random_network(graph, 5);
    let folded = import(
        &export_float(&network, FloatOptions::default()).unwrap(),
        None,
    )
    .unwrap();
    let (mean, variance) = &network.norms["stem.bn"];
    let param = |name: &str| &network.params.0[name].data;
    let gain = param("stem.bn.weight")[1] / (variance[1] + 1e-5).sqrt();
    let weight = folded.network.params.0["stem.bn.weight"].data[27];
    assert!((weight - gain * param("stem.conv.weight")[27]).abs() < 1e-6);
    let bias = folded.network.params.0["stem.bn.bias"].data[1];
    assert!((bias - (param("stem.bn.bias")[1] - gain * mean[1])).abs() < 1e-6);
}

#[test]
fn more_outputs_can_be_asked_of_a_file() {
    let graph = backbones::by_name("resnet8", 3, 32, 32, Some(10)).unwrap();
    let network = random_network(graph, 3);
    let bytes = export_float(&network, FloatOptions::default()).unwrap();
    let more = import(&with_outputs(&bytes, ["stem.act"]), None).unwrap();
    let names: Vec<&str> = more.outputs.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["features", "logits", "stem.act"]);
}
