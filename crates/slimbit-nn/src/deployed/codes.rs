//! Batches of integer codes, and exact sums over them.

use burn::tensor::{Device, Tensor, TensorData};
use slimbit_num::{ActQuant, Clip, Table};

use crate::ops::{self, Conv};
use crate::params::to_vec;

/// Whole numbers up to this one are exact in `f32`.
const EXACT: f64 = (1 << 24) as f64;

/// Codes of a batch `[images, channels, rows, columns]` and what they mean.
#[derive(Clone, Debug)]
pub(super) struct Codes {
    pub(super) values: Vec<f32>,
    pub(super) dims: [usize; 4],
    pub(super) scale: f32,
    pub(super) zero_point: i32,
    /// Range of the codes.
    pub(super) clip: Clip,
}

impl Codes {
    /// Codes of `quant` that are yet to be filled in.
    pub(super) fn with_quant(quant: ActQuant, values: Vec<f32>, dims: [usize; 4]) -> Self {
        Self {
            values,
            dims,
            scale: quant.scale,
            zero_point: quant.zero_point.into(),
            clip: quant.clip(),
        }
    }

    pub(super) fn quant(&self) -> ActQuant {
        ActQuant {
            scale: self.scale,
            zero_point: self.zero_point as u8,
            bits: (32 - self.clip.hi.leading_zeros()) as u8,
        }
    }

    pub(super) fn tensor(&self) -> Tensor<4> {
        Tensor::from_data(
            TensorData::new(self.values.clone(), self.dims),
            &Device::flex(),
        )
    }

    pub(super) fn replaced(&self, values: &Tensor<4>) -> Self {
        Self {
            dims: values.dims(),
            values: to_vec(values),
            ..self.clone()
        }
    }

    /// `q - z`.
    pub(super) fn centred(&self) -> Tensor<4> {
        self.tensor() - self.zero_point as f32
    }

    /// Largest `|q - z|` of any code.
    fn reach(&self) -> f64 {
        let above = self.clip.hi - self.zero_point;
        f64::from(above.max(self.zero_point - self.clip.lo))
    }
}

/// Integer weights of the leading block, `[out, in / groups, rows, columns]`.
pub(super) struct Weights {
    pub(super) codes: Vec<f32>,
    pub(super) shape: [usize; 4],
    pub(super) scales: Vec<f32>,
}

/// Exact accumulators `[images, channels, rows, columns]`.
pub(super) struct Sums {
    pub(super) values: Vec<f64>,
    pub(super) dims: [usize; 4],
}

pub(super) fn accumulate(x: &Codes, weights: &Weights, conv: Conv) -> Sums {
    let [out, inputs, kh, kw] = weights.shape;
    let device = Device::flex();
    let kernel = TensorData::new(weights.codes.clone(), weights.shape);
    let kernel = Tensor::<4>::from_data(kernel, &device);
    let centred = x.centred();
    let mut sums = Sums {
        values: Vec::new(),
        dims: [0; 4],
    };
    for (first, last) in exact_runs(weights, x.reach(), conv.groups) {
        let (part, kernel) = match (first, last) == (0, inputs) {
            true => (centred.clone(), kernel.clone()),
            false => {
                let [images, _, height, width] = x.dims;
                let part = [0..images, first..last, 0..height, 0..width];
                let block = [0..out, first..last, 0..kh, 0..kw];
                (centred.clone().slice(part), kernel.clone().slice(block))
            }
        };
        let y = ops::conv2d(part, kernel, conv);
        sums.dims = y.dims();
        let values = to_vec(&y).into_iter().map(f64::from);
        if sums.values.is_empty() {
            sums.values = values.collect();
        } else {
            sums.values
                .iter_mut()
                .zip(values)
                .for_each(|(s, v)| *s += v);
        }
    }
    sums
}

/// Cuts the input channels into runs over which no output channel's sum of `|w·(q - z)|` exceeds
/// what `f32` holds exactly. Grouped convolutions are short enough to stay whole.
fn exact_runs(weights: &Weights, reach: f64, groups: usize) -> Vec<(usize, usize)> {
    let [out, inputs, kh, kw] = weights.shape;
    let taps = kh * kw;
    if groups > 1 {
        return vec![(0, inputs)];
    }
    let mut runs = Vec::new();
    let mut sums = vec![0f64; out];
    let mut first = 0;
    for input in 0..inputs {
        let magnitude = |o: usize| -> f64 {
            let at = (o * inputs + input) * taps;
            let kernel = &weights.codes[at..at + taps];
            kernel.iter().map(|&w| f64::from(w.abs()) * reach).sum()
        };
        let added: Vec<f64> = (0..out).map(magnitude).collect();
        if sums.iter().zip(&added).any(|(s, a)| s + a > EXACT) && input > first {
            runs.push((first, input));
            first = input;
            sums.fill(0.0);
        }
        sums.iter_mut().zip(added).for_each(|(s, a)| *s += a);
    }
    runs.push((first, inputs));
    runs
}

pub(super) fn tabulate(x: &Codes, table: &Table) -> Codes {
    let values = x.values.iter().map(|&q| f32::from(table.apply(q as u8)));
    Codes {
        values: values.collect(),
        ..x.clone()
    }
}

/// `clip(floor(v + 1/2))`.
pub(super) fn code(v: f64, clip: Clip) -> f32 {
    clip.apply((v + 0.5).floor() as i64) as f32
}
