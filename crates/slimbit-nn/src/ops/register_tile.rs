//! The two register-tiled inner loops of convolution.
//!
//! Both keep twelve vector accumulators in registers: so many independent chains hide the latency of
//! fused multiply-add.

use pulp::{Simd, WithSimd};

/// Rows of a tile of [`OuterProducts`]: output channels. Six by two accumulators leave four of 16
/// registers for operands; with four by three, which would leave one, the compiler spilled some into
/// memory in every turn, here or there with every change of the code around.
pub(super) const ROWS: usize = 6;
/// Vectors across such a tile.
const VECTORS: usize = 2;

/// Rows of a tile of [`DotProducts`]: output channels by input channels and kernel elements. Seven
/// loads feed twelve multiply-adds.
pub(super) const LEFT: usize = 4;
pub(super) const RIGHT: usize = 3;

/// Floats across a tile of [`OuterProducts`].
#[inline(always)]
pub(super) fn tile_width<S: Simd>() -> usize {
    VECTORS * S::F32_LANES
}

/// A block of output channels at consecutive panels of pixels: `out[m][p] = sum_k weights[k][m] *
/// source[offsets[k] + p]`, or that much more than before.
///
/// The rows of the right-hand matrix are wherever `offsets` says, so a padded image can be read in
/// place and no column matrix needs to exist.
pub(super) struct OuterProducts<'a> {
    /// One entry per depth.
    pub(super) weights: &'a [[f32; ROWS]],
    /// What `offsets` point into.
    pub(super) source: &'a [f32],
    /// Where the row of each depth starts.
    pub(super) offsets: &'a [usize],
    /// Panels of [`tile_width`] pixels.
    pub(super) panels: usize,
    /// Floats from a panel of `source` to the next.
    pub(super) panel_stride: usize,
    /// [`ROWS`] rows of all panels.
    pub(super) out: &'a mut [f32],
    /// Floats from a row of `out` to the next.
    pub(super) out_row: usize,
    /// Whether `out` holds sums of other depths, to which these are added.
    pub(super) add: bool,
}

impl WithSimd for OuterProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            weights,
            source,
            offsets,
            panels,
            panel_stride,
            out,
            out_row,
            add,
        } = self;
        let width = tile_width::<S>();
        for panel in 0..panels {
            let source = &source[panel * panel_stride..];
            let mut tile = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
            if add {
                for (row, tile) in tile.iter_mut().enumerate() {
                    let (sums, _) = S::as_simd_f32s(&out[row * out_row + panel * width..]);
                    tile.copy_from_slice(&sums[..VECTORS]);
                }
            }
            for (w, &offset) in weights.iter().zip(offsets) {
                let (x, _) = S::as_simd_f32s(&source[offset..offset + width]);
                for m in 0..ROWS {
                    let w = simd.splat_f32s(w[m]);
                    for v in 0..VECTORS {
                        tile[m][v] = simd.mul_add_e_f32s(w, x[v], tile[m][v]);
                    }
                }
            }
            for (row, vectors) in tile.iter().enumerate() {
                store::<S>(vectors, &mut out[row * out_row + panel * width..]);
            }
        }
    }
}

/// Writes vectors to consecutive floats.
#[inline(always)]
pub(super) fn store<S: Simd>(vectors: &[S::f32s], target: &mut [f32]) {
    let (target, _) = S::as_mut_simd_f32s(target);
    target[..vectors.len()].copy_from_slice(vectors);
}

/// Depths that are multiplied at a time: a panel of so many rows stays in a first-level cache of 32 KiB
/// while all output channels are multiplied with it.
pub(super) const DEPTH: usize = 256;

/// All output channels at some panels of pixels: the matrix product of packed weights and packed
/// panels, a block of depths at a time.
pub(super) struct PackedProducts<'a> {
    /// `[blocks of ROWS output channels][all depths]`.
    pub(super) weights: &'a [[f32; ROWS]],
    /// Of the weights.
    pub(super) all_depths: usize,
    /// The depths that `panels` has, at most [`DEPTH`].
    pub(super) depths: std::ops::Range<usize>,
    /// `[count][depths][row]`.
    pub(super) panels: &'a [f32],
    pub(super) count: usize,
    /// Floats of a row of a panel: [`tile_width`] and perhaps some that are not read.
    pub(super) row: usize,
    /// `[blocks][ROWS][count panels]`; overwritten by the first depths, added to by the others.
    pub(super) out: &'a mut [f32],
}

impl PackedProducts<'_> {
    #[inline(always)]
    pub(super) fn multiply<S: Simd>(self, simd: S) {
        let width = tile_width::<S>();
        let depths = self.depths;
        let mut offsets = [0; DEPTH];
        for (k, offset) in offsets.iter_mut().enumerate() {
            *offset = k * self.row;
        }
        let length = self.count * width;
        for panel in 0..self.count {
            let source = &self.panels[panel * depths.len() * self.row..][..depths.len() * self.row];
            let blocks = self.weights.chunks_exact(self.all_depths);
            for (weights, out) in blocks.zip(self.out.chunks_exact_mut(ROWS * length)) {
                simd.vectorize(OuterProducts {
                    weights: &weights[depths.clone()],
                    source,
                    offsets: &offsets[..depths.len()],
                    panels: 1,
                    panel_stride: 0,
                    out: &mut out[panel * width..],
                    out_row: length,
                    add: depths.start > 0,
                });
            }
        }
    }
}

/// Panels that are multiplied together: few enough that neither they nor the sums of all output
/// channels fill the second-level cache.
pub(super) fn panels_together(depth: usize, row: usize, rows: usize, width: usize) -> usize {
    let packed = PACKED_FLOATS / (depth.min(DEPTH) * row);
    let sums = PACKED_FLOATS / (rows.next_multiple_of(ROWS) * width);
    packed.min(sums).clamp(2, 64)
}

/// Floats of panels, and of sums: an eighth of a megabyte each.
const PACKED_FLOATS: usize = 1 << 15;

/// Rows of two matrices whose dot products form a tile. Both are stored image by image.
pub(super) struct DotProducts<'a> {
    /// From the first of [`LEFT`] rows on.
    pub(super) left: &'a [f32],
    /// Floats from a row of `left` to the next.
    pub(super) left_row: usize,
    /// Floats from an image of `left` to the next.
    pub(super) left_image: usize,
    /// What `offsets` point into.
    pub(super) right: &'a [f32],
    /// Floats from an image of `right` to the next.
    pub(super) right_image: usize,
    /// Where the rows of the right-hand matrix start.
    pub(super) offsets: [usize; RIGHT],
    /// Floats of a row within an image: a whole number of vectors.
    pub(super) span: usize,
    /// Images to sum over.
    pub(super) images: usize,
}

impl WithSimd for DotProducts<'_> {
    type Output = [[f32; RIGHT]; LEFT];

    /// `[m][k]`: the dot product of row `m` of `left` and row `k` of `right`.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self {
            left,
            left_row,
            left_image,
            right,
            right_image,
            offsets,
            span,
            images,
        } = self;
        let mut tile = [[simd.splat_f32s(0.0); RIGHT]; LEFT];
        for image in 0..images {
            let left = &left[image * left_image..];
            let right = &right[image * right_image..];
            let (a0, _) = S::as_simd_f32s(&left[..span]);
            let (a1, _) = S::as_simd_f32s(&left[left_row..left_row + span]);
            let (a2, _) = S::as_simd_f32s(&left[2 * left_row..2 * left_row + span]);
            let (a3, _) = S::as_simd_f32s(&left[3 * left_row..3 * left_row + span]);
            let (b0, _) = S::as_simd_f32s(&right[offsets[0]..offsets[0] + span]);
            let (b1, _) = S::as_simd_f32s(&right[offsets[1]..offsets[1] + span]);
            let (b2, _) = S::as_simd_f32s(&right[offsets[2]..offsets[2] + span]);
            let left = a0.iter().zip(a1).zip(a2.iter().zip(a3));
            for (((a0, a1), (a2, a3)), ((b0, b1), b2)) in left.zip(b0.iter().zip(b1).zip(b2)) {
                let b = [*b0, *b1, *b2];
                for (row, a) in tile.iter_mut().zip([*a0, *a1, *a2, *a3]) {
                    for (sum, b) in row.iter_mut().zip(b) {
                        *sum = simd.mul_add_e_f32s(a, b, *sum);
                    }
                }
            }
        }
        // `array::map` would leave the vector context and call every instruction.
        let mut dots = [[0.0; RIGHT]; LEFT];
        for (dots, sums) in dots.iter_mut().zip(&tile) {
            for (dot, &sum) in dots.iter_mut().zip(sums) {
                *dot = simd.reduce_sum_f32s(sum);
            }
        }
        dots
    }
}
