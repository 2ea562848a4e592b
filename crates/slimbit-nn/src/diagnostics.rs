use burn::tensor::Tensor;

use crate::losses::normalise;
use crate::params::to_vec;

/// Rows that a diagnosis looks at. The effective rank costs their square.
const ROWS: usize = 128;

/// Standard deviation over the batch (its first 128 rows) of L2-normalised features `[batch, dim]`, averaged over the
/// dimensions and multiplied by `√dim`: 0 where features have collapsed to one point, about 0.4 to
/// 0.6 where training is healthy, at most 1.
pub fn feature_std(features: &Tensor<2>) -> f64 {
    let (rows, dim) = normalised(features);
    let n = rows.len().max(1) as f64;
    let deviation = |d: usize| {
        let mean = rows.iter().map(|row| row[d]).sum::<f64>() / n;
        let squares = rows.iter().map(|row| (row[d] - mean).powi(2));
        (squares.sum::<f64>() / n).sqrt()
    };
    (0..dim).map(deviation).sum::<f64>() / (dim as f64).sqrt()
}

/// Effective rank of the first 128 rows of L2-normalised features `[batch, dim]`: the participation ratio
/// `(Σλ)² / Σλ²` of the eigenvalues of their covariance. 1 where they vary along one direction, as
/// many as there are directions where they vary equally along all; 0 where they do not vary.
pub fn effective_rank(features: &Tensor<2>) -> f64 {
    let (mut rows, dim) = normalised(features);
    let n = rows.len().max(1) as f64;
    for d in 0..dim {
        let mean = rows.iter().map(|row| row[d]).sum::<f64>() / n;
        rows.iter_mut().for_each(|row| row[d] -= mean);
    }
    // The Gram matrix has the covariance's eigenvalues; Σλ is its trace, Σλ² its squared norm.
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let trace: f64 = rows.iter().map(|row| dot(row, row)).sum();
    let squares: f64 = rows
        .iter()
        .map(|a| rows.iter().map(|b| dot(a, b).powi(2)).sum::<f64>())
        .sum();
    if squares > 0.0 {
        trace * trace / squares
    } else {
        0.0
    }
}

fn normalised(features: &Tensor<2>) -> (Vec<Vec<f64>>, usize) {
    let [rows, dim] = features.dims();
    let features = features.clone().without_autodiff();
    let unit = to_vec(&normalise(features.narrow(0, 0, rows.min(ROWS))));
    let rows = unit.chunks_exact(dim.max(1));
    let double = |row: &[f32]| row.iter().map(|&v| f64::from(v)).collect();
    (rows.map(double).collect(), dim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn a_point_a_line_and_a_sphere() {
        let device = Device::flex();
        let point = Tensor::<2>::ones([6, 3], &device);
        assert!(feature_std(&point) < 1e-6);
        let line = Tensor::<2>::from_floats([[1.0, 0.0, 0.0], [-2.0, 0.0, 0.0]], &device);
        assert!((effective_rank(&line) - 1.0).abs() < 1e-9);
        let axes = Tensor::<2>::eye(3, &device);
        let sphere = Tensor::cat(vec![axes.clone(), -axes], 0);
        assert!((effective_rank(&sphere) - 3.0).abs() < 1e-9);
        assert!((feature_std(&sphere) - 1.0).abs() < 1e-6);
    }
}
