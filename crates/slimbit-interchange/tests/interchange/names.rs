use slimbit_graph::{Shape, Width};
use slimbit_interchange::checkpoint::Tensors;
use slimbit_interchange::{ImportError, names};

use crate::zoo;

fn published() -> Vec<(&'static str, usize, Tensors)> {
    vec![
        (
            "resnet18",
            224,
            zoo::torchvision_resnet([2, 2, 2, 2], false),
        ),
        (
            "resnet34",
            224,
            zoo::torchvision_resnet([3, 4, 6, 3], false),
        ),
        ("resnet50", 224, zoo::torchvision_resnet([3, 4, 6, 3], true)),
        ("resnet20", 32, zoo::cifar_resnet(3)),
        ("resnet110", 32, zoo::cifar_resnet(18)),
        ("mobilenetv2", 224, zoo::torchvision_mobilenet()),
        ("mobilenetv2", 224, zoo::timm(zoo::MOBILENET_V2)),
        ("efficientnet-lite0", 224, zoo::lukemelas_lite0()),
    ]
}

#[test]
fn every_published_state_dict_is_recognised_and_read_whole() {
    for (name, side, tensors) in published() {
        assert_eq!(names::guess(&tensors).unwrap(), name);
        assert_eq!(names::default_side(name), side, "{name}");
        let imported = names::import(&tensors, name, [side; 2]).unwrap();
        let network = &imported.network;
        let parameters = network.graph.cost(Width::FULL).unwrap().params;
        let floats: usize = tensors.floats.values().map(|array| array.data.len()).sum();
        let statistics: usize = network.norms.values().map(|(mean, _)| 2 * mean.len()).sum();
        assert_eq!(parameters as usize + statistics, floats, "{name}");
        let classes = tensors.floats.values().filter(|a| a.shape.len() == 2);
        let classes = classes.map(|a| a.shape[0]).next().unwrap();
        assert_eq!(
            network.graph.output_shape("logits", Width::FULL).unwrap(),
            Shape::Vector { channels: classes }
        );
        assert_eq!(imported.ignored.len(), network.norms.len(), "{name}");
    }
}

/// The same tensors, and two paddings: only their owner knows.
#[test]
fn timm_lite0_must_be_named() {
    let tensors = zoo::timm(zoo::EFFICIENTNET_LITE0);
    let text = names::guess(&tensors).unwrap_err().to_string();
    assert!(text.contains("efficientnet-lite0-symmetric"), "{text}");
    for (alias, name) in [
        ("tf_efficientnet_lite0", "efficientnet-lite0"),
        ("efficientnet_lite0", "efficientnet-lite0-symmetric"),
    ] {
        let network = names::import(&tensors, alias, [224; 2]).unwrap().network;
        assert_eq!(network.graph.name(), name);
    }
}

#[test]
fn each_tensor_goes_to_its_own_node() {
    let mut tensors = zoo::timm(zoo::EFFICIENTNET_LITE0);
    for (name, value) in [
        ("blocks.1.0.bn3.running_var", 3.0),
        ("blocks.1.0.bn3.bias", 4.0),
    ] {
        tensors.floats.get_mut(name).unwrap().data[5] = value;
    }
    let network = names::import(&tensors, "tf_efficientnet_lite0", [224; 2])
        .unwrap()
        .network;
    assert_eq!(network.norms["block1.project.bn"].1[5], 3.0);
    assert_eq!(
        network.params.get("block1.project.bn.bias").unwrap().data[5],
        4.0
    );
}

#[test]
fn everything_that_does_not_fit_is_reported_at_once() {
    let mut tensors = zoo::cifar_resnet(3);
    tensors.floats.remove("layer2.1.conv2.weight");
    tensors.floats.remove("bn1.running_mean");
    let extra = tensors.floats["bn1.bias"].clone();
    tensors.floats.insert("attention.scale".to_owned(), extra);
    tensors.others.insert("mask".to_owned(), "bool".to_owned());
    tensors.floats.get_mut("linear.weight").unwrap().shape = vec![10, 8, 8];
    let error = names::import(&tensors, "resnet20", [32; 2]).unwrap_err();
    let text = error.to_string();
    for part in [
        "2 missing, 2 unexpected, 1 misshapen",
        "missing     layer2.1.conv2.weight",
        "missing     bn1.running_mean",
        "unexpected  attention.scale",
        "unexpected  mask (bool)",
        "misshapen   linear.weight: [10, 8, 8], wanted [10, 64]",
        "--arch",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let ImportError::Mismatch(mismatch) = error else {
        panic!("{error:?}")
    };
    assert_eq!(mismatch.len(), 5);
}

#[test]
fn a_backbone_without_classifier_has_features_only() {
    let mut tensors = zoo::torchvision_resnet([2, 2, 2, 2], false);
    tensors.floats.retain(|name, _| !name.starts_with("fc."));
    let network = names::import(&tensors, "resnet18", [224; 2])
        .unwrap()
        .network;
    assert_eq!(network.graph.outputs().len(), 1);
    // A classifier of another name is not a licence to drop it.
    let head = zoo::cifar_resnet(3).floats["linear.weight"].clone();
    tensors.floats.insert("head.weight".to_owned(), head);
    let text = names::import(&tensors, "resnet18", [224; 2])
        .unwrap_err()
        .to_string();
    assert!(text.contains("unexpected  head.weight"), "{text}");
    assert!(text.contains("missing     fc.weight"), "{text}");
}

#[test]
fn an_unknown_architecture_lists_the_known_ones() {
    let tensors = zoo::cifar_resnet(3);
    let text = names::import(&tensors, "vgg16", [32; 2])
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("`vgg16`") && text.contains("efficientnet-lite0"),
        "{text}"
    );
}
