//! Calibration: which passes run in which order, and what becomes of their measurements.

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;

use slimbit_engine::reference;
use slimbit_graph::{Graph, Params, Point, Range};
use slimbit_num::WeightGrid;
use slimbit_quant::{
    Calibration, FloatNetwork, Measured, Pass, QuantError, Quantised, RangeRule, Settings,
    calibrate, export, input_values, lower,
};
use support::networks;

fn points(texts: &[&str]) -> Vec<Point> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn settings(channels: usize) -> Settings {
    Settings {
        grid: WeightGrid::Nested,
        mean: vec![0.4914, 0.4822, 0.4465][..channels].to_vec(),
        std: vec![0.2023, 0.1994, 0.2010][..channels].to_vec(),
        metadata: BTreeMap::new(),
    }
}

/// The plain interpreter as a network to calibrate, which writes down what is asked of it.
struct Plain {
    graph: Graph,
    params: Params,
    log: RefCell<Vec<String>>,
}

impl Plain {
    fn new(graph: Graph, seed: u64) -> Self {
        let params = support::random_params(&graph, seed);
        Self {
            graph,
            params,
            log: RefCell::default(),
        }
    }

    fn pixels(&self, count: usize) -> Vec<u8> {
        support::images(&self.graph, count, 77).concat()
    }
}

impl FloatNetwork for Plain {
    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn params(&self) -> Params {
        self.params.clone()
    }

    fn measure(&self, batch: &[f32], pass: &Pass) -> Result<Measured, QuantError> {
        let image = self.graph.input_shape().elements();
        let kind = if pass.norms.is_some() {
            "ranges"
        } else {
            "norms"
        };
        let at = match pass.quantised {
            Some(Quantised { point, .. }) => point.to_string(),
            None => format!("{} float", pass.width),
        };
        let entry = format!("{kind} {at} {}", batch.len() / image);
        self.log.borrow_mut().push(entry);
        let input: Vec<Vec<f32>> = batch.chunks(image).map(<[f32]>::to_vec).collect();
        let seen = support::forward(&self.graph, &self.params, pass, &input);
        let norms = if pass.norms.is_some() {
            BTreeMap::new()
        } else {
            seen.norms
        };
        Ok(Measured {
            norms,
            ranges: seen.ranges,
        })
    }
}

#[test]
fn float_passes_are_shared_by_the_points_of_a_width() {
    let net = Plain::new(networks::inverted(), 1);
    let calibration = Calibration {
        images: 10,
        batch: 4,
        second_ranges: true,
        ..Default::default()
    };
    let points = points(&["1x W8A8", "0.5x W4A8", "1x W2A4"]);
    let pixels = net.pixels(12);
    let steps = RefCell::new(Vec::new());
    let report = |p: slimbit_quant::Progress| steps.borrow_mut().push((p.done, p.total));
    let statistics = calibrate(&net, &pixels, &points, &settings(3), &calibration, report).unwrap();
    assert!(statistics.iter().map(|s| s.point).eq(points));
    let rounds = [
        "norms 1x float",
        "ranges 1x float",
        "norms 1x W8A8",
        "ranges 1x W8A8",
        "norms 1x W2A4",
        "ranges 1x W2A4",
        "norms 0.5x float",
        "ranges 0.5x float",
        "norms 0.5x W4A8",
        "ranges 0.5x W4A8",
    ];
    let batches = |round: &str| [3, 3, 4].map(|n| format!("{round} {n}"));
    let expected: Vec<String> = rounds.into_iter().flat_map(batches).collect();
    assert_eq!(*net.log.borrow(), expected);
    assert!(steps.into_inner().into_iter().eq((1..=30).map(|n| (n, 30))));
}

#[test]
fn statistics_are_averages_of_batches_and_ranges_their_extremes() {
    let net = Plain::new(networks::inverted(), 2);
    let pixels = net.pixels(9);
    let [point] = points(&["1x W8A8"])[..] else {
        unreachable!()
    };
    let plain = Calibration {
        images: 9,
        batch: 5,
        ..Default::default()
    };
    let settings = settings(3);
    let whole = calibrate(&net, &pixels, &[point], &settings, &plain, |_| {})
        .unwrap()
        .remove(0);

    let image = net.graph.input_shape().elements();
    let codes = settings.input(&net.graph).unwrap();
    let values = input_values(&codes, &pixels, image / 3);
    let float = Pass {
        width: point.width,
        norms: None,
        quantised: None,
    };
    let parts = [&values[..4 * image], &values[4 * image..]];
    let seen = parts.map(|batch| net.measure(batch, &float).unwrap().norms);
    let joined = seen[0].iter().map(|(name, (mean, var))| {
        let average = |a: &[f32], b: &[f32]| -> Vec<f32> {
            a.iter()
                .zip(b)
                .map(|(a, b)| (a * 4.0 + b * 5.0) / 9.0)
                .collect()
        };
        let other = &seen[1][name];
        (
            name.clone(),
            (average(mean, &other.0), average(var, &other.1)),
        )
    });
    let norms = joined.collect();
    let given = Pass {
        norms: Some(&norms),
        ..float
    };
    let [a, b] = parts.map(|batch| net.measure(batch, &given).unwrap().ranges);
    for (name, range) in &whole.ranges {
        let expected = Range {
            min: a[name].min.min(b[name].min),
            max: a[name].max.max(b[name].max),
        };
        let close = |x: f32, y: f32| (x - y).abs() <= 1e-4 * (1.0 + y.abs());
        assert!(
            close(range.min, expected.min) && close(range.max, expected.max),
            "{name}"
        );
    }

    let clipped = Calibration {
        ranges: RangeRule::Percentile(75.0),
        ..plain
    };
    let clipped = calibrate(&net, &pixels, &[point], &settings, &clipped, |_| {})
        .unwrap()
        .remove(0);
    let stem = |s: &slimbit_graph::PointStatistics| s.ranges["same.sum"];
    assert!(stem(&clipped).max < stem(&whole).max && stem(&clipped).min > stem(&whole).min);
}

/// Rounding happens at the same places in the plain interpreter and in the engine, so that the two
/// differ only where a value lies next to a tie.
#[test]
fn an_exported_model_computes_what_the_quantised_float_network_does() {
    for (net, channels) in [
        (Plain::new(networks::residual(), 3), 3),
        (Plain::new(networks::inverted(), 4), 3),
        (Plain::new(networks::assorted(), 5), 1),
    ] {
        let (pixels, settings) = (net.pixels(16), settings(channels));
        let points = points(&["1x W8A8", "0.5x W4A6", "1x W3A4"]);
        let calibration = Calibration {
            batch: 16,
            ..Default::default()
        };
        let statistics =
            calibrate(&net, &pixels, &points, &settings, &calibration, |_| {}).unwrap();
        let model = lower(&net.graph, &net.params, &statistics, &settings, |_| {}).unwrap();
        assert_eq!(
            export(&net, &pixels, &points, &settings, &calibration, |_| {}).unwrap(),
            model
        );

        let image = net.graph.input_shape().elements();
        let input: Vec<Vec<f32>> = pixels
            .chunks(image)
            .map(|pixels| input_values(model.input(), pixels, image / channels))
            .collect();
        for statistics in &statistics {
            let quantised = Quantised {
                point: statistics.point,
                grid: settings.grid,
                ranges: &statistics.ranges,
            };
            let pass = Pass {
                width: statistics.point.width,
                norms: Some(&statistics.norms),
                quantised: Some(quantised),
            };
            let seen = support::forward(&net.graph, &net.params, &pass, &input);
            let (mut codes, mut differing) = (0, 0);
            for (i, pixels) in pixels.chunks(image).enumerate() {
                let trace = reference::run(&model, statistics.point, pixels).unwrap();
                let made = model.point(statistics.point).unwrap();
                for (index, stage) in model.stages().iter().enumerate() {
                    let output = made.stages[index].output;
                    let found = &trace.stages[index];
                    let plane = found.layout.height * found.layout.width;
                    let values = &seen.values[stage.node.index()][i];
                    for (place, code) in found.codes.iter().enumerate() {
                        let at =
                            place % found.layout.channels * plane + place / found.layout.channels;
                        let real = values[at] / f64::from(output.scale());
                        let real = real.round() as i32 + output.zero_point();
                        codes += 1;
                        differing += usize::from(real != *code);
                    }
                }
            }
            let at = format!("{} at {}", net.graph.name(), statistics.point);
            assert!(differing * 1000 <= codes, "{at}: {differing} of {codes}");
        }
    }
}

#[test]
fn useless_images_and_settings_are_refused() {
    let net = Plain::new(networks::inverted(), 6);
    let point = points(&["1x W8A8"]);
    let refused = |pixels: &[u8], calibration: Calibration, wanted: &str| {
        let result = calibrate(&net, pixels, &point, &settings(3), &calibration, |_| {});
        let text = result.unwrap_err().to_string();
        assert!(text.contains(wanted), "{text}");
    };
    let plain = Calibration::default();
    refused(&[], plain, "0 bytes");
    refused(&[0; 100], plain, "432");
    refused(&[0; 432], Calibration { batch: 0, ..plain }, "batches of 0");
    let percentile = RangeRule::Percentile(50.0);
    refused(
        &[0; 432],
        Calibration {
            ranges: percentile,
            ..plain
        },
        "percentile 50",
    );
    let grey = calibrate(&net, &[0; 432], &point, &settings(1), &plain, |_| {});
    assert!(matches!(grey, Err(QuantError::Normalisation(_))));
}
