//! The network that is tuned: one width of the pre-trained one on its own, with a classifier.

use slimbit_graph::{Array, Channels, Graph, Linear, Node, Op, Params, Width};
use slimbit_nn::Net;

use crate::TrainError;
use crate::probe::LinearClassifier;

/// Name of the classifier's node, as backbones have it.
pub(super) const CLASSIFIER: &str = "classifier";

/// The graph at `width` with a classifier on `features`, and the leading parameters that it uses.
///
/// Below full width its channels are fixed: what is tuned at one width is good at no other.
pub(super) fn with_classifier(
    graph: &Graph,
    params: &Params,
    width: Width,
    classes: usize,
) -> Result<(Graph, Params), TrainError> {
    let mut nodes: Vec<Node> = graph.nodes().to_vec();
    if width != Width::FULL {
        nodes.iter_mut().for_each(|node| fix(&mut node.op, width));
    }
    let Some(&(_, features)) = graph.outputs().iter().find(|(name, _)| name == "features") else {
        let what = format!("{} has no output `features` to classify", graph.name());
        return Err(TrainError::value("run", what));
    };
    nodes.push(Node {
        name: CLASSIFIER.to_owned(),
        op: Op::Linear(Linear {
            out: Channels::Fixed(classes),
            bias: true,
        }),
        inputs: vec![features],
    });
    let position = nodes.len() - 1;
    // Positions of nodes are only made by the builder; the classifier's is the one after the last.
    let classifier = serde_json::from_value(position.into()).expect("a position is a node's id");
    let outputs = vec![
        ("features".to_owned(), features),
        ("logits".to_owned(), classifier),
    ];
    let tuned = Graph::new(graph.name(), nodes, outputs)?;
    let mut own = Params::default();
    for spec in tuned.params(Width::FULL)? {
        let array = match spec.name.strip_prefix(CLASSIFIER) {
            Some(_) => Array {
                data: vec![0.0; spec.shape.iter().product()],
                shape: spec.shape,
            },
            None => params.get(&spec.name)?.leading(&spec.shape),
        };
        own.0.insert(spec.name, array);
    }
    Ok((tuned, own))
}

fn fix(op: &mut Op, width: Width) {
    let out = match op {
        Op::Conv2d(conv) => &mut conv.out,
        Op::Linear(linear) => &mut linear.out,
        Op::PadShortcut { out, .. } => out,
        _ => return,
    };
    *out = Channels::Fixed(out.at(width));
}

/// Puts a trained classifier into a network's parameters.
pub(super) fn set_classifier(params: &mut Params, classifier: LinearClassifier) {
    let LinearClassifier { weights, biases } = classifier;
    for (part, data) in [("weight", weights), ("bias", biases)] {
        if let Some(array) = params.0.get_mut(&format!("{CLASSIFIER}.{part}")) {
            array.data = data;
        }
    }
}

/// Classes and features of a network's classifier.
pub(super) fn classifier_shape(net: &Net) -> Result<[usize; 2], TrainError> {
    let shapes = ["logits", "features"].map(|name| net.graph().output_shape(name, Width::FULL));
    let [classes, features] = shapes;
    Ok([classes?.channels(), features?.channels()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Tensor;
    use slimbit_graph::backbones;
    use slimbit_nn::{Mode, parse_device};

    #[test]
    fn one_width_on_its_own_computes_what_it_did_inside() {
        let device = parse_device("cpu").unwrap();
        for (name, width) in [
            ("resnet8", 0.5),
            ("mobilenetv2-cifar", 0.25),
            ("resnet8-b", 1.0),
        ] {
            let width = Width::new(width).unwrap();
            let graph = backbones::by_name(name, 3, 16, 16, None).unwrap();
            let whole = Net::init(graph, 1, &device).unwrap();
            let (graph, params) =
                with_classifier(whole.graph(), &whole.params(), width, 7).unwrap();
            let alone = Net::from_params(graph, &params, &device).unwrap();
            let values: Vec<f32> = (0..3 * 3 * 16 * 16)
                .map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0)
                .collect();
            let images =
                Tensor::<1>::from_floats(values.as_slice(), &device).reshape([3, 3, 16, 16]);
            let features = |net: &Net, width| {
                let outputs = net.forward(&images, &Mode::float(width), None).unwrap();
                outputs
                    .vector("features")
                    .unwrap()
                    .into_data()
                    .try_into_vec::<f32>()
                    .unwrap()
            };
            assert_eq!(
                features(&whole, width),
                features(&alone, Width::FULL),
                "{name}"
            );
            let [classes, dim] = classifier_shape(&alone).unwrap();
            assert_eq!((classes, dim * 3), (7, features(&whole, width).len()));
        }
    }
}
