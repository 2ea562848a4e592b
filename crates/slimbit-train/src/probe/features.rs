use crate::TrainError;

/// Feature vectors of labelled images, row-major: `data[image * dim + feature]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    dim: usize,
    data: Vec<f32>,
    labels: Vec<u32>,
}

impl Features {
    /// One row of `dim` features per label.
    ///
    /// # Errors
    /// [`TrainError::Probe`] where there is no row, the numbers of rows and labels differ, or a feature is not finite.
    pub fn new(dim: usize, data: Vec<f32>, labels: Vec<u32>) -> Result<Self, TrainError> {
        let fail = |what: String| Err(TrainError::Probe(what));
        if dim == 0 || labels.is_empty() {
            return fail(format!(
                "{} images of {dim} features; at least one is needed",
                labels.len()
            ));
        }
        if Some(data.len()) != labels.len().checked_mul(dim) {
            return fail(format!(
                "{} values are not {} images of {dim} features",
                data.len(),
                labels.len()
            ));
        }
        if let Some(index) = data.iter().position(|v| !v.is_finite()) {
            return fail(format!(
                "feature {} of image {} is {}",
                index % dim,
                index / dim,
                data[index]
            ));
        }
        Ok(Self { dim, data, labels })
    }

    /// Features per image.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The label of each image.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The images at these positions, in this order.
    ///
    /// # Errors
    /// [`TrainError::Probe`] for a position that no image has, or none at all.
    pub fn subset(&self, images: &[usize]) -> Result<Self, TrainError> {
        let len = self.labels.len();
        if let Some(image) = images.iter().find(|&&image| image >= len) {
            return Err(TrainError::Probe(format!(
                "there is no image {image} among {len}"
            )));
        }
        let data = images.iter().flat_map(|&image| self.row(image)).copied();
        let labels = images.iter().map(|&image| self.labels[image]);
        Self::new(self.dim, data.collect(), labels.collect())
    }

    pub(super) fn data(&self) -> &[f32] {
        &self.data
    }

    pub(super) fn row(&self, image: usize) -> &[f32] {
        &self.data[image * self.dim..][..self.dim]
    }

    /// The rows at length 1; a row of zeros stays.
    pub(super) fn normalised(&self) -> Vec<f32> {
        let mut data = self.data.clone();
        normalise(&mut data, self.dim);
        data
    }

    pub(super) fn check_same_dim(&self, other: &Self) -> Result<(), TrainError> {
        if self.dim == other.dim {
            return Ok(());
        }
        let what = format!(
            "training features have {} dimensions, test features {}",
            self.dim, other.dim
        );
        Err(TrainError::Probe(what))
    }
}

/// Brings rows of `dim` values to length 1; a row of zeros stays.
pub(super) fn normalise(data: &mut [f32], dim: usize) {
    for row in data.chunks_exact_mut(dim) {
        let norm = row
            .iter()
            .map(|&v| f64::from(v) * f64::from(v))
            .sum::<f64>()
            .sqrt();
        if norm > 0.0 {
            row.iter_mut()
                .for_each(|v| *v = (f64::from(*v) / norm) as f32);
        }
    }
}

/// What a probe found on the test images.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeReport {
    /// Predicted label per test image.
    pub predictions: Vec<u32>,
    /// Share of test images whose prediction is their label, 0 to 1.
    pub top1: f64,
}

impl ProbeReport {
    pub(super) fn new(predictions: Vec<u32>, labels: &[u32]) -> Self {
        let right = predictions
            .iter()
            .zip(labels)
            .filter(|(p, l)| p == l)
            .count();
        let top1 = right as f64 / labels.len() as f64;
        Self { predictions, top1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subset_keeps_rows_with_their_labels() {
        let all = Features::new(2, vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0], vec![7, 8, 9]).unwrap();
        let two = Features::new(2, vec![4.0, 5.0, 0.0, 1.0], vec![9, 7]).unwrap();
        assert_eq!(all.subset(&[2, 0]).unwrap(), two);
        assert!(all.subset(&[3]).is_err() && all.subset(&[]).is_err());
    }

    #[test]
    fn unusable_features_are_named() {
        for (dim, data, labels, message) in [
            (
                0,
                vec![],
                vec![1],
                "probe: 1 images of 0 features; at least one is needed",
            ),
            (
                2,
                vec![],
                vec![],
                "probe: 0 images of 2 features; at least one is needed",
            ),
            (
                2,
                vec![1.0; 3],
                vec![0, 1],
                "probe: 3 values are not 2 images of 2 features",
            ),
            (
                2,
                vec![0.0, 0.0, 0.0, f32::NAN],
                vec![0, 1],
                "probe: feature 1 of image 1 is NaN",
            ),
        ] {
            assert_eq!(
                Features::new(dim, data, labels).unwrap_err().to_string(),
                message
            );
        }
    }
}
