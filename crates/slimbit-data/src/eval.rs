use rayon::prelude::*;

use crate::{DataError, Dataset, Preprocess};

/// Images of a dataset as a network is fed them in evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalBatch {
    /// 8-bit codes, NHWC, before normalisation: what the integer engine takes.
    pub codes: Vec<u8>,
    /// The label of each image; `None` for an unlabelled dataset.
    pub labels: Option<Vec<u32>>,
    /// The dataset index of each image.
    pub indices: Vec<usize>,
}

impl EvalBatch {
    /// Images in the batch.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether the batch has no image; [`EvalBatches`] gives none such.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Normalised values, NCHW: what a float network takes.
    pub fn normalise(&self, preprocess: &Preprocess) -> Vec<f32> {
        preprocess.normalise(&self.codes)
    }
}

/// A dataset in order, in batches; made by [`eval_batches`].
pub struct EvalBatches<'a> {
    dataset: &'a Dataset,
    preprocess: &'a Preprocess,
    batch: usize,
    next: usize,
    found: bool,
    refused: Option<DataError>,
}

/// Every image of a dataset once, in order, as batches of at most `batch` images; the last may be
/// smaller. Images that cannot be decoded are left out ([`Dataset::skipped`] lists them).
///
/// Images of a batch are decoded in parallel on Rayon's pool. Settings that cannot be used are the
/// first item.
///
/// ```
/// use slimbit_data::{Dataset, Preprocess, Split, eval_batches};
///
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/fashion-mnist");
/// let test = Dataset::open_split(path, Split::Test)?;
/// let preprocess = Preprocess::fashion_mnist();
/// for batch in eval_batches(&test, &preprocess, 500) {
///     let batch = batch?;
///     assert_eq!(batch.normalise(&preprocess).len(), 500 * 28 * 28);
/// }
/// # Ok::<(), slimbit_data::DataError>(())
/// ```
pub fn eval_batches<'a>(
    dataset: &'a Dataset,
    preprocess: &'a Preprocess,
    batch: usize,
) -> EvalBatches<'a> {
    let checked = match batch {
        0 => Err(DataError::setting(
            "batch",
            "0 is not a batch size; choose at least 1",
        )),
        _ => preprocess.validate().map_err(DataError::from),
    };
    EvalBatches {
        dataset,
        preprocess,
        batch,
        next: 0,
        found: false,
        refused: checked.err(),
    }
}

impl EvalBatches<'_> {
    fn make(&mut self) -> Result<Option<EvalBatch>, DataError> {
        if let Some(error) = self.refused.take() {
            return Err(error);
        }
        let len = self.dataset.len();
        while self.next < len {
            let range = self.next..self.next.saturating_add(self.batch).min(len);
            self.next = range.end;
            let images = range
                .into_par_iter()
                .map(|index| {
                    match self
                        .dataset
                        .with_image(index, |image| self.preprocess.codes(image))
                    {
                        Ok(codes) => Ok(Some((index, codes))),
                        Err(DataError::Decode { .. }) => Ok(None),
                        Err(error) => Err(error),
                    }
                })
                .collect::<Result<Vec<_>, DataError>>()?;
            let (indices, codes): (Vec<usize>, Vec<Vec<u8>>) = images.into_iter().flatten().unzip();
            if !indices.is_empty() {
                self.found = true;
                let labels = indices
                    .iter()
                    .map(|&index| self.dataset.label(index))
                    .collect();
                return Ok(Some(EvalBatch {
                    codes: codes.concat(),
                    labels,
                    indices,
                }));
            }
        }
        if self.found {
            Ok(None)
        } else {
            Err(self.dataset.no_image_left())
        }
    }
}

impl Iterator for EvalBatches<'_> {
    type Item = Result<EvalBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let made = self.make();
        if made.is_err() {
            (self.next, self.found) = (self.dataset.len(), true);
        }
        made.transpose()
    }
}
