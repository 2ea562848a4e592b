//! The training crate's network, calibrated, lowered and compared with the engine.

mod support;

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use slimbit_engine::{prove, reference};
use slimbit_graph::{Graph, Point, StageKind};
use slimbit_nn::{Mode, Net};
use slimbit_num::WeightGrid;
use slimbit_quant::{
    Calibration, FloatNetwork, Pass, Settings, calibrate, export, input_values, lower,
};
use support::networks;

const IMAGES: usize = 24;

struct Case {
    net: Net,
    pixels: Vec<u8>,
    settings: Settings,
}

impl Case {
    fn new(graph: Graph, seed: u64) -> Self {
        let params = support::random_params(&graph, seed);
        let pixels = support::images(&graph, IMAGES, seed).concat();
        let channels = graph.input_shape().channels();
        Self {
            net: Net::from_params(graph, &params, &Device::flex()).unwrap(),
            pixels,
            settings: Settings {
                grid: WeightGrid::Nested,
                mean: vec![0.4914, 0.4822, 0.4465][..channels].to_vec(),
                std: vec![0.2023, 0.1994, 0.2010][..channels].to_vec(),
                metadata: BTreeMap::new(),
            },
        }
    }

    fn values(&self) -> Vec<f32> {
        let (height, width) = self.net.graph().input_shape().spatial();
        let input = self.settings.input(self.net.graph()).unwrap();
        input_values(&input, &self.pixels, height * width)
    }

    fn images(&self) -> Tensor<4> {
        let shape = self.net.graph().input_shape();
        let (height, width) = shape.spatial();
        let dims = [IMAGES, shape.channels(), height, width];
        Tensor::from_data(TensorData::new(self.values(), dims), &Device::flex())
    }
}

fn cases() -> [Case; 3] {
    [
        Case::new(networks::residual(), 21),
        Case::new(networks::inverted(), 22),
        Case::new(networks::assorted(), 23),
    ]
}

fn points() -> Vec<Point> {
    let texts = ["1x W8A8", "0.5x W8A8", "0.5x W4A6", "1x W2A4"];
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn the_deployed_simulation_and_the_engine_agree() {
    let calibration = Calibration {
        batch: 12,
        second_ranges: true,
        ..Default::default()
    };
    for case in cases() {
        let Case {
            net,
            pixels,
            settings,
        } = &case;
        let statistics = calibrate(net, pixels, &points(), settings, &calibration, |_| {}).unwrap();
        let model = lower(net.graph(), &net.params(), &statistics, settings, |_| {}).unwrap();
        prove::prove(&model).unwrap();
        let again = export(net, pixels, &points(), settings, &calibration, |_| {}).unwrap();
        assert_eq!(again.to_bytes(), model.to_bytes());
        for statistics in &statistics {
            let mode = Mode::deployed(statistics, settings.grid, model.input().quant);
            let simulated = net.codes(&case.images(), &mode).unwrap();
            let (mut codes, mut differing) = (0, 0);
            for (i, pixels) in pixels.chunks(pixels.len() / IMAGES).enumerate() {
                let trace = reference::run(&model, statistics.point, pixels).unwrap();
                let kinds = net.stages().iter().map(|stage| stage.kind);
                for ((stage, simulated), kind) in trace.stages.iter().zip(&simulated).zip(kinds) {
                    assert_eq!(stage.name, simulated.stage);
                    // A flattened map has the network's order in one and the kernels' in the other.
                    if kind == StageKind::Flatten {
                        continue;
                    }
                    let count = stage.codes.len();
                    let twin = &simulated.codes[i * count..(i + 1) * count];
                    codes += count;
                    differing += stage.codes.iter().zip(twin).filter(|(a, b)| a != b).count();
                }
            }
            let at = format!("{} at {}", net.graph().name(), statistics.point);
            // One code next to a tie can change a few of every later stage.
            assert!(differing * 20_000 <= codes, "{at}: {differing} of {codes}");
        }
    }
}

#[test]
fn a_pass_measures_what_plain_loops_do() {
    for case in cases() {
        let graph = case.net.graph();
        let image = graph.input_shape().elements();
        let values = case.values();
        let input: Vec<Vec<f32>> = values.chunks(image).map(<[f32]>::to_vec).collect();
        let params = case.net.params();
        for point in points() {
            let float = Pass {
                width: point.width,
                norms: None,
                quantised: None,
            };
            let plain = support::forward(graph, &params, &float, &input);
            let measured = case.net.measure(&values, &float).unwrap();
            let close = |a: f32, b: f32| (a - b).abs() <= 1e-3 * (1.0 + b.abs());
            for (name, (mean, var)) in &plain.norms {
                let (m, v) = &measured.norms[name];
                assert!(
                    mean.iter().zip(m).all(|(a, b)| close(*a, *b)),
                    "{name} at {point}"
                );
                assert!(
                    var.iter().zip(v).all(|(a, b)| close(*a, *b)),
                    "{name} at {point}"
                );
            }
            assert!(measured.ranges.keys().eq(plain.ranges.keys()));
            for (name, range) in &plain.ranges {
                let found = measured.ranges[name];
                assert!(
                    close(found.min, range.min) && close(found.max, range.max),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn eight_bits_keep_the_features_of_the_float_network() {
    for case in cases() {
        let Case {
            net,
            pixels,
            settings,
        } = &case;
        for text in ["1x W8A8", "0.5x W8A8"] {
            let point: Point = text.parse().unwrap();
            let calibration = Calibration::default();
            let model = export(net, pixels, &[point], settings, &calibration, |_| {}).unwrap();
            let (name, output) = &net.graph().outputs()[0];
            let float = net
                .forward(&case.images(), &Mode::float(point.width), None)
                .unwrap();
            let float = float
                .vector(name)
                .unwrap()
                .into_data()
                .convert::<f64>()
                .try_to_vec::<f64>()
                .unwrap();
            let stage = model
                .stages()
                .iter()
                .position(|s| s.node == *output)
                .unwrap();
            let scale = f64::from(model.point(point).unwrap().stages[stage].output.scale());
            let mut engine = Vec::new();
            for pixels in pixels.chunks(pixels.len() / IMAGES) {
                let trace = reference::run(&model, point, pixels).unwrap();
                engine.extend(
                    trace.stages[stage]
                        .codes
                        .iter()
                        .map(|&q| f64::from(q) * scale),
                );
            }
            let cosine = support::cosine(&engine, &float);
            assert!(cosine > 0.99, "{} at {point}: {cosine}", net.graph().name());
        }
    }
}
