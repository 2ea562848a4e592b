//! The float network on Burn: the baseline of every quantised point.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use burn::tensor::{Tensor, TensorData};
use rayon::ThreadPool;
use slimbit_data::Preprocess;
use slimbit_engine::InputCodes;
use slimbit_graph::{Graph, Params, Width};
use slimbit_interchange::{FileKind, Network};
use slimbit_nn::{Averaging, Mode, Net, NormMode, Observer, Quantisation};
use slimbit_quant::{Norms, input_values};
use slimbit_train::Checkpoint;

use super::features::{Images, feature_output};
use super::open::{self, Wanted};
use super::{export, quantize};
use crate::cli::BatchNorm;

/// Images per batch-norm batch.
const BATCH: usize = 128;

/// Images on which batch-norm is estimated again.
pub(super) const CALIBRATION: usize = 1024;

/// Weight of a batch in exponentially averaged statistics, and passes over the images: US3L's (spec section 3.9).
const EXPONENTIAL: (f64, usize) = (0.1, 3);

/// The float network that a `.slim` file was made of.
pub(super) struct FloatSource {
    weights: Weights,
    preprocess: Preprocess,
}

/// Where the parameters come from.
enum Weights {
    /// A run, which has no batch-norm statistics and may have parameters of each width.
    Run(Box<Checkpoint>),
    /// A network file, with statistics of the full width.
    Network(Box<Network>),
}

impl FloatSource {
    /// The newest checkpoint of a run directory, or a network file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if open::expect(path, &[Wanted::Network, Wanted::Run])? == FileKind::Run {
            let checkpoint = export::latest_checkpoint(path)?;
            return Ok(Self {
                preprocess: checkpoint.config.preprocess.clone(),
                weights: Weights::Run(Box::new(checkpoint)),
            });
        }
        let network = open::network(path)?;
        Ok(Self {
            preprocess: quantize::preprocess_of(&network, path)?,
            weights: Weights::Network(Box::new(network)),
        })
    }

    /// Refuses to be compared with a model that sees other images.
    pub(super) fn check_preprocess(
        &self,
        path: &Path,
        model: &Preprocess,
        file: &Path,
    ) -> Result<()> {
        if self.preprocess != *model {
            bail!(
                "{} and {} do not preprocess alike; give the run or network that the file was made of",
                path.display(),
                file.display()
            );
        }
        Ok(())
    }

    /// The network at a width, with the statistics that it came with, or else those of `images`.
    pub(super) fn at(
        &self,
        width: Width,
        input: &InputCodes,
        images: &Images,
    ) -> Result<FloatNetwork> {
        match &self.weights {
            Weights::Run(run) => {
                FloatNetwork::new(&run.graph, &run.params_at(width)?, width, input, images)
            }
            Weights::Network(network) if width == Width::FULL => {
                let Network {
                    graph,
                    params,
                    norms,
                    ..
                } = &**network;
                FloatNetwork::with_norms(graph, params, width, input, norms.clone())
            }
            Weights::Network(network) => {
                FloatNetwork::new(&network.graph, &network.params, width, input, images)
            }
        }
    }
}

/// A network at one width, with batch-norm statistics of its own.
pub(super) struct FloatNetwork {
    net: Net,
    width: Width,
    norms: Norms,
    input: InputCodes,
    output: String,
}

impl FloatNetwork {
    /// The network with the given parameters; batch-norm is estimated on `images`.
    pub(super) fn new(
        graph: &Graph,
        params: &Params,
        width: Width,
        input: &InputCodes,
        images: &Images,
    ) -> Result<Self> {
        let estimate = BatchNorm::Cumulative;
        Self::with_estimate(graph, params, width, input, images, estimate)
    }

    /// The network with the given parameters, and statistics that come from `images` in the given way.
    pub(super) fn with_estimate(
        graph: &Graph,
        params: &Params,
        width: Width,
        input: &InputCodes,
        images: &Images,
        estimate: BatchNorm,
    ) -> Result<Self> {
        let mut float = Self::with_norms(graph, params, width, input, Norms::new())?;
        let (momentum, passes) = EXPONENTIAL;
        let (averaging, passes) = match estimate {
            BatchNorm::Exponential => (Averaging::Exponential { momentum }, passes),
            BatchNorm::Cumulative | BatchNorm::None => (Averaging::Cumulative, 1),
        };
        let mut observer = Observer::new(averaging);
        for start in (0..passes).flat_map(|_| (0..images.len()).step_by(BATCH)) {
            let batch = float.batch(images, start..(start + BATCH).min(images.len()));
            float
                .net
                .forward(&batch, &Mode::float(width), Some(&mut observer))?;
        }
        float.norms = observer.norms();
        if estimate == BatchNorm::None {
            for (mean, variance) in float.norms.values_mut() {
                mean.fill(0.0);
                variance.fill(1.0);
            }
        }
        Ok(float)
    }

    /// The network with the given parameters and statistics.
    fn with_norms(
        graph: &Graph,
        params: &Params,
        width: Width,
        input: &InputCodes,
        norms: Norms,
    ) -> Result<Self> {
        let device = slimbit_nn::parse_device("cpu")?;
        let output = feature_output(graph)?;
        Ok(Self {
            net: Net::from_params(graph.clone(), params, &device)?,
            width,
            norms,
            input: input.clone(),
            output,
        })
    }

    /// The network and its batch-norm statistics.
    pub(super) fn parts(&self) -> (&Net, &Norms) {
        (&self.net, &self.norms)
    }

    /// Images as the network takes them, NCHW.
    pub(super) fn values(&self, images: &Images, rows: std::ops::Range<usize>) -> Vec<f32> {
        let (height, width) = self.net.graph().input_shape().spatial();
        let pixels = &images.codes[rows.start * images.size..rows.end * images.size];
        input_values(&self.input, pixels, height * width)
    }

    /// The feature vector of every image; `[images, features]`.
    pub(super) fn features(&self, images: &Images) -> Result<Vec<f32>> {
        let mut rows = Vec::new();
        for start in (0..images.len()).step_by(BATCH) {
            let batch = self.batch(images, start..(start + BATCH).min(images.len()));
            rows.extend(self.run(&batch)?);
        }
        Ok(rows)
    }

    /// Seconds that one image takes on the threads of `pool`.
    pub(super) fn seconds(&self, images: &Images, row: usize, pool: &ThreadPool) -> Result<f64> {
        let batch = self.batch(images, row..row + 1);
        pool.install(|| {
            let start = Instant::now();
            self.run(&batch)?;
            Ok(start.elapsed().as_secs_f64())
        })
    }

    fn run(&self, batch: &Tensor<4>) -> Result<Vec<f32>> {
        let mode = Mode {
            width: self.width,
            quant: Quantisation::Off,
            norm: NormMode::Given(&self.norms),
        };
        let outputs = self.net.forward(batch, &mode, None)?;
        let features = outputs.vector(&self.output)?;
        features
            .try_into_data()?
            .try_into_vec()
            .ok()
            .context("features are f32")
    }

    fn batch(&self, images: &Images, rows: std::ops::Range<usize>) -> Tensor<4> {
        let shape = self.net.graph().input_shape();
        let (height, width) = shape.spatial();
        let dims = [rows.len(), shape.channels(), height, width];
        let data = TensorData::new(self.values(images, rows), dims);
        Tensor::from_data(data, self.net.store().device())
    }
}

/// Mean cosine of corresponding rows of two `[images, dim]` matrices.
pub(super) fn mean_cosine(a: &[f32], b: &[f32], dim: usize) -> f64 {
    let cosine = |(a, b): (&[f32], &[f32])| {
        let dot = |x: &[f32], y: &[f32]| -> f64 {
            x.iter()
                .zip(y)
                .map(|(&x, &y)| f64::from(x) * f64::from(y))
                .sum()
        };
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
    };
    let rows = a.len() / dim;
    a.chunks_exact(dim)
        .zip(b.chunks_exact(dim))
        .map(cosine)
        .sum::<f64>()
        / rows as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_of_parallel_and_orthogonal_rows() {
        let (a, b) = ([1.0, 0.0, 3.0, 4.0], [2.0, 0.0, -4.0, 3.0]);
        assert!((mean_cosine(&a, &b, 2) - 0.5).abs() < 1e-12);
    }
}
