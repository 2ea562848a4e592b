//! Every output vector of a network, in float and in integers.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use burn::tensor::{Device, Tensor, TensorData};
use slimbit_data::Preprocess;
use slimbit_engine::{Model, Session};
use slimbit_graph::{Graph, Point, Shape, Width};
use slimbit_interchange::{Network, Norms};
use slimbit_nn::{Mode, Net, NormMode, Quantisation};

use super::features::Images;

/// Images per batch.
const BATCH: usize = 32;

/// Output vectors by name, one row per image.
pub(super) type Vectors = BTreeMap<String, Vec<f32>>;

/// The float network on images, with the statistics that it came with.
pub(super) fn float(
    network: &Network,
    preprocess: &Preprocess,
    images: &Images,
) -> Result<Vectors> {
    let batches = images.codes.chunks(BATCH * images.size);
    float_batches(network, batches.map(|codes| preprocess.normalise(codes)))
}

/// The same on normalised values `[N, C, H, W]`.
pub(super) fn float_values(network: &Network, values: &[f32]) -> Result<Vectors> {
    let batches = values.chunks(BATCH * network.graph.input_shape().elements());
    float_batches(network, batches.map(<[f32]>::to_vec))
}

fn float_batches(network: &Network, batches: impl Iterator<Item = Vec<f32>>) -> Result<Vectors> {
    let float = Float::new(network)?;
    let mut vectors = Vectors::new();
    for values in batches {
        append(&mut vectors, float.run(values)?);
    }
    Ok(vectors)
}

/// One point on the integer engine, an image per thread.
pub(super) fn engine(model: &Arc<Model>, point: Point, images: &Images) -> Result<Vectors> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut session = Session::with_threads(Arc::clone(model), point, threads)?;
    let mut vectors = Vectors::new();
    for codes in images.codes.chunks(BATCH * images.size) {
        append(&mut vectors, run_batch(&mut session, codes)?);
    }
    Ok(vectors)
}

/// Output vectors of a batch of images, at the session's point.
pub(super) fn run_batch(session: &mut Session, codes: &[u8]) -> Result<Vectors> {
    let names = vectors_of(session.model().graph(), session.point().width)?;
    let mut vectors = Vectors::new();
    for outputs in session.run_batch(codes)?.iter() {
        for name in &names {
            let output = outputs
                .get(name)
                .with_context(|| format!("output `{name}`"))?;
            vectors
                .entry(name.clone())
                .or_default()
                .extend(output.to_f32());
        }
    }
    Ok(vectors)
}

/// A float network that is ready to run, with the statistics that it came with.
pub(super) struct Float {
    net: Net,
    norms: Norms,
    /// Its output vectors.
    names: Vec<String>,
    device: Device,
}

impl Float {
    pub(super) fn new(network: &Network) -> Result<Self> {
        let device = slimbit_nn::parse_device("cpu")?;
        Ok(Self {
            net: Net::from_params(network.graph.clone(), &network.params, &device)?,
            norms: network.norms.clone(),
            names: vectors_of(&network.graph, Width::FULL)?,
            device,
        })
    }

    /// Output vectors of a batch of normalised images `[N, C, H, W]`.
    pub(super) fn run(&self, values: Vec<f32>) -> Result<Vectors> {
        let mode = Mode {
            width: Width::FULL,
            quant: Quantisation::Off,
            norm: NormMode::Given(&self.norms),
        };
        let shape = self.net.graph().input_shape();
        let (height, width) = shape.spatial();
        let dims = [
            values.len() / shape.elements(),
            shape.channels(),
            height,
            width,
        ];
        let images = Tensor::<4>::from_data(TensorData::new(values, dims), &self.device);
        let outputs = self.net.forward(&images, &mode, None)?;
        let rows = |name: &String| {
            let rows = outputs.vector(name)?.into_data().try_into_vec::<f32>();
            Ok((name.clone(), rows.ok().context("outputs are f32")?))
        };
        self.names.iter().map(rows).collect()
    }
}

fn append(vectors: &mut Vectors, batch: Vectors) {
    for (name, rows) in batch {
        vectors.entry(name).or_default().extend(rows);
    }
}

/// The outputs of a network that are vectors, in their order.
pub(super) fn vectors_of(graph: &Graph, width: Width) -> Result<Vec<String>> {
    let shapes = graph.shapes(width)?;
    let outputs = graph.outputs().iter();
    let vectors = outputs.filter(|(_, id)| matches!(shapes[id.index()], Shape::Vector { .. }));
    Ok(vectors.map(|(name, _)| name.clone()).collect())
}
