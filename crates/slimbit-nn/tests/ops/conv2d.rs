//! Convolution against Burn's own and against finite differences, and its bits on other thread
//! counts.

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData, module};
use slimbit_nn::ops::{Conv, conv2d};

use crate::noise;

#[derive(Clone, Copy, Debug)]
struct Case {
    images: usize,
    channels: [usize; 2],
    input: [usize; 2],
    kernel: [usize; 2],
    conv: Conv,
}

fn conv(stride: [usize; 2], padding: [usize; 4], dilation: [usize; 2], groups: usize) -> Conv {
    Conv {
        stride,
        padding,
        dilation,
        groups,
    }
}

/// Every path: in place and gathered, one and several images per task, phases, groups, depthwise.
fn cases() -> Vec<Case> {
    let same = Conv::same(3, 1);
    let case = |images, channels, input, kernel, conv| Case {
        images,
        channels,
        input,
        kernel,
        conv,
    };
    vec![
        case(3, [5, 7], [9, 11], [3, 3], same),
        case(2, [16, 16], [28, 28], [3, 3], same),
        case(37, [8, 12], [4, 4], [3, 3], same),
        case(33, [16, 24], [7, 7], [3, 3], same),
        case(
            3,
            [19, 24],
            [5, 10],
            [3, 3],
            conv([1, 1], [2, 0, 2, 0], [1, 1], 1),
        ),
        case(
            2,
            [24, 17],
            [9, 6],
            [3, 3],
            conv([1, 1], [0, 2, 0, 2], [1, 1], 1),
        ),
        case(70, [32, 16], [3, 4], [3, 3], same),
        case(5, [128, 40], [8, 8], [3, 3], same),
        case(4, [6, 8], [9, 8], [3, 3], Conv::same(3, 2)),
        case(4, [6, 8], [8, 9], [1, 1], Conv::same(1, 2)),
        case(3, [9, 5], [6, 7], [1, 1], Conv::default()),
        case(2, [7, 8], [16, 20], [1, 1], Conv::default()),
        case(2, [5, 12], [48, 50], [1, 1], Conv::default()),
        case(2, [4, 6], [17, 19], [1, 1], Conv::default()),
        case(70, [14, 9], [3, 4], [1, 1], Conv::default()),
        case(3, [1500, 3], [2, 2], [1, 1], Conv::default()),
        case(2, [3, 10], [15, 14], [7, 7], Conv::same(7, 2)),
        case(
            2,
            [4, 6],
            [13, 12],
            [3, 2],
            conv([3, 1], [2, 0, 2, 0], [2, 3], 1),
        ),
        case(
            2,
            [4, 6],
            [10, 11],
            [5, 3],
            conv([2, 3], [2, 1, 2, 1], [1, 2], 2),
        ),
        case(2, [3, 4], [5, 5], [1, 1], conv([1, 1], [2; 4], [1, 1], 1)),
        case(2, [12, 6], [7, 5], [3, 3], Conv { groups: 3, ..same }),
        case(5, [10, 10], [14, 14], [3, 3], Conv { groups: 10, ..same }),
        case(
            5,
            [6, 6],
            [9, 7],
            [3, 3],
            Conv {
                groups: 6,
                ..Conv::same(3, 2)
            },
        ),
        case(
            2,
            [5, 5],
            [11, 12],
            [5, 5],
            Conv {
                groups: 5,
                ..Conv::same(5, 1)
            },
        ),
        case(
            2,
            [4, 8],
            [6, 6],
            [3, 3],
            Conv {
                groups: 4,
                ..Conv::same(3, 2)
            },
        ),
        case(1, [1, 1], [3, 3], [3, 3], Conv::default()),
    ]
}

struct Operands {
    x: TensorData,
    w: TensorData,
    /// Upstream gradient.
    g: TensorData,
}

impl Operands {
    fn new(case: Case) -> Self {
        let [ins, outs] = case.channels;
        let [rows, columns] = case.conv.output_size(case.input, case.kernel);
        let per_group = ins / case.conv.groups;
        Self {
            x: noise([case.images, ins, case.input[0], case.input[1]], 1),
            w: noise([outs, per_group, case.kernel[0], case.kernel[1]], 2),
            g: noise([case.images, outs, rows, columns], 3),
        }
    }

    /// Output, input gradient and weight gradient of `sum(f(x, w) * g)`.
    fn run(&self, f: impl Fn(Tensor<4>, Tensor<4>) -> Tensor<4>) -> [Vec<f32>; 3] {
        let device = Device::flex().autodiff();
        let x = Tensor::<4>::from_data(self.x.clone(), &device).require_grad();
        let w = Tensor::<4>::from_data(self.w.clone(), &device).require_grad();
        let y = f(x.clone(), w.clone());
        let loss = (y.clone() * Tensor::from_data(self.g.clone(), &device)).sum();
        let grads = loss.backward();
        let dx = x.grad(&grads).expect("x is tracked").into_data();
        let dw = w.grad(&grads).expect("w is tracked").into_data();
        [y.into_data(), dx, dw].map(|data| data.try_to_vec().expect("f32 values"))
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn output_and_gradients_equal_burns() {
    for case in cases() {
        let operands = Operands::new(case);
        let ours = operands.run(|x, w| conv2d(x, w, case.conv));
        let Conv {
            stride,
            padding: [top, left, bottom, right],
            dilation,
            groups,
        } = case.conv;
        assert_eq!(
            (top, left),
            (bottom, right),
            "Burn's gradients need symmetric padding"
        );
        let options = ConvOptions::new(stride, [top, left], dilation, groups);
        let burns = operands.run(|x, w| module::conv2d(x, w, None, options.clone()));
        for (what, (ours, burns)) in ["y", "dx", "dw"].iter().zip(ours.iter().zip(&burns)) {
            let scale = burns.iter().fold(1.0f32, |max, v| max.max(v.abs()));
            let difference = largest_difference(ours, burns) / scale;
            assert!(
                difference < 2e-6,
                "{what} differs by {difference} for {case:?}"
            );
        }
    }
}

#[test]
fn gradients_equal_finite_differences_where_padding_is_asymmetric() {
    let conv = conv([2, 1], [0, 1, 1, 2], [1, 2], 1);
    let case = Case {
        images: 2,
        channels: [2, 3],
        input: [5, 6],
        kernel: [3, 2],
        conv,
    };
    let operands = Operands::new(case);
    let [_, dx, dw] = operands.run(|x, w| conv2d(x, w, case.conv));
    let loss = |x: &TensorData, w: &TensorData| -> f64 {
        let device = Device::flex();
        let y = conv2d(
            Tensor::from_data(x.clone(), &device),
            Tensor::from_data(w.clone(), &device),
            case.conv,
        );
        let (y, g) = (
            y.into_data().try_to_vec::<f32>(),
            operands.g.try_to_vec::<f32>(),
        );
        let pairs = y.expect("f32").into_iter().zip(g.expect("f32"));
        pairs.map(|(y, g)| f64::from(y) * f64::from(g)).sum()
    };
    // The loss is linear in each operand, so that a wide step costs no accuracy.
    let shifted = |data: &TensorData, at: usize, by: f32| {
        let mut data = data.clone();
        data.as_mut_slice::<f32>().expect("f32")[at] += by;
        data
    };
    for (at, &dx) in dx.iter().enumerate() {
        let [up, down] = [0.5, -0.5].map(|by| loss(&shifted(&operands.x, at, by), &operands.w));
        assert!(
            (up - down - f64::from(dx)).abs() < 1e-5,
            "dx[{at}]: {} or {dx}",
            up - down
        );
    }
    for (at, &dw) in dw.iter().enumerate() {
        let [up, down] = [0.5, -0.5].map(|by| loss(&operands.x, &shifted(&operands.w, at, by)));
        assert!(
            (up - down - f64::from(dw)).abs() < 1e-5,
            "dw[{at}]: {} or {dw}",
            up - down
        );
    }
}

/// Tiles of 4 x 4 outputs round differently from direct sums; this is how much.
#[test]
fn tiled_sums_are_as_accurate_as_promised() {
    let case = Case {
        images: 4,
        channels: [64, 48],
        input: [10, 13],
        kernel: [3, 3],
        conv: Conv::same(3, 1),
    };
    let operands = Operands::new(case);
    let ours = operands.run(|x, w| conv2d(x, w, case.conv));
    let exact = direct_sums(&operands, case);
    for (what, (ours, exact)) in ["y", "dx", "dw"].iter().zip(ours.iter().zip(&exact)) {
        let square = |v: f64| v * v;
        let errors = ours
            .iter()
            .zip(exact)
            .map(|(&o, &e)| square(f64::from(o) - e));
        let scale: f64 = exact.iter().copied().map(square).sum();
        let error = (errors.sum::<f64>() / scale).sqrt();
        assert!(error < 1.5e-6, "{what}: {error:e}");
    }
    // Both gradients are adjoints of the same map.
    let along = |a: &[f32], b: &TensorData| -> f64 {
        let b = b.try_to_vec::<f32>().expect("f32");
        a.iter()
            .zip(b)
            .map(|(&a, b)| f64::from(a) * f64::from(b))
            .sum()
    };
    let by_output = along(&ours[0], &operands.g);
    for by_input in [along(&ours[1], &operands.x), along(&ours[2], &operands.w)] {
        assert!((by_input - by_output).abs() < 1e-5 * by_output.abs().max(100.0));
    }
}

/// The integer arithmetic of deployed networks is simulated on plain devices.
#[test]
fn integers_are_summed_exactly_on_a_plain_device() {
    let device = Device::flex();
    let whole = |shape: [usize; 4], seed| {
        let noise = Tensor::<4>::from_data(noise(shape, seed), &device);
        (noise * 100.0).round()
    };
    let (x, w) = (whole([2, 32, 8, 8], 1), whole([16, 32, 3, 3], 2));
    let y = conv2d(x.clone(), w.clone(), Conv::same(3, 1));
    assert_eq!(
        (y.clone() - y.round()).abs().max().into_scalar::<f32>(),
        0.0
    );
}

/// Output, input gradient and weight gradient of a padded 3 x 3 convolution, in `f64`.
fn direct_sums(operands: &Operands, case: Case) -> [Vec<f64>; 3] {
    let [ins, outs] = case.channels;
    let [height, width] = case.input;
    let wide = |data: &TensorData| -> Vec<f64> {
        let values = data.try_to_vec::<f32>().expect("f32");
        values.into_iter().map(f64::from).collect()
    };
    let [x, w, g] = [&operands.x, &operands.w, &operands.g].map(wide);
    let (mut y, mut dx, mut dw) = (vec![0.0; g.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
    for image in 0..case.images {
        for out in 0..outs {
            for channel in 0..ins {
                for at in 0..height * width * 9 {
                    let (pixel, tap) = (at / 9, at % 9);
                    let row = (pixel / width + tap / 3).wrapping_sub(1);
                    let column = (pixel % width + tap % 3).wrapping_sub(1);
                    if row >= height || column >= width {
                        continue;
                    }
                    let to = (image * outs + out) * height * width + pixel;
                    let from = ((image * ins + channel) * height + row) * width + column;
                    let by = (out * ins + channel) * 9 + tap;
                    y[to] += x[from] * w[by];
                    dx[from] += g[to] * w[by];
                    dw[by] += g[to] * x[from];
                }
            }
        }
    }
    [y, dx, dw]
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for case in cases() {
        let operands = Operands::new(case);
        let runs = [1, 2, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("thread pool")
                .install(|| operands.run(|x, w| conv2d(x, w, case.conv)))
        });
        let bits =
            |run: &[Vec<f32>; 3]| run.concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&runs[0]), bits(&runs[1]), "{case:?}");
        assert_eq!(bits(&runs[0]), bits(&runs[2]), "{case:?}");
    }
}

#[test]
fn slices_of_a_larger_weight_need_no_copy_by_the_caller() {
    let device = Device::flex().autodiff();
    let x = Tensor::<4>::from_data(noise([2, 3, 6, 6], 4), &device);
    let w = Tensor::<4>::from_data(noise([8, 6, 3, 3], 5), &device).require_grad();
    let y = conv2d(x, w.clone().slice([0..4, 0..3]), Conv::same(3, 1));
    let dw = w.grad(&y.sum().backward()).expect("w is tracked");
    let mut non_zero = dw.not_equal_elem(0.0);
    assert_eq!(non_zero.clone().int().sum().into_scalar::<i64>(), 4 * 3 * 9);
    non_zero = non_zero.slice([0..4, 0..3]);
    assert!(non_zero.all().into_scalar::<bool>());
}

#[test]
fn an_untracked_input_gets_no_gradient_and_no_graph() {
    let (plain, device) = (Device::flex(), Device::flex().autodiff());
    let x = Tensor::<4>::from_data(noise([2, 3, 6, 6], 4), &plain);
    let w = Tensor::<4>::from_data(noise([4, 3, 3, 3], 5), &device).require_grad();
    let y = conv2d(x.clone(), w.clone(), Conv::same(3, 1));
    assert!(w.grad(&y.sum().backward()).is_some());
    let y = conv2d(x, w.without_autodiff(), Conv::same(3, 1));
    assert!(!y.is_require_grad());
}

#[test]
#[should_panic(expected = "do not fit 1 groups")]
fn channels_that_do_not_fit_are_named() {
    let device = Device::flex();
    let _ = conv2d(
        Tensor::ones([1, 3, 5, 5], &device),
        Tensor::ones([4, 2, 3, 3], &device),
        Conv::same(3, 1),
    );
}
