//! The products of one position over many tiles: matrix products in registers.

use pulp::{Simd, WithSimd};

use super::transforms::POSITIONS;
use crate::ops::register_tile::store;

/// Rows of a register tile: six times two vectors are twelve independent chains, which hide the
/// latency of fused multiply-add; two loads and six broadcasts feed twelve of them.
const ROWS: usize = 6;
/// Vectors across a register tile.
const VECTORS: usize = 2;

/// Floats across a panel of packed kernels.
#[inline(always)]
pub(super) fn panel_width<S: Simd>() -> usize {
    VECTORS * S::F32_LANES
}

/// Floats between positions, of tiles and of kernels alike: without them, all positions could fall
/// into one set of the caches.
pub(super) const GAP: usize = 16;

/// Floats of a position of a packed kernel panel.
#[inline(always)]
pub(super) fn packed_position(depth: usize, width: usize) -> usize {
    depth * width + GAP
}

/// Transformed tiles: groups of `[POSITIONS][tiles][pitch]`, of which the last may be partly filled.
#[derive(Clone, Copy)]
pub(super) struct Tiles<'a> {
    pub(super) values: &'a [f32],
    /// Floats of a group, and of a position in it.
    pub(super) group: usize,
    pub(super) position: usize,
    /// Floats of a tile.
    pub(super) pitch: usize,
    /// Tiles of a group, and of all.
    pub(super) per_group: usize,
    pub(super) count: usize,
}

impl<'a> Tiles<'a> {
    /// The tiles of one position, group by group.
    #[inline(always)]
    fn at(self, position: usize) -> impl Iterator<Item = &'a [f32]> {
        let first = position * self.position;
        let groups = self.values.chunks(self.group).enumerate();
        groups.map(move |(group, values)| {
            let tiles = self.per_group.min(self.count - group * self.per_group);
            &values[first..first + tiles * self.pitch]
        })
    }
}

/// `out[tile][m] = sum_c tiles[tile][c] * kernel[c][m]` at one position.
pub(super) struct TileProducts<'a> {
    pub(super) tiles: Tiles<'a>,
    pub(super) position: usize,
    /// Channels `c` and `m`.
    pub(super) channels: [usize; 2],
    /// `[panels][POSITIONS][c][panel width]`, a gap between positions.
    pub(super) kernel: &'a [f32],
    /// `[tiles][pitch]`.
    pub(super) out: &'a mut [f32],
    pub(super) pitch: usize,
}

impl WithSimd for TileProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            tiles,
            position,
            channels: [depth, across],
            kernel,
            out,
            pitch,
        } = self;
        let length = packed_position(depth, panel_width::<S>());
        for (panel, first) in (0..across).step_by(panel_width::<S>()).enumerate() {
            let panel = &kernel[(panel * POSITIONS + position) * length..][..length];
            let two = across - first > S::F32_LANES;
            let mut at = first;
            for rows in tiles.at(position) {
                for left in rows.chunks(ROWS * tiles.pitch) {
                    let count = left.len() / tiles.pitch;
                    let out = &mut out[at..];
                    let block = (left, tiles.pitch, panel, depth);
                    match (count, two) {
                        (6, true) => rows_by_panel::<S, 6, 2>(simd, block, out, pitch),
                        (5, true) => rows_by_panel::<S, 5, 2>(simd, block, out, pitch),
                        (4, true) => rows_by_panel::<S, 4, 2>(simd, block, out, pitch),
                        (3, true) => rows_by_panel::<S, 3, 2>(simd, block, out, pitch),
                        (2, true) => rows_by_panel::<S, 2, 2>(simd, block, out, pitch),
                        (_, true) => rows_by_panel::<S, 1, 2>(simd, block, out, pitch),
                        (6, false) => rows_by_panel::<S, 6, 1>(simd, block, out, pitch),
                        (5, false) => rows_by_panel::<S, 5, 1>(simd, block, out, pitch),
                        (4, false) => rows_by_panel::<S, 4, 1>(simd, block, out, pitch),
                        (3, false) => rows_by_panel::<S, 3, 1>(simd, block, out, pitch),
                        (2, false) => rows_by_panel::<S, 2, 1>(simd, block, out, pitch),
                        (_, false) => rows_by_panel::<S, 1, 1>(simd, block, out, pitch),
                    }
                    at += count * pitch;
                }
            }
        }
    }
}

/// `R` tiles by the first `V` vectors of a panel.
#[inline(always)]
fn rows_by_panel<S: Simd, const R: usize, const V: usize>(
    simd: S,
    (left, left_pitch, panel, depth): (&[f32], usize, &[f32], usize),
    out: &mut [f32],
    pitch: usize,
) {
    simd.vectorize(RowsByPanel::<R, V> {
        left,
        left_pitch,
        panel,
        depth,
        out,
        pitch,
    });
}

struct RowsByPanel<'a, const R: usize, const V: usize> {
    left: &'a [f32],
    left_pitch: usize,
    panel: &'a [f32],
    depth: usize,
    out: &'a mut [f32],
    pitch: usize,
}

impl<const R: usize, const V: usize> WithSimd for RowsByPanel<'_, R, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut rows: [&[f32]; R] = [&[]; R];
        for (row, left) in rows.iter_mut().zip(self.left.chunks(self.left_pitch)) {
            *row = &left[..self.depth];
        }
        let (panel, _) = S::as_simd_f32s(self.panel);
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (c, right) in (0..self.depth).zip(panel.chunks_exact(VECTORS)) {
            for r in 0..R {
                let left = simd.splat_f32s(rows[r][c]);
                for v in 0..V {
                    sums[r][v] = simd.mul_add_e_f32s(left, right[v], sums[r][v]);
                }
            }
        }
        for (sums, out) in sums.iter().zip(self.out.chunks_mut(self.pitch)) {
            store::<S>(sums, out);
        }
    }
}

/// `sum[c][m] += sum_tile left[tile][c] * right[tile][m]` at one position.
pub(super) struct KernelProducts<'a> {
    pub(super) left: Tiles<'a>,
    pub(super) right: Tiles<'a>,
    pub(super) position: usize,
    /// Channels `c` and `m`.
    pub(super) channels: [usize; 2],
    /// `[c][pitch of right]`.
    pub(super) sum: &'a mut [f32],
}

impl WithSimd for KernelProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            left,
            right,
            position,
            channels: [rows, columns],
            sum,
        } = self;
        let pitches = [left.pitch, right.pitch];
        for (left, right) in left.at(position).zip(right.at(position)) {
            for column in (0..columns).step_by(panel_width::<S>()) {
                let two = columns - column > S::F32_LANES;
                for row in (0..rows).step_by(ROWS) {
                    let block = (left, right, pitches, [row, column]);
                    let sum = &mut sum[row * pitches[1] + column..];
                    match (rows - row, two) {
                        (6.., true) => outer_sum::<S, 6, 2>(simd, block, sum),
                        (5, true) => outer_sum::<S, 5, 2>(simd, block, sum),
                        (4, true) => outer_sum::<S, 4, 2>(simd, block, sum),
                        (3, true) => outer_sum::<S, 3, 2>(simd, block, sum),
                        (2, true) => outer_sum::<S, 2, 2>(simd, block, sum),
                        (_, true) => outer_sum::<S, 1, 2>(simd, block, sum),
                        (6.., false) => outer_sum::<S, 6, 1>(simd, block, sum),
                        (5, false) => outer_sum::<S, 5, 1>(simd, block, sum),
                        (4, false) => outer_sum::<S, 4, 1>(simd, block, sum),
                        (3, false) => outer_sum::<S, 3, 1>(simd, block, sum),
                        (2, false) => outer_sum::<S, 2, 1>(simd, block, sum),
                        (_, false) => outer_sum::<S, 1, 1>(simd, block, sum),
                    }
                }
            }
        }
    }
}

/// `R` channels by `V` vectors of channels, from `origin`, over the tiles of a group.
#[inline(always)]
fn outer_sum<S: Simd, const R: usize, const V: usize>(
    simd: S,
    (left, right, pitches, origin): (&[f32], &[f32], [usize; 2], [usize; 2]),
    sum: &mut [f32],
) {
    simd.vectorize(OuterSum::<R, V> {
        left,
        right,
        pitches,
        origin,
        sum,
    });
}

/// One group at a time: with a loop over groups around that over tiles, sums would not stay in
/// registers.
struct OuterSum<'a, const R: usize, const V: usize> {
    left: &'a [f32],
    right: &'a [f32],
    pitches: [usize; 2],
    origin: [usize; 2],
    sum: &'a mut [f32],
}

impl<const R: usize, const V: usize> WithSimd for OuterSum<'_, R, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            left,
            right,
            pitches,
            origin: [row, column],
            sum,
        } = self;
        let width = V * S::F32_LANES;
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        let tiles = left.chunks_exact(pitches[0]);
        for (a, b) in tiles.zip(right.chunks_exact(pitches[1])) {
            let a = &a[row..row + R];
            let (b, _) = S::as_simd_f32s(&b[column..column + width]);
            for r in 0..R {
                let a = simd.splat_f32s(a[r]);
                for v in 0..V {
                    sums[r][v] = simd.mul_add_e_f32s(a, b[v], sums[r][v]);
                }
            }
        }
        for (sums, sum) in sums.iter().zip(sum.chunks_mut(pitches[1])) {
            let (sum, _) = S::as_mut_simd_f32s(&mut sum[..width]);
            for (sum, more) in sum.iter_mut().zip(sums) {
                *sum = simd.add_f32s(*sum, *more);
            }
        }
    }
}
