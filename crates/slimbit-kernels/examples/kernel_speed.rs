//! Speed of the kernels in GMAC/s, and as a fraction of what the CPU's multiply-accumulate
//! instruction allows.
//!
//! `cargo run --release -p slimbit-kernels --example kernel_speed [level ...]`

use slimbit_kernels::{ConvGeometry, Isa, KernelError, Kernels, Map, MapMut, SLACK};
use slimbit_num::{Clip, Requant};
use std::hint::black_box;
use std::time::Instant;

/// Name, output side, input and output channels, kernel, stride, groups.
const LAYERS: [(&str, usize, usize, usize, usize, usize, usize); 10] = [
    ("3x3 stem, 32 px", 32, 3, 64, 3, 1, 1),
    ("3x3 64, 32 px", 32, 64, 64, 3, 1, 1),
    ("3x3 128 /2, 16 px", 16, 64, 128, 3, 2, 1),
    ("3x3 256, 14 px", 14, 256, 256, 3, 1, 1),
    ("3x3 512, 7 px", 7, 512, 512, 3, 1, 1),
    ("1x1 64-256, 56 px", 56, 64, 256, 1, 1, 1),
    ("1x1 16-96, 56 px", 56, 16, 96, 1, 1, 1),
    ("linear 2048-1000", 1, 2048, 1000, 1, 1, 1),
    ("depthwise 3x3 96, 28 px", 28, 96, 96, 3, 1, 96),
    ("depthwise 5x5 96, 28 px", 28, 96, 96, 5, 1, 96),
];

fn main() -> Result<(), KernelError> {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let levels = match &*named {
        [] => Isa::available(),
        names => names
            .iter()
            .map(|name| name.parse())
            .collect::<Result<_, _>>()?,
    };
    for isa in levels {
        let kernels = Kernels::of(isa)?;
        let peaks = peaks(isa);
        println!("\nlevel {isa}");
        for (name, peak) in &peaks {
            println!("  peak of {name}: {peak:.1} GMAC/s");
        }
        for (layer, side, inputs, outputs, kernel, stride, groups) in LAYERS {
            let geometry = ConvGeometry {
                out_rows: side,
                out_cols: side,
                in_channels: inputs,
                out_channels: outputs,
                kernel: [kernel; 2],
                stride: [stride; 2],
                dilation: [1; 2],
                groups,
            };
            for bits in [8, 4] {
                let (speed, chosen) = measure(kernels, geometry, bits)?;
                print!("  {layer:24} W{bits} {chosen:13} {speed:7.1} GMAC/s");
                let instruction = if chosen.ends_with("16") {
                    "vpmaddwd"
                } else {
                    "vpmaddubsw"
                };
                match peaks.iter().find(|(name, _)| *name == instruction) {
                    Some((_, peak)) => println!(", {:.0} % of {instruction}", 100.0 * speed / peak),
                    None => println!(),
                }
            }
        }
    }
    Ok(())
}

/// GMAC/s of the best of many runs, and the kernel that was chosen.
fn measure(
    kernels: &Kernels,
    geometry: ConvGeometry,
    bits: u32,
) -> Result<(f64, &'static str), KernelError> {
    let ConvGeometry {
        out_rows,
        in_channels,
        out_channels,
        kernel,
        stride,
        groups,
        ..
    } = geometry;
    let weights = out_channels * kernel[0] * kernel[1] * in_channels / groups;
    let reach = 1 << (bits - 1);
    let weights: Vec<i8> = (0..weights as i64)
        .map(|i| (i * 7919 % (2 * reach - 1) - reach + 1) as i8)
        .collect();
    let requant = vec![
        Requant {
            m: 12345,
            c: 1 << 30,
            k: 24
        };
        out_channels
    ];
    let conv = kernels.pack_conv(geometry, &weights, &requant, Clip::unsigned(8))?;
    let side = (out_rows - 1) * stride[0] + kernel[0];
    let input: Vec<u8> = (0..side * side * in_channels + SLACK)
        .map(|i| (i * 31) as u8)
        .collect();
    let mut output = vec![0; out_rows * out_rows * out_channels];
    let mut fastest = f64::INFINITY;
    let start = Instant::now();
    while start.elapsed().as_millis() < 150 {
        let run = Instant::now();
        kernels.conv(
            &conv,
            Map {
                data: &input,
                row_stride: side * in_channels,
                pixel_stride: in_channels,
            },
            MapMut {
                data: black_box(&mut output),
                row_stride: out_rows * out_channels,
                pixel_stride: out_channels,
            },
        );
        fastest = fastest.min(run.elapsed().as_secs_f64());
    }
    Ok((geometry.macs() as f64 / fastest / 1e9, conv.kernel_name()))
}

/// What chains of multiply-accumulate instructions reach in registers alone.
fn peaks(isa: Isa) -> Vec<(&'static str, f64)> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is available, or its kernels would not have been handed out.
        Isa::Avx2 => unsafe {
            vec![
                ("vpmaddwd", x86::peak::<16>(x86::multiply_words)),
                ("vpmaddubsw", x86::peak::<32>(x86::multiply_bytes)),
            ]
        },
        _ => Vec::new(),
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;
    use std::time::Instant;

    const STEPS: usize = 10_000;
    const CHAINS: usize = 10;

    /// GMAC/s of a function of `STEPS · CHAINS` instructions of `MACS` multiply-accumulates.
    ///
    /// # Safety
    /// The CPU has AVX2.
    pub(super) unsafe fn peak<const MACS: usize>(multiply: unsafe fn(__m256i) -> __m256i) -> f64 {
        let mut fastest = f64::INFINITY;
        let start = Instant::now();
        while start.elapsed().as_millis() < 300 {
            let run = Instant::now();
            // SAFETY: passed on from the caller.
            black_box(unsafe { multiply(black_box(_mm256_set1_epi8(1))) });
            fastest = fastest.min(run.elapsed().as_secs_f64());
        }
        (STEPS * CHAINS * MACS) as f64 / fastest / 1e9
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn multiply_words(x: __m256i) -> __m256i {
        let mut acc = [x; CHAINS];
        for _ in 0..STEPS {
            let factor = black_box(x);
            for acc in &mut acc {
                *acc = _mm256_madd_epi16(*acc, factor);
            }
        }
        acc.into_iter().fold(x, |a, b| _mm256_xor_si256(a, b))
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn multiply_bytes(x: __m256i) -> __m256i {
        let mut acc = [x; CHAINS];
        for _ in 0..STEPS {
            let factor = black_box(x);
            for acc in &mut acc {
                *acc = _mm256_maddubs_epi16(*acc, factor);
            }
        }
        acc.into_iter().fold(x, |a, b| _mm256_xor_si256(a, b))
    }
}
