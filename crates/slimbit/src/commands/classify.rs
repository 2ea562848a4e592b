//! A network's own classifier: its accuracy, in integers and in float, and how far the two are apart.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::tensor::{Tensor, TensorData};
use slimbit_data::{DataError, Dataset, Split};
use slimbit_engine::{Model, Session};
use slimbit_graph::{Graph, Point, Width};
use slimbit_interchange::Network;
use slimbit_nn::{Mode, Net, NormMode, Quantisation};

use super::features::Images;
use super::float::mean_cosine;

/// Images per float batch.
const BATCH: usize = 32;

/// What a network says of every image, `[images, n]` each.
pub(super) struct Answers {
    logits: Vec<f32>,
    features: Option<Vec<f32>>,
    images: usize,
}

/// The test images of a folder, or all of them where it has no splits.
pub(super) fn open_test(path: &Path) -> Result<Dataset> {
    match Dataset::open_split(path, Split::Test) {
        Err(DataError::NoSplit { .. }) => Ok(Dataset::open(path)?),
        dataset => Ok(dataset?),
    }
}

/// The class of every image: the number that its folder is named by where all folders are named by
/// numbers, else the place of its folder among all.
pub(super) fn classes(dataset: &Dataset, images: &Images, path: &Path) -> Result<Vec<u32>> {
    let labels = images.labels(path)?;
    let numbers: Option<Vec<u32>> = dataset
        .classes()
        .iter()
        .map(|name| name.parse().ok())
        .collect();
    Ok(match numbers {
        Some(numbers) => labels
            .iter()
            .map(|&label| numbers[label as usize])
            .collect(),
        None => labels,
    })
}

/// Answers of one point on the integer engine. Images are split over the cores.
pub(super) fn by_engine(model: &Arc<Model>, point: Point, images: &Images) -> Result<Answers> {
    let names = outputs_of(model.graph())?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let chunk = images.len().div_ceil(threads).max(1);
    let part = |rows: std::ops::Range<usize>| -> Result<[Vec<f32>; 2]> {
        let mut session = Session::new(Arc::clone(model), point)?;
        let mut found = [Vec::new(), Vec::new()];
        for row in rows {
            let outputs = session.run(images.image(row))?;
            for (found, name) in found.iter_mut().zip(&names) {
                if let Some(name) = name {
                    let output = outputs
                        .get(name)
                        .with_context(|| format!("output `{name}`"))?;
                    found.extend(output.to_f32());
                }
            }
        }
        Ok(found)
    };
    let parts: Vec<Result<[Vec<f32>; 2]>> = std::thread::scope(|scope| {
        let starts = (0..images.len()).step_by(chunk);
        let spawned: Vec<_> = starts
            .map(|start| scope.spawn(move || part(start..(start + chunk).min(images.len()))))
            .collect();
        let joined = spawned.into_iter().map(|thread| thread.join());
        joined
            .map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut answers = [Vec::new(), Vec::new()];
    for part in parts {
        for (all, part) in answers.iter_mut().zip(part?) {
            all.extend(part);
        }
    }
    Ok(Answers::new(answers, &names, images.len()))
}

/// Answers of the float network, with the batch-norm statistics that it was trained with.
pub(super) fn by_float(network: &Network, images: &Images) -> Result<Answers> {
    let names = outputs_of(&network.graph)?;
    let device = slimbit_nn::parse_device("cpu")?;
    let net = Net::from_params(network.graph.clone(), &network.params, &device)?;
    let input = float_input(network)?;
    let mode = Mode {
        width: Width::FULL,
        quant: Quantisation::Off,
        norm: NormMode::Given(&network.norms),
    };
    let shape = network.graph.input_shape();
    let (height, width) = shape.spatial();
    let mut answers = [Vec::new(), Vec::new()];
    for start in (0..images.len()).step_by(BATCH) {
        let count = BATCH.min(images.len() - start);
        let pixels = &images.codes[start * images.size..(start + count) * images.size];
        let values = input.values(pixels, height * width);
        let data = TensorData::new(values, [count, shape.channels(), height, width]);
        let outputs = net.forward(&Tensor::<4>::from_data(data, &device), &mode, None)?;
        for (all, name) in answers.iter_mut().zip(&names) {
            if let Some(name) = name {
                let values = outputs.vector(name)?.into_data().try_into_vec::<f32>();
                all.extend(values.ok().context("outputs are f32")?);
            }
        }
    }
    Ok(Answers::new(answers, &names, images.len()))
}

/// Normalisation without the engine's input codes: what the float network was trained on.
struct FloatInput {
    mean: Vec<f32>,
    std: Vec<f32>,
}

fn float_input(network: &Network) -> Result<FloatInput> {
    let preprocess = super::quantize::preprocess_of(network, Path::new("the network"))?;
    Ok(FloatInput {
        mean: preprocess.mean,
        std: preprocess.std,
    })
}

impl FloatInput {
    /// NHWC pixels to NCHW values `(p / 255 − mean) / std`.
    fn values(&self, pixels: &[u8], plane: usize) -> Vec<f32> {
        let channels = self.mean.len();
        let mut out = Vec::with_capacity(pixels.len());
        for image in pixels.chunks_exact(channels * plane) {
            for c in 0..channels {
                let own = image.iter().skip(c).step_by(channels);
                out.extend(own.map(|&p| (f32::from(p) / 255.0 - self.mean[c]) / self.std[c]));
            }
        }
        out
    }
}

/// The names of the logits and, where there are any, of the features.
fn outputs_of(graph: &Graph) -> Result<[Option<String>; 2]> {
    let named = |wanted: &str| {
        let mut names = graph.outputs().iter().map(|(name, _)| name);
        names.find(|name| *name == wanted).cloned()
    };
    if named("logits").is_none() {
        let names: Vec<&str> = graph
            .outputs()
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        bail!(
            "the network has no classifier: its outputs are {names:?}, none of them `logits`; probe its features with --kind knn or --kind linear"
        );
    }
    Ok([named("logits"), named("features")])
}

impl Answers {
    fn new([logits, features]: [Vec<f32>; 2], names: &[Option<String>; 2], images: usize) -> Self {
        Self {
            logits,
            features: names[1].is_some().then_some(features),
            images,
        }
    }

    fn choices(&self) -> Vec<u32> {
        let classes = (self.logits.len() / self.images.max(1)).max(1);
        let best = |row: &[f32]| {
            let best = (0..row.len()).reduce(|a, b| if row[b] > row[a] { b } else { a });
            best.unwrap_or(0) as u32
        };
        self.logits.chunks_exact(classes).map(best).collect()
    }

    /// Images whose largest logit is that of their class.
    pub(super) fn correct(&self, classes: &[u32]) -> usize {
        let pairs = self.choices().into_iter().zip(classes);
        pairs.filter(|(choice, class)| choice == *class).count()
    }

    /// Images of which another network thinks the same.
    pub(super) fn agreeing(&self, other: &Self) -> usize {
        self.correct(&other.choices())
    }

    /// Mean cosine of the features with another network's, where both have some.
    pub(super) fn cosine(&self, other: &Self) -> Option<f64> {
        let (a, b) = (self.features.as_ref()?, other.features.as_ref()?);
        Some(mean_cosine(a, b, (a.len() / self.images.max(1)).max(1)))
    }
}
