//! Operators that move elements and compute nothing.

use super::attributes::{Attributes, LARGEST};
use super::dimensions::{axis, reshaped};
use super::fold::Operands;
use super::refusal::{Refusal, damaged, unsupported};
use super::selection::{Cut, cuts, permutation};
use super::step::Kind;
use super::trace::{Tensor, Trace};

impl Trace {
    pub(super) fn reshape(
        &mut self,
        op: &str,
        attributes: Attributes<'_>,
        x: &Tensor,
        others: &Operands,
    ) -> Result<Tensor, Refusal> {
        let operand = others.first().and_then(Option::as_ref);
        let dims = reshaped(op, attributes, &x.dims, operand.map(|o| &**o))?;
        self.with_dims(x, dims)
    }

    /// The elements of `x` in the same order under other dimensions.
    fn with_dims(&mut self, x: &Tensor, dims: Vec<usize>) -> Result<Tensor, Refusal> {
        let (channels, space) = x.extent()?;
        let batch = x.dims[0];
        let elements = channels * space[0] * space[1];
        if dims == x.dims {
            return Ok(x.clone());
        }
        let vector = matches!(dims[..], [n, c] | [n, c, 1, 1] if n == batch && c == elements);
        if vector && space == [1, 1] {
            return Ok(Tensor {
                dims,
                channels_last: false,
                ..x.clone()
            });
        }
        if vector && dims.len() == 2 {
            if x.channels_last {
                return unsupported(
                    "flattens a map whose channels come last",
                    "convert the model to NCHW (tf2onnx: --inputs-as-nchw)",
                );
            }
            return self.push(Kind::Flatten, &[x], elements, [1, 1], dims);
        }
        unsupported(
            format!("reshapes {:?} to {dims:?}", x.dims),
            "only reshaping a map to a vector is supported",
        )
    }

    pub(super) fn transpose(
        &mut self,
        attributes: Attributes<'_>,
        x: &Tensor,
    ) -> Result<Tensor, Refusal> {
        let perm = permutation(attributes, x.dims.len())?;
        let (_, space) = x.extent()?;
        let dims: Vec<usize> = perm.iter().map(|&p| x.dims[p]).collect();
        let channels_last = match (&perm[..], x.channels_last) {
            ([0, 3, 1, 2], true) => false,
            ([0, 2, 3, 1], false) => true,
            (identity, last) if identity.iter().copied().eq(0..perm.len()) => last,
            ([0, ..], _) if space == [1, 1] => dims.len() == 4 && dims[1] == 1,
            _ => {
                return unsupported(
                    format!("permutes {:?} by {perm:?}", x.dims),
                    "only changes between NHWC and NCHW are supported",
                );
            }
        };
        Ok(Tensor {
            dims,
            channels_last,
            ..x.clone()
        })
    }

    pub(super) fn pad(
        &mut self,
        attributes: Attributes<'_>,
        x: &Tensor,
        others: &Operands,
    ) -> Result<Tensor, Refusal> {
        let mode = attributes.text("mode").unwrap_or(b"constant");
        match mode {
            b"constant" | b"" | b"edge" => {}
            mode => {
                return unsupported(
                    format!("pads in mode `{}`", String::from_utf8_lossy(mode)),
                    "only constant borders are supported",
                );
            }
        }
        let given = match others.first() {
            Some(Some(pads)) => pads.to_i64()?.to_vec(),
            _ => attributes.ints("pads").unwrap_or_default().to_vec(),
        };
        let value = match others.get(1) {
            Some(Some(value)) => value.scalar()?,
            // To a maximum, repeated elements are as good as none: its windows hold the originals.
            _ if mode == b"edge" => f32::NEG_INFINITY,
            _ => attributes.float("value").unwrap_or(0.0),
        };
        let rank = x.dims.len();
        let axes = match others.get(2) {
            Some(Some(axes)) => axes
                .to_i64()?
                .iter()
                .map(|&a| axis(a, rank))
                .collect::<Result<Vec<_>, _>>()?,
            _ => (0..rank).collect(),
        };
        if given.len() != 2 * axes.len() {
            return damaged(format!("has {} pads for {} axes", given.len(), axes.len()));
        }
        let mut pads = vec![[0; 2]; rank];
        for (i, &a) in axes.iter().enumerate() {
            for (side, at) in [(0, i), (1, i + axes.len())] {
                match usize::try_from(given[at]) {
                    Ok(n) if n <= LARGEST => pads[a][side] = n,
                    _ => return unsupported(format!("pads by {}", given[at]), "crop elsewhere"),
                }
            }
        }
        if pads.iter().all(|pad| *pad == [0, 0]) {
            return Ok(x.clone());
        }
        let (channels, space) = x.extent()?;
        let mut dims = x.dims.clone();
        for (dim, pad) in dims.iter_mut().zip(&pads) {
            *dim += pad[0] + pad[1];
        }
        let [batch, of_channels, rows, columns] = match (&pads[..], x.channels_last) {
            (&[n, c, h, w], false) | (&[n, h, w, c], true) => [n, c, h, w],
            _ => return unsupported("pads a vector", "only maps [N, C, H, W] are supported"),
        };
        if batch != [0, 0] {
            return unsupported("pads the batch", "remove it");
        }
        if of_channels == [0, 0] {
            let border = [rows[0], columns[0], rows[1], columns[1]];
            let space = [
                space[0] + rows[0] + rows[1],
                space[1] + columns[0] + columns[1],
            ];
            let kind = Kind::Pad {
                space: border,
                value,
            };
            return self.push(kind, &[x], channels, space, dims);
        }
        if rows != [0, 0] || columns != [0, 0] || value != 0.0 {
            return unsupported("pads channels and more", "pad channels with zeros only");
        }
        let channels = channels + of_channels[0] + of_channels[1];
        self.push(Kind::PadChannels(of_channels), &[x], channels, space, dims)
    }

    pub(super) fn slice(
        &mut self,
        attributes: Attributes<'_>,
        x: &Tensor,
        others: &Operands,
    ) -> Result<Tensor, Refusal> {
        let mut operands = vec![None];
        operands.extend(others.iter().cloned());
        let (channels, [height, width]) = x.map()?;
        let mut steps = [1, 1];
        for Cut {
            axis,
            start,
            step,
            count,
        } in cuts(&x.dims, &operands, attributes)?
        {
            // Beyond the size, all steps are alike.
            let step = usize::try_from(step)
                .unwrap_or(0)
                .clamp(1, x.dims[axis].max(1));
            let whole = start == 0 && count == x.dims[axis].div_ceil(step);
            match axis {
                2 | 3 if whole => steps[axis - 2] = step,
                _ if whole && step == 1 => {}
                _ => {
                    return unsupported(
                        "cuts out a part of its operand",
                        "only taking every n-th row and column is supported",
                    );
                }
            }
        }
        if steps == [1, 1] {
            return Ok(x.clone());
        }
        let space = [height.div_ceil(steps[0]), width.div_ceil(steps[1])];
        let dims = vec![x.dims[0], channels, space[0], space[1]];
        // Exporters write one slice per axis; together they are one step.
        let mut source = x.clone();
        if let Kind::Subsample(before) = self.steps[x.step].kind {
            source.step = self.steps[x.step].inputs[0];
            steps = [steps[0] * before[0], steps[1] * before[1]];
        }
        self.push(Kind::Subsample(steps), &[&source], channels, space, dims)
    }
}
