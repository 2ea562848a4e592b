use pulp::{Arch, Simd, WithSimd};

/// Independent partial sums of a dot product. As their number is fixed, every CPU adds in the same order.
const LANES: usize = 16;

/// `out[i * b_rows + j] = a_i · b_j` for rows of `dim` values, on the widest vectors that the CPU has. Rows of `b` are
/// read once, four at a time; those of `a` should be few enough to stay in the cache.
pub(super) fn dot_products(arch: Arch, a: &[f32], b: &[f32], dim: usize, out: &mut [f32]) {
    arch.dispatch(DotProducts { a, b, dim, out });
}

/// A type rather than a closure: it is certain to be compiled for the CPU's vectors.
struct DotProducts<'a> {
    a: &'a [f32],
    b: &'a [f32],
    dim: usize,
    out: &'a mut [f32],
}

impl WithSimd for DotProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { a, b, dim, out } = self;
        let b_rows = b.len() / dim;
        let quads = b.chunks_exact(4 * dim);
        let rest = quads.remainder();
        for (index, quad) in quads.enumerate() {
            let (first, second) = quad.split_at(2 * dim);
            let (p, q) = (first.split_at(dim), second.split_at(dim));
            for (x, out) in a.chunks_exact(dim).zip(out.chunks_exact_mut(b_rows)) {
                out[4 * index..][..4].copy_from_slice(&dots(x, [p.0, p.1, q.0, q.1]));
            }
        }
        let first = b_rows / 4 * 4;
        for (index, y) in rest.chunks_exact(dim).enumerate() {
            for (x, out) in a.chunks_exact(dim).zip(out.chunks_exact_mut(b_rows)) {
                out[first + index] = dots(x, [y; 4])[0];
            }
        }
    }
}

#[inline(always)]
fn dots(x: &[f32], ys: [&[f32]; 4]) -> [f32; 4] {
    let (blocks, tail) = x.as_chunks::<LANES>();
    let [p, q, r, s] = ys.map(|y| &y.as_chunks::<LANES>().0[..blocks.len()]);
    // Four variables: an array of sums would be kept in memory.
    let (mut p_sum, mut q_sum) = ([0.0; LANES], [0.0; LANES]);
    let (mut r_sum, mut s_sum) = ([0.0; LANES], [0.0; LANES]);
    for ((((x, p), q), r), s) in blocks.iter().zip(p).zip(q).zip(r).zip(s) {
        p_sum = multiply_add(p_sum, x, p);
        q_sum = multiply_add(q_sum, x, q);
        r_sum = multiply_add(r_sum, x, r);
        s_sum = multiply_add(s_sum, x, s);
    }
    let sums = [p_sum, q_sum, r_sum, s_sum];
    std::array::from_fn(|n| {
        let y = &ys[n][blocks.len() * LANES..];
        let tail: f32 = tail.iter().zip(y).map(|(a, b)| a * b).sum();
        sums[n].iter().sum::<f32>() + tail
    })
}

#[inline(always)]
fn multiply_add(mut sum: [f32; LANES], x: &[f32; LANES], y: &[f32; LANES]) -> [f32; LANES] {
    for lane in 0..LANES {
        sum[lane] += x[lane] * y[lane];
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_plain_loops_for_every_remainder() {
        for dim in [1, 15, 16, 33] {
            for b_rows in [1, 3, 4, 9] {
                let value = |i: usize| ((i * 37 % 19) as f32) - 9.0;
                let a: Vec<f32> = (0..2 * dim).map(value).collect();
                let b: Vec<f32> = (0..b_rows * dim).map(|i| value(i + 5)).collect();
                let mut out = vec![0.0; 2 * b_rows];
                dot_products(Arch::new(), &a, &b, dim, &mut out);
                for i in 0..2 {
                    for j in 0..b_rows {
                        let plain: f32 = (0..dim).map(|k| a[i * dim + k] * b[j * dim + k]).sum();
                        assert_eq!(out[i * b_rows + j], plain);
                    }
                }
            }
        }
    }
}
