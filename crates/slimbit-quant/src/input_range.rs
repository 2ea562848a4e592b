//! Whether a network gets the values that it was trained on.
//!
//! A network file says how pixels become numbers, and nothing in it contradicts a wrong claim, except
//! one thing: the first batch-norm remembers the mean and the variance of what it was trained on.

use burn::tensor::{Tensor, TensorData};
use slimbit_engine::InputCodes;
use slimbit_graph::StageKind;
use slimbit_nn::{Net, Value};

use crate::compare::Normalisation;
use crate::{Norms, QuantError, Warning};

/// Images that are looked at.
const IMAGES: usize = 8;

/// The common ways to normalise, for three channels.
const COMMON: [([f64; 3], [f64; 3]); 5] = [
    ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ([0.5; 3], [0.5; 3]),
    ([0.0; 3], [1.0; 3]),
    ([0.0; 3], [1.0 / 255.0; 3]),
    ([0.485, 0.456, 0.406], [1.0 / 255.0; 3]),
];

/// A normalisation is doubted where the statistics are this far from the trained ones (in nats, the
/// median over channels), another explains them to within half a nat, and by so many times better.
const DOUBTFUL: f64 = 0.75;
const EXPLAINED: f64 = 0.5;
const BETTER: f64 = 4.0;

/// A warning where a common normalisation fits the trained statistics of the first batch-norm much
/// better than the `input`'s own. Networks that do not begin with a convolution and a batch-norm say
/// nothing. `pixels` are whole images, NHWC.
///
/// # Errors
/// [`QuantError::Network`] for a network without its weights.
pub fn of_input(
    net: &Net,
    norms: &Norms,
    input: &InputCodes,
    pixels: &[u8],
) -> Result<Option<Warning>, QuantError> {
    let graph = net.graph();
    let first = net.stages().iter().enumerate().find_map(|(index, stage)| {
        let StageKind::Conv { conv, norm } = stage.kind else {
            return None;
        };
        let norm = norms.get(&graph.node(norm?).name)?;
        (stage.inputs == [0]).then(|| (index, &graph.node(conv).name, norm))
    });
    let Some((index, conv, norm)) = first else {
        return Ok(None);
    };
    let weights = net.store().array(&format!("{conv}.weight"))?.data;
    let bias = net.store().array(&format!("{conv}.bias"));
    let bias = bias.map_or_else(|_| vec![0.0; norm.0.len()], |array| array.data);
    let shape = graph.input_shape();
    let (channels, size) = (shape.channels(), shape.elements());
    let (height, width) = shape.spatial();
    let count = (pixels.len() / size).min(IMAGES);
    let all = pixels.len() / size;
    let chosen: Vec<&[u8]> = (0..count)
        .map(|i| &pixels[i * all / count * size..][..size])
        .collect();
    let distance = |normalisation: &Normalisation| {
        let values = normalised(&chosen, normalisation);
        let data = TensorData::new(values, [count, channels, height, width]);
        let device = net.store().device().clone().without_autodiff();
        let images = Tensor::<4>::from_data(data, &device);
        let outputs = net.accumulate(index, Value::Map(images), &weights);
        median_distance(outputs, &bias, norm)
    };
    let given = Normalisation {
        mean: input.mean.iter().map(|&v| v.into()).collect(),
        std: input.std.iter().map(|&v| v.into()).collect(),
    };
    let Some(own) = distance(&given).filter(|&own| own > DOUBTFUL) else {
        return Ok(None);
    };
    let best = COMMON
        .iter()
        .map(|(mean, std)| of_channels(mean, std, channels))
        .filter_map(|other| Some((distance(&other)?, other)))
        .min_by(|a, b| a.0.total_cmp(&b.0));
    Ok(best
        .filter(|(distance, _)| *distance < EXPLAINED && distance * BETTER < own)
        .map(|(distance, better)| Warning::Input {
            factor: own / distance.max(own / 1e3),
            given,
            better,
        }))
}

/// One of the common normalisations for another number of channels: their average.
fn of_channels(mean: &[f64; 3], std: &[f64; 3], channels: usize) -> Normalisation {
    let spread = |values: &[f64; 3]| match channels {
        3 => values.to_vec(),
        _ => vec![values.iter().sum::<f64>() / 3.0; channels],
    };
    Normalisation {
        mean: spread(mean),
        std: spread(std),
    }
}

/// Images NHWC to normalised values NCHW.
fn normalised(images: &[&[u8]], Normalisation { mean, std }: &Normalisation) -> Vec<f32> {
    let channels = mean.len();
    let mut values = Vec::new();
    for image in images {
        for (channel, (mean, std)) in mean.iter().zip(std).enumerate() {
            let plane = image.iter().skip(channel).step_by(channels);
            values.extend(plane.map(|&p| ((f64::from(p) / 255.0 - mean) / std) as f32));
        }
    }
    values
}

/// How far the outputs' means and variances are from the trained ones: the Kullback-Leibler divergence
/// of normal distributions, the median over channels that were alive in training.
fn median_distance(
    outputs: Tensor<4>,
    bias: &[f32],
    (mean, variance): &(Vec<f32>, Vec<f32>),
) -> Option<f64> {
    let [images, channels, height, width] = outputs.dims();
    let values: Vec<f32> = outputs.into_data().try_into_vec().ok()?;
    let plane = height * width;
    let count = (images * plane) as f64;
    let largest = variance.iter().copied().fold(0.0, f32::max);
    let mut distances: Vec<f64> = (0..channels)
        .filter(|&c| variance[c] > 1e-4 * largest)
        .map(|c| {
            let own = || {
                values
                    .chunks_exact(plane)
                    .skip(c)
                    .step_by(channels)
                    .flatten()
            };
            let centre = own().map(|&x| f64::from(x)).sum::<f64>() / count;
            let spread = own().map(|&x| (f64::from(x) - centre).powi(2));
            let trained = f64::from(variance[c]);
            let ratio = spread.sum::<f64>() / count / trained;
            let shift = centre + f64::from(bias[c]) - f64::from(mean[c]);
            0.5 * (ratio + shift * shift / trained - 1.0 - ratio.max(f64::MIN_POSITIVE).ln())
        })
        .collect();
    distances.sort_by(f64::total_cmp);
    let middle = distances.get(distances.len() / 2).copied();
    middle.filter(|distance| distance.is_finite())
}
