//! From steps to a graph: what belongs together is folded, what is left becomes nodes.

use std::collections::{BTreeMap, BTreeSet};

use slimbit_graph::{
    Activation, Array, Channels, Conv2d, Graph, GraphBuilder, Groups, Linear, NodeId, Op, Params,
    Pool,
};

use super::borders::absorb_borders;
use super::channels::absorb_selections;
use super::draft::Draft;
use super::names::Names;
use super::refusal::{Budget, Refusal, UnsupportedNode, quoted, unsupported};
use super::step::{Kind, Norm, Step};
use crate::{ImportError, Norms};

/// The parts of a network.
pub(super) struct Emitted {
    pub(super) graph: Graph,
    pub(super) params: Params,
    pub(super) norms: Norms,
    /// The node that each step became, by step.
    pub(super) nodes: BTreeMap<usize, String>,
}

/// Makes the graph whose outputs are the given steps, by name.
///
/// # Errors
/// The nodes that have no counterpart, all of them; or what the graph's own check says.
pub(super) fn emit(
    name: &str,
    mut steps: Vec<Step>,
    outputs: &[(String, usize)],
    mut budget: Budget,
) -> Result<Emitted, EmitError> {
    absorb_borders(&mut steps);
    if let Err(Refusal::Damaged(what)) = absorb_selections(&mut steps, &mut budget) {
        return Err(EmitError::Import(ImportError::damaged("graph", what)));
    }
    let mut uses = vec![0; steps.len()];
    for (_, step) in outputs {
        uses[*step] += 1;
    }
    for index in (0..steps.len()).rev() {
        if uses[index] > 0 {
            for &input in &steps[index].inputs {
                uses[input] += 1;
            }
        }
    }
    // A graph begins with its image, whether or not an output depends on it.
    uses[0] = uses[0].max(1);
    let mut emitter = Emitter {
        names: Names::default(),
        drafts: Vec::new(),
        draft_of: BTreeMap::new(),
        outputs: outputs.iter().map(|(_, step)| *step).collect(),
        kept: BTreeSet::new(),
        budget,
    };
    let mut refused = Vec::new();
    for index in (0..steps.len()).filter(|&i| uses[i] > 0) {
        // Weights move on: a network must not be there twice.
        let kind = std::mem::replace(&mut steps[index].kind, Kind::Input);
        let step = &steps[index];
        if step
            .inputs
            .iter()
            .any(|i| !emitter.draft_of.contains_key(i))
        {
            continue;
        }
        let single = step.inputs.first().is_some_and(|&input| uses[input] == 1);
        if let Err(refusal) = emitter.step(index, step, kind, single) {
            let (why, remedy) = match refusal {
                Refusal::Unsupported { why, remedy } => (why, remedy),
                Refusal::Damaged(what) => {
                    let at = format!("node {} ({})", quoted(&step.name), quoted(&step.op));
                    return Err(EmitError::Import(ImportError::damaged(at, what)));
                }
            };
            refused.push(UnsupportedNode {
                op: step.op.clone(),
                node: step.name.clone(),
                why,
                remedy: remedy.to_owned(),
            });
        }
    }
    if !refused.is_empty() {
        return Err(EmitError::Unsupported(refused));
    }
    emitter.finish(name, outputs)
}

/// Why no graph came of the steps.
pub(super) enum EmitError {
    Unsupported(Vec<UnsupportedNode>),
    Import(ImportError),
}

struct Emitter {
    names: Names,
    drafts: Vec<Draft>,
    draft_of: BTreeMap<usize, usize>,
    outputs: BTreeSet<usize>,
    /// Drafts that are outputs themselves.
    kept: BTreeSet<usize>,
    budget: Budget,
}

impl Emitter {
    /// Turns a step into a draft, or folds it into one. `single` says that nothing else reads its
    /// operand.
    fn step(&mut self, index: usize, step: &Step, kind: Kind, single: bool) -> Result<(), Refusal> {
        let inputs: Vec<usize> = step.inputs.iter().map(|i| self.draft_of[i]).collect();
        let vector = inputs.first().is_some_and(|&i| self.drafts[i].vector);
        let foldable = single && !self.outputs.contains(&step.inputs[0]);
        let plain = |op: Op| Draft {
            name: step.name.clone(),
            op,
            inputs: inputs.clone(),
            weight: None,
            bias: None,
            statistics: None,
            vector,
            folded: None,
        };
        let draft = match kind {
            Kind::Input => plain(Op::Input {
                channels: step.channels,
                height: step.space[0],
                width: step.space[1],
            }),
            Kind::Conv { conv, weight, bias } if vector => {
                Self::convolution_of_vector(step, inputs, &conv, weight, bias)?
            }
            Kind::Conv { conv, weight, bias } => Draft {
                weight: Some(weight),
                bias,
                ..plain(Op::Conv2d(conv))
            },
            Kind::Linear { weight, bias } => Draft {
                vector: true,
                ..plain(Op::Linear(Linear {
                    out: Channels::Fixed(step.channels),
                    bias: bias.is_some(),
                }))
            }
            .with(weight, bias),
            Kind::Norm(norm) => match self.fold_norm(step, inputs[0], &norm, foldable)? {
                Some(draft) => draft,
                None => {
                    self.became(index, inputs[0]);
                    return Ok(());
                }
            },
            Kind::Scale { gain, shift } => {
                self.budget.take(2 * step.channels)?;
                let wide = |values: &[f32]| -> Vec<f64> {
                    values.iter().map(|&value| value.into()).collect()
                };
                let before = &mut self.drafts[inputs[0]];
                if foldable && before.fold(&wide(&gain), &wide(&shift), step.channels) {
                    self.became(index, inputs[0]);
                    return Ok(());
                }
                let spread = |values: Vec<f32>| match values[..] {
                    [value] => vec![value; step.channels],
                    _ => values,
                };
                let (gain, shift) = (spread(gain), spread(shift));
                if vector {
                    return unsupported(
                        "scales a vector that no linear layer of its own gives",
                        "fold it into the layers around it",
                    );
                }
                Draft::per_channel(step, inputs, gain, shift)
            }
            Kind::Activation(activation) => plain(Op::Activation(activation)),
            Kind::Clip([low, high]) if low == 0.0 && (high - 6.0).abs() < 1e-4 => {
                plain(Op::Activation(Activation::Relu6))
            }
            Kind::Clip([low, high]) => {
                return unsupported(
                    format!("clips to {low} .. {high}"),
                    "only 0 .. 6 and 0 .. infinity are supported",
                );
            }
            Kind::Gated(factor) if (factor * 6.0 - 1.0).abs() < 1e-3 => {
                plain(Op::Activation(Activation::HardSwish))
            }
            Kind::Gated(_) | Kind::HardSigmoid(_) => {
                return unsupported(
                    "is a gate of another form than hard swish",
                    "use x · clip(x + 3, 0, 6) / 6",
                );
            }
            Kind::Add => plain(Op::Add),
            Kind::Concat => plain(Op::Concat),
            Kind::MaxPool(pool) => plain(Op::MaxPool(pool)),
            Kind::AvgPool(pool) => plain(Op::AvgPool(pool)),
            Kind::PaddedAverage(pool) => self.padded_average(step, inputs, &pool)?,
            // The mean of one element.
            Kind::GlobalAvgPool | Kind::Flatten if vector => {
                self.became(index, inputs[0]);
                return Ok(());
            }
            Kind::GlobalAvgPool => Draft {
                vector: true,
                ..plain(Op::GlobalAvgPool)
            },
            Kind::Flatten => Draft {
                vector: true,
                ..plain(Op::Flatten)
            },
            Kind::Subsample(stride) => plain(Op::MaxPool(Pool {
                kernel: [1, 1],
                stride,
                padding: [0; 4],
            })),
            Kind::PadChannels([before, after]) => {
                if after.checked_sub(before).is_none_or(|more| more > 1) {
                    return unsupported(
                        format!("adds {before} channels before and {after} after"),
                        "only half before and half after is supported",
                    );
                }
                plain(Op::PadShortcut {
                    out: Channels::Fixed(step.channels),
                    stride: 1,
                })
            }
            Kind::Select { channels, factors } => {
                self.selection(step, inputs, &channels, &factors)?
            }
            Kind::Pad { .. } => {
                return unsupported(
                    "adds a border that what follows cannot take in",
                    "only zeros before convolutions and pools are supported, and edges before maxima",
                );
            }
            Kind::Softmax => {
                return unsupported(
                    "is in the middle of the network",
                    "only at its end, where it is left out",
                );
            }
        };
        self.became(index, self.drafts.len());
        self.drafts.push(Draft {
            name: self.names.unique(&draft.name),
            ..draft
        });
        self.join_shortcut();
        Ok(())
    }

    /// Notes the draft that a step became, or was folded into.
    fn became(&mut self, step: usize, draft: usize) {
        self.draft_of.insert(step, draft);
        if self.outputs.contains(&step) {
            self.kept.insert(draft);
        }
    }

    /// Channels of the image in another order, where no convolution takes it in, as a 1×1
    /// convolution.
    fn selection(
        &mut self,
        step: &Step,
        inputs: Vec<usize>,
        channels: &[usize],
        factors: &[f32],
    ) -> Result<Draft, Refusal> {
        let Op::Input {
            channels: width, ..
        } = self.drafts[inputs[0]].op
        else {
            return unsupported(
                "cuts out or reorders channels",
                "only directly before a convolution without groups is it supported",
            );
        };
        let shape = vec![channels.len(), width, 1, 1];
        let mut data = vec![0.0; self.budget.take_dims(&shape)?];
        for (row, &channel) in channels.iter().enumerate() {
            data[row * width + channel] = factors.get(row).copied().unwrap_or(1.0);
        }
        Ok(Draft {
            name: step.name.clone(),
            op: Op::Conv2d(Conv2d {
                bias: false,
                ..Conv2d::same(Channels::Fixed(channels.len()), 1, 1)
            }),
            inputs,
            weight: Some(Array { shape, data }),
            bias: None,
            statistics: None,
            vector: false,
            folded: None,
        })
    }

    /// A batch-norm where the graph has one, directly behind a layer with weights; elsewhere it is
    /// folded into what is before it, or becomes a depthwise convolution.
    fn fold_norm(
        &mut self,
        step: &Step,
        input: usize,
        norm: &Norm,
        foldable: bool,
    ) -> Result<Option<Draft>, Refusal> {
        let producer = &mut self.drafts[input];
        if foldable && matches!(producer.op, Op::Conv2d(_) | Op::Linear(_)) {
            return Ok(Some(Draft {
                name: step.name.clone(),
                op: Op::BatchNorm { eps: norm.eps },
                inputs: vec![input],
                weight: Some(Array {
                    shape: vec![norm.gamma.len()],
                    data: norm.gamma.clone(),
                }),
                bias: Some(norm.beta.clone()),
                statistics: Some((norm.mean.clone(), norm.variance.clone())),
                vector: producer.vector,
                folded: None,
            }));
        }
        let (gain, shift) = norm.line();
        if foldable && producer.fold(&gain, &shift, step.channels) {
            return Ok(None);
        }
        if producer.vector {
            return unsupported(
                "normalises a vector that no linear layer of its own gives",
                "fold it into the layers around it",
            );
        }
        let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
        let (gain, shift) = (narrow(gain), narrow(shift));
        Ok(Some(Draft::per_channel(step, vec![input], gain, shift)))
    }

    /// A 1×1 convolution of a vector is a linear layer.
    fn convolution_of_vector(
        step: &Step,
        inputs: Vec<usize>,
        conv: &Conv2d,
        weight: Array,
        bias: Option<Vec<f32>>,
    ) -> Result<Draft, Refusal> {
        if conv.kernel != [1, 1] || conv.padding != [0; 4] || conv.groups != Groups::Fixed(1) {
            return unsupported(
                "convolves a vector",
                "only 1×1 convolutions without groups are supported there",
            );
        }
        Ok(Draft {
            name: step.name.clone(),
            op: Op::Linear(Linear {
                out: conv.out,
                bias: bias.is_some(),
            }),
            inputs,
            weight: Some(Array {
                shape: weight.shape[..2].to_vec(),
                data: weight.data,
            }),
            bias,
            statistics: None,
            vector: true,
            folded: None,
        })
    }

    /// An average over a padded map is a depthwise convolution with equal weights.
    fn padded_average(
        &mut self,
        step: &Step,
        inputs: Vec<usize>,
        pool: &Pool,
    ) -> Result<Draft, Refusal> {
        let shape = vec![step.channels, 1, pool.kernel[0], pool.kernel[1]];
        let elements = self.budget.take_dims(&shape)?;
        let weight = 1.0 / (pool.kernel[0] * pool.kernel[1]) as f32;
        Ok(Draft {
            weight: Some(Array {
                shape,
                data: vec![weight; elements],
            }),
            op: Op::Conv2d(Conv2d {
                kernel: pool.kernel,
                stride: pool.stride,
                padding: pool.padding,
                ..Draft::depthwise(false)
            }),
            bias: None,
            ..Draft::per_channel(step, inputs, Vec::new(), Vec::new())
        })
    }

    /// Joins the padding of channels that was just added with a subsampling that only it reads.
    fn join_shortcut(&mut self) {
        let [.., before, last] = &self.drafts[..] else {
            return;
        };
        let (Op::PadShortcut { out, stride: 1 }, Op::MaxPool(pool)) = (&last.op, &before.op) else {
            return;
        };
        let thinned = pool.kernel == [1, 1] && pool.stride[0] == pool.stride[1];
        let index = self.drafts.len() - 2;
        if !thinned || last.inputs != [index] || self.kept.contains(&index) {
            return;
        }
        let (op, inputs) = (
            Op::PadShortcut {
                out: *out,
                stride: pool.stride[0],
            },
            before.inputs.clone(),
        );
        let last = &mut self.drafts[index + 1];
        (last.op, last.inputs) = (op, inputs);
    }

    fn finish(self, name: &str, outputs: &[(String, usize)]) -> Result<Emitted, EmitError> {
        let mut wanted = vec![false; self.drafts.len()];
        wanted[0] = true;
        for (_, step) in outputs {
            wanted[self.draft_of[step]] = true;
        }
        for index in (0..self.drafts.len()).rev() {
            if wanted[index] {
                for &input in &self.drafts[index].inputs {
                    wanted[input] = true;
                }
            }
        }
        let mut builder = GraphBuilder::new(name);
        let mut params = Params::default();
        let mut norms = Norms::new();
        let mut ids: BTreeMap<usize, NodeId> = BTreeMap::new();
        let mut names = BTreeMap::new();
        for (index, mut draft) in self.drafts.into_iter().enumerate() {
            if !wanted[index] {
                continue;
            }
            draft.settle();
            let inputs: Vec<NodeId> = draft.inputs.iter().map(|i| ids[i]).collect();
            if let Some(weight) = draft.weight {
                params.0.insert(format!("{}.weight", draft.name), weight);
            }
            if let Some(bias) = draft.bias {
                let array = Array {
                    shape: vec![bias.len()],
                    data: bias,
                };
                params.0.insert(format!("{}.bias", draft.name), array);
            }
            if let Some(statistics) = draft.statistics {
                norms.insert(draft.name.clone(), statistics);
            }
            names.insert(index, draft.name.clone());
            ids.insert(index, builder.push(draft.name, draft.op, &inputs));
        }
        let named: Vec<(&str, NodeId)> = outputs
            .iter()
            .map(|(name, step)| (name.as_str(), ids[&self.draft_of[step]]))
            .collect();
        let graph = builder
            .finish(&named)
            .map_err(|e| EmitError::Import(e.into()))?;
        let nodes = self
            .draft_of
            .iter()
            .filter_map(|(&step, draft)| Some((step, names.get(draft)?.clone())));
        Ok(Emitted {
            graph,
            params,
            norms,
            nodes: nodes.collect(),
        })
    }
}
