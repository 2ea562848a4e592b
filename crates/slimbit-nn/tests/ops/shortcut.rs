//! The padded shortcut against Burn's own selection and concatenation.

use burn::tensor::{Device, Tensor};
use slimbit_nn::ops::pad_shortcut;

use crate::noise;

fn reference(x: Tensor<4>, channels: usize, stride: usize) -> Tensor<4> {
    let [images, own, height, width] = x.dims();
    let device = x.device();
    let kept = |size: usize| {
        let indices: Vec<i64> = (0..size as i64).step_by(stride).collect();
        Tensor::from_data(indices.as_slice(), &device)
    };
    let x = x.select(2, kept(height)).select(3, kept(width));
    let [_, _, rows, columns] = x.dims();
    let zeros = |n: usize| Tensor::<4>::zeros([images, n, rows, columns], &device);
    let before = (channels - own) / 2;
    let parts = [
        (zeros(before), before),
        (x, own),
        (zeros(channels - own - before), channels - own - before),
    ];
    let parts = parts
        .into_iter()
        .filter(|(_, n)| *n > 0)
        .map(|(part, _)| part);
    Tensor::cat(parts.collect(), 1)
}

#[test]
fn values_and_gradients_are_those_of_selection_and_concatenation() {
    for (shape, channels, stride) in [
        ([2, 3, 6, 6], 8, 2),
        ([1, 4, 5, 7], 4, 2),
        ([3, 2, 4, 4], 5, 1),
        ([2, 1, 7, 5], 4, 3),
        ([1, 2, 1, 1], 3, 2),
    ] {
        let device = Device::flex().autodiff();
        let run = |f: fn(Tensor<4>, usize, usize) -> Tensor<4>| {
            let x = Tensor::<4>::from_data(noise(shape, 1), &device).require_grad();
            let y = f(x.clone(), channels, stride);
            let g = Tensor::<4>::from_data(noise(y.dims(), 2), &device);
            let grads = (y.clone() * g).sum().backward();
            (y.into_data(), x.grad(&grads).expect("tracked").into_data())
        };
        assert_eq!(run(pad_shortcut), run(reference), "{shape:?} to {channels}");
    }
}

#[test]
#[should_panic(expected = "cannot take 4 channels to 3")]
fn channels_are_never_dropped() {
    let x = Tensor::<4>::zeros([1, 4, 2, 2], &Device::flex());
    let _ = pad_shortcut(x, 3, 1);
}
