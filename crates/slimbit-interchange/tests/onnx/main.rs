//! ONNX files that this crate wrote, read back by it, whole and damaged.

// Of the engine's test models, only a part is of use here.
#[allow(dead_code)]
#[path = "../../../slimbit-engine/tests/engine/graphs.rs"]
mod graphs;
#[allow(dead_code)]
#[path = "../../../slimbit-engine/tests/engine/lowering.rs"]
mod lowering;

mod corpus;
mod damage;
mod quantised;
mod round_trip;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use slimbit_graph::{Array, Graph, Op, Params, Width};
use slimbit_interchange::{Network, Norms};

/// `graph` with random parameters, all of them different.
fn random_network(graph: Graph, seed: u64) -> Network {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values = |count: usize, low: f32, high: f32| -> Vec<f32> {
        (0..count).map(|_| rng.random_range(low..high)).collect()
    };
    let mut params = Params::default();
    for spec in graph.params(Width::FULL).unwrap() {
        let data = values(spec.shape.iter().product(), -1.0, 1.0);
        let array = Array {
            shape: spec.shape,
            data,
        };
        params.0.insert(spec.name, array);
    }
    let shapes = graph.shapes(Width::FULL).unwrap();
    let mut norms = Norms::new();
    for (node, shape) in graph.nodes().iter().zip(shapes) {
        if let Op::BatchNorm { .. } = node.op {
            let channels = shape.channels();
            let statistics = (values(channels, -0.5, 0.5), values(channels, 0.5, 2.0));
            norms.insert(node.name.clone(), statistics);
        }
    }
    Network::new(graph, params, norms).unwrap()
}
