//! Post-training quantisation, from a float network to what the engine computes.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

use burn::tensor::{Tensor, TensorData};
use slimbit_engine::Session;
use slimbit_engine::prove::prove;
use slimbit_graph::{Graph, Point, Width};
use slimbit_nn::{Averaging, Mode, Net, NormMode, Observer, Quantisation, parse_device};
use slimbit_num::WeightGrid;
use slimbit_quant::{
    Correction, Norms, PostTrained, PostTraining, QuantError, Settings, Task, ValueRule, Warning,
    input_values, quantise,
};
use support::networks;

const GRIDS: [WeightGrid; 3] = [
    WeightGrid::MinMax,
    WeightGrid::Nested,
    WeightGrid::NestedOdd,
];

/// A network with the statistics that its own images give it.
struct Trained {
    net: Net,
    norms: Norms,
    pixels: Vec<u8>,
    channels: usize,
}

impl Trained {
    fn new(graph: Graph, seed: u64) -> Self {
        let params = support::random_params(&graph, seed);
        let device = parse_device("cpu").unwrap();
        let channels = graph.input_shape().channels();
        let pixels = support::images(&graph, 24, 5).concat();
        let net = Net::from_params(graph, &params, &device).unwrap();
        let mut trained = Self {
            net,
            norms: Norms::new(),
            pixels,
            channels,
        };
        let mut observer = Observer::new(Averaging::Cumulative);
        let images = trained.images(WeightGrid::Nested);
        let mode = Mode::float(Width::FULL);
        trained
            .net
            .forward(&images, &mode, Some(&mut observer))
            .unwrap();
        trained.norms = observer.norms();
        trained
    }

    fn settings(&self, grid: WeightGrid) -> Settings {
        Settings {
            grid,
            mean: vec![0.4914, 0.4822, 0.4465][..self.channels].to_vec(),
            std: vec![0.2023, 0.1994, 0.2010][..self.channels].to_vec(),
            metadata: BTreeMap::new(),
        }
    }

    fn images(&self, grid: WeightGrid) -> Tensor<4> {
        let shape = self.net.graph().input_shape();
        let (height, width) = shape.spatial();
        let input = self.settings(grid).input(self.net.graph()).unwrap();
        let values = input_values(&input, &self.pixels, height * width);
        let count = values.len() / shape.elements();
        let data = TensorData::new(values, [count, self.channels, height, width]);
        Tensor::from_data(data, &parse_device("cpu").unwrap())
    }

    fn quantise(&self, points: &[&str], grid: WeightGrid, options: &PostTraining) -> PostTrained {
        let points: Vec<Point> = points.iter().map(|p| p.parse().unwrap()).collect();
        let settings = self.settings(grid);
        let (norms, pixels) = (&self.norms, &self.pixels);
        quantise(
            &self.net,
            norms,
            pixels,
            &points,
            &settings,
            options,
            |_| {},
        )
        .unwrap()
    }

    /// Squared error of the first output on the engine, relative to its float values.
    fn error(&self, made: PostTrained, point: &str) -> f64 {
        let mode = Mode {
            width: Width::FULL,
            quant: Quantisation::Off,
            norm: NormMode::Given(&self.norms),
        };
        let (name, _) = &self.net.graph().outputs()[0];
        let images = self.images(made.model.grid());
        let float = self.net.forward(&images, &mode, None).unwrap();
        let float: Vec<f32> = float
            .vector(name)
            .unwrap()
            .into_data()
            .try_into_vec()
            .unwrap();
        let mut session = Session::new(Arc::new(made.model), point.parse().unwrap()).unwrap();
        let size = self.net.graph().input_shape().elements();
        let mut found = Vec::new();
        for image in self.pixels.chunks(size) {
            found.extend(session.run(image).unwrap().get(name).unwrap().to_f32());
        }
        let square = |values: &mut dyn Iterator<Item = f32>| {
            values.map(|v| f64::from(v).powi(2)).sum::<f64>()
        };
        square(&mut float.iter().zip(&found).map(|(a, b)| a - b))
            / square(&mut float.iter().copied())
    }
}

fn plain() -> PostTraining {
    PostTraining {
        rule: ValueRule::MinMax,
        correction: Correction::None,
        reconstructed_bits: 0,
        compensate: false,
        clip_weights: false,
        ..PostTraining::default()
    }
}

#[test]
fn every_kind_of_network_becomes_a_model_that_proves_itself() {
    for (graph, seed) in [
        (networks::residual(), 1),
        (networks::inverted(), 2),
        (networks::assorted(), 3),
    ] {
        let trained = Trained::new(graph, seed);
        for grid in GRIDS {
            let points = ["1x W8A8", "1x W4A4", "0.5x W4A8"];
            let made = trained.quantise(&points, grid, &PostTraining::default());
            prove(&made.model).unwrap();
            let held = made.model.points().iter().map(|p| p.point.to_string());
            assert!(held.eq(points), "{grid}");
            assert!(made.errors.iter().all(|layers| !layers.is_empty()));
            let error = trained.error(made, "1x W8A8");
            assert!(
                error < 1e-3,
                "{} {grid}: {error}",
                trained.net.graph().name()
            );
        }
    }
}

#[test]
fn each_step_lowers_the_error_of_few_bits() {
    let trained = Trained::new(networks::residual(), 7);
    for grid in [WeightGrid::MinMax, WeightGrid::Nested] {
        let error = |options: &PostTraining| {
            let made = trained.quantise(&["1x W4A8"], grid, options);
            trained.error(made, "1x W4A8")
        };
        let steps = [
            plain(),
            PostTraining {
                clip_weights: true,
                rule: ValueRule::Mse,
                correction: Correction::Mean,
                ..plain()
            },
            PostTraining::default(),
        ];
        let [plain, corrected, best] = steps.map(|options| error(&options));
        assert!(corrected < 0.9 * plain, "{grid}: {corrected} {plain}");
        assert!(best < 0.7 * corrected, "{grid}: {best} {corrected}");
    }
}

#[test]
fn eight_bits_hardly_notice_that_four_were_decided_first() {
    let trained = Trained::new(networks::residual(), 9);
    let options = PostTraining::default();
    let alone = trained.quantise(&["1x W8A8"], WeightGrid::Nested, &options);
    let shared = trained.quantise(&["1x W8A8", "1x W4A8"], WeightGrid::Nested, &options);
    let (alone, shared) = (
        trained.error(alone, "1x W8A8"),
        trained.error(shared, "1x W8A8"),
    );
    assert!(shared < 4.0 * alone, "{shared} {alone}");
}

#[test]
fn the_order_of_points_and_the_number_of_threads_change_nothing() {
    let trained = Trained::new(networks::inverted(), 4);
    let options = PostTraining::default();
    let make = |points: &[&str]| trained.quantise(points, WeightGrid::Nested, &options).model;
    let model = make(&["1x W8A8", "1x W4A4"]);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    assert!(pool.install(|| make(&["1x W8A8", "1x W4A4"])) == model);
    let turned = make(&["1x W4A4", "1x W8A8"]);
    assert_eq!(turned.weights(), model.weights());
    assert_eq!(turned.points()[0], model.points()[1]);
}

#[test]
fn progress_reaches_its_end_and_bad_images_are_refused() {
    let trained = Trained::new(networks::inverted(), 6);
    let settings = trained.settings(WeightGrid::Nested);
    let points = ["1x W4A8".parse().unwrap()];
    let options = PostTraining::default();
    let ends = Mutex::new(BTreeMap::new());
    let note = |p: slimbit_quant::Progress| {
        let mut ends = ends.lock().unwrap();
        let end: &mut (usize, usize) = ends.entry(format!("{:?}", p.task)).or_default();
        *end = (end.0.max(p.done), p.total);
    };
    let (net, norms) = (&trained.net, &trained.norms);
    quantise(
        net,
        norms,
        &trained.pixels,
        &points,
        &settings,
        &options,
        note,
    )
    .unwrap();
    for task in [Task::Calibrate, Task::Reconstruct, Task::Lower] {
        let (done, total) = ends.lock().unwrap()[&format!("{task:?}")];
        assert_eq!(done, total, "{task:?}");
    }
    for bad in [&[][..], &[0; 100]] {
        let refused = quantise(net, norms, bad, &points, &settings, &options, |_| {});
        assert!(matches!(refused, Err(QuantError::Images(_))));
    }
}

fn quantise_with(
    net: &Net,
    norms: &Norms,
    pixels: &[u8],
    settings: &Settings,
) -> Result<PostTrained, QuantError> {
    let points = ["1x W8A8".parse().unwrap(), "1x W4A4".parse().unwrap()];
    let options = PostTraining::default();
    quantise(net, norms, pixels, &points, settings, &options, |_| {})
}

#[test]
fn values_that_are_no_numbers_are_refused_by_name() {
    let trained = Trained::new(networks::inverted(), 3);
    let settings = trained.settings(WeightGrid::Nested);
    let refused = |net: &Net, norms: &Norms, part: &str| {
        let error = quantise_with(net, norms, &trained.pixels, &settings);
        let text = error.unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    };
    for value in [f32::NAN, f32::INFINITY] {
        let mut norms = trained.norms.clone();
        norms.values_mut().next().unwrap().1[0] = value;
        let part = format!("running_var`: holds {value} at element 0");
        refused(&trained.net, &norms, &part);
    }
    // Weights that are numbers, and values that are not: every product overflows, and what no ReLU6
    // clips shows it first.
    let mut params = trained.net.params();
    for (_, array) in params.0.iter_mut().filter(|(_, a)| a.shape.len() == 4) {
        array.data.fill(3e38);
    }
    let device = parse_device("cpu").unwrap();
    let net = Net::from_params(trained.net.graph().clone(), &params, &device).unwrap();
    let text = "infinite or undefined values at stage `down.project.bn`";
    refused(&net, &trained.norms, text);
    let nothing = quantise_with(&trained.net, &trained.norms, &[], &settings);
    assert!(
        nothing
            .unwrap_err()
            .to_string()
            .contains("at least one image")
    );
}

#[test]
fn images_of_one_colour_are_worked_with_and_warned_of() {
    let trained = Trained::new(networks::residual(), 3);
    let settings = trained.settings(WeightGrid::Nested);
    let pixels = vec![0; 4 * trained.net.graph().input_shape().elements()];
    let made = quantise_with(&trained.net, &trained.norms, &pixels, &settings).unwrap();
    assert!(
        made.warnings.contains(&Warning::Constant { images: 4 }),
        "{:?}",
        made.warnings
    );
}

#[test]
fn another_input_range_is_noticed_with_its_remedy() {
    let trained = Trained::new(networks::residual(), 3);
    let warnings = |mean: [f32; 3], std: [f32; 3]| {
        let settings = Settings {
            mean: mean.to_vec(),
            std: std.to_vec(),
            ..trained.settings(WeightGrid::Nested)
        };
        let made = quantise_with(&trained.net, &trained.norms, &trained.pixels, &settings);
        made.unwrap().warnings
    };
    let own = trained.settings(WeightGrid::Nested);
    let [mean, std] = [&own.mean, &own.std].map(|v| [v[0], v[1], v[2]]);
    assert_eq!(warnings(mean, std), []);
    for (mean, std) in [([0.0; 3], [1.0; 3]), ([0.0; 3], [1.0 / 255.0; 3])] {
        let found = warnings(mean, std);
        let [warning @ Warning::Input { factor, .. }] = &found[..] else {
            panic!("{found:?}");
        };
        let text = warning.to_string();
        assert!(*factor > 4.0, "{text}");
        assert!(
            text.contains("--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"),
            "{text}"
        );
    }
}
