//! Names and shapes of published state dicts, written down from the libraries' module definitions.

use std::collections::BTreeMap;

use slimbit_graph::Array;
use slimbit_interchange::checkpoint::{Format, Tensors, Weights};

/// A state dict under construction.
pub(crate) struct StateDict(pub(crate) Tensors);

impl StateDict {
    fn new() -> Self {
        Self(Tensors {
            format: Format::SafeTensors,
            floats: BTreeMap::new(),
            others: BTreeMap::new(),
            objects: BTreeMap::new(),
            weights: Weights::Auto,
            averaged: false,
            notes: Vec::new(),
        })
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) {
        let array = Array {
            shape: shape.to_vec(),
            data: vec![0.25; shape.iter().product()],
        };
        self.0.floats.insert(name.to_owned(), array);
    }

    fn conv(&mut self, name: &str, shape: [usize; 4]) {
        self.tensor(&format!("{name}.weight"), &shape);
    }

    fn bn(&mut self, name: &str, channels: usize) {
        for part in ["weight", "bias", "running_mean", "running_var"] {
            self.tensor(&format!("{name}.{part}"), &[channels]);
        }
        let count = format!("{name}.num_batches_tracked");
        self.0.others.insert(count, "int64".to_owned());
    }

    fn linear(&mut self, name: &str, classes: usize, features: usize) {
        self.tensor(&format!("{name}.weight"), &[classes, features]);
        self.tensor(&format!("{name}.bias"), &[classes]);
    }
}

/// `torchvision.models.resnet18`, `34` or `50`; timm's have the same names.
pub(crate) fn torchvision_resnet(blocks: [usize; 4], bottleneck: bool) -> Tensors {
    let mut dict = StateDict::new();
    dict.conv("conv1", [64, 3, 7, 7]);
    dict.bn("bn1", 64);
    let expansion = if bottleneck { 4 } else { 1 };
    let mut from = 64;
    for (stage, blocks) in blocks.into_iter().enumerate() {
        let inner = 64 << stage;
        let to = inner * expansion;
        for block in 0..blocks {
            let name = format!("layer{}.{block}", stage + 1);
            let convs = match bottleneck {
                true => vec![[inner, from, 1, 1], [inner, inner, 3, 3], [to, inner, 1, 1]],
                false => vec![[inner, from, 3, 3], [inner, inner, 3, 3]],
            };
            for (index, shape) in convs.into_iter().enumerate() {
                dict.conv(&format!("{name}.conv{}", index + 1), shape);
                dict.bn(&format!("{name}.bn{}", index + 1), shape[0]);
            }
            if block == 0 && from != to {
                dict.conv(&format!("{name}.downsample.0"), [to, from, 1, 1]);
                dict.bn(&format!("{name}.downsample.1"), to);
            }
            from = to;
        }
    }
    dict.linear("fc", 1000, from);
    dict.0
}

/// The CIFAR ResNets with three stages and parameter-free shortcuts.
pub(crate) fn cifar_resnet(blocks: usize) -> Tensors {
    let mut dict = StateDict::new();
    dict.conv("conv1", [16, 3, 3, 3]);
    dict.bn("bn1", 16);
    let mut from = 16;
    for stage in 0..3 {
        let to = 16 << stage;
        for block in 0..blocks {
            let name = format!("layer{}.{block}", stage + 1);
            dict.conv(&format!("{name}.conv1"), [to, from, 3, 3]);
            dict.bn(&format!("{name}.bn1"), to);
            dict.conv(&format!("{name}.conv2"), [to, to, 3, 3]);
            dict.bn(&format!("{name}.bn2"), to);
            from = to;
        }
    }
    dict.linear("linear", 10, 64);
    dict.0
}

/// Kernel, expansion, output channels and blocks of a stage.
type Stage = (usize, usize, usize, usize);

/// The seven stages of MobileNetV2.
pub(crate) const MOBILENET_V2: [Stage; 7] = [
    (3, 1, 16, 1),
    (3, 6, 24, 2),
    (3, 6, 32, 3),
    (3, 6, 64, 4),
    (3, 6, 96, 3),
    (3, 6, 160, 3),
    (3, 6, 320, 1),
];

/// The seven stages of EfficientNet-Lite0.
pub(crate) const EFFICIENTNET_LITE0: [Stage; 7] = [
    (3, 1, 16, 1),
    (3, 6, 24, 2),
    (5, 6, 40, 2),
    (3, 6, 80, 3),
    (5, 6, 112, 3),
    (5, 6, 192, 4),
    (3, 6, 320, 1),
];

/// `timm.create_model("mobilenetv2_100")` or `"tf_efficientnet_lite0"`.
pub(crate) fn timm(stages: [Stage; 7]) -> Tensors {
    let mut dict = StateDict::new();
    dict.conv("conv_stem", [32, 3, 3, 3]);
    dict.bn("bn1", 32);
    let mut from = 32;
    for (stage, (kernel, expansion, to, blocks)) in stages.into_iter().enumerate() {
        for block in 0..blocks {
            let name = format!("blocks.{stage}.{block}");
            let inner = from * expansion;
            if expansion == 1 {
                dict.conv(&format!("{name}.conv_dw"), [from, 1, kernel, kernel]);
                dict.bn(&format!("{name}.bn1"), from);
                dict.conv(&format!("{name}.conv_pw"), [to, from, 1, 1]);
                dict.bn(&format!("{name}.bn2"), to);
            } else {
                dict.conv(&format!("{name}.conv_pw"), [inner, from, 1, 1]);
                dict.bn(&format!("{name}.bn1"), inner);
                dict.conv(&format!("{name}.conv_dw"), [inner, 1, kernel, kernel]);
                dict.bn(&format!("{name}.bn2"), inner);
                dict.conv(&format!("{name}.conv_pwl"), [to, inner, 1, 1]);
                dict.bn(&format!("{name}.bn3"), to);
            }
            from = to;
        }
    }
    dict.conv("conv_head", [1280, 320, 1, 1]);
    dict.bn("bn2", 1280);
    dict.linear("classifier", 1000, 1280);
    dict.0
}

/// `torchvision.models.mobilenet_v2`.
pub(crate) fn torchvision_mobilenet() -> Tensors {
    let mut dict = StateDict::new();
    dict.conv("features.0.0", [32, 3, 3, 3]);
    dict.bn("features.0.1", 32);
    let mut from = 32;
    let mut index = 1;
    for (_, expansion, to, blocks) in MOBILENET_V2 {
        for _ in 0..blocks {
            let name = format!("features.{index}.conv");
            let inner = from * expansion;
            let mut layer = 0;
            if expansion != 1 {
                dict.conv(&format!("{name}.0.0"), [inner, from, 1, 1]);
                dict.bn(&format!("{name}.0.1"), inner);
                layer = 1;
            }
            dict.conv(&format!("{name}.{layer}.0"), [inner, 1, 3, 3]);
            dict.bn(&format!("{name}.{layer}.1"), inner);
            dict.conv(&format!("{name}.{}", layer + 1), [to, inner, 1, 1]);
            dict.bn(&format!("{name}.{}", layer + 2), to);
            from = to;
            index += 1;
        }
    }
    dict.conv("features.18.0", [1280, 320, 1, 1]);
    dict.bn("features.18.1", 1280);
    dict.linear("classifier.1", 1000, 1280);
    dict.0
}

/// `EfficientNet.from_name("efficientnet-lite0")` of the `efficientnet_lite_pytorch` package.
pub(crate) fn lukemelas_lite0() -> Tensors {
    let mut dict = StateDict::new();
    dict.conv("_conv_stem", [32, 3, 3, 3]);
    dict.bn("_bn0", 32);
    let mut from = 32;
    let mut index = 0;
    for (kernel, expansion, to, blocks) in EFFICIENTNET_LITE0 {
        for _ in 0..blocks {
            let name = format!("_blocks.{index}");
            let inner = from * expansion;
            if expansion != 1 {
                dict.conv(&format!("{name}._expand_conv"), [inner, from, 1, 1]);
                dict.bn(&format!("{name}._bn0"), inner);
            }
            dict.conv(
                &format!("{name}._depthwise_conv"),
                [inner, 1, kernel, kernel],
            );
            dict.bn(&format!("{name}._bn1"), inner);
            dict.conv(&format!("{name}._project_conv"), [to, inner, 1, 1]);
            dict.bn(&format!("{name}._bn2"), to);
            from = to;
            index += 1;
        }
    }
    dict.conv("_conv_head", [1280, 320, 1, 1]);
    dict.bn("_bn1", 1280);
    dict.linear("_fc", 1000, 1280);
    dict.0
}
