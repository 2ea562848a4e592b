use crate::{Codes, Noise, levels, scalar};
use slimbit_kernels::{Kernels, Map, MapMut};
use slimbit_num::{AddRequant, Clip, Table};

/// Runs `f` on every level, for every tail of channels, with and without gaps.
fn check(f: impl Fn(&Kernels, [Map<'_>; 2], MapMut<'_>, [usize; 3])) {
    let noise = &mut Noise(21);
    for channels in [1, 7, 15, 16, 17, 31, 32, 33, 49, 64, 65] {
        for gap in [0, 3] {
            let extent = [3, 5, channels];
            let [a, b] = [gap, 2 * gap].map(|gap| Codes::input(extent, gap, || noise.next() as u8));
            let run = |kernels: &Kernels| {
                let mut out = Codes::output(extent, gap);
                f(kernels, [a.map(), b.map()], out.map_mut(), extent);
                out.data
            };
            let expected = run(scalar());
            for kernels in levels() {
                let isa = kernels.isa();
                assert!(
                    expected == run(kernels),
                    "{isa}: {channels} channels, gap {gap}"
                );
            }
        }
    }
}

#[test]
fn addition() {
    let noise = &mut Noise(22);
    for _ in 0..30 {
        let k = noise.within(0, 24);
        let steepest = (1i64 << k) + 1;
        let requant = AddRequant {
            ma: noise.within(-steepest, steepest) as i32,
            mb: noise.within(-steepest, steepest) as i32,
            c: noise.within(-300 << k, 300 << k),
            k: k as u8,
        };
        let clip = Clip {
            lo: noise.within(0, 20) as i32,
            hi: noise.within(20, 255) as i32,
        };
        check(|kernels, [a, b], out, extent| kernels.add(&requant, clip, a, b, out, extent));
    }
}

#[test]
fn addition_at_the_bounds_of_32_and_64_bits() {
    let largest = i32::MAX / 255;
    let left = i64::from(i32::MAX - largest * 255);
    let half = largest / 2;
    for (ma, mb, c, k) in [
        (largest, 0, left, 23),
        (largest, 0, left + 1, 23),
        (-largest, 0, -left, 23),
        (half, -half, 0, 22),
        (half, half, 0, 31),
        (0, 0, i32::MAX.into(), 40),
        (-1, -1, 0, 63),
        (i32::MIN, i32::MIN, i64::MIN, 40),
        (i32::MAX, i32::MAX, i64::MAX, 0),
        (i32::MAX, i32::MIN, 1 << 39, 39),
    ] {
        let requant = AddRequant { ma, mb, c, k };
        let clip = Clip::unsigned(8);
        check(|kernels, [a, b], out, extent| kernels.add(&requant, clip, a, b, out, extent));
    }
}

#[test]
fn tables() {
    let noise = &mut Noise(23);
    let table = Table(std::array::from_fn(|_| noise.next() as u8));
    check(|kernels, [a, _], out, extent| kernels.table(&table, a, out, extent));
    let codes: Vec<u8> = (0..=255).chain([0; 64]).collect();
    for kernels in levels() {
        let mut out = [0; 256];
        let input = Map {
            data: &codes,
            row_stride: 256,
            pixel_stride: 256,
        };
        let result = MapMut {
            data: &mut out,
            row_stride: 256,
            pixel_stride: 256,
        };
        kernels.table(&table, input, result, [1, 1, 256]);
        assert_eq!(out, table.0);
    }
}
