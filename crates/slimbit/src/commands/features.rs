//! Images in, feature vectors out: what `probe`, `embed`, `verify` and `quickstart` share.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use slimbit_data::{Dataset, Preprocess, Split, eval_batches};
use slimbit_engine::Model;
use slimbit_graph::Point;
use slimbit_train::probe::Features;

use super::forward;

/// Metadata key under which a `.slim` file carries its evaluation transform, as JSON.
pub(super) const PREPROCESS: &str = "preprocess";

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
}

impl Images {
    /// Decodes at most `limit` images, spread evenly over the dataset.
    pub(super) fn load(
        dataset: &Dataset,
        preprocess: &Preprocess,
        limit: Option<usize>,
    ) -> Result<Self> {
        const BATCH: usize = 256;
        let mut images = Self {
            codes: Vec::new(),
            size: preprocess.len(),
            indices: Vec::new(),
            labels: Some(Vec::new()),
        };
        let step = limit.map_or(1, |limit| dataset.len().div_ceil(limit.max(1)).max(1));
        for batch in eval_batches(dataset, preprocess, BATCH) {
            let batch = batch?;
            for (row, &index) in batch.indices.iter().enumerate() {
                if index % step != 0 {
                    continue;
                }
                images
                    .codes
                    .extend_from_slice(&batch.codes[row * images.size..][..images.size]);
                images.indices.push(index);
                match (&mut images.labels, &batch.labels) {
                    (Some(all), Some(labels)) => all.push(labels[row]),
                    (all, _) => *all = None,
                }
            }
        }
        Ok(images)
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
        }
    }

    /// At most `limit` of the images, spread evenly over all.
    pub(super) fn spread(&self, limit: usize) -> Self {
        let count = limit.min(self.len());
        let rows: Vec<usize> = (0..count).map(|i| i * self.len() / count).collect();
        self.subset(&rows)
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

/// Opens the training and the test part of a dataset.
pub(super) fn open_splits(path: &Path) -> Result<(Dataset, Dataset)> {
    let train = Dataset::open_split(path, Split::Train)?;
    let test = Dataset::open_split(path, Split::Test)?;
    Ok((train, test))
}

/// The evaluation transform that a model carries.
pub(super) fn preprocess_of(model: &Model) -> Result<Preprocess> {
    let Some(text) = model.metadata().get(PREPROCESS) else {
        bail!("the file says nothing about preprocessing; write it with `slimbit export`");
    };
    let preprocess: Preprocess = serde_json::from_str(text).context("preprocessing in the file")?;
    preprocess.validate()?;
    Ok(preprocess)
}

/// The points asked for, or all that the model holds.
pub(super) fn points_of(model: &Model, wanted: &[Point]) -> Result<Vec<Point>> {
    if wanted.is_empty() {
        return Ok(model.points().iter().map(|p| p.point).collect());
    }
    for &point in wanted {
        model.point(point)?;
    }
    Ok(wanted.to_vec())
}

/// The first output of every image at `point`, on the integer engine; `[images, features]`.
pub(super) fn engine_features(
    model: &Arc<Model>,
    point: Point,
    images: &Images,
) -> Result<Vec<f32>> {
    let (name, _) = &model.graph().outputs()[0];
    let features = forward::engine(model, point, images)?.remove(name);
    features.with_context(|| format!("output `{name}` is not a vector"))
}

/// Feature rows with labels, as the probes take them.
pub(super) fn labelled(rows: Vec<f32>, labels: &[u32]) -> Result<Features> {
    let dim = rows.len() / labels.len().max(1);
    Ok(Features::new(dim, rows, labels.to_vec())?)
}
