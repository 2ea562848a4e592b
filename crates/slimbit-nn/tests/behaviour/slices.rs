//! Narrow networks are the leading slices of the wide one (U3, U4).

use crate::networks::{extract, images, to_vec, width};
use burn::tensor::Device;
use slimbit_graph::Width;
use slimbit_nn::{Mode, Net};

#[test]
fn a_width_equals_the_network_cut_out_of_it() {
    let device = Device::flex();
    for graph in crate::networks::all() {
        let net = Net::init(graph.clone(), 7, &device).unwrap();
        let x = images(&graph, 3, 1, &device);
        for w in [0.25, 0.6, 1.0].map(width) {
            let (narrow, params) = extract(&graph, &net.params(), w);
            let narrow = Net::from_params(narrow, &params, &device).unwrap();
            let name = &graph.outputs().last().unwrap().0;
            let sliced = net.forward(&x, &Mode::float(w), None).unwrap();
            let cut = narrow.forward(&x, &Mode::float(Width::FULL), None).unwrap();
            let sliced = to_vec(&sliced.vector(name).unwrap());
            let cut = to_vec(&cut.vector(name).unwrap());
            assert_eq!(sliced.len(), cut.len());
            assert!(sliced.iter().any(|v| *v != sliced[0]));
            for (s, c) in sliced.iter().zip(&cut) {
                assert!((s - c).abs() < 1e-5, "{} at {w}: {s} {c}", graph.name());
            }
        }
    }
}

#[test]
fn gradients_stay_inside_the_slice_and_match_finite_differences() {
    let device = Device::flex().autodiff();
    let w = width(0.5);
    for graph in crate::networks::all() {
        let net = Net::init(graph.clone(), 3, &device).unwrap();
        let x = images(&graph, 4, 2, &device);
        let name = &graph.outputs().last().unwrap().0;
        let loss_of = |net: &Net| {
            let y = net.forward(&x, &Mode::float(w), None).unwrap();
            let y = y.vector(name).unwrap();
            // Uneven weights: a plain sum is blind to what batch-norm removes.
            let weights = crate::networks::values(y.dims().iter().product(), 9);
            let weights = burn::tensor::TensorData::new(weights, y.dims());
            (y.clone() * burn::Tensor::from_data(weights, &y.device())).sum()
        };
        let grads = loss_of(&net).backward();
        let narrow = graph.params(w).unwrap();
        let params = net.params();
        for (i, (spec, block)) in net.store().specs().iter().zip(&narrow).enumerate() {
            let gradient = net.store().values()[i].grad(&grads).unwrap();
            let gradient = slimbit_graph::Array {
                shape: spec.shape.clone(),
                data: to_vec(&gradient),
            };
            let inside = gradient.leading(&block.shape).data;
            let nonzero = |v: &[f32]| v.iter().filter(|g| **g != 0.0).count();
            assert_eq!(nonzero(&gradient.data), nonzero(&inside), "{}", spec.name);
            assert!(nonzero(&inside) > 0, "{} has no gradient", spec.name);
            // The entry of the largest gradient: finite differences resolve small ones badly.
            let at = (0..gradient.data.len())
                .max_by(|&a, &b| gradient.data[a].abs().total_cmp(&gradient.data[b].abs()))
                .unwrap();
            let shifted = |by: f32| {
                let mut params = params.clone();
                params.0.get_mut(&spec.name).unwrap().data[at] += by;
                let net = Net::from_params(graph.clone(), &params, &Device::flex()).unwrap();
                f64::from(loss_of(&net).into_scalar::<f32>())
            };
            let step = 2e-3;
            let slope = (shifted(step) - shifted(-step)) / (2.0 * f64::from(step));
            let analytic = f64::from(gradient.data[at]);
            let scale = analytic.abs().max(0.05);
            assert!(
                (slope - analytic).abs() < 0.1 * scale,
                "{} of {}: {analytic} against {slope}",
                spec.name,
                graph.name()
            );
        }
    }
}
