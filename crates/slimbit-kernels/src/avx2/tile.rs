//! Multiply-accumulate on a tile: up to [`ROWS`] pixels by 16 channels.
//!
//! The loops are in assembly: compilers take the sums of a span apart into trees, which spills the
//! accumulators and costs a tenth of the speed.
//!
//! What limits the loop over pairs is the number of vector instructions, of which a Zen 3 takes four
//! a cycle, loads included. So its second weights are operands in memory, as far as loads last.

use super::block::Block;
use super::saturation::LEVELS;
use std::arch::asm;
use std::arch::x86_64::*;

/// Pixels of the largest tile: 8 accumulators, 2 registers of weights, 2 of codes, 2 of products and
/// the ones are 15 of 16.
pub(super) const ROWS: usize = 4;

/// The weights of 16 channels and a chunk of the inputs, as
/// [`Arrangement`](super::saturation::Arrangement) orders them.
pub(super) struct Weights<'a> {
    pub(super) blocks: &'a [Block],
    /// For each block an index into the table of offsets.
    pub(super) sources: &'a [u16],
    pub(super) spans: &'a [u16; LEVELS],
    /// Whether there are spans of more than two blocks.
    pub(super) has_long: bool,
}

/// Sums of 16 channels at `R` pixels, in lane order.
pub(super) type Sums<const R: usize> = [[__m256i; 2]; R];

/// Sixteen ones, which make `vpmaddwd` add neighbouring lanes.
#[repr(align(32))]
struct Ones(#[expect(dead_code, reason = "read by assembly")] [i16; 16]);

static ONES: Ones = Ones([1; 16]);

/// A tile of a fixed number of pixels.
pub(super) trait Tile {
    /// Adds the products of the inputs at `rows[pixel] + table[source]` and the weights.
    ///
    /// # Safety
    /// The CPU has AVX2. `table` holds every source, and four bytes are readable at each of its
    /// offsets from every row.
    unsafe fn accumulate(
        self,
        rows: [*const u8; ROWS],
        table: *const usize,
        weights: &Weights<'_>,
    ) -> Self;
}

/// One block of a long span: `{acc} += {x}·{w}` in 16 bits.
macro_rules! long_step {
    ($source:literal, $low:literal, $high:literal; $($row:ident $l:ident $h:ident),*) => {
        concat!(
            "movzx {i:e}, word ptr [{sources} + ", $source, "]\n",
            "mov {i}, qword ptr [{table} + 8*{i}]\n",
            "vmovdqa {wl}, [{weights} + ", $low, "]\n",
            "vmovdqa {wh}, [{weights} + ", $high, "]\n",
            $(
                "vpbroadcastd {x}, [{", stringify!($row), "} + {i}]\n",
                "vpmaddubsw {y}, {x}, {wl}\n",
                "vpmaddubsw {x}, {x}, {wh}\n",
                "vpaddw {", stringify!($l), "}, {", stringify!($l), "}, {y}\n",
                "vpaddw {", stringify!($h), "}, {", stringify!($h), "}, {x}\n",
            )*
        )
    };
}

macro_rules! tile {
    ($rows:literal: $($row:ident $n:literal $l:ident $h:ident),*) => {
        impl Tile for Sums<$rows> {
            #[target_feature(enable = "avx2")]
            #[inline]
            unsafe fn accumulate(
                mut self,
                rows: [*const u8; ROWS],
                table: *const usize,
                weights: &Weights<'_>,
            ) -> Self {
                let mut blocks = weights.blocks.as_ptr();
                let mut sources = weights.sources.as_ptr();
                let long = if weights.has_long { 2..LEVELS } else { 0..0 };
                // A copy, so that the other loops find the sums in registers.
                let mut sums = self;
                for level in long.rev() {
                    let spans = usize::from(weights.spans[level]);
                    if spans == 0 {
                        continue;
                    }
                    // SAFETY: reads as many sources and blocks as the spans hold, four bytes of
                    // every row at their offsets, and `ONES`; reads and writes the sums.
                    unsafe {
                        asm!(
                            "2:",
                            $(
                                concat!("vpxor {", stringify!($l), ":x}, {", stringify!($l),
                                    ":x}, {", stringify!($l), ":x}"),
                                concat!("vpxor {", stringify!($h), ":x}, {", stringify!($h),
                                    ":x}, {", stringify!($h), ":x}"),
                            )*
                            "mov {left:e}, {span:e}",
                            "3:",
                            long_step!("0", "0", "32"; $($row $l $h),*),
                            long_step!("2", "64", "96"; $($row $l $h),*),
                            long_step!("4", "128", "160"; $($row $l $h),*),
                            long_step!("6", "192", "224"; $($row $l $h),*),
                            "add {sources}, 8",
                            "add {weights}, 256",
                            "sub {left:e}, 4",
                            "jnz 3b",
                            $(
                                concat!("vpmaddwd {x}, {", stringify!($l), "}, [rip + {ones}]"),
                                concat!("vpmaddwd {y}, {", stringify!($h), "}, [rip + {ones}]"),
                                concat!("vpaddd {x}, {x}, [{sums} + 64*", stringify!($n), "]"),
                                concat!("vpaddd {y}, {y}, [{sums} + 64*", stringify!($n), " + 32]"),
                                concat!("vmovdqa [{sums} + 64*", stringify!($n), "], {x}"),
                                concat!("vmovdqa [{sums} + 64*", stringify!($n), " + 32], {y}"),
                            )*
                            "dec {spans}",
                            "jnz 2b",
                            $(
                                $row = in(reg) rows[$n],
                                $l = out(ymm_reg) _,
                                $h = out(ymm_reg) _,
                            )*
                            x = out(ymm_reg) _,
                            y = out(ymm_reg) _,
                            wl = out(ymm_reg) _,
                            wh = out(ymm_reg) _,
                            i = out(reg) _,
                            left = out(reg) _,
                            span = in(reg) 1usize << level,
                            spans = inout(reg) spans => _,
                            sums = in(reg) &raw mut sums,
                            sources = inout(reg) sources,
                            weights = inout(reg) blocks,
                            table = in(reg) table,
                            ones = sym ONES,
                            options(nostack),
                        );
                    }
                }
                if weights.has_long {
                    self = sums;
                }
                let (pairs, singles) = (weights.spans[1], weights.spans[0]);
                if pairs > 0 {
                    let ones = _mm256_set1_epi16(1);
                    // SAFETY: as above, without touching the sums in memory.
                    unsafe {
                        asm!(
                            "2:",
                            "movzx {i:e}, word ptr [{sources}]",
                            "movzx {j:e}, word ptr [{sources} + 2]",
                            "mov {i}, qword ptr [{table} + 8*{i}]",
                            "mov {j}, qword ptr [{table} + 8*{j}]",
                            "vmovdqa {wl}, [{weights}]",
                            "vmovdqa {wh}, [{weights} + 32]",
                            $(
                                concat!("vpbroadcastd {x}, [{", stringify!($row), "} + {i}]"),
                                concat!("vpbroadcastd {y}, [{", stringify!($row), "} + {j}]"),
                                "vpmaddubsw {p}, {x}, {wl}",
                                "vpmaddubsw {x}, {x}, {wh}",
                                "vpmaddubsw {q}, {y}, [{weights} + 64]",
                                "vpmaddubsw {y}, {y}, [{weights} + 96]",
                                "vpaddw {p}, {p}, {q}",
                                "vpaddw {x}, {x}, {y}",
                                "vpmaddwd {p}, {p}, {ones}",
                                "vpmaddwd {x}, {x}, {ones}",
                                concat!("vpaddd {", stringify!($l), "}, {", stringify!($l), "}, {p}"),
                                concat!("vpaddd {", stringify!($h), "}, {", stringify!($h), "}, {x}"),
                            )*
                            "add {sources}, 4",
                            "add {weights}, 128",
                            "dec {spans:e}",
                            "jnz 2b",
                            $(
                                $row = in(reg) rows[$n],
                                $l = inout(ymm_reg) self[$n][0],
                                $h = inout(ymm_reg) self[$n][1],
                            )*
                            x = out(ymm_reg) _,
                            y = out(ymm_reg) _,
                            p = out(ymm_reg) _,
                            q = out(ymm_reg) _,
                            wl = out(ymm_reg) _,
                            wh = out(ymm_reg) _,
                            i = out(reg) _,
                            j = out(reg) _,
                            spans = inout(reg) u32::from(pairs) => _,
                            sources = inout(reg) sources,
                            weights = inout(reg) blocks,
                            table = in(reg) table,
                            ones = in(ymm_reg) ones,
                            options(nostack, readonly),
                        );
                    }
                }
                if singles > 0 {
                    // SAFETY: as above.
                    unsafe {
                        asm!(
                            "2:",
                            "movzx {i:e}, word ptr [{sources}]",
                            "mov {i}, qword ptr [{table} + 8*{i}]",
                            "vmovdqa {wl}, [{weights}]",
                            "vmovdqa {wh}, [{weights} + 32]",
                            $(
                                concat!("vpbroadcastd {x}, [{", stringify!($row), "} + {i}]"),
                                "vpmaddubsw {p}, {x}, {wl}",
                                "vpmaddubsw {x}, {x}, {wh}",
                                "vpmaddwd {p}, {p}, [rip + {ones}]",
                                "vpmaddwd {x}, {x}, [rip + {ones}]",
                                concat!("vpaddd {", stringify!($l), "}, {", stringify!($l), "}, {p}"),
                                concat!("vpaddd {", stringify!($h), "}, {", stringify!($h), "}, {x}"),
                            )*
                            "add {sources}, 2",
                            "add {weights}, 64",
                            "dec {spans:e}",
                            "jnz 2b",
                            $(
                                $row = in(reg) rows[$n],
                                $l = inout(ymm_reg) self[$n][0],
                                $h = inout(ymm_reg) self[$n][1],
                            )*
                            x = out(ymm_reg) _,
                            p = out(ymm_reg) _,
                            wl = out(ymm_reg) _,
                            wh = out(ymm_reg) _,
                            i = out(reg) _,
                            spans = inout(reg) u32::from(singles) => _,
                            sources = inout(reg) sources => _,
                            weights = inout(reg) blocks => _,
                            table = in(reg) table,
                            ones = sym ONES,
                            options(nostack, readonly),
                        );
                    }
                }
                self
            }
        }
    };
}

tile!(1: r0 0 l0 h0);
tile!(2: r0 0 l0 h0, r1 1 l1 h1);
tile!(3: r0 0 l0 h0, r1 1 l1 h1, r2 2 l2 h2);
tile!(4: r0 0 l0 h0, r1 1 l1 h1, r2 2 l2 h2, r3 3 l3 h3);
