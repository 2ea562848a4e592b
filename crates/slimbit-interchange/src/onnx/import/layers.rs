//! Operators with weights, and windows.

use std::rc::Rc;

use slimbit_graph::{Array, Channels, Conv2d, Groups, Pool};

use super::attributes::{Attributes, LARGEST};
use super::constant::Constant;
use super::dimensions::reduced;
use super::fold::Operands;
use super::refusal::{Refusal, damaged, quoted, shown, unsupported};
use super::step::{Kind, Norm};
use super::trace::{Tensor, Trace, normalises_by_batch};

fn operand(others: &Operands, index: usize) -> Option<&Rc<Constant>> {
    others.get(index).and_then(Option::as_ref)
}

fn needed<'a>(others: &'a Operands, index: usize, what: &str) -> Result<&'a Rc<Constant>, Refusal> {
    match operand(others, index) {
        Some(constant) => Ok(constant),
        None => damaged(format!("has no {what}")),
    }
}

/// One number for each of `count` channels.
fn per_channel(constant: &Constant, count: usize, what: &str) -> Result<Vec<f32>, Refusal> {
    if constant.len() == count {
        Ok(constant.to_f32().into_owned())
    } else {
        damaged(format!(
            "has {} {what} for {count} channels",
            constant.len()
        ))
    }
}

impl Trace {
    pub(super) fn convolution(
        &mut self,
        attributes: Attributes<'_>,
        x: &Tensor,
        others: &Operands,
    ) -> Result<Tensor, Refusal> {
        let (channels, space) = x.map()?;
        let weight = needed(others, 0, "weights")?;
        let &[out, per_group, kh, kw] = &weight.dims[..] else {
            return unsupported(
                format!("has weights of dimensions {}", shown(&weight.dims)),
                "only two-dimensional convolutions are supported",
            );
        };
        let kernel = attributes.sizes("kernel_shape", [kh, kw], 1)?;
        let groups = usize::try_from(attributes.int("group", 1)).unwrap_or(0);
        if kernel != [kh, kw]
            || groups == 0
            || per_group.checked_mul(groups) != Some(channels)
            || out == 0
            || out % groups != 0
        {
            return damaged(format!(
                "weights {} do not fit {channels} channels in {groups} groups",
                shown(&weight.dims)
            ));
        }
        let bias = match operand(others, 1) {
            Some(bias) => Some(per_channel(bias, out, "biases")?),
            None => None,
        };
        let window = Window::read(attributes, space, kernel)?;
        let conv = Conv2d {
            out: Channels::Fixed(out),
            kernel,
            stride: window.stride,
            padding: window.padding,
            dilation: window.dilation,
            groups: if groups == channels && out == channels && groups > 1 {
                Groups::Depthwise
            } else {
                Groups::Fixed(groups)
            },
            bias: bias.is_some(),
        };
        self.budget.take(weight.len() + out)?;
        let weight = Array {
            shape: weight.dims.clone(),
            data: weight.to_f32().into_owned(),
        };
        let space = window.extent(space, false)?;
        let dims = vec![x.dims[0], out, space[0], space[1]];
        self.push(Kind::Conv { conv, weight, bias }, &[x], out, space, dims)
    }

    pub(super) fn gemm(
        &mut self,
        attributes: Attributes<'_>,
        x: &Tensor,
        others: &Operands,
    ) -> Result<Tensor, Refusal> {
        let weight = needed(others, 0, "weights")?;
        if attributes.int("transA", 0) != 0 {
            return unsupported(
                "transposes the activations",
                "transpose the weights instead",
            );
        }
        let alpha = attributes.float("alpha").unwrap_or(1.0);
        let beta = attributes.float("beta").unwrap_or(1.0);
        let transposed = attributes.int("transB", 0) != 0;
        let bias = operand(others, 1).map(|bias| (bias, beta));
        self.linear(x, weight, transposed, alpha, bias)
    }

    pub(super) fn matrix_product(
        &mut self,
        x: &Tensor,
        others: &Operands,
    ) -> Result<Tensor, Refusal> {
        self.linear(x, needed(others, 0, "weights")?, false, 1.0, None)
    }

    /// `alpha · x·W (+ beta · bias)`, with the weights `[in, out]`, or `[out, in]` if `transposed`.
    fn linear(
        &mut self,
        x: &Tensor,
        weight: &Constant,
        transposed: bool,
        alpha: f32,
        bias: Option<(&Rc<Constant>, f32)>,
    ) -> Result<Tensor, Refusal> {
        let (&[batch, features], &[rows, columns]) = (&x.dims[..], &weight.dims[..]) else {
            return unsupported(
                format!("multiplies {} by {}", shown(&x.dims), shown(&weight.dims)),
                "only vectors [N, C] by matrices are supported",
            );
        };
        let [from, to] = if transposed {
            [columns, rows]
        } else {
            [rows, columns]
        };
        if from != features || to == 0 {
            let (x, weight) = (shown(&x.dims), shown(&weight.dims));
            return damaged(format!("multiplies {x} by {weight}"));
        }
        self.budget.take(weight.len() + to)?;
        let values = weight.to_f32();
        let at = |o: usize, i: usize| {
            let index = if transposed { o * from + i } else { i * to + o };
            alpha * values[index]
        };
        let data = (0..to).flat_map(|o| (0..from).map(move |i| (o, i)));
        let data = data.map(|(o, i)| at(o, i)).collect();
        let bias = match bias {
            Some((bias, beta)) => {
                let values = bias.to_f32();
                // One row for all images: a bias that differs between them is none.
                let (last, outer) = match &bias.dims[..] {
                    [outer @ .., last] => (*last, outer),
                    [] => (1, &[][..]),
                };
                if outer.len() > 1 || outer.iter().any(|&d| d != 1) || !(last == 1 || last == to) {
                    let dims = shown(&bias.dims);
                    return unsupported(
                        format!("adds {dims} to [N, {to}]"),
                        "only one bias for every feature is supported",
                    );
                }
                let one = |o: usize| match values.len() {
                    1 => Some(values[0]),
                    n if n == to => Some(values[o]),
                    _ => None,
                };
                let scaled = (0..to).map(|o| one(o).map(|b| beta * b));
                match scaled.collect::<Option<Vec<f32>>>() {
                    Some(bias) => Some(bias),
                    None => return damaged(format!("has {} biases for {to} features", bias.len())),
                }
            }
            None => None,
        };
        let weight = Array {
            shape: vec![to, from],
            data,
        };
        self.push(
            Kind::Linear { weight, bias },
            &[x],
            to,
            [1, 1],
            vec![batch, to],
        )
    }

    pub(super) fn batch_norm(
        &mut self,
        attributes: Attributes<'_>,
        x: &Tensor,
        others: &Operands,
    ) -> Result<Tensor, Refusal> {
        let (channels, _) = x.extent()?;
        if attributes.int("training_mode", 0) != 0 {
            return normalises_by_batch();
        }
        if attributes.int("spatial", 1) == 0 {
            return unsupported(
                "has statistics for every pixel (spatial = 0)",
                "only statistics per channel are supported",
            );
        }
        if x.channels_last && x.dims.len() == 4 {
            return unsupported(
                "normalises axis 1 of a map whose channels come last",
                "convert the model to NCHW (tf2onnx: --inputs-as-nchw)",
            );
        }
        self.budget.take(4 * channels)?;
        let part = |index, what| per_channel(needed(others, index, what)?, channels, what);
        let norm = Norm {
            gamma: part(0, "scales")?,
            beta: part(1, "biases")?,
            mean: part(2, "means")?,
            variance: part(3, "variances")?,
            eps: attributes.float("epsilon").unwrap_or(1e-5),
        };
        if !(norm.eps >= 0.0 && norm.eps.is_finite()) {
            return damaged(format!("epsilon {}", norm.eps));
        }
        self.push_like(Kind::Norm(norm), x)
    }

    pub(super) fn pool(
        &mut self,
        op: &str,
        attributes: Attributes<'_>,
        x: &Tensor,
    ) -> Result<Tensor, Refusal> {
        let (channels, space) = x.map()?;
        let kernel = attributes.sizes("kernel_shape", [0, 0], 1)?;
        if kernel == [0, 0] {
            return damaged("has no kernel shape");
        }
        let mut window = Window::read(attributes, space, kernel)?;
        if window.dilation != [1, 1] {
            return unsupported("is dilated", "only pooling of neighbours is supported");
        }
        let floor = window.extent(space, false)?;
        let ceil = attributes.int("ceil_mode", 0) != 0;
        let extent = window.extent(space, ceil)?;
        let average = op == "AveragePool";
        if average && extent != floor {
            return unsupported(
                "averages over windows that reach beyond the map (ceil_mode)",
                "pad the map, or choose an image size that the strides divide",
            );
        }
        for i in 0..2 {
            let reach = (extent[i] - 1) * window.stride[i] + kernel[i];
            let needed = reach.saturating_sub(space[i] + window.padding[i]);
            let border = &mut window.padding[i + 2];
            // Rounding up takes a border below and to the right; one that no window reaches is none
            // to an average, however it counts.
            *border = if average { needed } else { needed.max(*border) };
        }
        let pool = Pool {
            kernel,
            stride: window.stride,
            padding: window.padding,
        };
        let padded = pool.padding != [0; 4];
        let kind = match (average, padded) {
            (false, _) => Kind::MaxPool(pool),
            (true, false) if kernel == space => Kind::GlobalAvgPool,
            (true, false) => Kind::AvgPool(pool),
            (true, true) if attributes.int("count_include_pad", 0) != 0 => {
                Kind::PaddedAverage(pool)
            }
            (true, true) => {
                return unsupported(
                    "averages over the part of the window that lies on the map, so that its \
                     divisor changes at the border",
                    "count the border (PyTorch: count_include_pad=True) or pool without padding, \
                     and fine-tune",
                );
            }
        };
        let dims = vec![x.dims[0], channels, extent[0], extent[1]];
        self.push(kind, &[x], channels, extent, dims)
    }

    pub(super) fn global_average(
        &mut self,
        op: &str,
        attributes: Attributes<'_>,
        x: &Tensor,
        others: &Operands,
    ) -> Result<Tensor, Refusal> {
        let (channels, _) = x.extent()?;
        let rank = x.dims.len();
        let mut keep = true;
        if op == "ReduceMean" {
            let listed = operand(others, 0).map(|axes| &**axes);
            let Some(axes) = reduced(attributes, rank, listed)? else {
                return Ok(x.clone());
            };
            let space = if x.channels_last { [1, 2] } else { [2, 3] };
            if axes != space || rank != 4 {
                return unsupported(
                    format!("averages axes {} of {}", shown(&axes), shown(&x.dims)),
                    "only means over rows and columns are supported",
                );
            }
            keep = attributes.int("keepdims", 1) != 0;
        } else {
            x.map()?;
        }
        let batch = x.dims[0];
        let dims = match (keep, x.channels_last) {
            (false, _) => vec![batch, channels],
            (true, false) => vec![batch, channels, 1, 1],
            (true, true) => vec![batch, 1, 1, channels],
        };
        self.push(Kind::GlobalAvgPool, &[x], channels, [1, 1], dims)
    }
}

/// How a kernel moves over a map.
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    /// Top, left, bottom, right.
    padding: [usize; 4],
    dilation: [usize; 2],
}

impl Window {
    fn read(
        attributes: Attributes<'_>,
        space: [usize; 2],
        kernel: [usize; 2],
    ) -> Result<Self, Refusal> {
        if kernel.iter().any(|k| !(1..=LARGEST).contains(k)) {
            return damaged(format!("has a kernel of {}", shown(&kernel)));
        }
        let stride = attributes.sizes("strides", [1, 1], 1)?;
        let dilation = attributes.sizes("dilations", [1, 1], 1)?;
        let padding = match attributes.text("auto_pad").unwrap_or(b"NOTSET") {
            b"NOTSET" | b"" => attributes.sizes("pads", [0; 4], 0)?,
            b"VALID" => [0; 4],
            same @ (b"SAME_UPPER" | b"SAME_LOWER") => {
                let mut padding = [0; 4];
                for i in 0..2 {
                    let reach = dilation[i] * (kernel[i] - 1) + 1;
                    let steps = space[i].div_ceil(stride[i]).saturating_sub(1);
                    let total = (steps * stride[i] + reach).saturating_sub(space[i]);
                    let small = total / 2;
                    let upper = same == b"SAME_UPPER";
                    padding[i] = if upper { small } else { total - small };
                    padding[i + 2] = total - padding[i];
                }
                padding
            }
            other => {
                let mode = quoted(&String::from_utf8_lossy(other));
                return damaged(format!("auto_pad {mode}"));
            }
        };
        Ok(Self {
            kernel,
            stride,
            padding,
            dilation,
        })
    }

    /// Rows and columns of the result, rounded down, or up as pooling may.
    fn extent(&self, space: [usize; 2], ceil: bool) -> Result<[usize; 2], Refusal> {
        let mut out = [0; 2];
        for i in 0..2 {
            let reach = self.dilation[i] * (self.kernel[i] - 1) + 1;
            let padded = space[i] + self.padding[i] + self.padding[i + 2];
            let Some(room) = padded.checked_sub(reach) else {
                return damaged(format!("a window of {reach} on {padded} rows or columns"));
            };
            out[i] = room / self.stride[i] + 1;
            // A window beyond the last one counts only if it begins on the map or before it.
            let begins = out[i] * self.stride[i];
            if ceil && !room.is_multiple_of(self.stride[i]) && begins < space[i] + self.padding[i] {
                out[i] += 1;
            }
        }
        Ok(out)
    }
}
