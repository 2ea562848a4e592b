//! Operators that move elements and compute nothing.

use super::attributes::{Attributes, LARGEST};
use super::dimensions::{axes, axis, parts, reshaped};
use super::fold::{Operands, split_axis};
use super::refusal::{Refusal, damaged, quoted, shown, unsupported};
use super::selection::{Cut, cuts, permutation};
use super::step::{Kind, Step};
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
        if dims == x.dims {
            return Ok(x.clone());
        }
        let Step {
            channels,
            space: [height, width],
            ..
        } = self.steps[x.step];
        let batch = self.batch;
        let elements = channels * height * width;
        // With one channel or one pixel, both orders are the same.
        let either = channels == 1 || height * width == 1;
        let relabelled = |channels_last| {
            Ok(Tensor {
                dims: dims.clone(),
                channels_last,
                ..x.clone()
            })
        };
        match dims[..] {
            [n, c] | [n, c, 1, 1] if n == batch && c == elements => {
                if height * width == 1 {
                    return relabelled(false);
                }
                if x.channels_last && !either {
                    return unsupported(
                        "flattens a map whose channels come last",
                        "convert the model to NCHW (tf2onnx: --inputs-as-nchw)",
                    );
                }
                let first = Tensor {
                    channels_last: false,
                    ..x.clone()
                };
                return self.push(Kind::Flatten, &[&first], elements, [1, 1], dims);
            }
            [n, c, h, w]
                if (!x.channels_last || either)
                    && [n, c, h, w] == [batch, channels, height, width] =>
            {
                return relabelled(false);
            }
            [n, h, w, c]
                if (x.channels_last || either)
                    && [n, c, h, w] == [batch, channels, height, width] =>
            {
                return relabelled(true);
            }
            // Other axes of one come and go, so long as none of the rest could be mistaken.
            _ => {
                let long = |dims: &[usize]| -> Vec<usize> {
                    dims.iter().copied().filter(|&d| d != 1).collect()
                };
                if !matches!(dims.len(), 2 | 4) && long(&dims) == long(&x.dims) {
                    return relabelled(x.channels_last);
                }
            }
        }
        unsupported(
            format!("reshapes {} to {}", shown(&x.dims), shown(&dims)),
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
                    format!("permutes {} by {}", shown(&x.dims), shown(&perm)),
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
                    format!("pads in mode {}", quoted(&String::from_utf8_lossy(mode))),
                    "only constant borders are supported",
                );
            }
        }
        let given = match others.first() {
            Some(Some(pads)) => pads.to_i64()?.to_vec(),
            _ => attributes.ints("pads").unwrap_or_default().to_vec(),
        };
        let value = match others.get(1) {
            // To a maximum, repeated elements are as good as none: its windows hold the originals.
            _ if mode == b"edge" => f32::NEG_INFINITY,
            Some(Some(value)) => value.scalar()?,
            _ => attributes.float("value").unwrap_or(0.0),
        };
        let rank = x.dims.len();
        let along = match others.get(2) {
            Some(Some(listed)) => {
                let listed = listed.to_i64()?;
                axes(listed, rank)?;
                let from_front = listed.iter().map(|&a| axis(a, rank));
                from_front.collect::<Result<Vec<_>, _>>()?
            }
            _ => (0..rank).collect(),
        };
        if given.len() != 2 * along.len() {
            return damaged(format!("has {} pads for {} axes", given.len(), along.len()));
        }
        let mut pads = vec![[0; 2]; rank];
        for (i, &a) in along.iter().enumerate() {
            for (side, at) in [(0, i), (1, i + along.len())] {
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
        let (_, [height, width]) = x.extent()?;
        let at = x.channel_axis();
        // The rows' axis; a vector has none.
        let rows = match (x.dims.len(), x.channels_last) {
            (4, false) => 2,
            (4, true) => 1,
            _ => usize::MAX - 1,
        };
        let mut x = x.clone();
        let mut steps = [1, 1];
        for Cut {
            axis,
            start,
            step,
            count,
        } in cuts(&x.dims.clone(), &operands, attributes)?
        {
            let size = x.dims[axis];
            if axis == at {
                self.budget.take(count)?;
                let taken = (0..count as i64).map(|i| (start + i * step) as usize);
                x = self.select(&x, taken.collect())?;
                continue;
            }
            // Beyond the size, all steps are alike.
            let step = usize::try_from(step).unwrap_or(0).clamp(1, size.max(1));
            let whole = start == 0 && count == size.div_ceil(step);
            match axis.checked_sub(rows) {
                Some(side @ (0 | 1)) if whole => steps[side] = step,
                _ if whole && step == 1 => {}
                _ => {
                    return unsupported(
                        "cuts out a part of its operand",
                        "only taking every n-th row and column, or channels, is supported",
                    );
                }
            }
        }
        if steps == [1, 1] {
            return Ok(x);
        }
        let space = [height.div_ceil(steps[0]), width.div_ceil(steps[1])];
        let mut dims = x.dims.clone();
        (dims[rows], dims[rows + 1]) = (space[0], space[1]);
        let channels = dims[at];
        // Exporters write one slice per axis; together they are one step.
        if let Kind::Subsample(before) = self.steps[x.step].kind {
            x.step = self.steps[x.step].inputs[0];
            steps = [
                steps[0].saturating_mul(before[0]),
                steps[1].saturating_mul(before[1]),
            ];
        }
        self.push(Kind::Subsample(steps), &[&x], channels, space, dims)
    }

    /// Channels by their indices.
    pub(super) fn gather(
        &mut self,
        attributes: Attributes<'_>,
        x: &Tensor,
        others: &Operands,
    ) -> Result<Tensor, Refusal> {
        let Some(Some(indices)) = others.first() else {
            return damaged("has no indices");
        };
        x.extent()?;
        let at = axis(attributes.int("axis", 0), x.dims.len())?;
        if at != x.channel_axis() || indices.dims.len() > 1 {
            return unsupported(
                format!(
                    "takes indices of {} along axis {at} of {}",
                    shown(&indices.dims),
                    shown(&x.dims)
                ),
                "only choosing channels is supported",
            );
        }
        let size = x.dims[at];
        self.budget.take(indices.len())?;
        let channels = indices
            .to_i64()?
            .iter()
            .map(|&i| axis(i, size))
            .collect::<Result<Vec<_>, _>>()?;
        let mut chosen = self.select(x, channels)?;
        // A single index takes the axis away.
        if indices.dims.is_empty() {
            chosen.dims.remove(at);
        }
        Ok(chosen)
    }

    /// Parts of the channels, one behind the other.
    pub(super) fn split(
        &mut self,
        attributes: Attributes<'_>,
        x: &Tensor,
        others: &Operands,
        outputs: usize,
    ) -> Result<Vec<Tensor>, Refusal> {
        x.extent()?;
        let at = split_axis(attributes, x.dims.len())?;
        if at != x.channel_axis() {
            return unsupported(
                format!("splits axis {at} of {}", shown(&x.dims)),
                "only splitting channels is supported",
            );
        }
        let listed = others.first().and_then(Option::as_ref);
        let sizes = parts(attributes, x.dims[at], listed.map(|l| &**l), outputs)?;
        self.budget.take(x.dims[at])?;
        let mut start = 0;
        let mut split = Vec::with_capacity(sizes.len());
        for size in sizes {
            split.push(self.select(x, (start..start + size).collect())?);
            start += size;
        }
        Ok(split)
    }

    /// Some of the channels, or all in another order.
    fn select(&mut self, x: &Tensor, channels: Vec<usize>) -> Result<Tensor, Refusal> {
        let at = x.channel_axis();
        if channels.iter().copied().eq(0..x.dims[at]) {
            return Ok(x.clone());
        }
        if channels.is_empty() {
            return unsupported("takes no channels", "remove the node");
        }
        let (count, space) = (channels.len(), x.extent()?.1);
        let mut dims = x.dims.clone();
        dims[at] = count;
        let kind = Kind::Select {
            channels,
            factors: Vec::new(),
        };
        let selected = self.push(kind, &[x], count, space, dims)?;
        Ok(Tensor {
            holds: x.holds,
            ..selected
        })
    }
}
