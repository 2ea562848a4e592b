//! Where a convolution's operands lie: every convolution and both of its gradients become sums over
//! *taps* that read one staged image at constant offsets.
//!
//! Staging copies an image into planes with its zero border, split into `stride x stride` phases so
//! that consecutive outputs read consecutive floats whatever the stride. The gradient with respect
//! to the input is the same thing seen from the other side: each phase of the input is a stride-1
//! correlation of the output gradient with the taps that fall on that phase.

/// Stride, zero padding, dilation and groups of a two-dimensional convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Step in rows and columns.
    pub stride: [usize; 2],
    /// Zeros added at the top, left, bottom and right.
    pub padding: [usize; 4],
    /// Distance between taps in rows and columns.
    pub dilation: [usize; 2],
    /// Channel groups; as many as there are input channels for a depthwise convolution.
    pub groups: usize,
}

impl Default for Conv {
    /// Stride 1, no padding, no dilation, one group.
    fn default() -> Self {
        Self {
            stride: [1; 2],
            padding: [0; 4],
            dilation: [1; 2],
            groups: 1,
        }
    }
}

impl Conv {
    /// A convolution with an odd square kernel that keeps the size at stride 1.
    pub fn same(kernel: usize, stride: usize) -> Self {
        Self {
            stride: [stride; 2],
            padding: [kernel / 2; 4],
            ..Self::default()
        }
    }

    /// Rows and columns of the output.
    ///
    /// # Panics
    /// If the dilated kernel is larger than the padded input, or a kernel side, stride or dilation
    /// is zero.
    pub fn output_size(&self, input: [usize; 2], kernel: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| {
            let padded = input[axis] + self.padding[axis] + self.padding[axis + 2];
            let (taps, step, gap) = (kernel[axis], self.stride[axis], self.dilation[axis]);
            assert!(
                taps > 0 && step > 0 && gap > 0,
                "kernel {kernel:?}, {self:?}: zero size"
            );
            let span = (taps - 1) * gap + 1;
            assert!(
                span <= padded,
                "kernel {kernel:?} exceeds input {input:?} with {self:?}"
            );
            (padded - span) / step + 1
        })
    }
}

/// Sizes of a convolution, checked against one another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) images: usize,
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    pub(super) input: [usize; 2],
    pub(super) output: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) groups: usize,
}

impl Sizes {
    pub(super) fn new(x: [usize; 4], w: [usize; 4], conv: &Conv) -> Self {
        let ([images, in_channels, rows, columns], [out_channels, per_group, kr, kc]) = (x, w);
        let groups = conv.groups;
        assert!(
            groups > 0
                && per_group > 0
                && in_channels == per_group * groups
                && out_channels.is_multiple_of(groups),
            "conv2d: input {x:?} and weight {w:?} do not fit {groups} groups"
        );
        let (input, kernel) = ([rows, columns], [kr, kc]);
        let output = conv.output_size(input, kernel);
        Self {
            images,
            in_channels,
            out_channels,
            input,
            output,
            kernel,
            groups,
        }
    }

    pub(super) fn in_per_group(&self) -> usize {
        self.in_channels / self.groups
    }

    pub(super) fn out_per_group(&self) -> usize {
        self.out_channels / self.groups
    }

    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    pub(super) fn is_depthwise(&self) -> bool {
        self.in_per_group() == 1 && self.out_per_group() == 1
    }

    pub(super) fn in_plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    pub(super) fn out_plane(&self) -> usize {
        self.output[0] * self.output[1]
    }
}

/// One kernel element and where its operand lies in a staged plane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tap {
    /// Row-major index of the kernel element.
    pub(super) index: usize,
    /// Offset into the staged plane of the operand of grid position (0, 0).
    pub(super) offset: usize,
}

/// The layout of a staged channel: `phases` sub-planes of `rows` rows, `pitch` floats apart.
///
/// Element `(row, column)` of phase `[a, b]` is element
/// `(row * step + a - lead, column * step + b - lead)` of the image, or zero outside it.
#[derive(Clone, Debug)]
pub(super) struct Staging {
    image: [usize; 2],
    lead: [usize; 2],
    step: [usize; 2],
    phases: Vec<[usize; 2]>,
    rows: usize,
    pub(super) pitch: usize,
}

impl Staging {
    /// Floats per channel.
    pub(super) fn plane(&self) -> usize {
        self.phases.len() * self.rows * self.pitch
    }

    fn offset(&self, phase: [usize; 2], row: usize, column: usize) -> usize {
        let sub_plane = self.phases.iter().position(|&p| p == phase).unwrap_or(0);
        (sub_plane * self.rows + row) * self.pitch + column
    }

    /// Copies the channels in `image` to `staged`, whose border must already be zero.
    #[inline(always)]
    pub(super) fn stage(&self, image: &[f32], staged: &mut [f32]) {
        let [height, width] = self.image;
        let planes = image.chunks_exact(height * width);
        for (source, target) in planes.zip(staged.chunks_exact_mut(self.plane())) {
            for (phase, target) in self
                .phases
                .iter()
                .zip(target.chunks_exact_mut(self.rows * self.pitch))
            {
                self.stage_phase(*phase, source, target);
            }
        }
    }

    #[inline(always)]
    fn stage_phase(&self, phase: [usize; 2], source: &[f32], target: &mut [f32]) {
        let ([height, width], [row_step, step]) = (self.image, self.step);
        let first = self.lead[1].saturating_sub(phase[1]).div_ceil(step);
        let from = first * step + phase[1] - self.lead[1];
        let count = width
            .saturating_sub(from)
            .div_ceil(step)
            .min(self.pitch.saturating_sub(first));
        for (row, target) in target.chunks_exact_mut(self.pitch).enumerate() {
            let Some(row) = (row * row_step + phase[0]).checked_sub(self.lead[0]) else {
                continue;
            };
            if row >= height || count == 0 {
                continue;
            }
            let source = &source[row * width + from..(row + 1) * width];
            let target = &mut target[first..first + count];
            match step {
                1 => target.copy_from_slice(&source[..count]),
                // The common stride, in a form that becomes vector shuffles.
                2 => {
                    let (pairs, last) = source.as_chunks::<2>();
                    for (t, s) in target.iter_mut().zip(pairs) {
                        *t = s[0];
                    }
                    if let (Some(t), [s]) = (target.get_mut(pairs.len()), last) {
                        *t = *s;
                    }
                }
                _ => {
                    for (t, s) in target.iter_mut().zip(source.iter().step_by(step)) {
                        *t = *s;
                    }
                }
            }
        }
    }
}

/// A regular sub-grid of the target map, and the taps that are summed at each of its positions.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    pub(super) size: [usize; 2],
    pub(super) origin: [usize; 2],
    pub(super) step: [usize; 2],
    pub(super) taps: Vec<Tap>,
}

/// A convolution, or its gradient with respect to the input, over staged images.
#[derive(Clone, Debug)]
pub(super) struct Correlation {
    pub(super) staging: Staging,
    pub(super) grids: Vec<Grid>,
    /// Rows and columns of the target map.
    pub(super) target: [usize; 2],
}

impl Correlation {
    /// Input to output.
    pub(super) fn forward(sizes: &Sizes, conv: &Conv) -> Self {
        let reach = [0, 1].map(|axis| {
            (sizes.output[axis] - 1)
                + (sizes.kernel[axis] - 1) * conv.dilation[axis] / conv.stride[axis]
                + 1
        });
        let lead = [conv.padding[0], conv.padding[1]];
        let mut phases: Vec<[usize; 2]> = Vec::new();
        for (row, column) in kernel_elements(sizes.kernel) {
            let phase = [
                row * conv.dilation[0] % conv.stride[0],
                column * conv.dilation[1] % conv.stride[1],
            ];
            if !phases.contains(&phase) {
                phases.push(phase);
            }
        }
        let pitch = if conv.stride[1] == 1 {
            shared_pitch(sizes.input[1], lead[1], reach[1])
        } else {
            reach[1]
        };
        let staging = Staging {
            image: sizes.input,
            lead,
            step: conv.stride,
            phases,
            rows: reach[0] + 1,
            pitch,
        };
        let taps = kernel_elements(sizes.kernel)
            .enumerate()
            .map(|(index, (row, column))| {
                let at = [row * conv.dilation[0], column * conv.dilation[1]];
                let phase = [at[0] % conv.stride[0], at[1] % conv.stride[1]];
                let offset = staging.offset(phase, at[0] / conv.stride[0], at[1] / conv.stride[1]);
                Tap { index, offset }
            })
            .collect();
        let grid = Grid {
            size: sizes.output,
            origin: [0; 2],
            step: [1; 2],
            taps,
        };
        Self {
            staging,
            grids: vec![grid],
            target: sizes.output,
        }
    }

    /// Output gradient to input gradient.
    pub(super) fn input_gradient(sizes: &Sizes, conv: &Conv) -> Self {
        let axes = [0, 1].map(|axis| AxisPhases::new(axis, sizes, conv));
        let lead = [axes[0].lead, axes[1].lead];
        let staging = Staging {
            image: sizes.output,
            lead,
            step: [1; 2],
            phases: vec![[0; 2]],
            rows: axes[0].reach + 1,
            pitch: shared_pitch(sizes.output[1], lead[1], axes[1].reach),
        };
        let mut grids = Vec::new();
        for rows in &axes[0].phases {
            for columns in &axes[1].phases {
                let taps = rows
                    .taps
                    .iter()
                    .flat_map(|&(kernel_row, row)| {
                        columns.taps.iter().map(move |&(kernel_column, column)| {
                            (kernel_row * sizes.kernel[1] + kernel_column, row, column)
                        })
                    })
                    .map(|(index, row, column)| Tap {
                        index,
                        offset: staging.offset([0; 2], row, column),
                    })
                    .collect::<Vec<_>>();
                if !taps.is_empty() {
                    grids.push(Grid {
                        size: [rows.count, columns.count],
                        origin: [rows.origin, columns.origin],
                        step: conv.stride,
                        taps,
                    });
                }
            }
        }
        Self {
            staging,
            grids,
            target: sizes.input,
        }
    }
}

/// Floats from a staged row to the next where rows of `width` have `lead` zeros before them and are
/// read up to `reach`: the zeros right of one row serve as the zeros left of the next. The last row
/// therefore needs another one after it.
fn shared_pitch(width: usize, lead: usize, reach: usize) -> usize {
    let trail = reach.saturating_sub(width + lead);
    reach.min(width + lead.max(trail))
}

/// Every kernel position, row by row.
fn kernel_elements([rows, columns]: [usize; 2]) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)))
}

/// The phases of the input along one axis, as the input gradient sees them.
struct AxisPhases {
    phases: Vec<AxisPhase>,
    /// Zeros before the first output gradient.
    lead: usize,
    /// Staged positions.
    reach: usize,
}

struct AxisPhase {
    /// First input position and number of positions, `stride` apart.
    origin: usize,
    count: usize,
    /// Kernel index, and staged position read at `origin`.
    taps: Vec<(usize, usize)>,
}

impl AxisPhases {
    fn new(axis: usize, sizes: &Sizes, conv: &Conv) -> Self {
        let (stride, gap, lead) = (conv.stride[axis], conv.dilation[axis], conv.padding[axis]);
        // Position h of the input meets kernel element k in output o where h + lead = o * stride +
        // k * gap; `first` is o for the phase's first h, and may lie before the map.
        let mut found = Vec::new();
        for residue in 0..stride {
            let quotient = lead.saturating_sub(residue).div_ceil(stride);
            let origin = quotient * stride + residue - lead;
            let count = sizes.input[axis].saturating_sub(origin).div_ceil(stride);
            let taps: Vec<(usize, isize)> = (0..sizes.kernel[axis])
                .filter(|k| k * gap % stride == residue)
                .map(|k| (k, quotient as isize - (k * gap / stride) as isize))
                .collect();
            if count > 0 && !taps.is_empty() {
                found.push((origin, count, taps));
            }
        }
        let firsts = || {
            found
                .iter()
                .flat_map(|(_, _, taps)| taps.iter().map(|&(_, first)| first))
        };
        let zeros = firsts().min().unwrap_or(0).min(0).unsigned_abs();
        let staged = |first: isize| (first + zeros as isize) as usize;
        let reach = found
            .iter()
            .flat_map(|&(_, count, ref taps)| {
                taps.iter().map(move |&(_, first)| staged(first) + count)
            })
            .max()
            .unwrap_or(1);
        let phases = found
            .iter()
            .map(|(origin, count, taps)| AxisPhase {
                origin: *origin,
                count: *count,
                taps: taps.iter().map(|&(k, first)| (k, staged(first))).collect(),
            })
            .collect();
        Self {
            phases,
            lead: zeros,
            reach,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_sizes() {
        assert_eq!(Conv::same(3, 1).output_size([7, 4], [3, 3]), [7, 4]);
        assert_eq!(Conv::same(3, 2).output_size([7, 4], [3, 3]), [4, 2]);
        let conv = Conv {
            padding: [0, 1, 2, 3],
            dilation: [2, 1],
            ..Conv::default()
        };
        assert_eq!(conv.output_size([5, 5], [3, 4]), [3, 6]);
    }

    #[test]
    #[should_panic(expected = "kernel [5, 1] exceeds input [3, 3]")]
    fn a_kernel_beyond_the_padded_input_is_named() {
        Conv::same(1, 1).output_size([3, 3], [5, 1]);
    }

    /// Every tap of every output must find its operand, also across shared padding.
    #[test]
    fn taps_find_the_operands_of_every_output() {
        let image: Vec<f32> = (1..=30).map(|v| v as f32).collect();
        for (stride, padding, dilation) in [(1, 1, 1), (1, 2, 2), (2, 1, 1), (3, 0, 1), (2, 2, 2)] {
            let conv = Conv {
                stride: [stride, 1],
                padding: [padding; 4],
                dilation: [1, dilation],
                groups: 1,
            };
            let sizes = Sizes::new([1, 1, 5, 6], [1, 1, 3, 3], &conv);
            let Correlation { staging, grids, .. } = Correlation::forward(&sizes, &conv);
            let mut staged = vec![0.0; staging.plane()];
            staging.stage(&image, &mut staged);
            for tap in &grids[0].taps {
                let (kernel_row, kernel_column) = (tap.index / 3, tap.index % 3);
                for row in 0..sizes.output[0] {
                    for column in 0..sizes.output[1] {
                        let from_row = (row * stride + kernel_row).checked_sub(padding);
                        let from_column = (column + kernel_column * dilation).checked_sub(padding);
                        let expected = match (from_row, from_column) {
                            (Some(r @ 0..5), Some(c @ 0..6)) => image[r * 6 + c],
                            _ => 0.0,
                        };
                        let found = staged[tap.offset + row * staging.pitch + column];
                        assert_eq!(found, expected, "{conv:?} {tap:?} at {row}, {column}");
                    }
                }
            }
        }
    }

    /// Each kernel element meets each input phase once, so no product is computed twice.
    #[test]
    fn phases_of_the_input_gradient_share_out_the_taps() {
        let conv = Conv::same(3, 2);
        let sizes = Sizes::new([1, 1, 7, 8], [1, 1, 3, 3], &conv);
        let plan = Correlation::input_gradient(&sizes, &conv);
        let mut taps: Vec<usize> = plan
            .grids
            .iter()
            .flat_map(|grid| grid.taps.iter().map(|tap| tap.index))
            .collect();
        taps.sort_unstable();
        assert_eq!(taps, (0..9).collect::<Vec<_>>());
        let positions: usize = plan
            .grids
            .iter()
            .map(|grid| grid.size[0] * grid.size[1])
            .sum();
        assert_eq!(positions, 7 * 8);
    }
}
