//! Every cause for which a model parts from its float network, provoked.

mod support;

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use slimbit_engine::{Model, Trace, reference};
use slimbit_graph::{
    Activation, Channels, Conv2d, Graph, GraphBuilder, Params, PointStatistics, Range, StageKind,
    Width,
};
use slimbit_nn::{Averaging, Mode, Net, NormMode, Observer, Quantisation, parse_device};
use slimbit_num::WeightGrid;
use slimbit_quant::compare::{Cause, Comparison, Finding, Report};
use slimbit_quant::{Norms, QuantError, Settings, lower};
use support::networks;

const IMAGES: usize = 6;
const MEAN: [f32; 3] = [0.4914, 0.4822, 0.4465];
const STD: [f32; 3] = [0.2023, 0.1994, 0.2010];

/// A float network, calibrated on its own images.
struct Trained {
    net: Net,
    norms: Norms,
    ranges: BTreeMap<String, Range>,
    images: Vec<Vec<u8>>,
}

impl Trained {
    fn new(graph: Graph, seed: u64) -> Self {
        Self::of(&support::random_params(&graph, seed), graph)
    }

    fn of(params: &Params, graph: Graph) -> Self {
        let images = support::images(&graph, IMAGES, 7);
        let net = Net::from_params(graph, params, &parse_device("cpu").unwrap()).unwrap();
        let trained = Self {
            net,
            norms: Norms::new(),
            ranges: BTreeMap::new(),
            images,
        };
        let shape = trained.net.graph().input_shape();
        let (height, width) = shape.spatial();
        let data = TensorData::new(
            trained.values(MEAN),
            [IMAGES, shape.channels(), height, width],
        );
        let images = Tensor::<4>::from_data(data, trained.net.store().device());
        let forward = |mode: &Mode| {
            let mut observer = Observer::new(Averaging::Cumulative);
            trained
                .net
                .forward(&images, mode, Some(&mut observer))
                .unwrap();
            observer
        };
        let norms = forward(&Mode::float(Width::FULL)).norms();
        let given = Mode {
            width: Width::FULL,
            quant: Quantisation::Off,
            norm: NormMode::Given(&norms),
        };
        let ranges = forward(&given).ranges().clone();
        Self {
            norms,
            ranges,
            ..trained
        }
    }

    /// What a float network with this mean sees.
    fn values(&self, mean: [f32; 3]) -> Vec<f32> {
        let channels = self.net.graph().input_shape().channels();
        let mut values = Vec::new();
        for image in &self.images {
            for c in 0..channels {
                let pixels = image.iter().skip(c).step_by(channels);
                values.extend(pixels.map(|&p| (f32::from(p) / 255.0 - mean[c]) / STD[c]));
            }
        }
        values
    }

    fn model(&self, point: &str, ranges: &BTreeMap<String, Range>) -> Model {
        let statistics = PointStatistics {
            point: point.parse().unwrap(),
            norms: self.norms.clone(),
            ranges: ranges.clone(),
        };
        let channels = self.net.graph().input_shape().channels();
        let settings = Settings {
            grid: WeightGrid::Nested,
            mean: MEAN[..channels].to_vec(),
            std: STD[..channels].to_vec(),
            metadata: BTreeMap::new(),
        };
        lower(
            self.net.graph(),
            &self.net.params(),
            &[statistics],
            &settings,
            |_| {},
        )
        .unwrap()
    }

    fn compare(&self, model: &Model, mean: [f32; 3]) -> Report {
        let point = model.points()[0].point;
        let mut comparison = Comparison::new(&self.net, &self.norms, model, point).unwrap();
        let traces: Vec<Trace> = self
            .images
            .iter()
            .map(|image| reference::run(model, point, image).unwrap())
            .collect();
        let values = self.values(mean);
        // In two batches, which must make no difference.
        let (first, rest) = values.split_at(2 * values.len() / IMAGES);
        comparison.add(first.to_vec(), &traces[..2]).unwrap();
        comparison.add(rest.to_vec(), &traces[2..]).unwrap();
        comparison.report()
    }

    /// The ranges with that of one stage multiplied.
    fn scaled(&self, stage: &str, factor: f32) -> BTreeMap<String, Range> {
        let mut ranges = self.ranges.clone();
        let range = ranges.get_mut(stage).unwrap();
        (range.min, range.max) = (range.min * factor, range.max * factor);
        ranges
    }

    /// The second layer whose range is not that of a ReLU6, which nobody can widen.
    fn widened_layer(&self) -> &str {
        let relu6 = |name: &str| {
            let mut stages = self.net.stages().iter();
            stages.any(|s| s.name == name && s.activation == Some(Activation::Relu6))
        };
        let mut layers = self.layers().into_iter().filter(|name| !relu6(name));
        layers.nth(1).unwrap()
    }

    fn layers(&self) -> Vec<&str> {
        let layer = |kind| matches!(kind, StageKind::Conv { .. } | StageKind::Linear { .. });
        let stages = self.net.stages().iter().filter(|stage| layer(stage.kind));
        stages.map(|stage| stage.name.as_str()).collect()
    }
}

fn found(report: &Report) -> (String, Finding) {
    found_below(20.0, report)
}

fn found_below(threshold: f64, report: &Report) -> (String, Finding) {
    let finding = report
        .finding(threshold)
        .unwrap_or_else(|| panic!("nothing found: {report:#?}"));
    (report.stages[finding.origin].stage.clone(), finding)
}

fn graphs() -> [Graph; 3] {
    [
        networks::residual(),
        networks::inverted(),
        networks::assorted(),
    ]
}

#[test]
fn eight_bits_stay_together() {
    for graph in graphs() {
        let trained = Trained::new(graph, 31);
        let report = trained.compare(&trained.model("1x W8A8", &trained.ranges), MEAN);
        assert_eq!(report.finding(20.0), None, "{report:#?}");
        assert_eq!(report.images, IMAGES);
        for stage in &report.stages {
            assert!(stage.own_sqnr > 28.0 && stage.cosine > 0.99, "{stage:#?}");
            assert_eq!(stage.stage, stage.reference);
            // Whatever is not clipped is rounded to the nearest code.
            let rounding = 0.5 * stage.step + stage.clipping_error + 1e-5;
            assert!(stage.output_error <= rounding, "{stage:#?}");
        }
    }
}

#[test]
fn another_mean_is_preprocessing_and_is_told() {
    let trained = Trained::new(networks::residual(), 32);
    let mean = [0.5, 0.4, 0.3];
    let report = trained.compare(&trained.model("1x W8A8", &trained.ranges), mean);
    let (stage, finding) = found(&report);
    assert_eq!(stage, "input");
    let Cause::Preprocessing {
        reference: Some(reference),
        steps,
        ..
    } = finding.cause
    else {
        panic!("{finding:?}")
    };
    assert!(steps > 1.0);
    for c in 0..3 {
        assert!(
            (reference.mean[c] - f64::from(mean[c])).abs() < 2e-3,
            "{reference:?}"
        );
        assert!(
            (reference.std[c] - f64::from(STD[c])).abs() < 2e-3,
            "{reference:?}"
        );
    }
}

#[test]
fn another_crop_is_preprocessing_without_constants() {
    let trained = Trained::new(networks::residual(), 32);
    let model = trained.model("1x W8A8", &trained.ranges);
    let point = model.points()[0].point;
    let mut comparison = Comparison::new(&trained.net, &trained.norms, &model, point).unwrap();
    let trace = reference::run(&model, point, &trained.images[1]).unwrap();
    let values = trained.values(MEAN);
    comparison
        .add(values[..values.len() / IMAGES].to_vec(), &[trace])
        .unwrap();
    let (_, finding) = found(&comparison.report());
    let Cause::Preprocessing {
        reference: None, ..
    } = finding.cause
    else {
        panic!("{finding:?}")
    };
}

#[test]
fn a_clipped_range_is_saturation() {
    for graph in graphs() {
        let trained = Trained::new(graph, 33);
        let layers = trained.layers();
        let stage = layers[1];
        let report = trained.compare(&trained.model("1x W8A8", &trained.scaled(stage, 0.3)), MEAN);
        let (name, finding) = found(&report);
        assert_eq!(name, stage);
        let Cause::Saturation {
            float_range,
            code_range,
            clipped,
        } = finding.cause
        else {
            panic!("{finding:?}")
        };
        assert!(clipped > 0.001 && float_range[1] > 2.0 * code_range[1]);
    }
}

#[test]
fn a_much_too_wide_range_is_range() {
    for graph in graphs() {
        let trained = Trained::new(graph, 34);
        let stage = trained.widened_layer();
        let report = trained.compare(
            &trained.model("1x W8A8", &trained.scaled(stage, 60.0)),
            MEAN,
        );
        let (name, finding) = found(&report);
        let Cause::Range { used, codes } = finding.cause else {
            panic!("{finding:?} {report:#?}")
        };
        assert_eq!((name.as_str(), codes), (stage, 256));
        assert!(used <= 10, "{used}");
    }
}

#[test]
fn few_bits_are_rounding_of_weights_or_of_activations() {
    for graph in graphs() {
        let trained = Trained::new(graph, 35);
        for (point, weights_are_worse) in [("1x W2A8", true), ("1x W8A4", false)] {
            let report = trained.compare(&trained.model(point, &trained.ranges), MEAN);
            // Four bits of activations may well leave 20 dB.
            let finding = report.finding(30.0).unwrap();
            let Cause::Rounding {
                weights,
                activations,
            } = finding.cause
            else {
                panic!("{point} {finding:?} {:#?}", report.stages[finding.origin])
            };
            assert_eq!(
                weights > activations,
                weights_are_worse,
                "{point} {finding:?}"
            );
        }
    }
}

#[test]
fn changed_weights_are_another_network() {
    for graph in graphs() {
        let trained = Trained::new(graph.clone(), 36);
        let name = trained.layers()[2].to_owned();
        let stage = trained
            .net
            .stages()
            .iter()
            .find(|s| s.name == name)
            .unwrap();
        let (StageKind::Conv { conv: node, .. } | StageKind::Linear { linear: node, .. }) =
            stage.kind
        else {
            unreachable!("layers have weights")
        };
        let weight = format!("{}.weight", graph.node(node).name);
        for point in ["1x W8A8", "1x W4A8"] {
            let model = trained.model(point, &trained.ranges);
            let mut params = trained.net.params();
            let other = support::random_params(&graph, 99);
            params.0.insert(weight.clone(), other.0[&weight].clone());
            let changed = Trained {
                norms: trained.norms.clone(),
                ..Trained::of(&params, graph.clone())
            };
            // Four bits of a random network are far below 20 dB themselves.
            let (found, finding) = found_below(-100.0, &changed.compare(&model, MEAN));
            let Cause::Weights {
                constants_only: false,
                ..
            } = finding.cause
            else {
                panic!("{point} {finding:?}")
            };
            assert_eq!(found, name);
        }
    }
}

#[test]
fn changed_statistics_are_another_network() {
    let trained = Trained::new(networks::inverted(), 37);
    let model = trained.model("1x W8A8", &trained.ranges);
    let mut changed = Trained::new(networks::inverted(), 37);
    let (mean, _) = changed.norms.get_mut("down.project.bn").unwrap();
    mean.iter_mut().for_each(|m| *m += 1.0);
    let (found, finding) = found(&changed.compare(&model, MEAN));
    let Cause::Weights {
        constants_only: true,
        ..
    } = finding.cause
    else {
        panic!("{finding:?}")
    };
    assert_eq!(found, "down.project.bn");
}

#[test]
fn batch_norms_may_be_folded_and_negative() {
    let graph = |folded: bool| {
        let mut b = GraphBuilder::new("net");
        let x = b.input(3, 8, 8);
        let conv = Conv2d {
            bias: folded,
            ..Conv2d::same(Channels::Fixed(8), 3, 1)
        };
        let mut x = b.conv("stem.conv", x, conv);
        if !folded {
            x = b.batch_norm("stem", x);
        }
        let x = b.activation("other", x, Activation::Relu);
        let x = b.global_avg_pool("pool", x);
        b.finish(&[("features", x)]).unwrap()
    };
    let mut params = support::random_params(&graph(false), 39);
    let gammas = params.0.get_mut("stem.bn.weight").unwrap();
    gammas
        .data
        .iter_mut()
        .step_by(2)
        .for_each(|gamma| *gamma *= -1.0);
    let trained = Trained::of(&params, graph(false));

    let params = trained.net.params();
    let [weight, gamma, beta] =
        ["stem.conv.weight", "stem.bn.weight", "stem.bn.bias"].map(|name| &params.0[name]);
    let (mean, variance) = &trained.norms["stem.bn"];
    let mut folded = support::random_params(&graph(true), 39);
    for o in 0..8 {
        let gain = gamma.data[o] / (variance[o] + 1e-5).sqrt();
        for tap in o * 27..(o + 1) * 27 {
            folded.0.get_mut("stem.conv.weight").unwrap().data[tap] = gain * weight.data[tap];
        }
        let bias = &mut folded.0.get_mut("stem.conv.bias").unwrap().data;
        bias[o] = beta.data[o] - gain * mean[o];
    }
    let reference = Trained::of(&folded, graph(true));
    let model = trained.model("1x W8A8", &trained.ranges);
    let report = reference.compare(&model, MEAN);
    assert_eq!(report.finding(20.0), None, "{report:#?}");
    let distance = report.stages[1].weights.unwrap();
    assert!(
        distance.steps < 0.35 && distance.cosine > 0.999,
        "{distance:?}"
    );
}

#[test]
fn networks_of_other_structure_are_refused() {
    let trained = Trained::new(networks::residual(), 38);
    let model = trained.model("1x W8A8", &trained.ranges);
    let other = Trained::new(networks::inverted(), 38);
    let point = model.points()[0].point;
    let error = Comparison::new(&other.net, &other.norms, &model, point)
        .err()
        .unwrap();
    assert!(matches!(error, QuantError::Structure { .. }), "{error}");
    let mut comparison = Comparison::new(&trained.net, &trained.norms, &model, point).unwrap();
    assert!(matches!(
        comparison.add(vec![0.0; 7], &[]),
        Err(QuantError::Images(_))
    ));
}
