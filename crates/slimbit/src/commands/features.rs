//! Images in, feature vectors out: what `probe`, `embed`, `verify` and `quickstart` share.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Once};

use anyhow::{Context, Result, anyhow};
use slimbit_data::{
    DataError, Dataset, Holdout, Parts, Preprocess, Split, eval_images, printable, spread,
};
use slimbit_engine::{EngineError, Model};
use slimbit_graph::{Graph, Point, Width};
use slimbit_train::probe::Features;

use super::forward;
use super::open::{self, Wanted};
use crate::cli::{HoldoutArgs, MemoryArgs};
use crate::console::{count, note};

pub(super) use slimbit_engine::PREPROCESS;

/// Metadata key under which a fine-tuned network says which images it held out.
const HOLDOUT: &str = "holdout";

/// The output that is a network's feature vector.
pub(super) const FEATURES: &str = "features";

/// Images decoded and resized for one network.
pub(super) struct Images {
    /// One image after another, HWC codes.
    pub codes: Vec<u8>,
    /// Bytes of one image.
    pub size: usize,
    /// Position of each image in its dataset.
    pub indices: Vec<usize>,
    /// Labels, where the dataset has them.
    pub labels: Option<Vec<u32>>,
    /// The names of the classes; none without labels.
    pub classes: Vec<String>,
}

impl Images {
    /// Decodes `limit` images, spread evenly over the dataset, or all; none of the others is read.
    pub(super) fn load(
        dataset: &Dataset,
        preprocess: &Preprocess,
        limit: Option<usize>,
    ) -> Result<Self> {
        let batch = eval_images(dataset, preprocess, limit)?;
        Ok(Self {
            codes: batch.codes,
            size: preprocess.len(),
            indices: batch.indices,
            labels: batch.labels,
            classes: dataset.classes().to_vec(),
        })
    }

    /// The images at these positions, in this order.
    pub(super) fn subset(&self, rows: &[usize]) -> Self {
        let labels = self.labels.as_ref();
        Self {
            codes: rows
                .iter()
                .flat_map(|&row| self.image(row))
                .copied()
                .collect(),
            size: self.size,
            indices: rows.iter().map(|&row| self.indices[row]).collect(),
            labels: labels.map(|labels| rows.iter().map(|&row| labels[row]).collect()),
            classes: self.classes.clone(),
        }
    }

    /// At most `limit` of the images, spread evenly over all.
    pub(super) fn spread(&self, limit: usize) -> Self {
        self.subset(&spread(self.len(), limit).collect::<Vec<_>>())
    }

    /// Number of images.
    pub(super) fn len(&self) -> usize {
        self.indices.len()
    }

    /// One image's codes.
    pub(super) fn image(&self, row: usize) -> &[u8] {
        &self.codes[row * self.size..][..self.size]
    }

    /// The labels.
    pub(super) fn labels(&self, path: &Path) -> Result<Vec<u32>> {
        self.labels.clone().with_context(|| {
            format!("{}: a probe needs labels; give an image folder with one subfolder per class, or IDX or CIFAR files", path.display())
        })
    }
}

/// Opens the images to learn from and those to measure on: the splits of a dataset, or what `holdout`
/// makes of one without. The command's own `seed` decides where no other is given.
pub(super) fn open_parts(path: &Path, holdout: &HoldoutArgs, seed: u64) -> Result<Parts> {
    let parts = Parts::open(path, holdout.drawn(seed)).map_err(|error| match error {
        DataError::NoSplit { split, .. } => anyhow!(
            "no {split} split in {}; hold images out of it to measure on with --holdout 20%, or give a folder with train/ \
             and test/ in it",
            printable(path)
        ),
        error => error.into(),
    })?;
    if let Some((_, seed)) = holdout.drawn(seed) {
        say_held_out(path, &parts.test, parts.train.len(), seed);
    }
    Ok(parts)
}

/// Opens the images to measure on where nothing is learnt: what is held out, or else the test split, or
/// all images where there is none.
pub(super) fn open_test(path: &Path, holdout: &HoldoutArgs, seed: u64) -> Result<Dataset> {
    match holdout.drawn(seed) {
        Some(_) => Ok(open_parts(path, holdout, seed)?.test),
        None => Ok(Dataset::open_test(path, None)?),
    }
}

/// Says which images of a folder are measured on and not learnt from.
pub(super) fn say_held_out(path: &Path, test: &Dataset, others: usize, seed: u64) {
    let held = test.len();
    let classes = match test.classes().len() {
        0 => String::new(),
        1 => ", of one class".to_owned(),
        classes => format!(", spread over {classes} classes"),
    };
    note!(
        "held out of {}: {held} of {}{classes} (seed {seed})",
        printable(path),
        count(held + others, "image")
    );
}

/// What the metadata of a fine-tuned network say about the images that it never saw.
pub(super) fn holdout_metadata((holdout, seed): (Holdout, u64)) -> (String, String) {
    let value = format!("--holdout {holdout} --holdout-seed {seed}");
    (HOLDOUT.to_owned(), value)
}

/// Warns where a classifier is about to be measured on images that it may have been trained on: those
/// of a folder without a test split, of which it held out others, or of which all are measured on.
pub(super) fn warn_of_training_images(
    metadata: &BTreeMap<String, String>,
    path: &Path,
    holdout: Option<(Holdout, u64)>,
) -> Result<()> {
    let Some(tuned) = metadata.get(HOLDOUT) else {
        return Ok(());
    };
    let same = holdout.is_some_and(|holdout| holdout_metadata(holdout).1 == *tuned);
    if !same && !Dataset::has_split(path, Split::Test)? {
        log::warn!(
            "the classifier was trained with {}: if {} are the same images, give the same here, or it is measured on \
             images that it learnt from",
            printable(tuned),
            printable(path)
        );
    }
    Ok(())
}

/// Opens a `.slim` file; errors name it, and what it is instead.
pub(super) fn open_file(path: &Path) -> Result<Model> {
    open::expect(path, &[Wanted::Slim])?;
    Model::open(path).map_err(|error| match error {
        EngineError::Io { .. } => error.into(),
        _ => anyhow::Error::from(error).context(path.display().to_string()),
    })
}

/// Opens a `.slim` file, and keeps what is run of it within the memory allowed.
pub(super) fn open_model(path: &Path, memory: MemoryArgs) -> Result<Model> {
    Ok(limited(open_file(path)?, memory))
}

/// The same model, kept within the memory allowed.
pub(super) fn limited(model: Model, memory: MemoryArgs) -> Model {
    match memory.limit() {
        Some(limit) => model.with_memory_limit(limit),
        None => model,
    }
}

/// The evaluation transform that a model carries.
pub(super) fn preprocess_of(model: &Model) -> Result<Preprocess> {
    Ok(Preprocess::from_model(model)?)
}

/// The points asked for, or all that the model holds; none takes more memory than the model may.
pub(super) fn points_of(model: &Model, wanted: &[Point]) -> Result<Vec<Point>> {
    let points = match wanted {
        [] => model.points().iter().map(|p| p.point).collect(),
        _ => wanted.to_vec(),
    };
    // Before any image is read for them.
    for &point in &points {
        model.session_bytes(point)?;
    }
    Ok(points)
}

/// The output that is the feature vector: `features`, or else the first, which is said where there are
/// several.
pub(super) fn feature_output(graph: &Graph) -> Result<String> {
    let vectors = forward::vectors_of(graph, Width::FULL)?;
    let first = vectors
        .first()
        .with_context(|| format!("`{}` has no output that is a vector", graph.name()))?;
    if vectors.iter().any(|name| name == FEATURES) {
        return Ok(FEATURES.to_owned());
    }
    if vectors.len() > 1 {
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            log::warn!(
            "the network has several outputs ({}) and none is called `{FEATURES}`: looking at `{}`",
            vectors.join(", "),
            printable(first)
        );
        });
    }
    Ok(first.clone())
}

/// The feature vector of every image at `point`, on the integer engine; `[images, features]`.
pub(super) fn engine_features(
    model: &Arc<Model>,
    point: Point,
    images: &Images,
) -> Result<Vec<f32>> {
    engine_output(model, point, images, &feature_output(model.graph())?)
}

/// One output of every image at `point`, on the integer engine; `[images, values]`.
pub(super) fn engine_output(
    model: &Arc<Model>,
    point: Point,
    images: &Images,
    name: &str,
) -> Result<Vec<f32>> {
    let output = forward::engine(model, point, images)?.remove(name);
    output.with_context(|| format!("output `{name}` is not a vector"))
}

/// Feature rows with labels, as the probes take them.
pub(super) fn labelled(rows: Vec<f32>, labels: &[u32]) -> Result<Features> {
    let dim = rows.len() / labels.len().max(1);
    Ok(Features::new(dim, rows, labels.to_vec())?)
}
