//! Layers with very many inputs: within the memory that was given, and still better than rounding to
//! nearest.
#![cfg(target_os = "linux")]

mod support;

use std::collections::BTreeMap;
use std::fs;

use slimbit_graph::{Activation, Channels, Graph, GraphBuilder, Op, Point};
use slimbit_nn::{Net, parse_device};
use slimbit_num::WeightGrid;
use slimbit_quant::{Norms, PostTrained, PostTraining, Settings, Warning, quantise};

const MIB: usize = 1 << 20;

/// A linear layer over a flattened map, as VGG and AlexNet have it: 16,384 inputs, whose second moments
/// would take 2 GiB.
fn wide() -> Graph {
    let mut b = GraphBuilder::new("wide");
    let x = b.input(3, 16, 16);
    let x = b.conv_bn("stem", x, Channels::Fixed(64), 3, 1);
    let x = b.activation("stem", x, Activation::Relu);
    let x = b.push("flat", Op::Flatten, &[x]);
    let x = b.linear("hidden", x, Channels::Fixed(32));
    let x = b.activation("hidden", x, Activation::Relu);
    let x = b.linear("classifier", x, Channels::Fixed(10));
    b.finish(&[("logits", x)]).unwrap()
}

fn made(graph: &Graph, memory: usize, reconstructed_bits: u8) -> PostTrained {
    let params = support::random_params(graph, 4);
    let net = Net::from_params(graph.clone(), &params, &parse_device("cpu").unwrap()).unwrap();
    let norms: Norms = [("stem.bn".to_owned(), (vec![0.0; 64], vec![1.0; 64]))].into();
    let norms = match graph
        .nodes()
        .iter()
        .find(|n| matches!(n.op, Op::BatchNorm { .. }))
    {
        Some(node) => Norms::from([(node.name.clone(), norms["stem.bn"].clone())]),
        None => Norms::new(),
    };
    let pixels = support::images(graph, 32, 5).concat();
    let settings = Settings {
        grid: WeightGrid::Nested,
        mean: vec![0.5; 3],
        std: vec![0.25; 3],
        metadata: BTreeMap::new(),
    };
    let options = PostTraining {
        memory,
        reconstructed_bits,
        correction: slimbit_quant::Correction::Mean,
        ..PostTraining::default()
    };
    let points: Vec<Point> = vec!["1x W3A8".parse().unwrap()];
    quantise(&net, &norms, &pixels, &points, &settings, &options, |_| {}).unwrap()
}

/// The most memory that this process has had, in bytes.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[test]
fn a_wide_layer_is_reconstructed_within_the_memory() {
    let graph = wide();
    let error = |made: &PostTrained| {
        let layers = made.errors[0].iter();
        let hidden = layers.clone().find(|e| e.stage.starts_with("hidden"));
        hidden.unwrap().relative
    };
    let memory = 200 * MIB;
    let reconstructed = made(&graph, memory, 8);
    let taken = peak();
    assert!(taken < memory * 6 / 5, "{} MiB", taken / MIB);
    assert_eq!(reconstructed.warnings, []);
    let nearest = made(&graph, memory, 0);
    let errors = [error(&reconstructed), error(&nearest)];
    assert!(errors[0] < 0.7 * errors[1], "{errors:?}");

    // Hardly any room: said, and done as well as it goes.
    let cramped = made(&graph, 40 * MIB, 8);
    let said = |test: fn(&Warning) -> bool| cramped.warnings.iter().any(test);
    assert!(
        said(|w| matches!(w, Warning::Memory { .. })),
        "{:?}",
        cramped.warnings
    );
    let layer = |w: &Warning| match w {
        Warning::Nearest { layer, memory } => {
            layer.weights == 16384 && memory.is_some_and(|bytes| bytes > 40 * MIB)
        }
        _ => false,
    };
    assert!(said(layer), "{:?}", cramped.warnings);
}
