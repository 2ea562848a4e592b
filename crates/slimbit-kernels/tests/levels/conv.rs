use crate::{Codes, Noise, levels, scalar};
use proptest::prelude::*;
use slimbit_kernels::{ConvGeometry, Isa, Kernels};
use slimbit_num::{Clip, Requant};

mod tiles;

/// What the weights are drawn from.
#[derive(Clone, Copy, Debug)]
enum Weights {
    Within(i8, i8),
    /// One of the two.
    Either(i8, i8),
}

/// What the codes of the input are drawn from.
#[derive(Clone, Copy, Debug)]
enum Inputs {
    All(u8),
    Any,
}

#[derive(Clone, Copy, Debug)]
enum Rescaling {
    /// Results spread over the clip range, for any shift: what the solver finds.
    Fitted,
    /// The same for shifts of 12 to 32, as networks have them.
    Short,
    /// Any multiplier, constant and shift, near the ends of their types more often than not.
    Extreme,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    geometry: ConvGeometry,
    weights: Weights,
    inputs: Inputs,
    rescaling: Rescaling,
    gap: usize,
    clip: Clip,
}

impl Case {
    fn new(geometry: ConvGeometry) -> Case {
        Case {
            geometry,
            weights: Weights::Within(-128, 127),
            inputs: Inputs::Any,
            rescaling: Rescaling::Fitted,
            gap: 0,
            clip: Clip::unsigned(8),
        }
    }

    /// All levels, codes and wide; returns the kernels of AVX2 that ran.
    fn check(self, seed: u64) -> Vec<&'static str> {
        let noise = &mut Noise(seed);
        let ConvGeometry {
            out_rows,
            out_cols,
            in_channels,
            out_channels,
            kernel,
            ..
        } = self.geometry;
        let taps = kernel[0] * kernel[1] * in_channels / self.geometry.groups;
        let weights: Vec<i8> = (0..out_channels * taps)
            .map(|_| match self.weights {
                Weights::Within(lo, hi) => noise.within(lo.into(), hi.into()) as i8,
                Weights::Either(a, b) => noise.pick(&[a, b]),
            })
            .collect();
        let requant: Vec<Requant> = weights
            .chunks(taps)
            .map(|channel| self.rescaling.draw(channel, noise))
            .collect();
        let extent = |axis: usize, outputs: usize| {
            (outputs - 1) * self.geometry.stride[axis]
                + (kernel[axis] - 1) * self.geometry.dilation[axis]
                + 1
        };
        let input_extent = [extent(0, out_rows), extent(1, out_cols), in_channels];
        let input = Codes::input(input_extent, self.gap, || match self.inputs {
            Inputs::All(code) => code,
            Inputs::Any => noise.next() as u8,
        });
        let run = |kernels: &Kernels| {
            let conv = kernels
                .pack_conv(self.geometry, &weights, &requant, self.clip)
                .unwrap();
            let mut codes = Codes::output([out_rows, out_cols, out_channels], self.gap);
            kernels.conv(&conv, input.map(), codes.map_mut());
            let wide_clip = Clip {
                lo: -32768,
                hi: 32767,
            };
            let wide = kernels
                .pack_conv(self.geometry, &weights, &requant, wide_clip)
                .unwrap();
            let mut numbers = vec![i32::MIN; out_rows * out_cols * out_channels + 3];
            kernels.conv_wide(&wide, input.map(), &mut numbers);
            (codes.data, numbers, conv.kernel_name())
        };
        let (codes, numbers, _) = run(scalar());
        let mut names = Vec::new();
        for kernels in levels() {
            let found = run(kernels);
            let (isa, name) = (kernels.isa(), found.2);
            assert!(
                codes == found.0,
                "{isa} {name} differs from scalar on {self:?}, seed {seed}"
            );
            assert_eq!(
                numbers, found.1,
                "wide {isa} {name} on {self:?}, seed {seed}"
            );
            if isa == Isa::Avx2 {
                names.push(name);
            }
        }
        names
    }
}

impl Rescaling {
    fn draw(self, weights: &[i8], noise: &mut Noise) -> Requant {
        match self {
            Rescaling::Fitted | Rescaling::Short => {
                let reach: i64 = weights.iter().map(|&w| 255 * i64::from(w).abs()).sum();
                let (shortest, longest) = match self {
                    Rescaling::Short => (12, 32),
                    _ => (0, 62),
                };
                let k = noise.within(shortest, longest) as u8;
                let steepest = (300i128 << k) / i128::from(reach.max(1));
                let steepest = steepest.min(i32::MAX.into()) as i64;
                let constant = (1i64 << k.min(50)) * 200;
                Requant {
                    m: noise.within(-steepest, steepest) as i32,
                    c: noise.within(-constant, constant),
                    k,
                }
            }
            Rescaling::Extreme => {
                let (any_m, any_c) = (noise.next() as i32, noise.next() as i64);
                Requant {
                    m: noise.pick(&[i32::MIN, i32::MIN + 1, -1, 0, 1, i32::MAX, any_m]),
                    c: noise.pick(&[i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX, any_c]),
                    k: noise.within(0, 63) as u8,
                }
            }
        }
    }
}

fn map(out_rows: usize, out_cols: usize, in_channels: usize, out_channels: usize) -> ConvGeometry {
    ConvGeometry {
        out_rows,
        out_cols,
        ..ConvGeometry::linear(in_channels, out_channels)
    }
}

fn depthwise(out_rows: usize, out_cols: usize, channels: usize, kernel: usize) -> ConvGeometry {
    ConvGeometry {
        kernel: [kernel; 2],
        groups: channels,
        ..map(out_rows, out_cols, channels, channels)
    }
}

#[test]
fn every_tail_of_pixels_and_channels() {
    for pixels in 1..=9 {
        for out_channels in [1, 7, 8, 15, 16, 17, 31, 33, 64, 65] {
            for in_channels in [1, 3, 4, 5, 16, 18] {
                Case::new(map(1, pixels, in_channels, out_channels)).check(pixels as u64);
            }
        }
    }
}

#[test]
fn every_stride_dilation_and_gap() {
    for stride in 1..=3 {
        for dilation in 1..=2 {
            for gap in [0, 1, 13] {
                for (kernel, groups) in [([3, 3], 1), ([1, 1], 1), ([2, 5], 3), ([3, 3], 6)] {
                    let geometry = ConvGeometry {
                        kernel,
                        groups,
                        stride: [stride, 4 - stride],
                        dilation: [dilation, 3 - dilation],
                        ..map(3, 4, 6, 12)
                    };
                    Case {
                        gap,
                        ..Case::new(geometry)
                    }
                    .check(stride as u64);
                }
            }
        }
    }
}

#[test]
fn sums_that_span_chunks() {
    for in_channels in [1021, 1024, 1027, 2051] {
        for weights in [Weights::Within(-128, 127), Weights::Within(-8, 7)] {
            Case {
                weights,
                ..Case::new(map(1, 5, in_channels, 70))
            }
            .check(5);
        }
    }
    let geometry = ConvGeometry {
        kernel: [3, 3],
        ..map(2, 3, 131, 17)
    };
    Case::new(geometry).check(6);
}

#[test]
fn extreme_codes_and_weights() {
    let shapes = [
        map(2, 3, 37, 18),
        depthwise(3, 3, 35, 3),
        depthwise(2, 2, 35, 5),
    ];
    for geometry in shapes {
        for inputs in [Inputs::All(0), Inputs::All(255)] {
            for (a, b) in [
                (-128, -128),
                (127, 127),
                (-128, 127),
                (0, 0),
                (-64, -64),
                (64, 64),
            ] {
                let weights = Weights::Either(a, b);
                for rescaling in [Rescaling::Fitted, Rescaling::Extreme] {
                    Case {
                        inputs,
                        weights,
                        rescaling,
                        ..Case::new(geometry)
                    }
                    .check(7);
                }
            }
        }
    }
}

#[test]
fn extreme_rescaling() {
    for seed in 0..40 {
        for geometry in [map(2, 3, 9, 33), depthwise(3, 3, 35, 3)] {
            let clip = Clip { lo: 3, hi: 250 };
            let case = Case {
                rescaling: Rescaling::Extreme,
                clip,
                ..Case::new(geometry)
            };
            case.check(seed);
        }
    }
}

/// Sums of products in 16 bits are as long as the weights allow: at the very bound of each length,
/// and one beyond, saturation would show.
#[test]
fn dense_sums_never_saturate() {
    for inputs in [20, 64, 300] {
        let geometry = ConvGeometry {
            kernel: [3, 3],
            ..map(2, 5, inputs, 18)
        };
        for bound in [128, 127, 65, 64, 33, 32, 17, 16, 9, 8, 5, 4, 3, 2, 1] {
            let (less, lo) = ((bound - 1) as i8, (-bound).max(-128) as i8);
            for (a, b) in [
                (less, lo),
                (less, less),
                (lo, lo),
                (less, less.min(126) + 1),
                (lo, lo + 1),
            ] {
                for inputs in [Inputs::All(255), Inputs::Any] {
                    let case = Case {
                        weights: Weights::Either(a, b),
                        inputs,
                        ..Case::new(geometry)
                    };
                    case.check(3);
                }
            }
        }
    }
}

/// The narrowest weights take the fastest kernels. At the very bound of each, saturation would
/// show.
#[test]
fn depthwise_kernels_are_chosen_by_what_can_saturate() {
    for (kernel, bound, name) in [
        (1, 64, "depthwise8"),
        (1, 65, "depthwise8x2"),
        (2, 64, "depthwise8"),
        (3, 28, "depthwise8"),
        (3, 29, "depthwise8x2"),
        (3, 127, "depthwise8x2"),
        (5, 10, "depthwise8"),
        (5, 11, "depthwise8x2"),
        (5, 127, "depthwise8x2"),
        (7, 127, "dense8"),
        (12, 1, "dense8"),
    ] {
        let geometry = depthwise(3, 4, 50, kernel);
        for (a, b) in [(bound, bound), (-bound, -bound), (bound, -bound)] {
            for inputs in [Inputs::All(255), Inputs::Any] {
                let case = Case {
                    weights: Weights::Either(a, b),
                    inputs,
                    ..Case::new(geometry)
                };
                assert!(
                    case.check(4).iter().all(|&chosen| chosen == name),
                    "{kernel} {bound}"
                );
            }
        }
    }
}

#[test]
fn every_depthwise_tail() {
    for channels in [2, 15, 16, 17, 31, 32, 33, 48, 49, 65] {
        for weights in [Weights::Within(-7, 7), Weights::Within(-128, 127)] {
            for stride in 1..=2 {
                let geometry = ConvGeometry {
                    stride: [stride; 2],
                    ..depthwise(3, 4, channels, 3)
                };
                Case {
                    weights,
                    gap: stride - 1,
                    ..Case::new(geometry)
                }
                .check(8);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_convolutions(
        (out_rows, out_cols) in (1usize..6, 1usize..12),
        (inputs, outputs, groups) in (1usize..40, 1usize..40, 1usize..4),
        (kernel_rows, kernel_cols) in (1usize..5, 1usize..5),
        (stride, dilation) in (1usize..4, 1usize..3),
        bits in 2u32..=8,
        (gap, seed) in (0usize..5, any::<u64>()),
        (is_depthwise, is_extreme) in (any::<bool>(), prop::bool::weighted(0.2)),
    ) {
        let groups = if is_depthwise { inputs } else { groups };
        let (in_channels, out_channels) =
            if is_depthwise { (inputs, inputs) } else { (inputs * groups, outputs * groups) };
        let geometry = ConvGeometry {
            out_rows,
            out_cols,
            in_channels,
            out_channels,
            kernel: [kernel_rows, kernel_cols],
            stride: [stride, stride],
            dilation: [dilation, dilation],
            groups,
        };
        let reach = (1i16 << (bits - 1)) - 1;
        let weights = Weights::Within(-reach as i8, reach as i8);
        let rescaling = if is_extreme { Rescaling::Extreme } else { Rescaling::Fitted };
        Case { weights, gap, rescaling, ..Case::new(geometry) }.check(seed);
    }
}
