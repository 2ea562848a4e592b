//! A network's own classifier: its accuracy, in integers and in float, and how far the two are apart.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use slimbit_data::{Dataset, Preprocess};
use slimbit_engine::Model;
use slimbit_graph::{LOGITS, Point};
use slimbit_interchange::Network;

use super::classes::Classes;
use super::evaluate::choice;
use super::features::Images;
use super::float::mean_cosine;
use super::forward::{self, Vectors};

/// What a network says of every image, `[images, n]` each.
pub(super) struct Answers {
    logits: Vec<f32>,
    features: Option<Vec<f32>>,
    images: usize,
}

/// The network's class of every image.
pub(super) fn truths(
    classes: &Classes,
    dataset: &Dataset,
    images: &Images,
    map: &[(String, String)],
    path: &Path,
) -> Result<Vec<u32>> {
    let of_folders = classes.of_folders(dataset, map, path)?;
    let class = |label: &u32| of_folders[*label as usize];
    let truths: Option<Vec<u32>> = images.labels(path)?.iter().map(class).collect();
    truths.context("every class with images is matched")
}

/// Answers of one point on the integer engine.
pub(super) fn by_engine(model: &Arc<Model>, point: Point, images: &Images) -> Result<Answers> {
    Ok(Answers::new(forward::engine(model, point, images)?, images))
}

/// Answers of the float network, with the batch-norm statistics that it was trained with.
pub(super) fn by_float(
    network: &Network,
    preprocess: &Preprocess,
    images: &Images,
) -> Result<Answers> {
    let vectors = forward::float(network, preprocess, images)?;
    Ok(Answers::new(vectors, images))
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
        self.logits.chunks_exact(classes).map(choice).collect()
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
