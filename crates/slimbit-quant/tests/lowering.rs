//! Lowered networks against plain float arithmetic.

mod support;

use std::collections::BTreeMap;

use slimbit_engine::{Arithmetic, Model, prove, reference};
use slimbit_graph::{Graph, Params, Point, PointStatistics, Width};
use slimbit_num::WeightGrid;
use slimbit_quant::simulate::{self, Source, StageDifference};
use slimbit_quant::{Pass, QuantError, Settings, input_codes, input_values, lower};
use support::{Seen, networks};

const IMAGES: usize = 12;

fn point(text: &str) -> Point {
    text.parse().unwrap()
}

fn settings(graph: &Graph, grid: WeightGrid) -> Settings {
    let (mean, std) = match graph.input_shape().channels() {
        1 => (vec![0.286], vec![0.353]),
        _ => (vec![0.4914, 0.4822, 0.4465], vec![0.2023, 0.1994, 0.2010]),
    };
    Settings {
        grid,
        mean,
        std,
        metadata: BTreeMap::new(),
    }
}

/// A network, calibrated on random images in float.
struct Case {
    graph: Graph,
    params: Params,
    images: Vec<Vec<u8>>,
    settings: Settings,
}

impl Case {
    fn new(graph: Graph, seed: u64, grid: WeightGrid) -> Self {
        let params = support::random_params(&graph, seed);
        let images = support::images(&graph, IMAGES, seed);
        let settings = settings(&graph, grid);
        Self {
            graph,
            params,
            images,
            settings,
        }
    }

    fn float(&self, width: Width) -> Seen {
        let codes = input_codes(&self.settings.mean, &self.settings.std).unwrap();
        let (height, columns) = self.graph.input_shape().spatial();
        let real = |image: &Vec<u8>| input_values(&codes, image, height * columns);
        let input: Vec<Vec<f32>> = self.images.iter().map(real).collect();
        let pass = Pass {
            width,
            norms: None,
            quantised: None,
        };
        support::forward(&self.graph, &self.params, &pass, &input)
    }

    fn statistics(&self, points: &[Point]) -> Vec<PointStatistics> {
        let of = |&point: &Point| support::statistics(point, &self.float(point.width));
        points.iter().map(of).collect()
    }

    fn lower(&self, statistics: &[PointStatistics]) -> Result<Model, QuantError> {
        lower(
            &self.graph,
            &self.params,
            statistics,
            &self.settings,
            |_| {},
        )
    }

    /// Every stage of every image, compared with the formula.
    fn differences(&self, model: &Model, statistics: &PointStatistics) -> Vec<StageDifference> {
        let source = Source {
            params: &self.params,
            statistics,
        };
        let image = |image: &Vec<u8>| {
            let trace = reference::run(model, statistics.point, image).unwrap();
            simulate::compare(model, statistics.point, &trace, Some(source)).unwrap()
        };
        self.images.iter().flat_map(image).collect()
    }
}

fn cases() -> Vec<Case> {
    let grids = [
        WeightGrid::Nested,
        WeightGrid::MinMax,
        WeightGrid::NestedOdd,
    ];
    let graphs = [
        networks::residual(),
        networks::inverted(),
        networks::assorted(),
    ];
    let seeded = graphs.into_iter().zip(grids).zip(1..);
    seeded
        .map(|((graph, grid), seed)| Case::new(graph, seed, grid))
        .collect()
}

const POINTS: [&str; 5] = ["1x W8A8", "0.5x W8A8", "0.5x W4A6", "1x W2A4", "1x W3A5"];

#[test]
fn every_rescaling_is_proven_and_reproduces_the_batch_norm_formula() {
    for case in cases() {
        let statistics = case.statistics(&POINTS.map(point));
        let model = case.lower(&statistics).unwrap();
        prove::prove(&model).unwrap();
        for statistics in &statistics {
            let differences = case.differences(&model, statistics);
            let codes: usize = differences.iter().map(|d| d.codes).sum();
            assert!(codes > 10_000, "{codes}");
            let stored: usize = differences.iter().map(|d| d.from_stored).sum();
            let formula: usize = differences.iter().filter_map(|d| d.from_formula).sum();
            let at = format!("{} at {}", case.graph.name(), statistics.point);
            assert_eq!(stored, 0, "{at}: {differences:?}");
            // The slope's rounding to f32 moves a code only where the real value is next to a tie:
            // within 2^-16 of one for 8-bit codes, within 2^-8 for the classifier's 16 bits.
            assert!(formula * 5_000 <= codes, "{at}: {formula} of {codes}");
            assert!(
                differences.iter().all(|d| d.largest <= 1),
                "{at}: {differences:?}"
            );
        }
    }
}

#[test]
fn eight_bits_keep_the_features() {
    for case in cases() {
        for width in ["1x", "0.5x"] {
            let point = point(&format!("{width} W8A8"));
            let float = case.float(point.width);
            let model = case.lower(&[support::statistics(point, &float)]).unwrap();
            let (name, output) = &case.graph.outputs()[0];
            let output = model
                .stages()
                .iter()
                .position(|s| s.node == *output)
                .unwrap();
            let scale = f64::from(model.point(point).unwrap().stages[output].output.scale());
            let (mut found, mut expected) = (Vec::new(), Vec::new());
            for (i, image) in case.images.iter().enumerate() {
                let trace = reference::run(&model, point, image).unwrap();
                found.extend(
                    trace.stages[output]
                        .codes
                        .iter()
                        .map(|&q| f64::from(q) * scale),
                );
                expected.extend(&float.values[model.stages()[output].node.index()][i]);
            }
            let cosine = support::cosine(&found, &expected);
            assert!(
                cosine > 0.99,
                "{} {name} at {point}: {cosine}",
                case.graph.name()
            );
        }
    }
}

#[test]
fn points_do_not_depend_on_one_another_and_narrow_weights_are_leading_blocks() {
    for case in cases() {
        let statistics = case.statistics(&POINTS.map(point));
        let together = case.lower(&statistics).unwrap();
        for (made, statistics) in together.points().iter().zip(&statistics) {
            let alone = case.lower(std::slice::from_ref(statistics)).unwrap();
            assert_eq!(&alone.points()[0], made);
        }
        for stage in together.stages() {
            let Some(weights) = together.weights().get(&stage.name) else {
                continue;
            };
            let [o, kh, kw, i] = weights.shape;
            let bits = if stage.eight_bit_weights { 8 } else { 4 };
            let full = weights.at(case.settings.grid, bits, weights.shape);
            let block = weights.at(case.settings.grid, bits, [o / 2, kh, kw, i.div_ceil(2)]);
            let rows = full.chunks(i).take(o / 2 * kh * kw);
            let leading: Vec<i8> = rows
                .flat_map(|row| &row[..i.div_ceil(2)])
                .copied()
                .collect();
            assert_eq!(block, leading, "{}", stage.name);
        }
    }
}

#[test]
fn unusual_channels_are_exact_too() {
    let mut case = Case::new(networks::residual(), 9, WeightGrid::Nested);
    let weights = |case: &mut Case, name: &str, range: std::ops::Range<usize>, value: f32| {
        case.params.0.get_mut(name).unwrap().data[range].fill(value);
    };
    let per_channel = 16 * 9;
    weights(&mut case, "layer1.0.a.bn.weight", 0..1, 0.0);
    weights(&mut case, "layer1.0.a.bn.weight", 1..2, -0.8);
    weights(
        &mut case,
        "layer1.0.a.conv.weight",
        2 * per_channel..3 * per_channel,
        0.0,
    );
    weights(
        &mut case,
        "layer1.0.b.conv.weight",
        0..16 * per_channel,
        0.0,
    );
    weights(&mut case, "layer2.0.a.bn.bias", 0..32, -1e3);
    let mut statistics = case.statistics(&[point("1x W8A8"), point("0.5x W4A4")]);
    for statistics in &mut statistics {
        // A range that most values exceed, and one that none ever reaches.
        let ranges = &mut statistics.ranges;
        ranges.get_mut("layer1.0.sum.act").unwrap().max *= 0.05;
        ranges.get_mut("layer3.0.a.act").unwrap().max *= 1e6;
        let (_, var) = statistics.norms.get_mut("layer1.0.a.bn").unwrap();
        var[3] = 0.0;
    }
    let model = case.lower(&statistics).unwrap();
    prove::prove(&model).unwrap();
    for statistics in &statistics {
        let differences = case.differences(&model, statistics);
        assert!(
            differences.iter().all(|d| d.from_stored == 0),
            "{differences:?}"
        );
        let made = model.point(statistics.point).unwrap();
        let first = model
            .stages()
            .iter()
            .position(|s| s.name == "layer1.0.a.act")
            .unwrap();
        let Arithmetic::Channels { channels, .. } = &made.stages[first].arithmetic else {
            panic!("a convolution");
        };
        assert_eq!(
            channels[0].requant.m, 0,
            "a gamma of zero leaves a constant"
        );
        assert!(
            channels[1].requant.m < 0,
            "a negative gamma turns the slope"
        );
        assert_eq!(
            (channels[2].acc.lo, channels[2].acc.hi),
            (0, 0),
            "no weights, no sum"
        );
    }
}

#[test]
fn useless_statistics_are_named() {
    let case = Case::new(networks::residual(), 3, WeightGrid::Nested);
    let good = case.statistics(&[point("0.5x W4A8")]).remove(0);
    let refused = |change: &dyn Fn(&mut PointStatistics), wanted: &str| {
        let mut statistics = good.clone();
        change(&mut statistics);
        let text = case.lower(&[statistics]).unwrap_err().to_string();
        assert!(
            text.contains(wanted) && text.contains("0.5x W4A8"),
            "{text}"
        );
    };
    refused(&|s| s.norms.clear(), "`stem.bn`");
    refused(
        &|s| s.norms.get_mut("stem.bn").unwrap().1[3] = f32::NAN,
        "channel 3",
    );
    refused(
        &|s| s.norms.get_mut("stem.bn").unwrap().0.truncate(7),
        "7 means",
    );
    refused(
        &|s| s.ranges.retain(|name, _| name != "layer1.0.b.bn"),
        "`layer1.0.b.bn`",
    );
    refused(
        &|s| s.ranges.get_mut("stem.act").unwrap().max = f32::INFINITY,
        "`stem.act`",
    );
    assert!(case.lower(&[]).is_err());
    assert!(case.lower(&[good.clone(), good.clone()]).is_err());
}

#[test]
fn what_has_no_integers_is_named() {
    let mut case = Case::new(networks::residual(), 4, WeightGrid::Nested);
    let gamma = case.params.0.get_mut("layer2.0.a.bn.weight").unwrap();
    gamma.data[5] = f32::MAX;
    let mut statistics = case.statistics(&[point("1x W8A8")]);
    let range = statistics[0].ranges.get_mut("layer2.0.a.act").unwrap();
    (range.min, range.max) = (0.0, 1e-6);
    let error = case.lower(&statistics).unwrap_err();
    let QuantError::Unsolved { stage, channel, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!((stage.as_str(), *channel), ("layer2.0.a.act", Some(5)));
}

#[test]
fn a_sum_beyond_32_bits_is_named() {
    let mut b = slimbit_graph::GraphBuilder::new("wide");
    let x = b.input(1, 260, 260);
    let x = b.linear("fc", x, slimbit_graph::Channels::Fixed(2));
    let graph = b.finish(&[("logits", x)]).unwrap();
    let mut case = Case::new(graph, 1, WeightGrid::Nested);
    case.params.0.get_mut("fc.weight").unwrap().data[260 * 260..].fill(1.0);
    let mut statistics = case.statistics(&[]);
    statistics.push(PointStatistics {
        point: point("1x W8A8"),
        norms: BTreeMap::new(),
        ranges: BTreeMap::from([(
            "fc".into(),
            slimbit_graph::Range {
                min: -1.0,
                max: 1.0,
            },
        )]),
    });
    let error = case.lower(&statistics).unwrap_err();
    assert!(
        matches!(&error, QuantError::Overflow { channel: 1, .. }),
        "{error}"
    );
}
