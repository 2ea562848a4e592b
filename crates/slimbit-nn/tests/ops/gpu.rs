//! Every operator on the GPU against the same on the CPU: values and gradients.
//!
//! They run on the default adapter, which may be one in software; without any they fail.

use burn::tensor::{Device, Tensor, TensorData};
use slimbit_graph::{Activation as Pointwise, Channels, GraphBuilder, Width};
use slimbit_nn::ops::{
    Activation, Conv, affine_act, batch_norm_act, conv2d, fake_quant_activation, fake_quant_weight,
    min_max, pad_shortcut,
};
use slimbit_nn::{Bits, Mode, Net, NormMode, Quantisation, parse_device};
use slimbit_num::WeightGrid;

use crate::noise;

/// What sums of some hundred products may differ by, relative to the largest value.
const TOLERANCE: f32 = 2e-6;

/// Named results.
type Results = Vec<(String, Vec<f32>)>;

/// Collects what an operator gives on one device.
struct Record {
    device: Device,
    results: Results,
    seed: u64,
}

impl Record {
    fn leaf<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        self.seed += 1;
        Tensor::from_data(noise(shape, self.seed), &self.device).require_grad()
    }

    fn put<const D: usize>(&mut self, name: &str, x: Tensor<D>) {
        let values = x.without_autodiff().into_data().try_to_vec();
        self.results
            .push((name.to_owned(), values.expect("f32 values")));
    }

    /// Records `y` and what it sends back to `leaves` for a gradient of noise.
    fn through<const Y: usize, const D: usize>(
        &mut self,
        name: &str,
        y: Tensor<Y>,
        leaves: &[(&str, &Tensor<D>)],
        others: &[(&str, &Tensor<1>)],
    ) {
        let upstream = Tensor::from_data(noise(y.dims(), 99), &self.device);
        let grads = (y.clone() * upstream).sum().backward();
        self.put(&format!("{name}: y"), y);
        for (leaf, x) in leaves {
            self.put(&format!("{name}: d{leaf}"), x.grad(&grads).unwrap());
        }
        for (leaf, x) in others {
            self.put(&format!("{name}: d{leaf}"), x.grad(&grads).unwrap());
        }
    }
}

/// Runs `f` on the CPU and on the GPU, and wants the same values up to `tolerance` times the largest of
/// each result.
fn compare(tolerance: f32, f: impl Fn(&mut Record)) {
    let on = |name: &str| {
        let device = parse_device(name).unwrap_or_else(|error| panic!("{error}"));
        let mut record = Record {
            device: device.autodiff(),
            results: Vec::new(),
            seed: 0,
        };
        f(&mut record);
        record.results
    };
    let (cpu, gpu) = (on("cpu"), on("gpu"));
    assert_eq!(cpu.len(), gpu.len());
    for ((name, cpu), (_, gpu)) in cpu.iter().zip(&gpu) {
        assert_eq!(cpu.len(), gpu.len(), "{name}");
        let largest = cpu.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        let pairs = cpu.iter().zip(gpu);
        let worst = pairs.fold(0.0f32, |max, (c, g)| {
            assert!(!g.is_nan(), "{name} is NaN");
            max.max((c - g).abs())
        });
        println!("{name}: {:.1e} of {largest:.2}", worst / largest.max(1e-30));
        assert!(
            worst <= tolerance * largest,
            "{name}: differs by {worst:e} of {largest}"
        );
    }
}

#[test]
fn convolutions() {
    let conv = |stride, padding, dilation, groups| Conv {
        stride,
        padding,
        dilation,
        groups,
    };
    let cases = [
        ([2, 3, 9, 11], [5, 3, 3], Conv::same(3, 1)),
        ([2, 16, 8, 8], [16, 3, 3], Conv::same(3, 1)),
        ([2, 8, 9, 9], [6, 3, 3], Conv::same(3, 2)),
        ([2, 8, 8, 8], [6, 3, 3], Conv::same(3, 2)),
        ([2, 8, 7, 7], [12, 1, 1], Conv::default()),
        ([2, 8, 8, 8], [12, 1, 1], Conv::same(1, 2)),
        ([2, 6, 8, 8], [6, 3, 3], conv([1; 2], [1; 4], [1; 2], 6)),
        ([2, 6, 9, 9], [6, 3, 3], conv([2; 2], [1; 4], [1; 2], 6)),
        (
            [2, 6, 8, 8],
            [12, 5, 5],
            conv([2; 2], [1, 2, 2, 1], [1; 2], 6),
        ),
        ([2, 8, 9, 8], [6, 3, 3], conv([1; 2], [1; 4], [1; 2], 2)),
        (
            [2, 4, 8, 8],
            [5, 3, 3],
            conv([2, 2], [0, 0, 1, 1], [1; 2], 1),
        ),
        (
            [1, 4, 11, 12],
            [5, 3, 2],
            conv([1, 2], [3, 0, 1, 2], [2, 3], 1),
        ),
        ([1, 3, 32, 32], [4, 7, 7], Conv::same(7, 2)),
    ];
    compare(TOLERANCE, |record| {
        for (x, [out, rows, columns], conv) in cases {
            let w = record.leaf([out, x[1] / conv.groups, rows, columns]);
            let x = record.leaf(x);
            let y = conv2d(x.clone(), w.clone(), conv);
            let name = format!("{:?} {:?} {conv:?}", x.dims(), w.dims());
            record.through(&name, y, &[("x", &x), ("w", &w)], &[]);
        }
    });
}

fn norms<const D: usize>(record: &mut Record, shape: [usize; D]) {
    for activation in [Activation::None, Activation::Relu, Activation::Relu6] {
        let x = record.leaf(shape);
        let gamma = record.leaf([shape[1]]);
        let beta = record.leaf([shape[1]]);
        let name = format!("{shape:?} {activation:?}");
        // Far from zero, where a variance of few digits would show, and up to Relu6's upper bound.
        let (far, wide) = (x.clone() + 30.0, gamma.clone() * 9.0);
        let normed = batch_norm_act(far, wide, beta.clone(), 1e-5, activation);
        record.put(&format!("{name}: mean"), normed.mean.clone());
        record.put(&format!("{name}: variance"), normed.variance.clone());
        record.put(&format!("{name}: unbiased"), normed.unbiased_variance());
        let others = [("gamma", &gamma), ("beta", &beta)];
        record.through(&name, normed.output, &[("x", &x)], &others);

        let x = record.leaf(shape);
        let (scale, shift) = (record.leaf([shape[1]]) * 8.0, record.leaf([shape[1]]));
        let y = affine_act(x.clone(), scale, shift, activation);
        record.through(&format!("affine {name}"), y, &[("x", &x)], &[]);
    }
}

#[test]
fn batch_norms_and_affine_maps() {
    // The deviations of values around 30 have two digits less than the values.
    compare(5e-5, |record| {
        norms(record, [4, 6, 7, 9]);
        norms(record, [64, 5]);
    });
}

/// At the bounds of an activation the gradient is zero, as it is beyond them.
#[test]
fn bounds_of_activations() {
    compare(0.0, |record| {
        for activation in [Activation::None, Activation::Relu, Activation::Relu6] {
            let values: Vec<f32> = (-8..8).map(|v| v as f32).collect();
            let x = Tensor::<4>::from_data(TensorData::new(values, [2, 2, 2, 2]), &record.device);
            let x = x.require_grad();
            let [one, zero] = [Tensor::ones([2], &record.device), record.leaf([2]) * 0.0];
            let y = affine_act(x.clone(), one, zero.clone(), activation);
            record.through(&format!("affine {activation:?}"), y, &[("x", &x)], &[]);
            let y = batch_norm_act(x.clone(), zero.clone(), zero, 1e-5, activation).output;
            record.through(&format!("norm {activation:?}"), y, &[("x", &x)], &[]);
        }
    });
}

#[test]
fn quantised_activations() {
    compare(0.0, |record| {
        // Every eighth of a step: ties on both sides, both bounds, and beyond them.
        let values: Vec<f32> = (-40..88).map(|v| v as f32 / 32.0).collect();
        let x = Tensor::<2>::from_data(TensorData::new(values, [2, 64]), &record.device);
        let x = x.require_grad();
        for (scale, zero, bits) in [(0.25, 0, 2), (0.25, 3, 3), (0.25, 1, 8), (0.0, 0, 8)] {
            let y = fake_quant_activation(x.clone(), scale, zero, bits);
            record.through(&format!("{scale} {zero} {bits}"), y, &[("x", &x)], &[]);
        }
        let x = record.leaf([2, 3, 5, 7]);
        for (scale, zero, bits) in [(0.0123, 37, 8), (0.31, 3, 4)] {
            let y = fake_quant_activation(x.clone(), scale, zero, bits);
            record.through(&format!("{scale} {zero} {bits}"), y, &[("x", &x)], &[]);
        }
    });
}

#[test]
fn quantised_weights() {
    compare(1e-6, |record| {
        // Ties of the rounding, of the largest on one side and on both, and a channel of zeros.
        let values = [
            [7.5, 0.5, 1.5, 2.5, -0.5, -3.5, -7.0, 6.5],
            [7.5, 0.2, -7.5, 7.5, -7.5, 3.1, -2.2, 0.1],
            [7.5, 0.2, 7.5, 1.5, 7.5, 3.1, -2.2, 0.1],
            [-7.5, 0.2, -7.5, 1.5, 4.5, 3.1, -2.2, 0.1],
            [0.0; 8],
            [3.0; 8],
        ];
        let ties = Tensor::<2>::from_data(TensorData::from(values), &record.device).require_grad();
        let w = record.leaf([7, 3, 3, 3]);
        for grid in [
            WeightGrid::MinMax,
            WeightGrid::Nested,
            WeightGrid::NestedOdd,
        ] {
            for bits in [2, 3, 4, 5, 8, 12] {
                for detach in [false, true] {
                    let name = format!("{grid:?} {bits} bits, detached {detach}");
                    let v = fake_quant_weight(w.clone(), bits, grid, detach);
                    record.through(&name, v, &[("w", &w)], &[]);
                    let v = fake_quant_weight(ties.clone(), bits, grid, detach);
                    record.through(&format!("{name}, ties"), v, &[("w", &ties)], &[]);
                }
            }
        }
    });
}

#[test]
fn ranges() {
    compare(0.0, |record| {
        let mut values = noise([3000], 5).try_to_vec::<f32>().expect("f32 values");
        values[17] = f32::NAN;
        values[1203] = -7.5;
        let x = Tensor::<1>::from_data(values.as_slice(), &record.device);
        let (low, high) = min_max(x);
        let both = Tensor::<1>::from_floats([low, high], &record.device);
        record.put("range", both);
    });
}

#[test]
fn shortcuts() {
    compare(0.0, |record| {
        for (shape, channels, stride) in [
            ([2, 4, 8, 8], 8, 2),
            ([2, 3, 7, 9], 8, 2),
            ([1, 4, 6, 6], 4, 2),
            ([1, 4, 7, 5], 9, 3),
            ([1, 4, 6, 6], 5, 1),
        ] {
            let x = record.leaf(shape);
            let y = pad_shortcut(x.clone(), channels, stride);
            record.through(&format!("{shape:?} {channels}"), y, &[("x", &x)], &[]);
        }
    });
}

/// A network of every kind of stage, in float and fake-quantised, with batch statistics and given
/// ones.
#[test]
fn networks() {
    let mut b = GraphBuilder::new("every");
    let x = b.input(3, 15, 15);
    let x = b.conv_bn("stem", x, Channels::slim(16), 3, 1);
    let x = b.activation("stem", x, Pointwise::Relu);
    let x = b.max_pool("max", x, 3, 2, 1);
    let y = b.depthwise_bn("deep", x, 3, 1);
    let y = b.activation("deep", y, Pointwise::Relu6);
    let z = b.add("sum", x, y);
    let z = b.activation("sum", z, Pointwise::Relu);
    let z = b.concat("both", &[x, z]);
    let z = b.conv_bn_relu("last", z, Channels::slim(24), 1, 2);
    let z = b.global_avg_pool("pool", z);
    let out = b.linear("out", z, Channels::Fixed(8));
    let graph = b.finish(&[("features", out)]).expect("a sound graph");

    let bits = Bits { weight: 4, act: 4 };
    let grid = WeightGrid::Nested;
    // A code that rounds the other way moves what follows by a step.
    for (quant, tolerance) in [
        (Quantisation::Off, 1e-5),
        (Quantisation::Dynamic { bits, grid }, 1e-3),
    ] {
        compare(tolerance, |record| {
            let net = Net::init(graph.clone(), 1, &record.device).expect("a sound network");
            let mode = Mode {
                width: Width::new(0.5).expect("a width"),
                quant,
                norm: NormMode::Batch,
            };
            let images = Tensor::from_data(noise([4, 3, 15, 15], 3), &record.device);
            let outputs = net.forward(&images, &mode, None).expect("it fits");
            let y = outputs.vector("features").expect("there is one");
            let upstream = Tensor::from_data(noise(y.dims(), 99), &record.device);
            let grads = (y.clone() * upstream).sum().backward();
            record.put("features", y);
            for (spec, value) in net.store().specs().iter().zip(net.store().values()) {
                let gradient = value.grad(&grads).expect("every parameter takes part");
                record.put(&spec.name, gradient);
            }
        });
    }
}

#[test]
fn an_adapter_that_is_not_there_is_refused_with_those_that_are() {
    assert!(parse_device("gpu:0").is_ok());
    let error = parse_device("gpu:99").unwrap_err().to_string();
    assert!(
        error.contains("gpu:99") && error.contains("gpu:0 ("),
        "{error}"
    );
}
