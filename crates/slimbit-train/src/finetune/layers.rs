//! Which parameter belongs to which layer, and how fast it learns.

use std::collections::BTreeMap;

use slimbit_graph::{NodeId, StageKind};
use slimbit_nn::Net;

use super::classifier::CLASSIFIER;
use super::{FineTuneConfig, Freeze};
use crate::TrainError;

/// Factor of the learning rate of every parameter, in the order of the network's store; 0 for those that are frozen.
///
/// Layers count from the image, each with weights of its own and the batch-norm after them; the classifier is no
/// layer.
///
/// # Errors
/// [`TrainError::ConfigValue`] where as many layers or more are to be frozen as there are.
pub(super) fn rates(net: &Net, config: &FineTuneConfig) -> Result<Vec<f64>, TrainError> {
    let mut layer_of: BTreeMap<&str, usize> = BTreeMap::new();
    let mut layers = 0;
    let name = |node: NodeId| net.graph().node(node).name.as_str();
    for stage in net.stages() {
        let (StageKind::Conv { conv: node, norm } | StageKind::Linear { linear: node, norm }) =
            stage.kind
        else {
            continue;
        };
        if name(node) == CLASSIFIER {
            continue;
        }
        for node in [Some(node), norm].into_iter().flatten() {
            layer_of.insert(name(node), layers);
        }
        layers += 1;
    }
    let frozen = match config.freeze {
        Freeze::First(frozen) if frozen >= layers => {
            let what = format!(
                "{frozen}, but the network has {layers} layers; freeze at most {} or `all`",
                layers - 1
            );
            return Err(TrainError::value("freeze", what));
        }
        Freeze::First(frozen) => frozen,
        Freeze::All => layers,
    };
    let rate = |node: &str| match layer_of.get(node) {
        Some(&layer) if layer < frozen => 0.0,
        Some(&layer) => config.layer_decay.powi((layers - layer) as i32),
        None => 1.0,
    };
    let specs = net.store().specs().iter();
    Ok(specs
        .map(|spec| rate(spec.name.rsplit_once('.').map_or("", |(node, _)| node)))
        .collect())
}

#[cfg(test)]
mod tests {
    use slimbit_graph::{Width, backbones};
    use slimbit_nn::parse_device;

    use super::*;

    fn of(freeze: Freeze, layer_decay: f64) -> Result<BTreeMap<String, f64>, TrainError> {
        let graph = backbones::by_name("resnet8", 3, 16, 16, Some(10)).unwrap();
        let net = Net::init(graph, 1, &parse_device("cpu").unwrap()).unwrap();
        let config = FineTuneConfig {
            freeze,
            layer_decay,
            width: Width::FULL,
            ..FineTuneConfig::new("run".as_ref(), "data".as_ref(), [16, 16])
        };
        let rates = rates(&net, &config)?;
        let names = net.store().specs().iter().map(|spec| spec.name.clone());
        Ok(names.zip(rates).collect())
    }

    #[test]
    fn rates_fall_towards_the_image_and_norms_go_with_their_layer() {
        let rates = of(Freeze::First(0), 0.5).unwrap();
        assert_eq!(rates["classifier.weight"], 1.0);
        assert_eq!(rates["stem.conv.weight"], 0.5_f64.powi(7));
        assert_eq!(rates["stem.bn.bias"], rates["stem.conv.weight"]);
        assert!(
            of(Freeze::First(0), 1.0)
                .unwrap()
                .values()
                .all(|&rate| rate == 1.0)
        );
    }

    #[test]
    fn what_is_frozen_has_no_rate() {
        let rates = of(Freeze::First(2), 1.0).unwrap();
        let frozen = rates.iter().filter(|(_, rate)| **rate == 0.0);
        assert_eq!(
            frozen.count(),
            6,
            "two convolutions, two batch-norms: {rates:?}"
        );
        assert_eq!(rates["stem.conv.weight"], 0.0);
        let all = of(Freeze::All, 1.0).unwrap();
        let learning: Vec<&String> = all
            .iter()
            .filter(|(_, r)| **r > 0.0)
            .map(|(n, _)| n)
            .collect();
        assert_eq!(learning, ["classifier.bias", "classifier.weight"]);
        let error = of(Freeze::First(7), 1.0).unwrap_err().to_string();
        assert!(error.contains("7 layers; freeze at most 6"), "{error}");
    }
}
