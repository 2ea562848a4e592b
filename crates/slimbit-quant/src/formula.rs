//! The real functions that stages compute on integers, in `f64` and before any rounding.
//!
//! Lowering rounds the slope to `f32` and stores both coefficients as the truth that the integers
//! are proven against; [`simulate`](crate::simulate) evaluates them unrounded.

use slimbit_engine::OutputQuant;
use slimbit_graph::{Graph, Op, Params, PointStatistics, Stage, StageKind};

use crate::QuantError;
use crate::post::Adjustment;

/// `slope · x + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) slope: f64,
    pub(crate) offset: f64,
}

/// What follows the accumulator of a convolution or linear stage: its bias and its batch-norm.
pub(crate) struct Folded<'a> {
    bias: Option<&'a [f32]>,
    norm: Option<Norm<'a>>,
}

struct Norm<'a> {
    gamma: &'a [f32],
    beta: &'a [f32],
    mean: &'a [f32],
    var: &'a [f32],
    eps: f32,
}

impl<'a> Folded<'a> {
    /// Of a convolution or linear stage with `channels` outputs at the statistics' point.
    pub(crate) fn new(
        graph: &Graph,
        params: &'a Params,
        statistics: &'a PointStatistics,
        stage: &Stage,
        channels: usize,
    ) -> Result<Self, QuantError> {
        let (node, norm) = match stage.kind {
            StageKind::Conv { conv: node, norm } | StageKind::Linear { linear: node, norm } => {
                (graph.node(node), norm)
            }
            _ => {
                return Ok(Self {
                    bias: None,
                    norm: None,
                });
            }
        };
        let has_bias = match &node.op {
            Op::Conv2d(conv) => conv.bias,
            Op::Linear(linear) => linear.bias,
            _ => false,
        };
        let param = |name: &str, part: &str| {
            Ok::<_, QuantError>(&params.get(&format!("{name}.{part}"))?.data[..])
        };
        let bias = if has_bias {
            Some(param(&node.name, "bias")?)
        } else {
            None
        };
        let norm = match norm.map(|id| graph.node(id)) {
            Some(node) => {
                let name = node.name.as_str();
                let (mean, var) = norm_statistics(statistics, name, channels)?;
                let eps = match node.op {
                    Op::BatchNorm { eps } => eps,
                    _ => 0.0,
                };
                let (gamma, beta) = (param(name, "weight")?, param(name, "bias")?);
                Some(Norm {
                    gamma,
                    beta,
                    mean,
                    var,
                    eps,
                })
            }
            None => None,
        };
        Ok(Self { bias, norm })
    }

    /// From the accumulator of output channel `o`, one unit of which is worth `unit`, to the
    /// output's codes: `a = γ·s_w·s_x / (s_y·√(σ²+ε))` and
    /// `b = (γ·(bias − μ)/√(σ²+ε) + β)/s_y + z_y`.
    pub(crate) fn line(&self, o: usize, unit: f64, output: OutputQuant) -> Line {
        self.adjusted_line(o, unit, output, Adjustment::NONE)
    }

    /// As [`line`](Self::line), of an output that is adjusted before it becomes codes.
    pub(crate) fn adjusted_line(
        &self,
        o: usize,
        unit: f64,
        output: OutputQuant,
        Adjustment { slope, shift }: Adjustment,
    ) -> Line {
        let real = self.real_line(o);
        let scale = f64::from(output.scale());
        Line {
            slope: slope * real.slope * unit / scale,
            offset: (slope * real.offset + shift) / scale + f64::from(output.zero_point()),
        }
    }

    /// From the real sum of products of output channel `o` to its real output.
    pub(crate) fn real_line(&self, o: usize) -> Line {
        let bias = self.bias.map_or(0.0, |bias| f64::from(bias[o]));
        let (gain, shift) = match &self.norm {
            Some(norm) => {
                let deviation = (f64::from(norm.var[o]) + f64::from(norm.eps)).sqrt();
                let gain = f64::from(norm.gamma[o]) / deviation;
                (
                    gain,
                    gain * (bias - f64::from(norm.mean[o])) + f64::from(norm.beta[o]),
                )
            }
            None => (1.0, bias),
        };
        Line {
            slope: gain,
            offset: shift,
        }
    }
}

fn norm_statistics<'a>(
    statistics: &'a PointStatistics,
    name: &str,
    channels: usize,
) -> Result<(&'a [f32], &'a [f32]), QuantError> {
    let error = |what: String| {
        Err(QuantError::Statistics {
            point: statistics.point,
            name: name.to_owned(),
            what,
        })
    };
    let Some((mean, var)) = statistics.norms.get(name) else {
        return error("missing".into());
    };
    if mean.len() != channels || var.len() != channels {
        return error(format!(
            "{} means and {} variances for {channels} channels",
            mean.len(),
            var.len()
        ));
    }
    let usable = |o: &usize| mean[*o].is_finite() && var[*o].is_finite() && var[*o] >= 0.0;
    match (0..channels).find(|o| !usable(o)) {
        Some(o) => error(format!(
            "mean {} and variance {} in channel {o}",
            mean[o], var[o]
        )),
        None => Ok((mean, var)),
    }
}

/// The mean over a window of `count` codes, from their raw sum to the output's codes.
pub(crate) fn average(input: OutputQuant, count: usize, output: OutputQuant) -> Line {
    let slope = f64::from(input.scale()) / (count as f64 * f64::from(output.scale()));
    Line {
        slope,
        offset: f64::from(output.zero_point())
            - slope * count as f64 * f64::from(input.zero_point()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slimbit_num::ActQuant;

    #[test]
    fn the_average_of_equal_codes_is_their_value() {
        let input = OutputQuant::Codes(ActQuant {
            scale: 0.5,
            zero_point: 10,
            bits: 8,
        });
        let output = OutputQuant::Codes(ActQuant {
            scale: 0.25,
            zero_point: 3,
            bits: 8,
        });
        let Line { slope, offset } = average(input, 4, output);
        assert_eq!(slope * 4.0 * 14.0 + offset, 4.0 * 2.0 + 3.0);
    }
}
