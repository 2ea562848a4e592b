//! The two register-tiled inner loops of convolution.
//!
//! Both keep a 4 x 3 block of vector accumulators in registers: twelve independent chains hide the
//! latency of fused multiply-add, and seven loads feed twelve of them.

use pulp::{Simd, WithSimd};

/// Rows of a tile: output channels.
pub(super) const ROWS: usize = 4;
/// Vectors across a tile.
pub(super) const VECTORS: usize = 3;

/// Floats across a tile of [`OuterProducts`].
#[inline(always)]
pub(super) fn tile_width<S: Simd>() -> usize {
    VECTORS * S::F32_LANES
}

/// A block of output channels at consecutive panels of pixels: `out[m][p] = sum_k weights[k][m] *
/// source[offsets[k] + p]`.
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
        } = self;
        let width = tile_width::<S>();
        for panel in 0..panels {
            let source = &source[panel * panel_stride..];
            let mut tile = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
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
                store::<S>(vectors, &mut out[(row * panels + panel) * width..]);
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

/// Runs an inner loop as a function of its own. A part of a larger function, it shares the registers
/// with that, and spills some of its accumulators in every turn: half the speed.
#[inline(never)]
pub(super) fn apart<S: Simd, W: WithSimd>(simd: S, inner_loop: W) -> W::Output {
    simd.vectorize(inner_loop)
}

/// Rows of two matrices whose dot products form a tile. Both are stored image by image.
pub(super) struct DotProducts<'a> {
    /// From the first of [`ROWS`] rows on.
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
    pub(super) offsets: [usize; VECTORS],
    /// Floats of a row within an image: a whole number of vectors.
    pub(super) span: usize,
    /// Images to sum over.
    pub(super) images: usize,
}

impl WithSimd for DotProducts<'_> {
    type Output = [[f32; VECTORS]; ROWS];

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
        let mut tile = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
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
        let mut dots = [[0.0; VECTORS]; ROWS];
        for (dots, sums) in dots.iter_mut().zip(&tile) {
            for (dot, &sum) in dots.iter_mut().zip(sums) {
                *dot = simd.reduce_sum_f32s(sum);
            }
        }
        dots
    }
}
