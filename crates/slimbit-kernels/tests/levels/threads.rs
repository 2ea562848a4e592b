//! The same bytes for every number of threads.

use crate::{Codes, Noise};
use slimbit_kernels::{Border, ConvGeometry, Isa, Kernels, Team, Window};
use slimbit_num::{AddRequant, Clip, Requant, Table};

const BYTE: Clip = Clip { lo: 0, hi: 255 };

fn teams() -> Vec<Team> {
    [1, 2, 3, 5].map(|n| Team::new(n).unwrap()).into()
}

fn all() -> Vec<&'static Kernels> {
    let levels = Isa::available().into_iter();
    levels.map(|isa| Kernels::of(isa).unwrap()).collect()
}

/// Runs on every level and team, and compares with the level's own result on one thread.
fn check<T: PartialEq>(what: &str, run: impl Fn(&Kernels, &mut Team) -> T) {
    let mut teams = teams();
    for kernels in all() {
        let alone = run(kernels, &mut Team::solo());
        for team in &mut teams {
            assert!(
                run(kernels, team) == alone,
                "{what} on {} threads of {}",
                team.threads(),
                kernels.isa()
            );
        }
    }
}

fn map(rows: usize, cols: usize, inputs: usize, outputs: usize) -> ConvGeometry {
    ConvGeometry {
        out_rows: rows,
        out_cols: cols,
        ..ConvGeometry::linear(inputs, outputs)
    }
}

/// Large enough to be worth sharing, each in another way.
#[test]
fn convolutions() {
    let square = |kernel: usize, groups: usize, geometry: ConvGeometry| ConvGeometry {
        kernel: [kernel; 2],
        groups,
        ..geometry
    };
    let shapes = [
        map(13, 11, 19, 70),
        square(3, 1, map(17, 9, 8, 33)),
        square(3, 1, map(2, 7, 64, 200)),
        square(3, 4, map(7, 9, 24, 36)),
        square(3, 90, map(19, 23, 90, 90)),
        square(5, 130, map(3, 40, 130, 130)),
        square(3, 450, map(7, 6, 450, 450)),
        ConvGeometry {
            stride: [2, 2],
            dilation: [1, 2],
            ..square(3, 1, map(9, 8, 20, 50))
        },
        ConvGeometry::linear(700, 300),
        ConvGeometry::linear(3000, 65),
        map(300, 1, 40, 9),
        map(1, 300, 40, 9),
    ];
    for (seed, geometry) in shapes.into_iter().enumerate() {
        let noise = &mut Noise(seed as u64);
        let ConvGeometry {
            out_rows,
            out_cols,
            in_channels,
            out_channels,
            kernel,
            stride,
            dilation,
            groups,
        } = geometry;
        let taps = kernel[0] * kernel[1] * in_channels / groups;
        let weights: Vec<i8> = (0..out_channels * taps)
            .map(|_| noise.next() as i8)
            .collect();
        let draw = |_| Requant {
            m: noise.within(-900, 900) as i32,
            c: noise.within(0, 255) << 16,
            k: 16,
        };
        let requant: Vec<Requant> = (0..out_channels).map(draw).collect();
        let extent = |axis: usize, outputs: usize| {
            (outputs - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1
        };
        let input = Codes::input(
            [extent(0, out_rows), extent(1, out_cols), in_channels],
            seed % 3,
            || noise.next() as u8,
        );
        check(&format!("{geometry:?}"), |kernels, team| {
            let pack = |clip| {
                kernels
                    .pack_conv(geometry, &weights, &requant, clip)
                    .unwrap()
            };
            let mut codes = Codes::output([out_rows, out_cols, out_channels], seed % 2);
            kernels
                .on(team)
                .conv(&pack(BYTE), input.map(), codes.map_mut());
            let mut wide = vec![7; out_rows * out_cols * out_channels + 1];
            kernels
                .on(team)
                .conv_wide(&pack(Clip::signed(16)), input.map(), &mut wide);
            (codes.data, wide)
        });
    }
}

#[test]
fn pointwise_operators() {
    let noise = &mut Noise(5);
    let table = Table(std::array::from_fn(|_| noise.next() as u8));
    let requant = AddRequant {
        ma: 3,
        mb: -2,
        c: 90,
        k: 1,
    };
    for (extent, gap) in [
        ([57, 31, 40], 0),
        ([14, 13, 450], 0),
        ([3, 700, 33], 3),
        ([1, 7, 9000], 1),
        ([7, 10, 1024], 0),
        ([14, 13, 448], 2),
    ] {
        let a = Codes::input(extent, gap, || noise.next() as u8);
        let b = Codes::input(extent, 0, || noise.next() as u8);
        check(&format!("{extent:?}"), |kernels, team| {
            let (mut sum, mut found) = (Codes::output(extent, 1), Codes::output(extent, gap));
            let mut kernels = kernels.on(team);
            kernels.add(&requant, BYTE, a.map(), b.map(), sum.map_mut(), extent);
            kernels.table(&table, a.map(), found.map_mut(), extent);
            (sum.data, found.data)
        });
    }
}

#[test]
fn pools() {
    let noise = &mut Noise(6);
    for (size, padding, stride, extent) in [
        ([57, 40], [1, 1], 2, [29, 20, 40]),
        ([9, 30], [2, 2], 1, [11, 32, 70]),
        ([3, 3], [2, 0], 3, [3, 1, 3000]),
    ] {
        let window = Window {
            kernel: [3, 3],
            stride: [stride; 2],
        };
        let border = Border {
            padding,
            input: size,
        };
        let input = Codes::input([size[0], size[1], extent[2]], 1, || noise.next() as u8);
        check(&format!("max {size:?}"), |kernels, team| {
            let mut out = Codes::output(extent, 2);
            kernels
                .on(team)
                .max_pool(window, border, input.map(), out.map_mut(), extent);
            out.data
        });
    }
    for (kernel, stride, extent) in [
        ([2, 3], [2, 1], [31, 17, 40]),
        ([7, 7], [1, 1], [1, 1, 1500]),
        ([40, 40], [1, 1], [1, 1, 65]),
    ] {
        let reach = |axis: usize| (extent[axis] - 1) * stride[axis] + kernel[axis];
        let input_extent = [reach(0), reach(1), extent[2]];
        let input = Codes::input(input_extent, 0, || noise.next() as u8);
        let requant = Requant { m: 77, c: 3, k: 12 };
        check(&format!("mean {kernel:?}"), |kernels, team| {
            let mut out = Codes::output(extent, 1);
            let mut sums = vec![-1; extent[2] + 1];
            let (map, mut kernels) = (input.map(), kernels.on(team));
            let window = Window { kernel, stride };
            kernels.sum_pool(window, map, out.map_mut(), &requant, BYTE, extent);
            kernels.global_sum(map, reach(0), reach(1), extent[2], &mut sums);
            (out.data, sums)
        });
    }
}
