//! The one-dimensional transforms of F(4, 3) and their adjoints, on vectors of channels.
//!
//! With `*` elementwise, a tile of the output is `Aᵀ[(G g Gᵀ) * (Bᵀ d B)]A` (Lavin and Gray, 2016).
//! The map is bilinear in the tile `d` of the input and the kernel `g`, so its gradients are
//! `B[U * (A dy Aᵀ)]Bᵀ` and `Gᵀ[V * (A dy Aᵀ)]G`, with `U` and `V` the transformed kernel and tile.
//!
//! The interpolation points are 0, ±2/3, ±3/2 and ∞. Points near 1 in magnitude, each with its
//! inverse, halve the rounding error of the usual 0, ±1, ±2, ∞, and need no more operations.

use pulp::Simd;

/// Outputs along the side of a tile.
pub(super) const OUTPUTS: usize = 4;
/// Inputs along the side of a tile.
pub(super) const SIDE: usize = 6;
/// Products per tile and pair of channels.
pub(super) const POSITIONS: usize = SIDE * SIDE;
/// Elements along the side of the kernel.
pub(super) const KERNEL: usize = 3;

/// The interpolation points ±P and ±Q. What follows makes use of `P * Q == 1`.
const P: f32 = 2.0 / 3.0;
const Q: f32 = 3.0 / 2.0;
const PP: f32 = 4.0 / 9.0;
const QQ: f32 = 9.0 / 4.0;
const SUM: f32 = 97.0 / 36.0;
/// One over the product of the differences to the other points, at ±P and at ±Q.
const AT_P: f32 = -162.0 / 260.0;
const AT_Q: f32 = 32.0 / 260.0;

/// A linear map of `N` values to `M`, lane by lane.
pub(super) trait Linear<const N: usize, const M: usize> {
    /// Maps the values of every lane.
    fn apply<S: Simd>(simd: S, x: [S::f32s; N]) -> [S::f32s; M];
}

/// `Bᵀ`.
pub(super) struct Input;

impl Linear<SIDE, SIDE> for Input {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [d0, d1, d2, d3, d4, d5]: [S::f32s; SIDE]) -> [S::f32s; SIDE] {
        let even_p = fma(simd, -QQ, d2, d4);
        let odd_p = fma(simd, -QQ, d1, d3);
        let even_q = fma(simd, -PP, d2, d4);
        let odd_q = fma(simd, -PP, d1, d3);
        [
            fma(simd, -SUM, d2, simd.add_f32s(d0, d4)),
            fma(simd, P, odd_p, even_p),
            fma(simd, -P, odd_p, even_p),
            fma(simd, Q, odd_q, even_q),
            fma(simd, -Q, odd_q, even_q),
            fma(simd, -SUM, d3, simd.add_f32s(d1, d5)),
        ]
    }
}

/// `B`.
pub(super) struct InputAdjoint;

impl Linear<SIDE, SIDE> for InputAdjoint {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [r0, r1, r2, r3, r4, r5]: [S::f32s; SIDE]) -> [S::f32s; SIDE] {
        let (sum_p, odd_p) = (simd.add_f32s(r1, r2), simd.sub_f32s(r1, r2));
        let (sum_q, odd_q) = (simd.add_f32s(r3, r4), simd.sub_f32s(r3, r4));
        let second = fma(simd, -QQ, sum_p, scale(simd, -SUM, r0));
        let third = fma(simd, P, odd_p, scale(simd, -SUM, r5));
        [
            r0,
            fma(simd, -Q, odd_p, fma(simd, -P, odd_q, r5)),
            fma(simd, -PP, sum_q, second),
            fma(simd, Q, odd_q, third),
            simd.add_f32s(r0, simd.add_f32s(sum_p, sum_q)),
            r5,
        ]
    }
}

/// `Aᵀ`.
pub(super) struct Output;

impl Linear<SIDE, OUTPUTS> for Output {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [m0, m1, m2, m3, m4, m5]: [S::f32s; SIDE]) -> [S::f32s; OUTPUTS] {
        let (sum_p, odd_p) = (simd.add_f32s(m1, m2), simd.sub_f32s(m1, m2));
        let (sum_q, odd_q) = (simd.add_f32s(m3, m4), simd.sub_f32s(m3, m4));
        let (odd_p, odd_q) = (scale(simd, P, odd_p), scale(simd, Q, odd_q));
        [
            simd.add_f32s(m0, simd.add_f32s(sum_p, sum_q)),
            simd.add_f32s(odd_p, odd_q),
            fma(simd, PP, sum_p, scale(simd, QQ, sum_q)),
            fma(simd, PP, odd_p, fma(simd, QQ, odd_q, m5)),
        ]
    }
}

/// `A`.
pub(super) struct OutputAdjoint;

impl Linear<OUTPUTS, SIDE> for OutputAdjoint {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [y0, y1, y2, y3]: [S::f32s; OUTPUTS]) -> [S::f32s; SIDE] {
        let (even_p, odd_p) = (fma(simd, PP, y2, y0), fma(simd, PP, y3, y1));
        let (even_q, odd_q) = (fma(simd, QQ, y2, y0), fma(simd, QQ, y3, y1));
        [
            y0,
            fma(simd, P, odd_p, even_p),
            fma(simd, -P, odd_p, even_p),
            fma(simd, Q, odd_q, even_q),
            fma(simd, -Q, odd_q, even_q),
            y3,
        ]
    }
}

/// `G`.
pub(super) struct Kernel;

impl Linear<KERNEL, SIDE> for Kernel {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [g0, g1, g2]: [S::f32s; KERNEL]) -> [S::f32s; SIDE] {
        let even_p = scale(simd, AT_P, fma(simd, PP, g2, g0));
        let even_q = scale(simd, AT_Q, fma(simd, QQ, g2, g0));
        [
            g0,
            fma(simd, AT_P * P, g1, even_p),
            fma(simd, -AT_P * P, g1, even_p),
            fma(simd, AT_Q * Q, g1, even_q),
            fma(simd, -AT_Q * Q, g1, even_q),
            g2,
        ]
    }
}

/// `Gᵀ`.
pub(super) struct KernelAdjoint;

impl Linear<SIDE, KERNEL> for KernelAdjoint {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, [u0, u1, u2, u3, u4, u5]: [S::f32s; SIDE]) -> [S::f32s; KERNEL] {
        let (sum_p, odd_p) = (simd.add_f32s(u1, u2), simd.sub_f32s(u1, u2));
        let (sum_q, odd_q) = (simd.add_f32s(u3, u4), simd.sub_f32s(u3, u4));
        let (sum_p, sum_q) = (scale(simd, AT_P, sum_p), scale(simd, AT_Q, sum_q));
        [
            simd.add_f32s(u0, simd.add_f32s(sum_p, sum_q)),
            fma(simd, AT_P * P, odd_p, scale(simd, AT_Q * Q, odd_q)),
            fma(simd, PP, sum_p, fma(simd, QQ, sum_q, u5)),
        ]
    }
}

/// `by * x + y`.
#[inline(always)]
fn fma<S: Simd>(simd: S, by: f32, x: S::f32s, y: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(simd.splat_f32s(by), x, y)
}

/// `by * x`.
#[inline(always)]
fn scale<S: Simd>(simd: S, by: f32, x: S::f32s) -> S::f32s {
    simd.mul_f32s(simd.splat_f32s(by), x)
}

/// Maps `N` lines of floats to `M`; the first `ADDED` are added to what is there.
///
/// The lines are whole numbers of vectors, none of `from` shorter than those of `to`.
#[inline(always)]
pub(super) fn map_lines<
    S: Simd,
    L: Linear<N, M>,
    const N: usize,
    const M: usize,
    const ADDED: usize,
>(
    simd: S,
    from: [&[f32]; N],
    to: [&mut [f32]; M],
) {
    let count = to[0].len() / S::F32_LANES;
    let mut source: [&[S::f32s]; N] = [&[]; N];
    for (source, line) in source.iter_mut().zip(from) {
        *source = &S::as_simd_f32s(line).0[..count];
    }
    let target = to.map(|line| &mut S::as_mut_simd_f32s(line).0[..count]);
    for v in 0..count {
        let mut x = [source[0][v]; N];
        for n in 1..N {
            x[n] = source[n][v];
        }
        let y = L::apply(simd, x);
        for m in 0..M {
            target[m][v] = if m < ADDED {
                simd.add_f32s(target[m][v], y[m])
            } else {
                y[m]
            };
        }
    }
}

/// Maps the columns and then the rows of a square.
#[inline(always)]
pub(super) fn map_square<S: Simd, L: Linear<N, M>, const N: usize, const M: usize>(
    simd: S,
    x: [[S::f32s; N]; N],
) -> [[S::f32s; M]; M] {
    let zero = simd.splat_f32s(0.0);
    let mut half = [[zero; N]; M];
    for column in 0..N {
        let mut line = [zero; N];
        for row in 0..N {
            line[row] = x[row][column];
        }
        let line = L::apply(simd, line);
        for row in 0..M {
            half[row][column] = line[row];
        }
    }
    let mut y = [[zero; M]; M];
    for row in 0..M {
        y[row] = L::apply(simd, half[row]);
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use pulp::Scalar;

    /// The matrix of a map, row by row.
    fn matrix<L: Linear<N, M>, const N: usize, const M: usize>() -> [[f64; N]; M] {
        let columns: [[f32; M]; N] =
            std::array::from_fn(|n| L::apply(Scalar, std::array::from_fn(|i| f32::from(i == n))));
        std::array::from_fn(|m| std::array::from_fn(|n| f64::from(columns[n][m])))
    }

    fn assert_transposed<const N: usize, const M: usize>(a: [[f64; N]; M], b: [[f64; M]; N]) {
        for m in 0..M {
            for n in 0..N {
                assert!((a[m][n] - b[n][m]).abs() < 1e-6, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn adjoints_are_transposes() {
        assert_transposed(
            matrix::<Input, SIDE, SIDE>(),
            matrix::<InputAdjoint, SIDE, SIDE>(),
        );
        assert_transposed(
            matrix::<Output, SIDE, OUTPUTS>(),
            matrix::<OutputAdjoint, OUTPUTS, SIDE>(),
        );
        assert_transposed(
            matrix::<Kernel, KERNEL, SIDE>(),
            matrix::<KernelAdjoint, SIDE, KERNEL>(),
        );
    }

    /// `sum_r Aᵀ[y][r] G[r][k] Bᵀ[r][d]` is 1 where output `y` multiplies input `d` by element `k`.
    #[test]
    fn the_transforms_make_a_correlation() {
        let (a, g, b) = (
            matrix::<Output, SIDE, OUTPUTS>(),
            matrix::<Kernel, KERNEL, SIDE>(),
            matrix::<Input, SIDE, SIDE>(),
        );
        for y in 0..OUTPUTS {
            for k in 0..KERNEL {
                for d in 0..SIDE {
                    let sum: f64 = (0..SIDE).map(|r| a[y][r] * g[r][k] * b[r][d]).sum();
                    let expected = f64::from(u8::from(d == y + k));
                    assert!((sum - expected).abs() < 1e-6, "{y} {k} {d}: {sum}");
                }
            }
        }
    }
}
