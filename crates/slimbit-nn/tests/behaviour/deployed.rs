//! The simulated engine against plain integer loops, and against the float network.

use crate::networks::{images, to_vec, width};
use burn::tensor::Device;
use slimbit_graph::{Graph, Point, PointStatistics, Precision, StageKind, Width};
use slimbit_nn::{Averaging, Mode, Net, NormMode, Observer};
use slimbit_num::{ActQuant, Affine, Clip, WeightGrid};

const INPUT: ActQuant = ActQuant {
    scale: 1.0 / 127.0,
    zero_point: 128,
    bits: 8,
};

fn calibrate(net: &Net, w: Width, weight_bits: u8, act_bits: u8) -> PointStatistics {
    let x = images(net.graph(), 16, 1, &Device::flex());
    let mut norms = Observer::new(Averaging::Cumulative);
    net.forward(&x, &Mode::float(w), Some(&mut norms)).unwrap();
    let norms = norms.norms();
    let mode = Mode {
        norm: NormMode::Given(&norms),
        ..Mode::float(w)
    };
    let mut ranges = Observer::new(Averaging::Cumulative);
    net.forward(&x, &mode, Some(&mut ranges)).unwrap();
    PointStatistics {
        point: Point::new(w, weight_bits, act_bits).unwrap(),
        ranges: ranges.ranges().clone(),
        norms,
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn eight_bits_stay_close_to_float_in_every_network() {
    let device = Device::flex();
    for graph in crate::networks::all() {
        let net = Net::init(graph.clone(), 5, &device).unwrap();
        let name = &graph.outputs()[0].0;
        let x = images(&graph, 16, 1, &device);
        for w in [0.5, 1.0].map(width) {
            let statistics = calibrate(&net, w, 8, 8);
            let run = |mode: &Mode<'_>| {
                let y = net.forward(&x, mode, None).unwrap();
                to_vec(&y.vector(name).unwrap())
            };
            let float = run(&Mode {
                norm: NormMode::Given(&statistics.norms),
                ..Mode::float(w)
            });
            let deployed = run(&Mode::deployed(&statistics, WeightGrid::Nested, INPUT));
            let similarity = cosine(&float, &deployed);
            assert!(similarity > 0.999, "{} at {w}: {similarity}", graph.name());
            let low = calibrate(&net, w, 2, 4);
            let low = run(&Mode::deployed(&low, WeightGrid::Nested, INPUT));
            assert!(cosine(&float, &low) < similarity);
        }
    }
}

/// Every convolution, sum and pool of the residual network, recomputed from its operands' codes
/// with integer loops and exact rational arithmetic.
#[test]
fn codes_are_those_of_exact_integer_arithmetic() {
    let device = Device::flex();
    let graph = crate::networks::residual();
    let net = Net::init(graph.clone(), 5, &device).unwrap();
    let x = images(&graph, 2, 1, &device);
    for (w, weight_bits, act_bits, grid) in [
        (1.0, 8, 8, WeightGrid::Nested),
        (0.5, 4, 4, WeightGrid::Nested),
        (0.5, 2, 6, WeightGrid::NestedOdd),
        (1.0, 3, 5, WeightGrid::MinMax),
    ] {
        let statistics = calibrate(&net, width(w), weight_bits, act_bits);
        let mode = Mode::deployed(&statistics, grid, INPUT);
        let codes = net.codes(&x, &mode).unwrap();
        check(&graph, &net, &statistics, grid, &codes);
    }
}

fn check(
    graph: &Graph,
    net: &Net,
    statistics: &PointStatistics,
    grid: WeightGrid,
    codes: &[slimbit_nn::StageCodes],
) {
    let params = net.params();
    for (index, stage) in net.stages().iter().enumerate() {
        let y = &codes[index];
        let StageKind::Conv {
            conv,
            norm: Some(norm),
        } = stage.kind
        else {
            continue;
        };
        let x = &codes[stage.inputs[0]];
        let node = graph.node(conv);
        let slimbit_graph::Op::Conv2d(op) = &node.op else {
            unreachable!()
        };
        let weight = params.get(&format!("{}.weight", node.name)).unwrap();
        let norm_name = &graph.node(norm).name;
        let gamma = &params.get(&format!("{norm_name}.weight")).unwrap().data;
        let beta = &params.get(&format!("{norm_name}.bias")).unwrap().data;
        let (mean, variance) = &statistics.norms[norm_name];
        let bits = match stage.eight_bit_weights {
            true => 8,
            false => statistics.point.weight_bits,
        };
        let row: usize = weight.shape[1..].iter().product();
        let (inputs, outs) = (x.shape.channels(), y.shape.channels());
        let (h, w) = x.shape.spatial();
        let (oh, ow) = y.shape.spatial();
        let relu = stage.activation.is_some();
        let out_bits = match stage.precision {
            Precision::Point => statistics.point.act_bits,
            _ => 8,
        };
        let clip = Clip {
            lo: if relu { y.zero_point } else { 0 },
            hi: Clip::unsigned(out_bits).hi,
        };
        let mut seen = std::collections::BTreeSet::new();
        for o in 0..outs {
            let channel = &weight.data[o * row..(o + 1) * row];
            let max_abs = channel.iter().fold(0f32, |m, v| m.max(v.abs()));
            let deviation = (f64::from(variance[o]) + f64::from(1e-5f32)).sqrt();
            let gain = f64::from(gamma[o]) / deviation;
            let unit = f64::from(grid.scale(max_abs, bits)) * f64::from(x.scale);
            let a = gain * unit / f64::from(y.scale);
            let b = (gain * -f64::from(mean[o]) + f64::from(beta[o])) / f64::from(y.scale)
                + f64::from(y.zero_point);
            let truth = Affine::from_floats(a as f32, b).unwrap();
            for position in (0..oh * ow).step_by(7) {
                let (r, c) = (position / ow, position % ow);
                let mut sum = 0i64;
                for (i, kr, kc) in (0..inputs).flat_map(|i| {
                    (0..op.kernel[0])
                        .flat_map(move |kr| (0..op.kernel[1]).map(move |kc| (i, kr, kc)))
                }) {
                    let at = |out: usize, stride: usize, tap: usize, pad: usize, size: usize| {
                        (out * stride + tap).checked_sub(pad).filter(|&p| p < size)
                    };
                    let (Some(r), Some(c)) = (
                        at(r, op.stride[0], kr, op.padding[0], h),
                        at(c, op.stride[1], kc, op.padding[1], w),
                    ) else {
                        continue;
                    };
                    let tap = (i * op.kernel[0] + kr) * op.kernel[1] + kc;
                    let q = grid.code(channel[tap], max_abs, bits);
                    let value = x.codes[(r * w + c) * inputs + i] - x.zero_point;
                    sum += i64::from(q) * i64::from(value);
                }
                let wanted = truth.eval(sum, clip);
                assert_eq!(
                    y.codes[position * outs + o],
                    wanted,
                    "{} {o} {position}",
                    y.stage
                );
                seen.insert(wanted);
            }
        }
        assert!(seen.len() > 3, "{} barely varies: {seen:?}", y.stage);
    }
}

#[test]
fn batch_statistics_cannot_be_deployed() {
    let net = Net::init(crate::networks::residual(), 5, &Device::flex()).unwrap();
    let statistics = calibrate(&net, Width::FULL, 8, 8);
    let x = images(net.graph(), 2, 1, &Device::flex());
    let mode = Mode {
        norm: NormMode::Batch,
        ..Mode::deployed(&statistics, WeightGrid::Nested, INPUT)
    };
    assert!(net.codes(&x, &mode).is_err());
    assert!(net.codes(&x, &Mode::float(Width::FULL)).is_err());
}
