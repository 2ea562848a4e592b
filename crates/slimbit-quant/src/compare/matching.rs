//! Which stage of one network is which of another.

use slimbit_graph::{Graph, Op, Shape, Stage, StageId, StageKind, Width};

use crate::QuantError;

/// A network as its stages and their shapes.
struct Side<'a> {
    graph: &'a Graph,
    stages: &'a [Stage],
    shapes: Vec<Shape>,
}

/// Every stage of `model` that computes something, with its twin in `reference`, in the model's
/// execution order.
///
/// Twins do the same to operands that are twins themselves; among several, the one of the same name
/// is taken, else the first. Flattening computes nothing and needs no twin.
///
/// # Errors
/// [`QuantError::Structure`] for the first stage without a twin.
pub(super) fn twins(
    reference: (&Graph, &[Stage]),
    model: (&Graph, &[Stage]),
    width: Width,
) -> Result<Vec<(StageId, StageId)>, QuantError> {
    let side = |(graph, stages): (&'_ Graph, &'_ [Stage])| -> Result<Vec<Shape>, QuantError> {
        let shapes = graph.shapes(width)?;
        Ok(stages.iter().map(|s| shapes[s.node.index()]).collect())
    };
    let reference = Side {
        shapes: side(reference)?,
        graph: reference.0,
        stages: reference.1,
    };
    let model = Side {
        shapes: side(model)?,
        graph: model.0,
        stages: model.1,
    };
    let mut twin: Vec<Option<StageId>> = vec![None; model.stages.len()];
    let mut taken = vec![false; reference.stages.len()];
    let mut pairs = Vec::new();
    for (index, stage) in model.computing() {
        let fits = |&(candidate, _): &(StageId, &Stage)| {
            let operands = reference.operands(candidate);
            let wanted: Option<Vec<StageId>> =
                model.operands(index).iter().map(|&i| twin[i]).collect();
            let same_operands = wanted.is_some_and(|wanted| {
                let swapped = stage.kind == StageKind::Add && wanted.iter().rev().eq(&operands);
                wanted == operands || swapped
            });
            !taken[candidate] && same_operands && model.does_as(index, &reference, candidate)
        };
        let fitting: Vec<(StageId, &Stage)> = reference.computing().filter(fits).collect();
        let named = fitting.iter().find(|(_, other)| other.name == stage.name);
        let Some(&(found, _)) = named.or(fitting.first()) else {
            let named = reference
                .computing()
                .find(|(i, s)| !taken[*i] && s.name == stage.name);
            let other = named.or_else(|| reference.computing().find(|(i, _)| !taken[*i]));
            return Err(QuantError::Structure {
                model: Some(model.describe(index)),
                reference: other.map(|(i, _)| reference.describe(i)),
            });
        };
        twin[index] = Some(found);
        taken[found] = true;
        pairs.push((found, index));
    }
    match reference.computing().find(|(index, _)| !taken[*index]) {
        Some((index, _)) => Err(QuantError::Structure {
            model: None,
            reference: Some(reference.describe(index)),
        }),
        None => Ok(pairs),
    }
}

/// The stage whose numbers `index` passes on unchanged, or itself.
pub(super) fn source(stages: &[Stage], mut index: StageId) -> StageId {
    while stages[index].kind == StageKind::Flatten {
        index = stages[index].inputs[0];
    }
    index
}

impl Side<'_> {
    fn computing(&self) -> impl Iterator<Item = (StageId, &Stage)> {
        let stages = self.stages.iter().enumerate();
        stages.filter(|(_, stage)| stage.kind != StageKind::Flatten)
    }

    fn operands(&self, index: StageId) -> Vec<StageId> {
        let inputs = self.stages[index].inputs.iter();
        inputs.map(|&i| source(self.stages, i)).collect()
    }

    /// Whether a stage has the shape, the operator and the activation of another network's.
    fn does_as(&self, index: StageId, other: &Side, twin: StageId) -> bool {
        let channels = |side: &Side, index: StageId| {
            let operand = side.operands(index).first().copied();
            operand.map_or(0, |i| side.shapes[i].channels())
        };
        let (own, theirs) = (&self.stages[index], &other.stages[twin]);
        let operator = match (self.operator(own), other.operator(theirs)) {
            // Where the groups, the bias and the width come from may be written differently.
            (Op::Conv2d(a), Op::Conv2d(b)) => {
                let groups = a.group_count(channels(self, index));
                (a.kernel, a.stride, a.padding, a.dilation)
                    == (b.kernel, b.stride, b.padding, b.dilation)
                    && groups == b.group_count(channels(other, twin))
            }
            (Op::Linear(_), Op::Linear(_)) => true,
            (Op::PadShortcut { stride: a, .. }, Op::PadShortcut { stride: b, .. }) => a == b,
            (a, b) => a == b,
        };
        operator && own.activation == theirs.activation && self.shapes[index] == other.shapes[twin]
    }

    /// What a stage does before its batch-norm and activation.
    fn operator(&self, stage: &Stage) -> &Op {
        let node = match stage.kind {
            StageKind::Conv { conv: node, .. } | StageKind::Linear { linear: node, .. } => node,
            // A sum's last node may be the activation that joined it.
            StageKind::Add => return &Op::Add,
            _ => stage.node,
        };
        &self.graph.node(node).op
    }

    fn describe(&self, index: StageId) -> String {
        let stage = &self.stages[index];
        let operator = self.operator(stage);
        let mut text = format!("`{}` ({}", stage.name, operator.name());
        if let Op::Conv2d(conv) = operator {
            let ([rows, columns], stride) = (conv.kernel, conv.stride[0]);
            text += &format!(" {rows}x{columns} stride {stride}");
        }
        if let (Some(activation), false) = (stage.activation, stage.kind == StageKind::Pointwise) {
            text += &format!(", {}", Op::Activation(activation).name());
        }
        text + &format!(", {})", self.shapes[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slimbit_graph::{Activation, Channels, GraphBuilder, NodeId};

    type Block = fn(&mut GraphBuilder, NodeId, usize) -> [NodeId; 2];

    fn graph(names: [&str; 2], inner: usize, block: Block) -> Graph {
        let mut b = GraphBuilder::new("net");
        let x = b.input(3, 8, 8);
        let x = b.conv_bn_relu(names[0], x, Channels::Fixed(8), 3, 1);
        let [y, z] = block(&mut b, x, inner);
        let x = b.add(names[1], y, z);
        let x = b.activation(names[1], x, Activation::Relu);
        b.finish(&[("map", x)]).unwrap()
    }

    fn branches(b: &mut GraphBuilder, x: NodeId, inner: usize) -> [NodeId; 2] {
        let y = b.conv_bn_relu("long.0", x, Channels::Fixed(inner), 3, 1);
        let y = b.conv_bn("long.1", y, Channels::Fixed(8), 3, 1);
        [y, b.conv_bn("short", x, Channels::Fixed(8), 1, 1)]
    }

    /// The same network as an exporter may write it: other names, other order, sum turned round.
    fn reordered(b: &mut GraphBuilder, x: NodeId, inner: usize) -> [NodeId; 2] {
        let short = b.conv_bn("c0", x, Channels::Fixed(8), 1, 1);
        let y = b.conv_bn_relu("c1", x, Channels::Fixed(inner), 3, 1);
        [short, b.conv_bn("c2", y, Channels::Fixed(8), 3, 1)]
    }

    fn twins_of(reference: &Graph, model: &Graph) -> Result<Vec<(usize, usize)>, QuantError> {
        let (a, b) = (reference.stages().unwrap(), model.stages().unwrap());
        twins((reference, &a), (model, &b), Width::FULL)
    }

    #[test]
    fn names_decide_where_they_agree_and_wiring_elsewhere() {
        let model = graph(["stem", "sum"], 8, branches);
        let own: Vec<_> = (0..6).map(|i| (i, i)).collect();
        assert_eq!(twins_of(&model, &model).unwrap(), own);
        let exported = graph(["conv", "add"], 8, reordered);
        let pairs = [(0, 0), (1, 1), (3, 2), (4, 3), (2, 4), (5, 5)];
        assert_eq!(twins_of(&exported, &model).unwrap(), pairs);
    }

    #[test]
    fn the_first_stage_that_differs_is_named_with_both_shapes() {
        let (model, other) = (
            graph(["stem", "sum"], 8, branches),
            graph(["stem", "sum"], 16, branches),
        );
        let error = twins_of(&other, &model).unwrap_err().to_string();
        let parts = [
            "`long.0.act` (conv2d 3x3 stride 1, relu, [8, 8, 8])",
            "[16, 8, 8]",
        ];
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }

    #[test]
    fn a_stage_too_many_is_named() {
        let model = graph(["stem", "sum"], 8, branches);
        let mut b = GraphBuilder::new("stem alone");
        let x = b.input(3, 8, 8);
        let x = b.conv_bn_relu("stem", x, Channels::Fixed(8), 3, 1);
        let stem = b.finish(&[("map", x)]).unwrap();
        let error = twins_of(&model, &stem).unwrap_err().to_string();
        assert!(error.contains("`long.0.act`"), "{error}");
    }

    #[test]
    fn flattening_needs_no_twin() {
        let network = |flatten: bool| {
            let mut b = GraphBuilder::new("net");
            let x = b.input(3, 8, 8);
            let mut x = b.global_avg_pool("pool", x);
            if flatten {
                x = b.push("flat", Op::Flatten, &[x]);
            }
            let x = b.linear("fc", x, Channels::Fixed(4));
            b.finish(&[("logits", x)]).unwrap()
        };
        let pairs = twins_of(&network(true), &network(false)).unwrap();
        assert_eq!(pairs, [(0, 0), (1, 1), (3, 2)]);
    }
}
