//! Shapes at and around the edges of register tiles, panels, runs of codes and strips of rows: few
//! enough for an emulator.

use super::{Case, Inputs, Rescaling, Weights, depthwise, map};
use slimbit_kernels::ConvGeometry;
use slimbit_num::Clip;

const RESCALINGS: [Rescaling; 3] = [Rescaling::Fitted, Rescaling::Short, Rescaling::Extreme];

#[test]
fn every_tile_of_pixels_by_channels() {
    for out_channels in [1, 8, 15, 16, 17, 32, 33, 48, 49, 63, 64, 65, 80, 97, 129] {
        for pixels in 1..=49 {
            Case {
                rescaling: RESCALINGS[pixels % 3],
                gap: pixels % 2,
                ..Case::new(map(1, pixels, 6 + 5 * (pixels % 3), out_channels))
            }
            .check(pixels as u64);
        }
    }
}

#[test]
fn tiles_run_on_into_the_next_rows() {
    for (rows, cols) in [(7, 7), (1, 1), (2, 13), (5, 3), (13, 1)] {
        for kernel in [[1, 1], [3, 3]] {
            let geometry = ConvGeometry {
                kernel,
                ..map(rows, cols, 8, 70)
            };
            for gap in [0, 4] {
                Case {
                    gap,
                    rescaling: Rescaling::Short,
                    ..Case::new(geometry)
                }
                .check(1);
            }
        }
    }
}

#[test]
fn runs_of_every_length() {
    for in_channels in [1, 2, 3, 4, 5, 7, 9, 15, 17, 30] {
        for (kernel, stride) in [([3, 3], 1), ([7, 7], 2), ([1, 4], 4), ([4, 1], 1)] {
            for gap in [0, 1] {
                for dilation in [1, 2] {
                    let geometry = ConvGeometry {
                        kernel,
                        stride: [stride; 2],
                        dilation: [1, dilation],
                        ..map(2, 5, in_channels, 18)
                    };
                    Case {
                        gap,
                        rescaling: Rescaling::Short,
                        ..Case::new(geometry)
                    }
                    .check(2);
                }
            }
        }
    }
}

#[test]
fn groups_of_any_size() {
    for (groups, inputs, outputs) in [(2, 1, 1), (3, 1, 2), (4, 4, 4), (2, 6, 70), (2, 16, 33)] {
        for gap in [0, 3] {
            let geometry = ConvGeometry {
                kernel: [3, 2],
                groups,
                ..map(3, 4, groups * inputs, groups * outputs)
            };
            Case {
                gap,
                ..Case::new(geometry)
            }
            .check(3);
        }
    }
}

#[test]
fn every_strip_of_a_depthwise_kernel() {
    for kernel in 1..=7 {
        for rows in [1, 2, 3, 4, 5, 9] {
            for (stride, dilation) in [(1, 1), (2, 1), (1, 2), (3, 2)] {
                let geometry = ConvGeometry {
                    stride: [stride; 2],
                    dilation: [dilation; 2],
                    ..depthwise(rows, 6, 19, kernel)
                };
                Case {
                    rescaling: RESCALINGS[rows % 3],
                    gap: rows % 2,
                    ..Case::new(geometry)
                }
                .check(kernel as u64);
            }
        }
    }
}

#[test]
fn depthwise_blocks_and_spans() {
    for channels in [2, 63, 64, 65, 127, 130] {
        for (cols, stride) in [(1, 1), (2, 2), (3, 1), (5, 2), (8, 1)] {
            for rescaling in RESCALINGS {
                let geometry = ConvGeometry {
                    stride: [stride; 2],
                    ..depthwise(3, cols, channels, 3)
                };
                Case {
                    rescaling,
                    ..Case::new(geometry)
                }
                .check(cols as u64);
            }
        }
    }
    for (cols, kernel, stride) in [
        (93, 3, 1),
        (94, 3, 1),
        (95, 3, 1),
        (190, 3, 1),
        (100, 5, 1),
        (99, 3, 2),
    ] {
        let geometry = ConvGeometry {
            stride: [1, stride],
            ..depthwise(2, cols, 5, kernel)
        };
        Case {
            rescaling: Rescaling::Short,
            ..Case::new(geometry)
        }
        .check(4);
    }
}

#[test]
fn extremes_in_every_form() {
    for geometry in [
        map(1, 7, 70, 81),
        depthwise(3, 5, 67, 3),
        depthwise(3, 5, 67, 5),
    ] {
        for inputs in [Inputs::All(255), Inputs::Any] {
            for (a, b) in [(-128, -128), (127, 127), (-128, 127)] {
                for rescaling in RESCALINGS {
                    for clip in [Clip::unsigned(8), Clip { lo: 3, hi: 250 }] {
                        Case {
                            inputs,
                            weights: Weights::Either(a, b),
                            rescaling,
                            clip,
                            ..Case::new(geometry)
                        }
                        .check(5);
                    }
                }
            }
        }
    }
}
