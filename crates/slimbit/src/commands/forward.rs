//! Every output vector of a network, in float and in integers.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use burn::tensor::{Device, Tensor, TensorData};
use slimbit_data::Preprocess;
use slimbit_engine::{Model, Session};
use slimbit_graph::{Graph, Point, Shape, Width};
use slimbit_interchange::{Network, Norms};
use slimbit_nn::{Mode, Net, NormMode, Quantisation, Value};

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
    Float::new(network)?.run_all(batches.map(|codes| preprocess.normalise(codes)))
}

/// The same on pixel codes `[N, H, W, C]`, with the outputs that are maps, in the order CHW.
pub(super) fn float_outputs(
    network: &Network,
    preprocess: &Preprocess,
    codes: &[u8],
) -> Result<Vectors> {
    let batches = codes.chunks(BATCH * preprocess.len());
    let names = network.graph.outputs().iter().map(|(name, _)| name.clone());
    let float = Float {
        names: names.collect(),
        ..Float::new(network)?
    };
    float.run_all(batches.map(|codes| preprocess.normalise(codes)))
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
    /// The outputs that are wanted: its vectors.
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
            let data = match outputs.0.get(name) {
                Some(Value::Map(map)) => map.clone().into_data(),
                Some(Value::Vector(vector)) => vector.clone().into_data(),
                None => anyhow::bail!("output `{name}` was not computed"),
            };
            let rows = data.try_into_vec::<f32>().ok();
            Ok((name.clone(), rows.context("outputs are f32")?))
        };
        self.names.iter().map(rows).collect()
    }

    fn run_all(&self, batches: impl Iterator<Item = Vec<f32>>) -> Result<Vectors> {
        let mut vectors = Vectors::new();
        for values in batches {
            append(&mut vectors, self.run(values)?);
        }
        Ok(vectors)
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
