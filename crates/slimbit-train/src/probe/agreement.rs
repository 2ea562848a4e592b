//! How far two networks agree on images without labels.

use pulp::Arch;
use rayon::prelude::*;

use super::features::normalise;
use super::matrix::dot_products;
use crate::TrainError;

/// Images per unit of parallel work.
const BLOCK: usize = 32;

/// Share of each image's `k` nearest neighbours by cosine that two sets of features have in common,
/// averaged over the images; 1 where neighbourhoods are the same, about `k / images` by chance.
///
/// Features are row-major, one row per image; the two sets may have different dimensions. An image is
/// no neighbour of its own.
///
/// # Errors
/// [`TrainError::Probe`] for features that are not of `images` images, or a `k` that is not between 1
/// and `images - 1`.
pub fn neighbour_overlap(a: &[f32], b: &[f32], images: usize, k: usize) -> Result<f64, TrainError> {
    if k == 0 || k >= images {
        return Err(TrainError::Probe(format!(
            "{k} neighbours among {images} images; give more images, or 1 to {} neighbours",
            images.saturating_sub(1)
        )));
    }
    let [a, b] = [neighbours(a, images, k)?, neighbours(b, images, k)?];
    let common: usize = a
        .chunks_exact(k)
        .zip(b.chunks_exact(k))
        .map(|(a, b)| {
            a.iter()
                .filter(|image| b.binary_search(image).is_ok())
                .count()
        })
        .sum();
    Ok(common as f64 / (images * k) as f64)
}

/// The `k` nearest others of each image, in ascending order of their positions; of equally near ones
/// the first.
fn neighbours(features: &[f32], images: usize, k: usize) -> Result<Vec<usize>, TrainError> {
    let dim = dim_of(features, images)?;
    let mut unit = features.to_vec();
    normalise(&mut unit, dim);
    let arch = Arch::new();
    let nearest: Vec<Vec<usize>> = unit
        .par_chunks(BLOCK * dim)
        .enumerate()
        .map(|(block, queries)| {
            let mut similarities = vec![0.0; queries.len() / dim * images];
            dot_products(arch, queries, &unit, dim, &mut similarities);
            let rows = similarities.chunks_exact(images).enumerate();
            rows.flat_map(|(row, similarities)| {
                let own = block * BLOCK + row;
                let mut order: Vec<usize> = (0..images).filter(|&image| image != own).collect();
                order.select_nth_unstable_by(k - 1, |&a, &b| {
                    similarities[b].total_cmp(&similarities[a]).then(a.cmp(&b))
                });
                order.truncate(k);
                order.sort_unstable();
                order
            })
            .collect()
        })
        .collect();
    Ok(nearest.concat())
}

/// Linear centred kernel alignment of two sets of features (Kornblith et al. 2019), with the unbiased
/// estimator of the Hilbert-Schmidt independence criterion (Song et al. 2012): 1 where they differ by a
/// rotation and a scale only, about 0 where they are independent, whatever their dimensions.
///
/// Features are row-major, one row per image. Where one of the two does not vary, there is nothing to
/// agree with, and the result is 0.
///
/// # Errors
/// [`TrainError::Probe`] for features that are not of `images` images, or fewer than 4 images.
pub fn linear_cka(a: &[f32], b: &[f32], images: usize) -> Result<f64, TrainError> {
    if images < 4 {
        return Err(TrainError::Probe(format!(
            "{images} images; kernel alignment needs at least 4"
        )));
    }
    let [a, b] = [gram(a, images)?, gram(b, images)?];
    let product = independence(&a, &a, images) * independence(&b, &b, images);
    Ok(match product > 0.0 {
        true => independence(&a, &b, images) / product.sqrt(),
        false => 0.0,
    })
}

/// Inner products of all pairs of centred rows, with zeros on the diagonal.
fn gram(features: &[f32], images: usize) -> Result<Vec<f32>, TrainError> {
    let dim = dim_of(features, images)?;
    let mut means = vec![0.0_f64; dim];
    for row in features.chunks_exact(dim) {
        means
            .iter_mut()
            .zip(row)
            .for_each(|(mean, &v)| *mean += f64::from(v));
    }
    let rows = features.chunks_exact(dim).flat_map(|row| {
        let centred = row.iter().zip(&means);
        centred.map(|(&v, mean)| (f64::from(v) - mean / images as f64) as f32)
    });
    let centred: Vec<f32> = rows.collect();
    let mut gram = vec![0.0; images * images];
    let arch = Arch::new();
    gram.par_chunks_mut(BLOCK * images)
        .zip(centred.par_chunks(BLOCK * dim))
        .for_each(|(out, rows)| dot_products(arch, rows, &centred, dim, out));
    (0..images).for_each(|i| gram[i * images + i] = 0.0);
    Ok(gram)
}

/// The unbiased estimate from two Gram matrices with zero diagonals, up to a factor that both have.
fn independence(a: &[f32], b: &[f32], images: usize) -> f64 {
    let sums: Vec<[f64; 3]> = a
        .par_chunks_exact(images)
        .zip(b.par_chunks_exact(images))
        .map(|(a, b)| {
            let sum = |row: &[f32]| row.iter().map(|&v| f64::from(v)).sum::<f64>();
            let products = a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y));
            [products.sum(), sum(a), sum(b)]
        })
        .collect();
    let total = |part: fn(&[f64; 3]) -> f64| sums.iter().map(part).sum::<f64>();
    let n = images as f64;
    total(|row| row[0]) + total(|row| row[1]) * total(|row| row[2]) / ((n - 1.0) * (n - 2.0))
        - 2.0 / (n - 2.0) * total(|row| row[1] * row[2])
}

fn dim_of(features: &[f32], images: usize) -> Result<usize, TrainError> {
    let dim = features.len() / images.max(1);
    if dim == 0 || features.len() != dim * images {
        let what = format!(
            "{} values are not features of {images} images",
            features.len()
        );
        return Err(TrainError::Probe(what));
    }
    match features.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(TrainError::Probe(format!(
            "feature {} of image {} is {}",
            index % dim,
            index / dim,
            features[index]
        ))),
        None => Ok(dim),
    }
}

/// Spearman's rank correlation of pairs; tied values share the mean of their ranks. `None` for fewer
/// than two pairs, or where one side is all ties.
pub fn rank_correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let (a, b) = (ranks(&a), ranks(&b));
    let mean = (pairs.len() as f64 - 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| (a - mean) * (b - mean)).sum()
    };
    let spread = product(&a, &a) * product(&b, &b);
    (spread > 0.0).then(|| product(&a, &b) / spread.sqrt())
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut below = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = below as f64 + (tied.len() as f64 - 1.0) / 2.0;
        tied.iter().for_each(|&index| ranks[index] = rank);
        below += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const IMAGES: usize = 120;

    fn noise(dim: usize, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..IMAGES * dim)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect()
    }

    /// `features` in another basis, three times as large and shifted.
    fn moved(features: &[f32]) -> Vec<f32> {
        let pairs = features.chunks_exact(2);
        pairs
            .flat_map(|p| {
                [
                    3.0 * (0.6 * p[0] - 0.8 * p[1]) + 5.0,
                    3.0 * (0.8 * p[0] + 0.6 * p[1]) - 2.0,
                ]
            })
            .collect()
    }

    #[test]
    fn rotation_scale_and_shift_do_not_change_the_alignment() {
        let a = noise(8, 1);
        assert!((linear_cka(&a, &moved(&a), IMAGES).unwrap() - 1.0).abs() < 1e-5);
    }

    #[test]
    fn independent_features_agree_as_chance_does() {
        let (a, b) = (noise(8, 1), noise(50, 2));
        assert!(linear_cka(&a, &b, IMAGES).unwrap().abs() < 0.1);
        let overlap = neighbour_overlap(&a, &b, IMAGES, 12).unwrap();
        assert!((overlap - 0.1).abs() < 0.03, "{overlap}");
    }

    #[test]
    fn agreement_falls_as_noise_grows() {
        let (a, extra) = (noise(8, 1), noise(8, 3));
        let noisy =
            |share: f32| -> Vec<f32> { a.iter().zip(&extra).map(|(v, e)| v + share * e).collect() };
        let overlap = |share| neighbour_overlap(&a, &noisy(share), IMAGES, 10).unwrap();
        let alignment = |share| linear_cka(&a, &noisy(share), IMAGES).unwrap();
        assert_eq!(overlap(0.0), 1.0);
        for shares in [[0.0, 0.1], [0.1, 0.5], [0.5, 2.0]] {
            assert!(overlap(shares[0]) > overlap(shares[1]), "{shares:?}");
            assert!(alignment(shares[0]) > alignment(shares[1]), "{shares:?}");
        }
    }

    #[test]
    fn features_that_do_not_vary_agree_with_nothing() {
        assert_eq!(
            linear_cka(&noise(8, 1), &[1.0; IMAGES], IMAGES).unwrap(),
            0.0
        );
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let (a, b) = (noise(9, 1), noise(5, 2));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                (
                    linear_cka(&a, &b, IMAGES).unwrap(),
                    neighbour_overlap(&a, &b, IMAGES, 5).unwrap(),
                )
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn unusable_features_are_refused() {
        let a = noise(8, 1);
        assert!(neighbour_overlap(&a, &a, IMAGES, 0).is_err());
        assert!(neighbour_overlap(&a, &a, IMAGES, IMAGES).is_err());
        assert!(neighbour_overlap(&a, &a[1..], IMAGES, 5).is_err());
        assert!(linear_cka(&a, &[], IMAGES).is_err());
        assert!(linear_cka(&a, &vec![f32::NAN; IMAGES], IMAGES).is_err());
        assert!(linear_cka(&a[..3], &a[..3], 3).is_err());
    }

    #[test]
    fn ranks_ignore_distances_and_share_ties() {
        assert_eq!(ranks(&[5.0, 1.0, 5.0, 900.0]), [1.5, 0.0, 1.5, 3.0]);
        let rising = [(1.0, 2.0), (2.0, 3.0), (9.0, 100.0)];
        assert!((rank_correlation(&rising).unwrap() - 1.0).abs() < 1e-12);
        let falling = rising.map(|(a, b)| (a, -b));
        assert!((rank_correlation(&falling).unwrap() + 1.0).abs() < 1e-12);
        assert_eq!(rank_correlation(&[(1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(rank_correlation(&[]), None);
    }
}
