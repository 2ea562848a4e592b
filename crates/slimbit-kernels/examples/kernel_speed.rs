//! Speed of the convolution kernels in GMAC/s, on layers of ResNet-18, ResNet-50 and MobileNetV2,
//! and as a fraction of what the CPU's multiply-accumulate instruction allows.
//!
//! `cargo run --release -p slimbit-kernels --example kernel_speed [part of a layer's name] [level]`
//!
//! It fails where a kernel is faster than that instruction can be: then the probe of the peak is wrong.
//!
//! Weights are normal noise, quantised by the greatest of each output channel, as trained ones are:
//! W8 as they come, W8 with scales 1.4 times larger (`+`), and W4.

use slimbit_kernels::{ConvGeometry, Isa, KernelError, Kernels, Map, MapMut, PackedConv, SLACK};
use slimbit_num::{Clip, Requant};
use std::hint::black_box;
use std::time::Instant;

/// Name, output side, input and output channels, kernel, stride, groups.
const LAYERS: [(&str, usize, usize, usize, usize, usize, usize); 22] = [
    ("r18 stem 7x7/2 112", 112, 3, 64, 7, 2, 1),
    ("r18 3x3 64 56", 56, 64, 64, 3, 1, 1),
    ("r18 3x3 64-128/2 28", 28, 64, 128, 3, 2, 1),
    ("r18 3x3 128 28", 28, 128, 128, 3, 1, 1),
    ("r18 3x3 256 14", 14, 256, 256, 3, 1, 1),
    ("r18 3x3 512 7", 7, 512, 512, 3, 1, 1),
    ("r50 1x1 64-64 56", 56, 64, 64, 1, 1, 1),
    ("r50 1x1 64-256 56", 56, 64, 256, 1, 1, 1),
    ("r50 1x1 256-64 56", 56, 256, 64, 1, 1, 1),
    ("r50 1x1 512-128 28", 28, 512, 128, 1, 1, 1),
    ("r50 1x1 256-1024 14", 14, 256, 1024, 1, 1, 1),
    ("r50 1x1 2048-512 7", 7, 2048, 512, 1, 1, 1),
    ("r50 linear 2048-1000", 1, 2048, 1000, 1, 1, 1),
    ("mb2 stem 3x3/2 112", 112, 3, 32, 3, 2, 1),
    ("mb2 1x1 16-96 112", 112, 16, 96, 1, 1, 1),
    ("mb2 1x1 144-24 56", 56, 144, 24, 1, 1, 1),
    ("mb2 1x1 64-384 14", 14, 64, 384, 1, 1, 1),
    ("mb2 1x1 960-160 7", 7, 960, 160, 1, 1, 1),
    ("mb2 depthwise 3x3 144 56", 56, 144, 144, 3, 1, 144),
    ("mb2 depthwise 3x3/2 96 56", 56, 96, 96, 3, 2, 96),
    ("mb2 depthwise 3x3 960 7", 7, 960, 960, 3, 1, 960),
    ("depthwise 5x5 96 28", 28, 96, 96, 5, 1, 96),
];

/// Bits, and how much larger the scale is than it needs to be.
const GRIDS: [(u32, f64); 3] = [(8, 1.0), (8, 1.4), (4, 1.0)];

/// The best of this many rounds over all layers counts: other loads come and go.
const ROUNDS: usize = 12;

/// Seconds for which each layer is packed again and again.
const PACKING: f64 = 0.02;

/// What the clock may change between a kernel and the probe next to it.
const TOLERANCE: f64 = 1.15;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut wanted = String::new();
    let mut level = Isa::from_env()?;
    for argument in std::env::args().skip(1) {
        match argument.parse() {
            Ok(isa) => level = isa,
            Err(_) => wanted = argument,
        }
    }
    let kernels = Kernels::of(level)?;
    let mut layers = Vec::new();
    for layer in LAYERS.iter().filter(|layer| layer.0.contains(&wanted)) {
        layers.push(Layer::new(kernels, layer)?);
    }
    let mut peak: f64 = 0.0;
    for _ in 0..ROUNDS {
        peak = peak.max(slimbit_kernels::peak(level)?);
        for layer in &mut layers {
            layer.measure(kernels);
        }
    }
    println!("level {level}, peak {:.1} GMAC/s", peak / 1e9);
    println!(
        "{:26} {:>7} {:>24} {:>24} {:>24}",
        "", "MMAC", "W8, packing ns/weight", "W8+, packing", "W4, packing"
    );
    for layer in &layers {
        print!("{:26} {:7.1}", layer.name, layer.macs / 1e6);
        for (index, conv) in layer.convs.iter().enumerate() {
            let speed = layer.macs / layer.best[index];
            print!(
                " {:7.1} {:3.0} % {} {:5.2}",
                speed / 1e9,
                100.0 * speed / peak,
                conv.kernel_name(),
                layer.packing[index] * 1e9
            );
        }
        println!();
    }
    let speeds = layers
        .iter()
        .flat_map(|layer| layer.best.map(|best| layer.macs / best));
    let fastest = speeds.fold(0.0, f64::max);
    // The scalar level has no such instruction: the compiler arranges kernel and probe as it likes.
    if level != Isa::Scalar && fastest > TOLERANCE * peak {
        let [fastest, peak] = [fastest, peak].map(|rate| rate / 1e9);
        return Err(
            format!("a kernel does {fastest:.1} GMAC/s, above the peak of {peak:.1}").into(),
        );
    }
    Ok(())
}

struct Layer {
    name: &'static str,
    macs: f64,
    /// Seconds per weight, at best.
    packing: [f64; GRIDS.len()],
    convs: Vec<PackedConv>,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Seconds.
    best: [f64; GRIDS.len()],
}

impl Layer {
    fn new(
        kernels: &Kernels,
        &(name, side, in_channels, out_channels, kernel, stride, groups): &(
            &'static str,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
        ),
    ) -> Result<Layer, KernelError> {
        let geometry = ConvGeometry {
            out_rows: side,
            out_cols: side,
            in_channels,
            out_channels,
            kernel: [kernel; 2],
            stride: [stride; 2],
            dilation: [1; 2],
            groups,
        };
        let taps = kernel * kernel * in_channels / groups;
        let mut noise = Noise(7);
        let weights: Vec<f64> = (0..out_channels * taps).map(|_| noise.normal()).collect();
        let mut packing = [f64::INFINITY; GRIDS.len()];
        let mut pack = |index: usize| {
            let (bits, headroom) = GRIDS[index];
            let quantised = weights.chunks(taps).flat_map(|channel| {
                let greatest = channel.iter().fold(0.0f64, |a, w| a.max(w.abs()));
                let scale = greatest * headroom / f64::from((1 << (bits - 1)) - 1);
                channel.iter().map(move |w| (w / scale).round() as i8)
            });
            let quantised: Vec<i8> = quantised.collect();
            let requant = Requant {
                m: 123_457,
                c: 1 << 30,
                k: 26,
            };
            let requants = vec![requant; out_channels];
            let mut spent = 0.0;
            while spent < PACKING {
                let start = Instant::now();
                black_box(kernels.pack_conv(geometry, &quantised, &requants, Clip::unsigned(8)))?;
                let seconds = start.elapsed().as_secs_f64();
                packing[index] = packing[index].min(seconds / quantised.len() as f64);
                spent += seconds;
            }
            kernels.pack_conv(geometry, &quantised, &requants, Clip::unsigned(8))
        };
        let input_side = (side - 1) * stride + kernel;
        let convs = (0..GRIDS.len()).map(&mut pack).collect::<Result<_, _>>()?;
        Ok(Layer {
            name,
            macs: geometry.macs() as f64,
            packing,
            convs,
            input: (0..input_side * input_side * in_channels + SLACK)
                .map(|_| noise.next() as u8)
                .collect(),
            output: vec![0; side * side * out_channels],
            best: [f64::INFINITY; GRIDS.len()],
        })
    }

    /// A few milliseconds of each packing.
    fn measure(&mut self, kernels: &Kernels) {
        for (best, conv) in self.best.iter_mut().zip(&self.convs) {
            let geometry = conv.geometry();
            let input_cols = (geometry.out_cols - 1) * geometry.stride[1] + geometry.kernel[1];
            let start = Instant::now();
            while start.elapsed().as_millis() < 4 {
                let run = Instant::now();
                kernels.conv(
                    conv,
                    Map {
                        data: &self.input,
                        row_stride: input_cols * geometry.in_channels,
                        pixel_stride: geometry.in_channels,
                    },
                    MapMut {
                        data: black_box(&mut self.output),
                        row_stride: geometry.out_cols * geometry.out_channels,
                        pixel_stride: geometry.out_channels,
                    },
                );
                *best = best.min(run.elapsed().as_secs_f64());
            }
        }
    }
}

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as u32
    }

    /// The sum of twelve uniform numbers.
    fn normal(&mut self) -> f64 {
        (0..12)
            .map(|_| f64::from(self.next()) / f64::from(1u32 << 31))
            .sum::<f64>()
            - 6.0
    }
}
