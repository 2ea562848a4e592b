use pulp::Arch;

/// Independent partial sums of a dot product. As their number is fixed, every CPU adds in the same order.
const LANES: usize = 16;

/// `out[i * b_rows + j] = a_i · b_j` for rows of `dim` values, on the widest vectors that the CPU has.
pub(super) fn dot_products(arch: Arch, a: &[f32], b: &[f32], dim: usize, out: &mut [f32]) {
    let b_rows = b.len() / dim;
    arch.dispatch(
        #[inline(always)]
        || {
            for (x, out) in a.chunks_exact(dim).zip(out.chunks_exact_mut(b_rows)) {
                let mut rows = b.chunks_exact(4 * dim);
                let mut outs = out.chunks_exact_mut(4);
                for (quad, out) in (&mut rows).zip(&mut outs) {
                    let (first, second) = quad.split_at(2 * dim);
                    let (p, q) = (first.split_at(dim), second.split_at(dim));
                    out.copy_from_slice(&dots(x, [p.0, p.1, q.0, q.1]));
                }
                let rest = rows.remainder().chunks_exact(dim);
                for (y, out) in rest.zip(outs.into_remainder()) {
                    *out = dots(x, [y])[0];
                }
            }
        },
    );
}

#[inline(always)]
fn dots<const N: usize>(x: &[f32], ys: [&[f32]; N]) -> [f32; N] {
    let mut sums = [[0.0_f32; LANES]; N];
    let (blocks, tail) = x.as_chunks::<LANES>();
    for (index, block) in blocks.iter().enumerate() {
        for (sums, y) in sums.iter_mut().zip(ys) {
            let y = &y[index * LANES..][..LANES];
            for lane in 0..LANES {
                sums[lane] += block[lane] * y[lane];
            }
        }
    }
    let mut out = [0.0; N];
    for ((out, sums), y) in out.iter_mut().zip(&sums).zip(ys) {
        let tail: f32 = tail
            .iter()
            .zip(&y[blocks.len() * LANES..])
            .map(|(a, b)| a * b)
            .sum();
        *out = sums.iter().sum::<f32>() + tail;
    }
    out
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
