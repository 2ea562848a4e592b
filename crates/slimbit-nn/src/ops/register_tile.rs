//! The two register-tiled inner loops of convolution.
//!
//! Both keep a 4 x 3 block of vector accumulators in registers: twelve independent chains hide the
//! latency of fused multiply-add, and seven loads feed twelve of them.

use pulp::Simd;

/// Rows of a tile: output channels.
pub(super) const ROWS: usize = 4;
/// Vectors across a tile.
pub(super) const VECTORS: usize = 3;

/// Accumulators of one tile.
pub(super) type Tile<S> = [[<S as Simd>::f32s; VECTORS]; ROWS];

/// Floats across a tile of [`outer_products`].
#[inline(always)]
pub(super) fn tile_width<S: Simd>() -> usize {
    VECTORS * S::F32_LANES
}

/// `tile[m][p] = sum_k weights[k][m] * source[offsets[k] + p]`.
///
/// The rows of the right-hand matrix are wherever `offsets` says, so a padded image can be read in
/// place and no column matrix needs to exist.
#[inline(always)]
pub(super) fn outer_products<S: Simd>(
    simd: S,
    weights: &[[f32; ROWS]],
    source: &[f32],
    offsets: &[usize],
) -> Tile<S> {
    let mut tile = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    for (w, &offset) in weights.iter().zip(offsets) {
        let (x, _) = S::as_simd_f32s(&source[offset..offset + tile_width::<S>()]);
        for m in 0..ROWS {
            let w = simd.splat_f32s(w[m]);
            for v in 0..VECTORS {
                tile[m][v] = simd.mul_add_e_f32s(w, x[v], tile[m][v]);
            }
        }
    }
    tile
}

/// `tile[m][k] += a[m] * b[k]` lane by lane; the sum of a lane vector is the dot product.
#[inline(always)]
pub(super) fn dot_products<S: Simd>(
    simd: S,
    a: [&[f32]; ROWS],
    b: [&[f32]; VECTORS],
    tile: &mut Tile<S>,
) {
    let a = a.map(|row| S::as_simd_f32s(row).0);
    let steps = a[0].len();
    let a = a.map(|row| &row[..steps]);
    let b = b.map(|row| &S::as_simd_f32s(row).0[..steps]);
    for step in 0..steps {
        let x = b.map(|row| row[step]);
        for m in 0..ROWS {
            let y = a[m][step];
            for v in 0..VECTORS {
                tile[m][v] = simd.mul_add_e_f32s(y, x[v], tile[m][v]);
            }
        }
    }
}
