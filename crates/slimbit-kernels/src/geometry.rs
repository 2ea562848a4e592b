//! The shapes of windows and convolutions.

use crate::KernelError;

/// The shape of a convolution. Padding is no part of it: the input map already has its border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvGeometry {
    /// Output rows.
    pub out_rows: usize,
    /// Output columns.
    pub out_cols: usize,
    /// Input channels, of all groups together.
    pub in_channels: usize,
    /// Output channels, of all groups together.
    pub out_channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Pixels from one window to the next, down and to the right.
    pub stride: [usize; 2],
    /// Pixels from one tap to the next, down and to the right.
    pub dilation: [usize; 2],
    /// Groups: 1 is dense; as many as input and output channels is depthwise.
    pub groups: usize,
}

impl ConvGeometry {
    /// A fully connected layer on one pixel.
    pub fn linear(in_channels: usize, out_channels: usize) -> ConvGeometry {
        ConvGeometry {
            out_rows: 1,
            out_cols: 1,
            in_channels,
            out_channels,
            kernel: [1, 1],
            stride: [1, 1],
            dilation: [1, 1],
            groups: 1,
        }
    }

    /// Multiply-accumulates of one call, zero padding included.
    pub fn macs(&self) -> usize {
        self.out_rows * self.out_cols * self.out_channels * self.taps()
    }

    /// Weights per output channel.
    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.group_inputs()
    }

    pub(crate) fn group_inputs(&self) -> usize {
        self.in_channels / self.groups
    }

    pub(crate) fn group_outputs(&self) -> usize {
        self.out_channels / self.groups
    }

    pub(crate) fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.in_channels && self.groups == self.out_channels
    }

    /// Rows, columns and channels of the input that `rows` rows of output read.
    pub(crate) fn input_extent(&self, rows: usize) -> [usize; 3] {
        let extent = |axis: usize, outputs: usize| {
            let steps = outputs.saturating_sub(1).saturating_mul(self.stride[axis]);
            let reach = (self.kernel[axis] - 1).saturating_mul(self.dilation[axis]);
            steps.saturating_add(reach).saturating_add(1)
        };
        if rows == 0 {
            return [0; 3];
        }
        [extent(0, rows), extent(1, self.out_cols), self.in_channels]
    }

    /// The number of weights.
    pub(crate) fn checked_weights(&self) -> Result<usize, KernelError> {
        let impossible = KernelError::Geometry(*self);
        let [kernel_rows, kernel_cols] = self.kernel;
        let dimensions = [
            self.out_rows,
            self.out_cols,
            self.in_channels,
            self.out_channels,
            kernel_rows,
            kernel_cols,
            self.stride[0],
            self.stride[1],
            self.dilation[0],
            self.dilation[1],
            self.groups,
        ];
        if dimensions.contains(&0)
            || !self.in_channels.is_multiple_of(self.groups)
            || !self.out_channels.is_multiple_of(self.groups)
        {
            return Err(impossible);
        }
        let weights = [kernel_rows, kernel_cols, self.group_inputs()]
            .into_iter()
            .try_fold(self.out_channels, usize::checked_mul);
        let pixels = self.out_rows.checked_mul(self.out_cols);
        weights
            .filter(|_| {
                pixels
                    .and_then(|n| n.checked_mul(self.out_channels))
                    .is_some()
            })
            .ok_or(impossible)
    }
}

/// The window of a pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Rows and columns of the window.
    pub kernel: [usize; 2],
    /// Pixels from one window to the next, down and to the right.
    pub stride: [usize; 2],
}

impl Window {
    /// Rows, columns and channels of the input that an output of this `extent` reads, border
    /// included.
    pub(crate) fn input_extent(&self, [rows, cols, channels]: [usize; 3]) -> [usize; 3] {
        assert!(
            !self.kernel.contains(&0) && !self.stride.contains(&0),
            "window {self:?} has a zero dimension"
        );
        let reach = |axis: usize, outputs: usize| match outputs {
            0 => 0,
            _ => (outputs - 1)
                .saturating_mul(self.stride[axis])
                .saturating_add(self.kernel[axis]),
        };
        [reach(0, rows), reach(1, cols), channels]
    }
}

/// Where the windows of a max-pooling leave the map: taps outside never win, and no border is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Border {
    /// Rows above and columns to the left of the map that the first window covers.
    pub padding: [usize; 2],
    /// Rows and columns of the map itself.
    pub input: [usize; 2],
}

impl Border {
    /// The rows of the map to leave out, and the border that is left, for the windows from `rows`
    /// further down on.
    pub(crate) fn below(&self, rows: usize) -> (usize, Border) {
        let ([top, left], [input_rows, input_cols]) = (self.padding, self.input);
        let skipped = rows.saturating_sub(top).min(input_rows);
        let border = Border {
            padding: [top.saturating_sub(rows), left],
            input: [input_rows - skipped, input_cols],
        };
        (skipped, border)
    }

    /// The rows (`axis` 0) or columns (`axis` 1) of the map inside the window of output `index`.
    pub(crate) fn taps(&self, window: Window, axis: usize, index: usize) -> std::ops::Range<usize> {
        let start = index * window.stride[axis];
        let end = (start + window.kernel[axis]).saturating_sub(self.padding[axis]);
        start.saturating_sub(self.padding[axis])..end.min(self.input[axis])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_shapes_are_refused() {
        let good = ConvGeometry {
            kernel: [3, 3],
            groups: 2,
            ..ConvGeometry::linear(4, 6)
        };
        assert_eq!(good.checked_weights(), Ok(6 * 9 * 2));
        for bad in [
            ConvGeometry { groups: 4, ..good },
            ConvGeometry { groups: 0, ..good },
            ConvGeometry {
                stride: [0, 1],
                ..good
            },
            ConvGeometry {
                kernel: [usize::MAX, 3],
                ..good
            },
            ConvGeometry {
                out_rows: usize::MAX,
                ..good
            },
        ] {
            assert_eq!(bad.checked_weights(), Err(KernelError::Geometry(bad)));
        }
    }

    #[test]
    fn extents_follow_stride_and_dilation() {
        let conv = ConvGeometry {
            out_rows: 3,
            out_cols: 4,
            kernel: [3, 2],
            stride: [2, 1],
            dilation: [1, 3],
            ..ConvGeometry::linear(5, 1)
        };
        assert_eq!(conv.input_extent(3), [7, 7, 5]);
        assert_eq!(conv.macs(), 12 * 30);
    }

    #[test]
    fn windows_are_cut_at_the_border() {
        let window = Window {
            kernel: [3, 3],
            stride: [2, 2],
        };
        let border = Border {
            padding: [1, 1],
            input: [5, 2],
        };
        assert_eq!(border.taps(window, 0, 0), 0..2);
        assert_eq!(border.taps(window, 0, 1), 1..4);
        assert_eq!(border.taps(window, 0, 2), 3..5);
        assert_eq!(border.taps(window, 1, 0), 0..2);
        assert_eq!(border.taps(window, 1, 1), 1..2);
        for first in 0..4 {
            let (skipped, below) = border.below(2 * first);
            for index in 0..3 {
                let taps = border.taps(window, 0, first + index);
                let moved = below.taps(window, 0, index);
                let back = moved.start + skipped..moved.end + skipped;
                assert!(taps == back || (taps.is_empty() && moved.is_empty()));
            }
        }
    }
}
