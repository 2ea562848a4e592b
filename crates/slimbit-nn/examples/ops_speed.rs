//! Times the training operators against Burn's own.
//!
//! ```text
//! cargo run --release -p slimbit-nn --example ops_speed [threads] [part of a name]
//! ```
//!
//! Each line gives the best of several runs of the forward pass and of the backward pass (the
//! gradients of all operands together) in milliseconds, GFLOP/s where arithmetic is what counts, and
//! how many times faster than Burn's operator ours is.

#[path = "../../slimbit/src/memory.rs"]
mod allocator;

use std::hint::black_box;
use std::time::{Duration, Instant};

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Distribution, Tensor, module};
use slimbit_nn::ops::{
    Activation, Conv, batch_norm_act, conv2d, fake_quant_activation, fake_quant_weight, min_max,
};
use slimbit_num::WeightGrid;

const IMAGES: usize = 32;
const RUNS: usize = 9;

fn main() {
    allocator::keep_freed_pages();
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let only = arguments.next().unwrap_or_default();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.expect("thread pool").install(|| {
        println!("{IMAGES} images, {} threads", rayon::current_num_threads());
        println!(
            "{:<28}{:>10}{:>10}{:>8} |{:>10}{:>10}{:>8}",
            "", "fwd ms", "GFLOP/s", "gain", "bwd ms", "GFLOP/s", "gain"
        );
        convolutions(&only);
        normalisations(&only);
        if only.is_empty() {
            quantisers();
        }
    });
}

/// Best times of a forward pass and of the backward pass through it.
fn time<const D: usize>(forward: impl Fn() -> Tensor<D>) -> [Duration; 2] {
    let mut best = [Duration::MAX; 2];
    for _ in 0..RUNS {
        let start = Instant::now();
        let y = forward();
        let between = Instant::now();
        black_box(y.backward());
        best = [best[0].min(between - start), best[1].min(between.elapsed())];
    }
    best
}

/// `flops` is the work of the forward pass; the backward pass does twice as much.
fn report(name: &str, flops: Option<f64>, ours: [Duration; 2], burns: [Duration; 2]) {
    print!("{name:<28}");
    for pass in 0..2 {
        let seconds = ours[pass].as_secs_f64();
        let rate = flops.map_or(String::new(), |flops| {
            format!("{:.1}", flops * (pass + 1) as f64 / seconds / 1e9)
        });
        let gain = burns[pass].as_secs_f64() / seconds;
        print!(
            "{:>10.2}{rate:>10}{gain:>8.1}{}",
            seconds * 1e3,
            [" |", "\n"][pass]
        );
    }
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let device = Device::flex().autodiff();
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device).require_grad()
}

fn convolutions(only: &str) {
    let cases = [
        ("3x3 1->16 @28", [1, 16], 28, 3, 1, 1),
        ("3x3 16->16 @28", [16, 16], 28, 3, 1, 1),
        ("3x3 32->32 @14", [32, 32], 14, 3, 1, 1),
        ("3x3 64->64 @7", [64, 64], 7, 3, 1, 1),
        ("3x3 128->128 @4", [128, 128], 4, 3, 1, 1),
        ("3x3 64->64 @32", [64, 64], 32, 3, 1, 1),
        ("3x3 128->128 @16", [128, 128], 16, 3, 1, 1),
        ("3x3 256->256 @8", [256, 256], 8, 3, 1, 1),
        ("3x3 512->512 @4", [512, 512], 4, 3, 1, 1),
        ("3x3 16->32 @28 stride 2", [16, 32], 28, 3, 2, 1),
        ("3x3 64->128 @32 stride 2", [64, 128], 32, 3, 2, 1),
        ("3x3 256->512 @8 stride 2", [256, 512], 8, 3, 2, 1),
        ("1x1 16->32 @28 stride 2", [16, 32], 28, 1, 2, 1),
        ("1x1 64->256 @14", [64, 256], 14, 1, 1, 1),
        ("1x1 24->144 @32", [24, 144], 32, 1, 1, 1),
        ("1x1 144->24 @32", [144, 24], 32, 1, 1, 1),
        ("1x1 384->64 @8", [384, 64], 8, 1, 1, 1),
        ("1x1 160->960 @4", [160, 960], 4, 1, 1, 1),
        ("3x3 depthwise 64 @14", [64, 64], 14, 3, 1, 64),
        ("3x3 depthwise 144 @32", [144, 144], 32, 3, 1, 144),
        ("3x3 depthwise 960 @4", [960, 960], 4, 3, 1, 960),
    ];
    let cases = cases.into_iter().filter(|case| case.0.contains(only));
    for (name, [ins, outs], size, kernel, stride, groups) in cases {
        let conv = Conv {
            groups,
            ..Conv::same(kernel, stride)
        };
        let options = ConvOptions::new(conv.stride, [kernel / 2; 2], [1; 2], groups);
        let x = random([IMAGES, ins, size, size]);
        let w = random([outs, ins / groups, kernel, kernel]);
        let [rows, columns] = conv.output_size([size; 2], [kernel; 2]);
        let products = IMAGES * rows * columns * outs * ins / groups * kernel * kernel;
        let ours = time(|| conv2d(x.clone(), w.clone(), conv));
        let burns = time(|| module::conv2d(x.clone(), w.clone(), None, options.clone()));
        report(name, Some(2.0 * products as f64), ours, burns);
    }
}

fn normalisations(only: &str) {
    let maps = [(16, 28), (32, 14), (64, 7), (128, 4), (64, 14), (144, 32)];
    for (channels, size) in maps {
        let name = format!("batch-norm + relu {channels} @{size}");
        if name.contains(only) {
            normalisation(&name, &random([IMAGES, channels, size, size]));
        }
    }
    let name = "batch-norm + relu [256, 512]";
    if name.contains(only) {
        normalisation(name, &random([256, 512]));
    }
}

fn normalisation<const D: usize>(name: &str, x: &Tensor<D>) {
    let channels = x.dims()[1];
    let (gamma, beta) = (random([channels]), random([channels]));
    let operands = || (x.clone(), gamma.clone(), beta.clone());
    let ours = time(|| {
        let (x, gamma, beta) = operands();
        batch_norm_act(x, gamma, beta, 1e-5, Activation::Relu).output
    });
    let burns = time(|| {
        let (x, gamma, beta) = operands();
        let z = module::batch_norm_train(x, gamma, beta, 1e-5);
        burn::tensor::activation::relu(z.output)
    });
    report(name, None, ours, burns);
}

fn quantisers() {
    let x = random([IMAGES, 16, 28, 28]);
    let ours = time(|| fake_quant_activation(x.clone(), 0.02, 0, 8));
    let burns = time(|| {
        let q = (x.clone() / 0.02).round().clamp(0.0, 255.0) * 0.02;
        let inside = x.clone().clamp(0.0, 255.0 * 0.02);
        inside.clone() + (q - inside).detach()
    });
    report("fake-quant 16 @28", None, ours, burns);

    let w = random([128, 128, 3, 3]);
    let ours = time(|| fake_quant_weight(w.clone(), 4, WeightGrid::Nested, false));
    let burns = time(|| {
        let scale = w
            .clone()
            .abs()
            .reshape([128, 1152])
            .max_dim(1)
            .reshape([128, 1, 1, 1])
            / 7.5;
        let scaled = w.clone() / scale.clone();
        let q = scaled.clone().round().clamp(-8.0, 7.0);
        (scaled.clone() + (q - scaled).detach()) * scale
    });
    report("weight fake-quant 128x128x9", None, ours, burns);

    let x = x.without_autodiff();
    let best = |f: &dyn Fn()| {
        let times = (0..RUNS).map(|_| {
            let start = Instant::now();
            f();
            start.elapsed()
        });
        times.min().unwrap_or_default()
    };
    let ours = best(&|| {
        black_box(min_max(x.clone()));
    });
    let burns = best(&|| {
        black_box((
            x.clone().min().into_scalar::<f32>(),
            x.clone().max().into_scalar::<f32>(),
        ));
    });
    let gain = burns.as_secs_f64() / ours.as_secs_f64();
    println!(
        "{:<28}{:>10.2}{:>18.1}",
        "min-max 16 @28",
        ours.as_secs_f64() * 1e3,
        gain
    );
}
