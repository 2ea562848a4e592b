//! Where fake quantisation rounds, and what it leaves alone (U10, U15).

use crate::networks::{images, to_vec, width};
use burn::tensor::Device;
use slimbit_graph::Width;
use slimbit_graph::backbones::{ResNet, ResNetDepth};
use slimbit_nn::{Averaging, Bits, Mode, Net, NnError, NormMode, Observer, Quantisation};
use slimbit_num::WeightGrid;

fn dynamic<'a>(width: Width, weight: u8, act: u8, grid: WeightGrid) -> Mode<'a> {
    Mode {
        width,
        quant: Quantisation::Dynamic {
            bits: Bits { weight, act },
            grid,
        },
        norm: NormMode::Batch,
    }
}

#[test]
fn resnet18_has_the_reference_quantisers() {
    let graph = ResNet {
        base: 8,
        ..ResNet::cifar(ResNetDepth::D18, [3, 8, 8])
    };
    let net = Net::init(graph.graph().unwrap(), 1, &Device::flex()).unwrap();
    let (weights, activations) = net.quantised_stages();
    assert_eq!((weights.len(), activations.len()), (20, 17));
    let eight: Vec<&str> = net
        .stages()
        .iter()
        .filter(|s| s.eight_bit_weights)
        .map(|s| s.name.as_str())
        .collect();
    assert_eq!(eight, [weights[0]], "the stem alone is pinned to 8 bits");
    assert_eq!(activations[0], weights[0]);
}

#[test]
fn more_bits_come_closer_to_float_and_no_bits_are_float() {
    let device = Device::flex();
    for graph in crate::networks::all() {
        let net = Net::init(graph.clone(), 5, &device).unwrap();
        let x = images(&graph, 8, 3, &device);
        let name = &graph.outputs()[0].0;
        let run = |mode: &Mode<'_>| {
            let y = net.forward(&x, mode, None).unwrap();
            to_vec(&y.vector(name).unwrap())
        };
        let w = width(0.5);
        let float = run(&Mode::float(w));
        let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
        let error = |bits: u8| {
            let y = run(&dynamic(w, bits, bits, WeightGrid::MinMax));
            let difference: Vec<f32> = y.iter().zip(&float).map(|(a, b)| a - b).collect();
            norm(&difference) / norm(&float)
        };
        assert_eq!(run(&dynamic(w, 0, 0, WeightGrid::Nested)), float);
        let errors = [2, 4, 8].map(error);
        assert!(
            errors[0] > errors[1] && errors[1] > errors[2] && errors[2] < 0.05,
            "{}: {errors:?}",
            graph.name()
        );
    }
}

/// Beyond the stem, which keeps its 8 bits, nothing is left to round.
#[test]
fn sixteen_bits_no_longer_change_the_result() {
    let device = Device::flex();
    let graph = crate::networks::residual();
    let net = Net::init(graph.clone(), 5, &device).unwrap();
    let x = images(&graph, 8, 3, &device);
    let run = |bits: u8| {
        let mode = dynamic(Width::FULL, bits, bits, WeightGrid::MinMax);
        let y = net.forward(&x, &mode, None).unwrap();
        to_vec(&y.vector("features").unwrap())
    };
    let (sixteen, fifteen) = (run(16), run(15));
    let scale = sixteen.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (a, b) in sixteen.iter().zip(&fifteen) {
        assert!((a - b).abs() < 1e-3 * scale, "{a} {b}");
    }
}

#[test]
fn measured_ranges_round_like_dynamic_ones_at_high_precision() {
    let device = Device::flex();
    let graph = crate::networks::residual();
    let net = Net::init(graph.clone(), 5, &device).unwrap();
    let x = images(&graph, 8, 3, &device);
    let mut observer = Observer::new(Averaging::Cumulative);
    net.forward(&x, &Mode::float(Width::FULL), Some(&mut observer))
        .unwrap();
    let bits = Bits { weight: 8, act: 8 };
    let ranges = Mode {
        quant: Quantisation::Ranges {
            bits,
            grid: WeightGrid::Nested,
            ranges: observer.ranges(),
        },
        ..Mode::float(Width::FULL)
    };
    let dynamic = dynamic(Width::FULL, 8, 8, WeightGrid::Nested);
    let [a, b] = [ranges, dynamic].map(|mode| {
        let y = net.forward(&x, &mode, None).unwrap();
        to_vec(&y.vector("features").unwrap())
    });
    assert_ne!(a, b);
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() < 0.05, "{a} {b}");
    }
}

#[test]
fn what_a_mode_lacks_is_named() {
    let device = Device::flex();
    let graph = crate::networks::residual();
    let net = Net::init(graph.clone(), 5, &device).unwrap();
    let x = images(&graph, 2, 3, &device);
    let fails = |mode: &Mode<'_>| net.forward(&x, mode, None).unwrap_err().to_string();
    let empty = Default::default();
    let bits = Bits { weight: 4, act: 4 };
    let ranges = Quantisation::Ranges {
        bits,
        grid: WeightGrid::Nested,
        ranges: &empty,
    };
    let float = Mode::float(Width::FULL);
    let text = fails(&Mode {
        quant: ranges,
        ..float
    });
    assert!(text.contains("stem"), "{text}");
    let none = Default::default();
    let text = fails(&Mode {
        norm: NormMode::Given(&none),
        ..float
    });
    assert!(text.contains("stem.bn"), "{text}");
    let text = fails(&dynamic(Width::FULL, 1, 4, WeightGrid::Nested));
    assert!(text.contains("W1A4"), "{text}");
    let wrong = images(&crate::networks::bottleneck(), 2, 3, &device);
    assert!(matches!(
        net.forward(&wrong, &float, None),
        Err(NnError::Shape { .. })
    ));
}
