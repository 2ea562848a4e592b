//! The same bits for any number of threads.

use crate::networks::{images, to_vec, width};
use burn::tensor::Device;
use slimbit_nn::losses::{info_nce, normalise};
use slimbit_nn::{Bits, Head, HeadSpec, Mode, Net, NormMode, Quantisation};
use slimbit_num::WeightGrid;

/// The loss and every gradient of a quantised step, with `threads` threads.
fn step(threads: usize) -> Vec<u32> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap();
    pool.install(|| {
        let device = Device::flex().autodiff();
        let mut bits = Vec::new();
        for graph in [
            crate::networks::residual(),
            crate::networks::inverted_residual(),
        ] {
            let net = Net::init(graph.clone(), 1, &device).unwrap();
            let features = graph
                .output_shape("features", slimbit_graph::Width::FULL)
                .unwrap()
                .channels();
            let spec = HeadSpec::projector(features, 512, 256, true);
            let head = Head::init("projector", spec, 1, &device).unwrap();
            let mode = Mode {
                width: width(0.6),
                quant: Quantisation::Dynamic {
                    bits: Bits { weight: 4, act: 4 },
                    grid: WeightGrid::Nested,
                },
                norm: NormMode::Batch,
            };
            let z = [1, 2].map(|seed| {
                let x = images(&graph, 64, seed, &device);
                let y = net.forward(&x, &mode, None).unwrap();
                head.forward(y.vector("features").unwrap()).unwrap()
            });
            let targets = z.clone().map(|z| normalise(z.without_autodiff()));
            let loss = info_nce(z, targets, 0.5);
            bits.extend(to_vec(&loss).iter().map(|v| v.to_bits()));
            let grads = loss.backward();
            for value in net.store().values().iter().chain(head.store().values()) {
                let gradient = value.grad(&grads).unwrap();
                bits.extend(to_vec(&gradient).iter().map(|v| v.to_bits()));
            }
        }
        bits
    })
}

#[test]
fn one_thread_and_two_give_the_same_bits() {
    let one = step(1);
    assert!(one.len() > 10_000);
    assert!(one == step(2), "the number of threads changed a result");
}
