use crate::{Codes, Noise, levels, scalar};
use slimbit_kernels::{Border, Kernels, Window};
use slimbit_num::{Clip, Requant};

#[test]
fn max_pooling() {
    let noise = &mut Noise(31);
    for channels in [1, 15, 16, 31, 32, 33, 65] {
        for (kernel, stride, padding, input, extent) in [
            ([3, 3], [2, 2], [1, 1], [7, 9], [4, 5]),
            ([2, 2], [2, 2], [0, 0], [6, 8], [3, 4]),
            ([5, 1], [1, 3], [2, 0], [5, 7], [5, 3]),
            ([2, 2], [3, 3], [2, 2], [2, 2], [2, 2]),
        ] {
            let window = Window { kernel, stride };
            let border = Border { padding, input };
            let extent = [extent[0], extent[1], channels];
            let codes = Codes::input([input[0], input[1], channels], 2, || noise.next() as u8);
            let run = |kernels: &Kernels| {
                let mut out = Codes::output(extent, 1);
                kernels.max_pool(window, border, codes.map(), out.map_mut(), extent);
                out.data
            };
            let expected = run(scalar());
            for kernels in levels() {
                assert!(
                    expected == run(kernels),
                    "{}: {window:?} {channels}",
                    kernels.isa()
                );
            }
        }
    }
}

#[test]
fn taps_outside_of_a_map_never_win() {
    let window = Window {
        kernel: [3, 3],
        stride: [2, 2],
    };
    let border = Border {
        padding: [1, 1],
        input: [2, 2],
    };
    let codes = Codes::input([2, 2, 1], 0, || 9);
    for kernels in levels().into_iter().chain([scalar()]) {
        let mut out = Codes::output([1, 1, 1], 0);
        let mut input = codes.clone();
        input.data[..4].copy_from_slice(&[3, 1, 4, 1]);
        kernels.max_pool(window, border, input.map(), out.map_mut(), [1, 1, 1]);
        assert_eq!(out.data, [4]);
    }
}

#[test]
fn average_pooling() {
    let noise = &mut Noise(32);
    for channels in [1, 15, 16, 17, 33] {
        for (kernel, stride, extent) in [
            ([2, 2], [2, 2], [3, 4]),
            ([3, 1], [1, 2], [2, 3]),
            ([17, 17], [1, 1], [1, 2]),
            ([33, 32], [1, 1], [2, 1]),
        ] {
            let window = Window { kernel, stride };
            let [rows, cols] = [0, 1].map(|axis| (extent[axis] - 1) * stride[axis] + kernel[axis]);
            let extent = [extent[0], extent[1], channels];
            let area = (kernel[0] * kernel[1]) as i32;
            for requant in [
                Requant {
                    m: (1 << 20) / area,
                    c: 1 << 19,
                    k: 20,
                },
                Requant {
                    m: -3,
                    c: 1 << 20,
                    k: 12,
                },
                Requant {
                    m: i32::MAX,
                    c: i64::MAX,
                    k: 1,
                },
                Requant {
                    m: i32::MIN,
                    c: i64::MIN,
                    k: 62,
                },
            ] {
                let full = noise.pick(&[false, true]);
                let codes = Codes::input([rows, cols, channels], 1, || {
                    if full { 255 } else { noise.next() as u8 }
                });
                let run = |kernels: &Kernels| {
                    let mut out = Codes::output(extent, 3);
                    let clip = Clip { lo: 1, hi: 254 };
                    kernels.sum_pool(window, codes.map(), out.map_mut(), &requant, clip, extent);
                    out.data
                };
                let expected = run(scalar());
                for kernels in levels() {
                    assert!(
                        expected == run(kernels),
                        "{}: {window:?} {requant:?}",
                        kernels.isa()
                    );
                }
            }
        }
    }
}

#[test]
fn global_sums() {
    for (rows, cols) in [(1, 1), (7, 7), (16, 17), (40, 50)] {
        for channels in [1, 15, 16, 17, 40] {
            let codes = Codes::input([rows, cols, channels], 1, || 255);
            for kernels in levels().into_iter().chain([scalar()]) {
                let mut sums = vec![-1; channels + 1];
                kernels.global_sum(codes.map(), rows, cols, channels, &mut sums);
                let full = 255 * (rows * cols) as i32;
                assert!(
                    sums[..channels].iter().all(|&sum| sum == full),
                    "{}",
                    kernels.isa()
                );
                assert_eq!(sums[channels], -1);
            }
        }
    }
    let noise = &mut Noise(33);
    let codes = Codes::input([5, 6, 37], 2, || noise.next() as u8);
    let run = |kernels: &Kernels| {
        let mut sums = vec![0; 37];
        kernels.global_sum(codes.map(), 5, 6, 37, &mut sums);
        sums
    };
    for kernels in levels() {
        assert_eq!(run(kernels), run(scalar()), "{}", kernels.isa());
    }
}
