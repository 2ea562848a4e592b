//! The inputs of a layer's outputs, sampled from feature maps.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use slimbit_nn::ops::Conv;

use super::gram::Gram;
use super::samples::Samples;

/// Inputs per weight of an output, and inputs in all, that are enough to tell roundings apart.
const PER_WEIGHT: usize = 4;
const LEAST: usize = 8192;

/// Inputs that are gathered at a time.
pub(crate) const ROWS: usize = 2048;

/// Groups of at most this many weights are summed directly; a matrix product would be mostly calls.
const DIRECT: usize = 32;

/// Inputs to sample for a layer with `weights` per output.
pub(crate) fn wanted(weights: usize) -> usize {
    LEAST.max(PER_WEIGHT * weights)
}

/// A feature map `[images, channels, rows, columns]` in parts of `images` images each, the last of
/// which may have fewer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) values: &'a [Vec<f32>],
    pub(crate) images: usize,
}

/// How a layer reads a feature map `[images, channels, rows, columns]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    pub(crate) dims: [usize; 4],
    pub(crate) kernel: [usize; 2],
    pub(crate) conv: Conv,
}

impl Reader {
    /// Weights per output.
    pub(crate) fn weights(&self) -> usize {
        self.dims[1] / self.conv.groups * self.kernel[0] * self.kernel[1]
    }

    /// Adds the moments of about `samples` inputs, spread evenly over images and positions, to the
    /// Gram matrix of each group; returns how many there were. `seen` are the inputs as quantisation
    /// upstream leaves them, `float` those of the float network.
    pub(crate) fn accumulate(
        &self,
        grams: &mut [Gram],
        seen: Parts,
        float: Parts,
        samples: usize,
    ) -> usize {
        let places = self.places(samples);
        for places in places.chunks(ROWS) {
            let row = |group, x: Parts| self.rows(group, x, places);
            if self.weights() <= DIRECT {
                grams.par_iter_mut().enumerate().for_each(|(group, gram)| {
                    add_directly(gram, &row(group, seen), &row(group, float));
                });
            } else {
                for (group, gram) in grams.iter_mut().enumerate() {
                    add_product(gram, row(group, seen), &row(group, float));
                }
            }
        }
        places.len()
    }

    /// About `samples` inputs of one group, spread as [`accumulate`](Self::accumulate) does,
    /// `[inputs, weights]`.
    pub(crate) fn gather(&self, group: usize, x: Parts, samples: usize) -> Vec<f32> {
        self.rows(group, x, &self.places(samples))
    }

    /// Image, row and column of evenly spread outputs, without repetition where all are wanted.
    fn places(&self, samples: usize) -> Vec<[usize; 3]> {
        let [images, _, height, width] = self.dims;
        let [rows, columns] = self.conv.output_size([height, width], self.kernel);
        let all = images * rows * columns;
        let place = |i: usize| [i / (rows * columns), i / columns % rows, i % columns];
        if samples >= all {
            return (0..all).map(place).collect();
        }
        // Multiples of the golden ratio fall between one another, whatever the map's width.
        let golden = (5f64.sqrt() - 1.0) / 2.0;
        let spread = |i: usize| ((i as f64 * golden).fract() * all as f64) as usize;
        (0..samples)
            .map(|i| place(spread(i).min(all - 1)))
            .collect()
    }

    /// The inputs of the outputs at `places`, `[places, weights]`, zero beyond the border.
    fn rows(&self, group: usize, x: Parts, places: &[[usize; 3]]) -> Vec<f32> {
        let [_, channels, height, width] = self.dims;
        let per_group = channels / self.conv.groups;
        let [kh, kw] = self.kernel;
        let Conv {
            stride,
            padding,
            dilation,
            ..
        } = self.conv;
        let mut out = vec![0.0; places.len() * self.weights()];
        let rows = out.par_chunks_exact_mut(self.weights()).zip(places);
        rows.for_each(|(row, &[image, y, z])| {
            let mut target = row.iter_mut();
            let (part, image) = (&x.values[image / x.images], image % x.images);
            for channel in group * per_group..(group + 1) * per_group {
                let plane =
                    &part[(image * channels + channel) * height * width..][..height * width];
                for r in 0..kh {
                    let from_row = (y * stride[0] + r * dilation[0]).wrapping_sub(padding[0]);
                    for s in 0..kw {
                        let column = (z * stride[1] + s * dilation[1]).wrapping_sub(padding[1]);
                        let Some(target) = target.next() else { return };
                        if from_row < height && column < width {
                            *target = plane[from_row * width + column];
                        }
                    }
                }
            }
        });
        out
    }
}

/// What the rounding of a layer knows of its inputs, group by group.
pub(crate) enum Inputs {
    /// Their moments.
    Moments(Vec<Gram>),
    /// Some of them, where the moments would take too much memory or time.
    Samples(Vec<Samples>),
}

fn add_directly(gram: &mut Gram, seen: &[f32], float: &[f32]) {
    let size = gram.size;
    for (seen, float) in seen.chunks_exact(size).zip(float.chunks_exact(size)) {
        for i in 0..size {
            let (value, drift) = (f64::from(seen[i]), f64::from(float[i] - seen[i]));
            for j in 0..size {
                gram.moments[i * size + j] += value * f64::from(seen[j]);
                gram.drift[i * size + j] += drift * f64::from(seen[j]);
            }
        }
    }
}

fn add_product(gram: &mut Gram, seen: Vec<f32>, float: &[f32]) {
    let size = gram.size;
    let count = seen.len() / size;
    let drift: Vec<f32> = float.iter().zip(&seen).map(|(x, s)| x - s).collect();
    let device = burn::tensor::Device::flex();
    let matrix = |values| Tensor::<2>::from_data(TensorData::new(values, [count, size]), &device);
    let seen = matrix(seen);
    for (sums, left) in [
        (&mut gram.moments, seen.clone()),
        (&mut gram.drift, matrix(drift)),
    ] {
        let product = left.transpose().matmul(seen.clone()).into_data();
        let product = product.as_slice::<f32>().expect("products of f32 are f32");
        sums.iter_mut()
            .zip(product)
            .for_each(|(sum, &x)| *sum += f64::from(x));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(channels: usize, groups: usize) -> Reader {
        Reader {
            dims: [2, channels, 5, 4],
            kernel: [3, 3],
            conv: Conv {
                groups,
                ..Conv::same(3, 2)
            },
        }
    }

    fn map(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * seed).sin()).collect()
    }

    /// The sum of squares of a layer's outputs is `wᵀ·H·w`, by the convolution itself.
    #[test]
    fn moments_predict_the_outputs_of_the_layer() {
        for (channels, groups) in [(4, 1), (8, 2), (3, 3)] {
            let reader = reader(channels, groups);
            let size = reader.weights();
            let seen = map(2 * channels * 20, 0.37);
            let float = map(2 * channels * 20, 0.41);
            let mut grams = vec![Gram::new(size); groups];
            let parts =
                [&seen, &float].map(|x| [x[..channels * 20].to_vec(), x[channels * 20..].to_vec()]);
            let whole = [seen.clone()];
            let [one_each, together] = [&parts[0][..], &whole].map(|values| Parts {
                values,
                images: 2 / values.len(),
            });
            for places in [1, 5, 12] {
                let gather = |x| reader.gather(groups - 1, x, places);
                assert_eq!(gather(one_each), gather(together));
            }
            let of_float = Parts {
                values: &parts[1],
                images: 1,
            };
            let count = reader.accumulate(&mut grams, one_each, of_float, usize::MAX);
            assert_eq!(count, 2 * 3 * 2);

            let device = burn::tensor::Device::flex();
            let weights = map(groups * size, 0.9);
            let tensor = |values: &[f32], dims: [usize; 4]| {
                Tensor::<4>::from_data(TensorData::new(values.to_vec(), dims), &device)
            };
            let kernel = tensor(&weights, [groups, channels / groups, 3, 3]);
            let outputs = |x: &[f32]| -> Vec<f32> {
                let y =
                    slimbit_nn::ops::conv2d(tensor(x, reader.dims), kernel.clone(), reader.conv);
                y.into_data().try_into_vec().unwrap()
            };
            let (out_seen, out_float) = (outputs(&seen), outputs(&float));
            for (group, gram) in grams.iter().enumerate() {
                let w: Vec<f64> = weights[group * size..][..size]
                    .iter()
                    .map(|&w| w.into())
                    .collect();
                let own = |i: &usize| i / 6 % groups == group;
                let squares: f64 = (0..out_seen.len())
                    .filter(own)
                    .map(|i| f64::from(out_seen[i]).powi(2))
                    .sum();
                assert!((gram.cost(&w) - squares).abs() < 1e-3 * squares, "{groups}");
                let drift: f64 = (0..out_seen.len())
                    .filter(own)
                    .map(|i| f64::from(out_float[i] - out_seen[i]) * f64::from(out_seen[i]))
                    .sum();
                let rows = gram.drift.chunks_exact(size);
                let found: f64 = rows
                    .zip(&w)
                    .map(|(row, a)| a * super::super::gram::dot(row, &w))
                    .sum();
                assert!(
                    (found - drift).abs() < 1e-3 * squares,
                    "{groups}: {found} {drift}"
                );
            }
        }
    }

    #[test]
    fn samples_are_spread_over_the_map() {
        let reader = reader(4, 1);
        let places = reader.places(8);
        assert_eq!(places.len(), 8);
        for column in 0..2 {
            assert!(places.iter().any(|p| p[2] == column));
        }
        assert!(places.iter().any(|p| p[0] == 1));
        let mut grams = vec![Gram::new(reader.weights())];
        let map = [map(160, 0.2)];
        let parts = Parts {
            values: &map,
            images: 2,
        };
        assert_eq!(reader.accumulate(&mut grams, parts, parts, 5), 5);
        assert!(grams[0].drift.iter().all(|&d| d == 0.0));
    }
}
