//! Every level against the scalar one, byte for byte, on adversarial shapes and values.

mod bounds;
mod conv;
mod pointwise;
mod pooling;
mod threads;

use slimbit_kernels::{Isa, Kernels, Map, MapMut, SLACK};

/// The levels above scalar that this CPU has, or the one that `SLIMBIT_ISA` names; says which ones
/// are skipped.
fn levels() -> Vec<&'static Kernels> {
    if std::env::var_os("SLIMBIT_ISA").is_some() {
        return vec![Kernels::best().unwrap()];
    }
    let above_scalar = |isa: &Isa| *isa > Isa::Scalar;
    let of = |isa: Isa| match Kernels::of(isa) {
        Ok(kernels) => Some(kernels),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    };
    Isa::ALL
        .into_iter()
        .filter(above_scalar)
        .filter_map(of)
        .collect()
}

fn scalar() -> &'static Kernels {
    Kernels::of(Isa::Scalar).unwrap()
}

#[test]
fn levels_are_tested_or_reported() {
    let tested: Vec<Isa> = levels().iter().map(|kernels| kernels.isa()).collect();
    let expected = match std::env::var_os("SLIMBIT_ISA") {
        Some(_) => vec![Isa::from_env().unwrap()],
        None => Isa::available().split_off(1),
    };
    assert_eq!(tested, expected);
    println!("tested against scalar: {tested:?} of {:?}", Isa::ALL);
}

/// SplitMix64: enough noise for tests, the same on every machine.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Within `[lo, hi]`.
    fn within(&mut self, lo: i64, hi: i64) -> i64 {
        lo + (self.next() % (hi - lo + 1) as u64) as i64
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.next() as usize % choices.len()]
    }
}

/// A map in memory of its own, exactly as long as kernels may ask for.
#[derive(Clone)]
struct Codes {
    data: Vec<u8>,
    row_stride: usize,
    pixel_stride: usize,
}

impl Codes {
    /// `gap` bytes lie between pixels and `2·gap` between rows.
    fn new(
        [rows, cols, channels]: [usize; 3],
        gap: usize,
        slack: usize,
        mut code: impl FnMut() -> u8,
    ) -> Codes {
        let pixel_stride = channels + gap;
        let row_stride = cols * pixel_stride + 2 * gap;
        let span = (rows - 1) * row_stride + (cols - 1) * pixel_stride + channels;
        let data = (0..span + slack).map(|_| code()).collect();
        Codes {
            data,
            row_stride,
            pixel_stride,
        }
    }

    fn input(extent: [usize; 3], gap: usize, code: impl FnMut() -> u8) -> Codes {
        Codes::new(extent, gap, SLACK, code)
    }

    /// Holds a pattern, so that a byte written outside of the pixels shows.
    fn output(extent: [usize; 3], gap: usize) -> Codes {
        Codes::new(extent, gap, 0, || 0xa5)
    }

    fn map(&self) -> Map<'_> {
        Map {
            data: &self.data,
            row_stride: self.row_stride,
            pixel_stride: self.pixel_stride,
        }
    }

    fn map_mut(&mut self) -> MapMut<'_> {
        MapMut {
            data: &mut self.data,
            row_stride: self.row_stride,
            pixel_stride: self.pixel_stride,
        }
    }
}
