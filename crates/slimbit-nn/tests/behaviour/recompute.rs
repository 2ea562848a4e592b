//! Gradient checkpointing against an ordinary pass.

use burn::tensor::{Device, Gradients, Tensor};
use slimbit_graph::Width;
use slimbit_nn::{Averaging, Bits, Mode, Net, NormMode, Observer, Quantisation};
use slimbit_num::WeightGrid;

use crate::networks::{self, images, to_vec, width};

fn gradients(
    net: &Net,
    loss: &Tensor<1>,
    parts: impl FnOnce(&mut Gradients) -> Vec<Gradients>,
) -> Vec<Vec<u32>> {
    let mut first = loss.backward();
    let mut all = parts(&mut first);
    all.push(first);
    let of = |leaf: &Tensor<1>| {
        let found = all.iter_mut().filter_map(|grads| leaf.grad_remove(grads));
        let sum = found.reduce(|a, b| a + b);
        sum.map_or(vec![], |sum| {
            to_vec(&sum).iter().map(|v| v.to_bits()).collect()
        })
    };
    net.store().values().iter().map(of).collect()
}

#[test]
fn features_ranges_and_gradients_are_the_same_bits() {
    let device = Device::flex().autodiff();
    for graph in [
        networks::residual(),
        networks::bottleneck(),
        networks::inverted_residual(),
    ] {
        let net = Net::init(graph.clone(), 1, &device).unwrap();
        for (w, quant) in [
            (Width::FULL, Quantisation::Off),
            (
                width(0.6),
                Quantisation::Dynamic {
                    bits: Bits { weight: 3, act: 4 },
                    grid: WeightGrid::Nested,
                },
            ),
        ] {
            let mode = Mode {
                width: w,
                quant,
                norm: NormMode::Batch,
            };
            let x = images(&graph, 6, 1, &device);
            let (mut seen, mut again) = (
                Observer::new(Averaging::Cumulative),
                Observer::new(Averaging::Cumulative),
            );
            let outputs = net.forward(&x, &mode, Some(&mut seen)).unwrap();
            let features = outputs.vector("features").unwrap();
            let pass = net.forward_recomputed(&x, &mode, Some(&mut again)).unwrap();
            assert_eq!(to_vec(&features), to_vec(&pass.features()));
            // A classifier behind the features is left out.
            let ranges = again.ranges().iter();
            assert!(
                ranges
                    .clone()
                    .all(|(stage, range)| seen.ranges()[stage] == *range)
            );
            assert!(ranges.count() + 1 >= seen.ranges().len());
            assert_eq!(seen.norms(), again.norms());
            let loss = |features: Tensor<2>| (features.clone() * features).sum();
            let ordinary = gradients(&net, &loss(features), |_| vec![]);
            let own = loss(pass.features());
            let recomputed = gradients(&net, &own, |grads| pass.backward(grads).unwrap());
            assert!(
                ordinary
                    .iter()
                    .filter(|gradient| gradient.is_empty())
                    .count()
                    <= 2
            );
            assert_eq!(ordinary, recomputed);
        }
    }
}
