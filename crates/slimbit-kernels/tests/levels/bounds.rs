use crate::{Codes, scalar};
use slimbit_kernels::{Border, ConvGeometry, Isa, KernelError, Kernels, Map, SLACK, Window};
use slimbit_num::{AddRequant, Clip, Requant, Table};
use std::panic::{AssertUnwindSafe, catch_unwind};

const ONE: Requant = Requant { m: 1, c: 0, k: 0 };
const BYTE: Clip = Clip { lo: 0, hi: 255 };

fn all() -> impl Iterator<Item = &'static Kernels> {
    Isa::available()
        .into_iter()
        .map(|isa| Kernels::of(isa).unwrap())
}

/// The message of the panic that `f` must end in.
fn panic_of(f: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).expect_err("the bounds must be checked");
    let formatted = panic.downcast_ref::<String>().cloned();
    formatted
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap()
}

#[test]
fn a_byte_too_few_is_refused_everywhere() {
    let geometry = ConvGeometry {
        out_rows: 3,
        out_cols: 3,
        kernel: [3, 2],
        stride: [2, 2],
        ..ConvGeometry::linear(4, 5)
    };
    let good_input = Codes::input([7, 6, 4], 0, || 1);
    let good_output = Codes::output([3, 3, 5], 0);
    let mut short_input = good_input.clone();
    short_input.data.pop();
    let mut short_output = good_output.clone();
    short_output.data.pop();
    for kernels in all() {
        let conv = kernels
            .pack_conv(geometry, &[1; 120], &[ONE; 5], BYTE)
            .unwrap();
        kernels.conv(&conv, good_input.map(), good_output.clone().map_mut());
        let message =
            panic_of(|| kernels.conv(&conv, short_input.map(), good_output.clone().map_mut()));
        assert!(
            message.contains("input of 231 bytes is shorter than the 232"),
            "{message}"
        );
        let message =
            panic_of(|| kernels.conv(&conv, good_input.map(), short_output.clone().map_mut()));
        assert!(
            message.contains("output of 44 bytes is shorter than the 45"),
            "{message}"
        );
        let message = panic_of(|| kernels.conv_wide(&conv, good_input.map(), &mut [0; 44]));
        assert!(message.contains("output of 44 numbers"), "{message}");
    }
}

#[test]
fn other_kernels_check_their_maps() {
    let extent = [2, 3, 4];
    let good = Codes::input(extent, 0, || 1);
    let mut short = good.clone();
    short.data.pop();
    let out = Codes::output(extent, 0);
    let mut short_out = out.clone();
    short_out.data.pop();
    let sum = AddRequant {
        ma: 1,
        mb: 1,
        c: 0,
        k: 1,
    };
    let identity = Table(std::array::from_fn(|code| code as u8));
    let window = Window {
        kernel: [1, 1],
        stride: [1, 1],
    };
    let border = Border {
        padding: [0, 0],
        input: [2, 3],
    };
    for k in all() {
        let (a, b) = (good.map(), short.map());
        panic_of(|| k.add(&sum, BYTE, b, a, out.clone().map_mut(), extent));
        panic_of(|| k.add(&sum, BYTE, a, b, out.clone().map_mut(), extent));
        panic_of(|| k.add(&sum, BYTE, a, a, short_out.clone().map_mut(), extent));
        panic_of(|| k.table(&identity, b, out.clone().map_mut(), extent));
        panic_of(|| k.table(&identity, a, short_out.clone().map_mut(), extent));
        panic_of(|| k.max_pool(window, border, b, out.clone().map_mut(), extent));
        panic_of(|| k.max_pool(window, border, a, short_out.clone().map_mut(), extent));
        panic_of(|| k.sum_pool(window, b, out.clone().map_mut(), &ONE, BYTE, extent));
        panic_of(|| k.sum_pool(window, a, short_out.clone().map_mut(), &ONE, BYTE, extent));
        panic_of(|| k.global_sum(b, 2, 3, 4, &mut [0; 4]));
        panic_of(|| k.global_sum(a, 2, 3, 4, &mut [0; 3]));
        let signed = Clip { lo: -1, hi: 255 };
        panic_of(|| k.add(&sum, signed, a, a, out.clone().map_mut(), extent));
        panic_of(|| k.sum_pool(window, a, out.clone().map_mut(), &ONE, signed, extent));
        let empty = Window {
            kernel: [0, 1],
            stride: [1, 1],
        };
        panic_of(|| k.max_pool(empty, border, a, out.clone().map_mut(), extent));
        panic_of(|| k.sum_pool(empty, a, out.clone().map_mut(), &ONE, BYTE, extent));
    }
}

#[test]
fn strides_that_wrap_around_are_refused() {
    let data = vec![0; 256];
    let mut out = Codes::output([2, 2, 4], 0);
    let input = Map {
        data: &data,
        row_stride: usize::MAX,
        pixel_stride: usize::MAX / 2,
    };
    for kernels in all() {
        let identity = Table(std::array::from_fn(|code| code as u8));
        panic_of(|| kernels.table(&identity, input, out.map_mut(), [2, 2, 4]));
        panic_of(|| kernels.global_sum(input, 2, 2, 4, &mut [0; 4]));
    }
}

#[test]
fn packing_refuses_what_cannot_run() {
    let geometry = ConvGeometry::linear(4, 2);
    let pack = |weights: &[i8], requant: &[Requant], clip: Clip| {
        scalar()
            .pack_conv(geometry, weights, requant, clip)
            .unwrap_err()
    };
    assert_eq!(
        pack(&[1; 7], &[ONE; 2], BYTE),
        KernelError::Weights {
            expected: 8,
            found: 7
        }
    );
    assert_eq!(
        pack(&[1; 8], &[ONE; 3], BYTE),
        KernelError::Requants {
            expected: 2,
            found: 3
        }
    );
    for clip in [
        Clip { lo: 1, hi: 0 },
        Clip { lo: 0, hi: 32768 },
        Clip { lo: -32769, hi: 0 },
    ] {
        assert_eq!(pack(&[1; 8], &[ONE; 2], clip), KernelError::Clip(clip));
    }
    let long = 66_000;
    let error = scalar().pack_conv(
        ConvGeometry::linear(long, 1),
        &vec![-128; long],
        &[ONE],
        BYTE,
    );
    assert_eq!(error.unwrap_err(), KernelError::Accumulator { channel: 0 });
}

#[test]
fn a_wide_clip_needs_a_wide_output() {
    let kernels = scalar();
    let signed = Clip { lo: -5, hi: 5 };
    let conv = kernels
        .pack_conv(ConvGeometry::linear(1, 1), &[1], &[ONE], signed)
        .unwrap();
    let input = Codes::input([1, 1, 1], 0, || 9);
    let mut output = Codes::output([1, 1, 1], 0);
    let message = panic_of(|| kernels.conv(&conv, input.map(), output.map_mut()));
    assert!(message.contains("does not fit a byte"), "{message}");
    let mut wide = [0];
    kernels.conv_wide(&conv, input.map(), &mut wide);
    assert_eq!(wide, [5]);
}

#[test]
fn weights_run_on_the_level_that_packed_them() {
    let conv = scalar()
        .pack_conv(ConvGeometry::linear(1, 1), &[1], &[ONE], BYTE)
        .unwrap();
    let data = [0; 1 + SLACK];
    let input = Map {
        data: &data,
        row_stride: 1,
        pixel_stride: 1,
    };
    for kernels in all().skip(1) {
        let message = panic_of(|| kernels.conv_wide(&conv, input, &mut [0]));
        assert!(
            message.contains("packed for scalar cannot run on"),
            "{message}"
        );
    }
}
