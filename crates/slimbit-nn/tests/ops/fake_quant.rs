//! Golden vectors of the quantisers (SSQL's arithmetic), with their gradients.

use burn::tensor::{Device, Tensor, TensorData};
use slimbit_nn::ops::{fake_quant_activation, fake_quant_weight, min_max};
use slimbit_num::{ActQuant, WeightGrid};

const W: [[f32; 4]; 3] = [
    [0.30, -0.70, 0.11, 0.52],
    [1.00, -0.25, 0.40, -0.90],
    [-1.2, 0.6, 0.05, -0.33],
];

/// Quantised weights and their gradient for the upstream gradient 1, 2, 3, ...
fn weight(w: TensorData, bits: u8, grid: WeightGrid, detach_scale: bool) -> (Vec<f32>, Vec<f32>) {
    let device = Device::flex().autodiff();
    let w = Tensor::<2>::from_data(w, &device).require_grad();
    let [rows, columns] = w.dims();
    let upstream: Vec<f32> = (1..=rows * columns).map(|i| i as f32).collect();
    let v = fake_quant_weight(w.clone(), bits, grid, detach_scale);
    let upstream = Tensor::from_data(TensorData::new(upstream, [rows, columns]), &device);
    let dw = w
        .grad(&(v.clone() * upstream).sum().backward())
        .expect("w is tracked");
    (
        v.into_data().try_to_vec().expect("f32"),
        dw.into_data().try_to_vec().expect("f32"),
    )
}

struct Golden {
    bits: u8,
    scales: [f32; 3],
    codes: [i32; 12],
    gradient: [f32; 12],
    detached: [f32; 12],
}

const COUNT: [f32; 12] = [1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12.];

#[test]
fn weights_equal_the_golden_vectors() {
    let golden = [
        Golden {
            bits: 2,
            scales: [0.466667, 0.666667, 0.8],
            codes: [1, -2, 0, 1, 1, 0, 1, -1, -2, 1, 0, 0],
            gradient: [
                1., 3.20476, 3., 4., 8.56667, 6., 7., 8., 7.49167, 10., 11., 12.,
            ],
            detached: [1., 2., 3., 4., 0., 6., 7., 8., 9., 10., 11., 12.],
        },
        Golden {
            bits: 3,
            scales: [0.2, 0.285714, 0.342857],
            codes: [2, -4, 1, 3, 3, -1, 1, -3, -4, 2, 0, -1],
            gradient: [
                1., 1.3, 3., 4., 3.61429, 6., 7., 8., 10.15833, 10., 11., 12.,
            ],
            detached: COUNT,
        },
        Golden {
            bits: 4,
            scales: [0.093333, 0.133333, 0.16],
            codes: [3, -8, 1, 6, 7, -2, 3, -7, -8, 4, 0, -2],
            gradient: [1., 2.00476, 3., 4., 4.3, 6., 7., 8., 9.625, 10., 11., 12.],
            detached: COUNT,
        },
        Golden {
            bits: 8,
            scales: [0.00549, 0.007843, 0.009412],
            codes: [55, -128, 20, 95, 127, -32, 51, -115, -128, 64, 5, -35],
            gradient: [
                1., 1.99692, 3., 4., 4.95882, 6., 7., 8., 9.03677, 10., 11., 12.,
            ],
            detached: COUNT,
        },
    ];
    for Golden {
        bits,
        scales,
        codes,
        gradient,
        detached,
    } in golden
    {
        let (v, dw) = weight(TensorData::from(W), bits, WeightGrid::MinMax, false);
        for k in 0..12 {
            let expected = codes[k] as f32 * scales[k / 4];
            assert!(
                (v[k] - expected).abs() < 1e-4,
                "{bits} bits, value {k}: {}",
                v[k]
            );
            assert!(
                (dw[k] - gradient[k]).abs() < 2e-5,
                "{bits} bits, gradient {k}: {}",
                dw[k]
            );
        }
        let (again, dw) = weight(TensorData::from(W), bits, WeightGrid::MinMax, true);
        assert_eq!(
            (again, dw),
            (v, detached.to_vec()),
            "{bits} bits, detached scale"
        );
    }
}

#[test]
fn every_grid_gives_the_values_of_the_numeric_contract() {
    let (rows, columns) = (13, 37);
    let w: Vec<f32> = (0..rows * columns)
        .map(|i| ((i * i * 7919) as f32).sin() * 0.3)
        .collect();
    for grid in [
        WeightGrid::MinMax,
        WeightGrid::Nested,
        WeightGrid::NestedOdd,
    ] {
        for bits in 2..=8 {
            let data = TensorData::new(w.clone(), [rows, columns]);
            let (v, _) = weight(data, bits, grid, false);
            for (w, v) in w.chunks(columns).zip(v.chunks(columns)) {
                let max_abs = w.iter().fold(0f32, |max, w| max.max(w.abs()));
                for (&w, &v) in w.iter().zip(v) {
                    let code = f32::from(grid.code(w, max_abs, bits));
                    assert_eq!(v, code * grid.scale(max_abs, bits), "{grid} at {bits} bits");
                }
            }
        }
    }
}

/// Scaling a channel scales every grid with it, so the directional derivative along the channel
/// itself is the value: `sum_k w_k dL/dw_k = sum_k g_k v_k`, whatever was clamped.
#[test]
fn the_scale_gradient_makes_every_grid_homogeneous() {
    for grid in [
        WeightGrid::MinMax,
        WeightGrid::Nested,
        WeightGrid::NestedOdd,
    ] {
        for bits in (2..=8).chain([12]) {
            let (v, dw) = weight(TensorData::from(W), bits, grid, false);
            for channel in 0..3 {
                let at = channel * 4..channel * 4 + 4;
                let along: f32 = W[channel]
                    .iter()
                    .zip(&dw[at.clone()])
                    .map(|(w, d)| w * d)
                    .sum();
                let value: f32 = v[at.clone()]
                    .iter()
                    .zip(&COUNT[at])
                    .map(|(v, g)| v * g)
                    .sum();
                assert!(
                    (along - value).abs() < 1e-4,
                    "{grid} at {bits}: {along} and {value}"
                );
            }
        }
    }
}

#[test]
fn nested_codes_beyond_the_last_pass_no_gradient() {
    // 4 bits: the last code is 7 units of 16/127.5; from 7.5 units on the code is clamped.
    let unit = 16.0 / 127.5;
    let w = TensorData::from([[-1.0, 7.6 * unit, 7.4 * unit, -7.6 * unit]]);
    let (v, dw) = weight(w.clone(), 4, WeightGrid::Nested, true);
    assert_eq!(dw, [1.0, 0.0, 3.0, 4.0]);
    assert!((v[1] - 7.0 * unit).abs() < 1e-6 && (v[0] + 8.0 * unit).abs() < 1e-6);
    let (_, dw) = weight(w, 3, WeightGrid::NestedOdd, true);
    assert_eq!(dw, [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn ties_share_the_scale_gradient() {
    let (v, dw) = weight(
        TensorData::from([[0.5, -0.5, 0.5, 0.1]]),
        8,
        WeightGrid::MinMax,
        false,
    );
    let (_, detached) = weight(
        TensorData::from([[0.5, -0.5, 0.5, 0.1]]),
        8,
        WeightGrid::MinMax,
        true,
    );
    let by_max: f32 = v
        .iter()
        .zip([0.5, -0.5, 0.5, 0.1])
        .zip(&detached)
        .zip(1..)
        .map(|(((v, w), d), g)| g as f32 * v - d * w)
        .sum::<f32>()
        / 0.5;
    let extra: Vec<f32> = dw.iter().zip(&detached).map(|(a, b)| a - b).collect();
    for (extra, expected) in extra.iter().zip([by_max / 2.0, -by_max / 2.0, 0.0, 0.0]) {
        assert!((extra - expected).abs() < 1e-5, "{extra}, not {expected}");
    }
}

#[test]
fn bypass_and_many_bits_leave_the_weights() {
    for grid in [WeightGrid::MinMax, WeightGrid::Nested] {
        let (v, dw) = weight(TensorData::from(W), 0, grid, false);
        assert_eq!(
            (v.as_slice(), dw.as_slice()),
            (W.as_flattened(), &COUNT[..])
        );
        let (v, _) = weight(TensorData::from(W), 16, grid, false);
        for (v, w) in v.iter().zip(W.as_flattened()) {
            assert!((v / w - 1.0).abs() < 1e-3, "{v} and {w}");
        }
    }
}

#[test]
fn a_dead_channel_stays_dead_and_does_not_switch_the_others_off() {
    let w = TensorData::from([[0.0, 0.0], [0.3, -1.0]]);
    let (v, dw) = weight(w, 2, WeightGrid::MinMax, false);
    assert_eq!(v[..2], [0.0, 0.0]);
    assert_eq!(dw[..2], [1.0, 2.0]);
    assert_ne!(v[2], 0.3);
}

const X: [f32; 7] = [0.0, 0.13, 0.5, 0.77, 1.0, 1.4, -0.2];

fn activation(scale: f32, zero_point: i32, bits: u8) -> (Vec<f32>, Vec<f32>) {
    let device = Device::flex().autodiff();
    let x = Tensor::<1>::from_floats(X, &device).require_grad();
    let y = fake_quant_activation(x.clone(), scale, zero_point, bits);
    let dx = x.grad(&y.clone().sum().backward()).expect("x is tracked");
    (
        y.into_data().try_to_vec().expect("f32"),
        dx.into_data().try_to_vec().expect("f32"),
    )
}

#[test]
fn activations_equal_the_golden_vectors() {
    let positive = [1., 1., 1., 1., 1., 0., 0.];
    let signed = [1., 1., 1., 1., 1., 0., 1.];
    let check = |(min, max): (f32, f32), bits, zero_point: i32, codes: [i32; 7], mask: [f32; 7]| {
        let quant = ActQuant::from_range(min, max, bits);
        assert_eq!(i32::from(quant.zero_point), zero_point);
        let (y, dx) = activation(quant.scale, zero_point, bits);
        for (k, (&y, code)) in y.iter().zip(codes).enumerate() {
            assert_eq!(
                y,
                quant.dequantise(quant.quantise(X[k])),
                "{bits} bits, value {k}"
            );
            assert_eq!(
                y,
                (code - zero_point) as f32 * quant.scale,
                "{bits} bits, value {k}"
            );
        }
        assert_eq!(dx, mask, "{bits} bits in {min}..{max}");
    };
    check((0.0, 1.0), 2, 0, [0, 0, 2, 2, 3, 3, 0], positive);
    check((0.0, 1.0), 4, 0, [0, 2, 7, 12, 15, 15, 0], positive);
    check((0.0, 1.0), 8, 0, [0, 33, 127, 196, 255, 255, 0], positive);
    check((-0.2, 1.0), 2, 0, [0, 0, 1, 2, 2, 3, 0], signed);
    check((-0.2, 1.0), 4, 2, [2, 4, 8, 12, 14, 15, 0], signed);
    check((-0.2, 1.0), 8, 42, [42, 70, 148, 206, 254, 255, 0], signed);
}

#[test]
fn bypass_and_many_bits_leave_the_activations() {
    assert_eq!(activation(0.1, 0, 0), (X.to_vec(), vec![1.0; 7]));
    assert_eq!(activation(0.0, 0, 8), (X.to_vec(), vec![1.0; 7]));
    let scale = 1.6 / 65535.0;
    let (y, dx) = activation(scale, 8192, 16);
    assert!(y.iter().zip(X).all(|(y, x)| (y - x).abs() < scale), "{y:?}");
    assert_eq!(dx, [1.0; 7]);
}

#[test]
fn not_a_number_stays_visible() {
    let x = Tensor::<1>::from_floats([f32::NAN, 1.0], &Device::flex());
    let y = fake_quant_activation(x, 0.5, 0, 4)
        .into_data()
        .try_to_vec::<f32>()
        .expect("f32");
    assert!(y[0].is_nan() && y[1] == 1.0);
}

#[test]
fn the_range_of_a_large_tensor_is_found_anywhere() {
    let device = Device::flex().autodiff();
    for at in [0, 17, 99_998, 99_999] {
        let mut values = vec![0.25f32; 100_000];
        values[at] = -7.5;
        values[99_999 - at] = 8.5;
        let x = Tensor::<1>::from_data(TensorData::new(values, [100_000]), &device);
        assert_eq!(min_max(x.require_grad()), (-7.5, 8.5));
    }
    let x = Tensor::<2>::from_floats([[1.0, 9.0], [2.0, 3.0]], &device);
    assert_eq!(min_max(x.slice([1..2, 0..2])), (2.0, 3.0));
}
