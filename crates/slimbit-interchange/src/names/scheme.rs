use std::collections::BTreeMap;

use slimbit_graph::Array;

/// Tensors by their names in the checkpoint.
type Floats<'t> = BTreeMap<String, &'t Array>;

/// Whose names a checkpoint's tensors have. timm names its ResNets as torchvision does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// `layer1.0.downsample.0`, `fc`.
    TorchvisionResNet,
    /// `layer1.0.shortcut.0`, `linear`: the CIFAR ResNets of Yerlan Idelbayev and of Kuang Liu.
    CifarResNet,
    /// `0`, `1`, `4.0.downsample.0`: the children of torchvision's ResNet in a `Sequential`, without names.
    NumberedResNet,
    /// `features.1.conv.0.0`, `classifier.1`.
    TorchvisionMobileNet,
    /// `blocks.1.0.conv_pw`, `classifier`; with the blocks per stage of the network.
    Timm(&'static [usize]),
    /// `_blocks.1._expand_conv`, `_fc`: the `efficientnet_lite_pytorch` package.
    LukemelasEfficientNet,
}

/// Blocks per stage, which timm numbers by stage.
const MOBILENET_V2: &[usize] = &[1, 2, 3, 4, 3, 3, 1];
const EFFICIENTNET_LITE0: &[usize] = &[1, 2, 2, 3, 3, 4, 1];

/// Whether a backbone's name is one of the `6n+2` family.
pub(super) fn is_cifar_resnet(name: &str) -> bool {
    name.starts_with("resnet") && !["resnet18", "resnet34", "resnet50"].contains(&name)
}

impl Scheme {
    /// The schemes that a backbone's checkpoints come in.
    pub(super) fn of(backbone: &str) -> &'static [Self] {
        if backbone.starts_with("mobilenetv2") {
            &[Self::TorchvisionMobileNet, Self::Timm(MOBILENET_V2)]
        } else if backbone == "efficientnet-lite0-symmetric" {
            &[Self::Timm(EFFICIENTNET_LITE0)]
        } else if backbone.starts_with("efficientnet-lite0") {
            &[Self::LukemelasEfficientNet, Self::Timm(EFFICIENTNET_LITE0)]
        } else if is_cifar_resnet(backbone) {
            &[Self::CifarResNet, Self::TorchvisionResNet]
        } else {
            &[
                Self::TorchvisionResNet,
                Self::CifarResNet,
                Self::NumberedResNet,
            ]
        }
    }

    /// Whose names these are, for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::TorchvisionResNet => "torchvision and timm",
            Self::CifarResNet => "the CIFAR ResNets (linear, shortcut)",
            Self::NumberedResNet => "torchvision's children in order",
            Self::TorchvisionMobileNet => "torchvision",
            Self::Timm(_) => "timm",
            Self::LukemelasEfficientNet => "efficientnet_lite_pytorch",
        }
    }

    /// Classes of the checkpoint's classifier, if it has one.
    pub(super) fn classes(self, floats: &Floats) -> Option<usize> {
        let classifier = self.module("classifier");
        let part = |part| floats.get(&format!("{classifier}.{part}"));
        let array = part("weight").or_else(|| part("bias"))?;
        array.shape.first().copied()
    }

    /// Channels of the images that the checkpoint's first convolution takes.
    pub(super) fn channels(self, floats: &Floats) -> Option<usize> {
        let weight = format!("{}.weight", self.module("stem.conv"));
        floats.get(&weight)?.shape.get(1).copied()
    }

    /// The module whose parameters the node `name` has.
    pub(super) fn module(self, name: &str) -> String {
        match self {
            Self::TorchvisionResNet => residual(name, "downsample", "fc"),
            Self::CifarResNet => residual(name, "shortcut", "linear"),
            Self::NumberedResNet => numbered(&residual(name, "downsample", "fc")),
            Self::TorchvisionMobileNet => torchvision_mobilenet(name),
            Self::Timm(stages) => timm_efficient(name, stages),
            Self::LukemelasEfficientNet => lukemelas_efficient(name),
        }
    }
}

/// `layer1.0.a.conv` is `layer1.0.conv1` there.
fn residual(name: &str, shortcut: &str, classifier: &str) -> String {
    match name {
        "classifier" => return classifier.to_owned(),
        "stem.conv" => return "conv1".to_owned(),
        "stem.bn" => return "bn1".to_owned(),
        _ => {}
    }
    let renamed = [("a", 1), ("b", 2), ("c", 3)]
        .into_iter()
        .find_map(|(branch, number)| {
            let block = name.strip_suffix(".conv").or(name.strip_suffix(".bn"))?;
            let block = block.strip_suffix(branch)?.strip_suffix('.')?;
            let kind = if name.ends_with(".bn") { "bn" } else { "conv" };
            Some(format!("{block}.{kind}{number}"))
        });
    let renamed = renamed.or_else(|| {
        let (block, part) = name.split_once(".shortcut.")?;
        let number = usize::from(part == "bn");
        Some(format!("{block}.{shortcut}.{number}"))
    });
    renamed.unwrap_or_else(|| name.to_owned())
}

/// The place of a layer among the children of torchvision's ResNet: convolution, batch-norm, ReLU, pooling, four
/// stages, pooling and the classifier.
fn numbered(name: &str) -> String {
    const CHILDREN: [&str; 10] = [
        "conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc",
    ];
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    let place = CHILDREN.iter().position(|child| *child == first);
    match (place, rest) {
        (Some(place), "") => place.to_string(),
        (Some(place), rest) => format!("{place}.{rest}"),
        (None, _) => name.to_owned(),
    }
}

/// Number of an inverted residual, and the rest of the name: `block3.expand.conv`.
fn block(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.strip_prefix("block")?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

fn torchvision_mobilenet(name: &str) -> String {
    match name {
        "stem.conv" => return "features.0.0".to_owned(),
        "stem.bn" => return "features.0.1".to_owned(),
        "tail.conv" => return "features.18.0".to_owned(),
        "tail.bn" => return "features.18.1".to_owned(),
        "classifier" => return "classifier.1".to_owned(),
        _ => {}
    }
    let Some((number, part)) = block(name) else {
        return name.to_owned();
    };
    // The first block has no expansion, so that its layers come one earlier.
    let expansion = usize::from(number > 0);
    let layer = match part {
        "expand.conv" => "0.0".to_owned(),
        "expand.bn" => "0.1".to_owned(),
        "depthwise.conv" => format!("{expansion}.0"),
        "depthwise.bn" => format!("{expansion}.1"),
        "project.conv" => format!("{}", expansion + 1),
        "project.bn" => format!("{}", expansion + 2),
        other => other.to_owned(),
    };
    format!("features.{}.conv.{layer}", number + 1)
}

fn timm_efficient(name: &str, stages: &[usize]) -> String {
    match name {
        "stem.conv" => return "conv_stem".to_owned(),
        "stem.bn" => return "bn1".to_owned(),
        "tail.conv" => return "conv_head".to_owned(),
        "tail.bn" => return "bn2".to_owned(),
        _ => {}
    }
    let Some((number, part)) = block(name) else {
        return name.to_owned();
    };
    let (mut stage, mut index) = (0, number);
    while stage + 1 < stages.len() && index >= stages[stage] {
        index -= stages[stage];
        stage += 1;
    }
    // The first block is a depthwise separable convolution: no expansion, and `conv_pw` projects.
    let layer = match (part, number) {
        ("depthwise.conv", _) => "conv_dw",
        ("depthwise.bn", 0) => "bn1",
        ("project.conv", 0) => "conv_pw",
        ("project.bn", 0) => "bn2",
        ("expand.conv", _) => "conv_pw",
        ("expand.bn", _) => "bn1",
        ("depthwise.bn", _) => "bn2",
        ("project.conv", _) => "conv_pwl",
        ("project.bn", _) => "bn3",
        (other, _) => other,
    };
    format!("blocks.{stage}.{index}.{layer}")
}

fn lukemelas_efficient(name: &str) -> String {
    match name {
        "stem.conv" => return "_conv_stem".to_owned(),
        "stem.bn" => return "_bn0".to_owned(),
        "tail.conv" => return "_conv_head".to_owned(),
        "tail.bn" => return "_bn1".to_owned(),
        "classifier" => return "_fc".to_owned(),
        _ => {}
    }
    let Some((number, part)) = block(name) else {
        return name.to_owned();
    };
    let layer = match part {
        "expand.conv" => "_expand_conv",
        "expand.bn" => "_bn0",
        "depthwise.conv" => "_depthwise_conv",
        "depthwise.bn" => "_bn1",
        "project.conv" => "_project_conv",
        "project.bn" => "_bn2",
        other => other,
    };
    format!("_blocks.{number}.{layer}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residual_blocks() {
        let scheme = Scheme::TorchvisionResNet;
        for (ours, theirs) in [
            ("stem.conv", "conv1"),
            ("stem.bn", "bn1"),
            ("layer2.10.a.conv", "layer2.10.conv1"),
            ("layer4.0.c.bn", "layer4.0.bn3"),
            ("layer3.0.shortcut.conv", "layer3.0.downsample.0"),
            ("layer3.0.shortcut.bn", "layer3.0.downsample.1"),
            ("classifier", "fc"),
        ] {
            assert_eq!(scheme.module(ours), theirs);
        }
        let scheme = Scheme::CifarResNet;
        assert_eq!(scheme.module("layer2.0.shortcut.bn"), "layer2.0.shortcut.1");
        assert_eq!(scheme.module("classifier"), "linear");
        let scheme = Scheme::NumberedResNet;
        assert_eq!(scheme.module("stem.bn"), "1");
        assert_eq!(scheme.module("layer2.0.shortcut.bn"), "5.0.downsample.1");
    }

    #[test]
    fn inverted_residuals() {
        let table = [
            (
                "block0.depthwise.conv",
                [
                    "features.1.conv.0.0",
                    "blocks.0.0.conv_dw",
                    "_blocks.0._depthwise_conv",
                ],
            ),
            (
                "block0.project.bn",
                ["features.1.conv.2", "blocks.0.0.bn2", "_blocks.0._bn2"],
            ),
            (
                "block3.expand.conv",
                [
                    "features.4.conv.0.0",
                    "blocks.2.0.conv_pw",
                    "_blocks.3._expand_conv",
                ],
            ),
            (
                "block3.depthwise.bn",
                ["features.4.conv.1.1", "blocks.2.0.bn2", "_blocks.3._bn1"],
            ),
            (
                "block16.project.conv",
                [
                    "features.17.conv.2",
                    "blocks.6.0.conv_pwl",
                    "_blocks.16._project_conv",
                ],
            ),
            ("tail.bn", ["features.18.1", "bn2", "_bn1"]),
            ("classifier", ["classifier.1", "classifier", "_fc"]),
        ];
        for (ours, theirs) in table {
            let schemes = [
                Scheme::TorchvisionMobileNet,
                Scheme::Timm(MOBILENET_V2),
                Scheme::LukemelasEfficientNet,
            ];
            for (scheme, theirs) in schemes.into_iter().zip(theirs) {
                assert_eq!(scheme.module(ours), theirs);
            }
        }
    }
}
