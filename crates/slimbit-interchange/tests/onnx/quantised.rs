use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use slimbit_engine::{Arithmetic, Model, layouts, weight_bits, weight_shape};
use slimbit_graph::{Op, Point, StageKind, backbones};
use slimbit_interchange::onnx::{QUANTISERS, QdqOptions, export_qdq, import};
use slimbit_num::WeightGrid;

use crate::lowering::{lower, points};

fn model(name: &str, grid: WeightGrid) -> Model {
    let graph = backbones::by_name(name, 3, 32, 32, Some(10)).unwrap();
    lower(graph, grid, &points(), &mut ChaCha8Rng::seed_from_u64(4))
}

/// The float meaning of an exported point: the engine's codes times its slopes.
#[test]
fn weights_mean_what_the_engine_computes() {
    for (name, grid) in [
        ("resnet8", WeightGrid::Nested),
        ("mobilenetv2-cifar", WeightGrid::MinMax),
        ("resnet8", WeightGrid::NestedOdd),
    ] {
        let model = model(name, grid);
        for point in points() {
            let made = export_qdq(&model, point, QdqOptions::default()).unwrap();
            let back = import(&made.bytes, None).unwrap().network;
            assert!(back.metadata.contains_key(QUANTISERS));
            let (mut compared, mut clamped) = (0, 0);
            for (stage, weights) in imported_weights(&model, point, &back) {
                for (expected, found) in weights {
                    compared += 1;
                    let unit = expected.1.max(f64::MIN_POSITIVE);
                    if (expected.0 - found).abs() > 1e-5 * expected.0.abs() + 1e-12 {
                        let steps = (expected.0 - found).abs() / unit;
                        assert!(steps < 1.001, "{stage} at {point}: {steps} steps");
                        clamped += 1;
                    }
                }
            }
            assert!(compared > 1_000, "{compared}");
            assert_eq!(clamped, made.clamped_weights, "{name} at {point}");
        }
    }
}

/// Pairs of weights, ours with the value of one unit of them and the file's, by stage.
type Pairs = Vec<(String, Vec<((f64, f64), f64)>)>;

fn imported_weights(model: &Model, point: Point, back: &slimbit_interchange::Network) -> Pairs {
    let made = model.point(point).unwrap();
    let layouts = layouts(model.graph(), model.stages(), point.width).unwrap();
    let theirs = back.graph.nodes().iter();
    let mut theirs = theirs.filter(|n| matches!(n.op, Op::Conv2d(_) | Op::Linear(_)));
    let mut pairs = Vec::new();
    for (index, stage) in model.stages().iter().enumerate() {
        let (StageKind::Conv { .. } | StageKind::Linear { .. }) = stage.kind else {
            continue;
        };
        let Arithmetic::Channels { channels, .. } = &made.stages[index].arithmetic else {
            panic!("{}", stage.name)
        };
        let operand = stage.inputs[0];
        let shape = weight_shape(model.graph(), stage, layouts[operand], layouts[index]).unwrap();
        let [_, rows, columns, inputs] = shape;
        let bits = weight_bits(stage, point);
        let codes = model.weights()[&stage.name].at(model.grid(), bits, shape);
        let [from, to] = [operand, index].map(|i| f64::from(made.stages[i].output.scale()));
        let node = theirs.next().unwrap();
        let array = &back.params.0[&format!("{}.weight", node.name)].data;
        let mut own = Vec::new();
        for (o, channel) in channels.iter().enumerate() {
            let unit = f64::from(channel.a) * to / from;
            for i in 0..inputs {
                for tap in 0..rows * columns {
                    let code = codes[(o * rows * columns + tap) * inputs + i];
                    own.push((unit * f64::from(code), unit.abs()));
                }
            }
        }
        let file = array.iter().map(|&w| f64::from(w));
        pairs.push((stage.name.clone(), own.into_iter().zip(file).collect()));
    }
    pairs
}

#[test]
fn four_bits_take_half_the_bytes_where_the_runtime_reads_them() {
    let model = model("resnet8", WeightGrid::Nested);
    let point = "0.5x W4A8".parse().unwrap();
    let narrow = export_qdq(&model, point, QdqOptions::default()).unwrap();
    let options = QdqOptions {
        wide_codes: true,
        ..QdqOptions::default()
    };
    let wide = export_qdq(&model, point, options).unwrap();
    assert_eq!((narrow.opset, wide.opset), (21, 17));
    assert!(narrow.bytes.len() < wide.bytes.len());
    assert!(wide.clamped_weights <= narrow.clamped_weights);
    let eight = export_qdq(&model, "1x W8A8".parse().unwrap(), QdqOptions::default()).unwrap();
    assert_eq!(eight.opset, 17);
}

#[test]
fn a_relu_that_the_range_hides_is_found_again() {
    let model = model("resnet8", WeightGrid::Nested);
    let made = export_qdq(&model, "1x W8A8".parse().unwrap(), QdqOptions::default()).unwrap();
    let back = import(&made.bytes, None).unwrap().network;
    let relus = |graph: &slimbit_graph::Graph| {
        let nodes = graph.nodes().iter();
        nodes.filter(|n| matches!(n.op, Op::Activation(_))).count()
    };
    assert_eq!(relus(&back.graph), relus(model.graph()));
    let names: Vec<&str> = back.graph.outputs().iter().map(|o| o.0.as_str()).collect();
    assert_eq!(names, ["features", "logits"]);
}

#[test]
fn a_point_that_is_not_there_is_refused() {
    let model = model("resnet8", WeightGrid::Nested);
    let error = export_qdq(&model, "0.75x W8A8".parse().unwrap(), QdqOptions::default());
    assert!(error.unwrap_err().to_string().contains("0.75x W8A8"));
}
