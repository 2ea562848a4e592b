//! A network's own classifier: its accuracy, in integers and in float, and how far the two are apart.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use slimbit_data::{Dataset, Preprocess};
use slimbit_engine::Model;
use slimbit_graph::{Graph, Point};
use slimbit_interchange::Network;

use super::features::Images;
use super::float::mean_cosine;
use super::forward::{self, Vectors};

/// The output that says which class.
const LOGITS: &str = "logits";

/// What a network says of every image, `[images, n]` each.
pub(super) struct Answers {
    logits: Vec<f32>,
    features: Option<Vec<f32>>,
    images: usize,
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

/// Answers of one point on the integer engine.
pub(super) fn by_engine(model: &Arc<Model>, point: Point, images: &Images) -> Result<Answers> {
    refuse_without_classifier(model.graph())?;
    Ok(Answers::new(forward::engine(model, point, images)?, images))
}

/// Answers of the float network, with the batch-norm statistics that it was trained with.
pub(super) fn by_float(
    network: &Network,
    preprocess: &Preprocess,
    images: &Images,
) -> Result<Answers> {
    refuse_without_classifier(&network.graph)?;
    let vectors = forward::float(network, preprocess, images)?;
    Ok(Answers::new(vectors, images))
}

fn refuse_without_classifier(graph: &Graph) -> Result<()> {
    let names = graph.outputs().iter().map(|(name, _)| name.as_str());
    let names: Vec<&str> = names.collect();
    if names.contains(&LOGITS) {
        return Ok(());
    }
    bail!(
        "the network has no classifier: its outputs are {names:?}, none of them `{LOGITS}`; probe its features with --kind knn or --kind linear"
    );
}

impl Answers {
    fn new(mut vectors: Vectors, images: &Images) -> Self {
        Self {
            logits: vectors.remove(LOGITS).unwrap_or_default(),
            features: vectors.remove("features"),
            images: images.len(),
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
