//! Backbones: functions from a few numbers to a [`Graph`].
//!
//! Each backbone is a plain struct whose fields are what can be chosen, with a constructor for the
//! published form and a `graph` method. The result has the output `features` (the global pool) and,
//! where `classes` is given, `logits`.
//!
//! ```
//! use slimbit_graph::{Width, backbones::{self, ResNet, ResNetDepth}};
//!
//! let graph = ResNet::cifar(ResNetDepth::D18, [3, 32, 32]).graph()?;
//! assert_eq!(graph, backbones::by_name("resnet18-cifar", 3, 32, 32, None)?);
//! assert_eq!(graph.output_shape("features", Width::new(0.25)?)?.channels(), 128);
//! # Ok::<(), slimbit_graph::GraphError>(())
//! ```

mod cifar_resnet;
mod efficientnet_lite;
mod mobilenet;
mod resnet;

pub use cifar_resnet::{CifarResNet, Shortcut};
pub use efficientnet_lite::{EfficientNetLite0, Padding};
pub use mobilenet::MobileNetV2;
pub use resnet::{ResNet, ResNetDepth, Stem};

use crate::{Channels, Graph, GraphBuilder, GraphError, NodeId};

/// The forms of name that [`by_name`] reads.
pub const NAMES: [&str; 13] = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet18-cifar",
    "resnet34-cifar",
    "resnet50-cifar",
    "resnet{6n+2}[-b][-x{k}][-s2] (8, 14, 20, 32, 44, 56, ...)",
    "plain{6n+2}[-x{k}][-s2]",
    "mobilenetv2",
    "mobilenetv2-cifar",
    "efficientnet-lite0",
    "efficientnet-lite0-symmetric",
    "efficientnet-lite0-cifar",
];

/// The backbone of this name for images of `channels` planes of `height` × `width` pixels.
///
/// The CIFAR family `resnet{6n+2}` has parameter-free shortcuts (option A); the suffix `-b` gives it
/// projections, `-x{k}` multiplies the channels by `k`, and `-s2` gives it a stem of stride 2, for
/// small machines; in this order. `plain{6n+2}` is the same without shortcuts. `resnet50` is the
/// bottleneck network, although 50 is `6n+2` as well: build [`CifarResNet`] for the other one.
/// `efficientnet-lite0` pads as TensorFlow does, which its published weights need; `-symmetric` is
/// for weights that PyTorch trained.
///
/// # Errors
/// [`GraphError::Backbone`], which lists the names; otherwise as [`Graph::new`].
pub fn by_name(
    name: &str,
    channels: usize,
    height: usize,
    width: usize,
    classes: Option<usize>,
) -> Result<Graph, GraphError> {
    let input = [channels, height, width];
    let residual = |depth, stem| {
        let net = match stem {
            Stem::Cifar => ResNet::cifar(depth, input),
            Stem::ImageNet => ResNet::imagenet(depth, input),
        };
        ResNet { classes, ..net }.graph()
    };
    match name {
        "resnet18" => residual(ResNetDepth::D18, Stem::ImageNet),
        "resnet34" => residual(ResNetDepth::D34, Stem::ImageNet),
        "resnet50" => residual(ResNetDepth::D50, Stem::ImageNet),
        "resnet18-cifar" => residual(ResNetDepth::D18, Stem::Cifar),
        "resnet34-cifar" => residual(ResNetDepth::D34, Stem::Cifar),
        "resnet50-cifar" => residual(ResNetDepth::D50, Stem::Cifar),
        "mobilenetv2" | "mobilenetv2-cifar" => {
            let net = match name {
                "mobilenetv2" => MobileNetV2::imagenet(input),
                _ => MobileNetV2::cifar(input),
            };
            MobileNetV2 { classes, ..net }.graph()
        }
        "efficientnet-lite0" | "efficientnet-lite0-symmetric" | "efficientnet-lite0-cifar" => {
            let net = match name {
                "efficientnet-lite0" => EfficientNetLite0::imagenet(input),
                "efficientnet-lite0-symmetric" => EfficientNetLite0::symmetric(input),
                _ => EfficientNetLite0::cifar(input),
            };
            EfficientNetLite0 { classes, ..net }.graph()
        }
        _ => {
            let family = CifarResNet::parse(name, input).ok_or_else(|| GraphError::Backbone {
                name: name.to_owned(),
                known: NAMES.join(", "),
            })?;
            CifarResNet { classes, ..family }.graph()
        }
    }
}

/// Global pool, optional classifier, outputs.
fn finish(mut b: GraphBuilder, x: NodeId, classes: Option<usize>) -> Result<Graph, GraphError> {
    let features = b.global_avg_pool("pool", x);
    let Some(classes) = classes else {
        return b.finish(&[("features", features)]);
    };
    let logits = b.linear("classifier", features, Channels::Fixed(classes));
    b.finish(&[("features", features), ("logits", logits)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Precision, Width};

    /// Parameters and multiply-accumulates at widths 1, 0.75, 0.5 and 0.25 (spec section 3.1), to
    /// the digits printed there, save one: ResNet-18 at 224 pixels and width 0.25 takes 135.475 M,
    /// which is printed as 136.
    #[test]
    fn size_and_compute_of_the_published_backbones() {
        type Row = (
            &'static str,
            usize,
            usize,
            [(&'static str, &'static str); 4],
        );
        let table: [Row; 6] = [
            (
                "resnet18-cifar",
                32,
                1,
                [
                    ("11.169", "555.4"),
                    ("6.285", "312.8"),
                    ("2.795", "139.3"),
                    ("0.700", "35.0"),
                ],
            ),
            (
                "resnet50-cifar",
                32,
                1,
                [
                    ("23.500", "1297.8"),
                    ("13.229", "730.3"),
                    ("5.889", "324.9"),
                    ("1.479", "81.4"),
                ],
            ),
            (
                "mobilenetv2-cifar",
                32,
                1,
                [
                    ("2.224", "88.0"),
                    ("1.355", "59.3"),
                    ("0.688", "28.0"),
                    ("0.238", "9.5"),
                ],
            ),
            (
                "resnet18",
                224,
                0,
                [
                    ("11.177", "1814"),
                    ("6.290", "1042"),
                    ("2.799", "483"),
                    ("0.702", "135"),
                ],
            ),
            (
                "resnet50",
                224,
                0,
                [
                    ("23.508", "4087"),
                    ("13.235", "2321"),
                    ("5.893", "1051"),
                    ("1.481", "278"),
                ],
            ),
            (
                "mobilenetv2",
                224,
                1,
                [
                    ("2.224", "299.5"),
                    ("1.355", "207.8"),
                    ("0.688", "95.9"),
                    ("0.238", "35.9"),
                ],
            ),
        ];
        for (name, size, digits, row) in table {
            let graph = by_name(name, 3, size, size, None).unwrap();
            for (w, (params, macs)) in [1.0, 0.75, 0.5, 0.25].into_iter().zip(row) {
                let cost = graph.cost(Width::new(w).unwrap()).unwrap();
                assert_eq!(
                    format!("{:.3}", cost.params as f64 / 1e6),
                    params,
                    "{name} at {w}"
                );
                assert_eq!(
                    format!("{:.*}", digits, cost.macs as f64 / 1e6),
                    macs,
                    "{name} at {w}"
                );
            }
        }
    }

    #[test]
    fn feature_dimensions() {
        let table = [
            ("resnet18", 224, [512, 384, 256, 128]),
            ("resnet34-cifar", 32, [512, 384, 256, 128]),
            ("resnet50", 224, [2048, 1536, 1024, 512]),
            ("mobilenetv2-cifar", 32, [1280; 4]),
            ("resnet20", 32, [64, 48, 32, 16]),
        ];
        for (name, size, row) in table {
            let graph = by_name(name, 3, size, size, None).unwrap();
            for (w, features) in [1.0, 0.75, 0.5, 0.25].into_iter().zip(row) {
                let shape = graph
                    .output_shape("features", Width::new(w).unwrap())
                    .unwrap();
                assert_eq!(shape.channels(), features, "{name} at {w}");
            }
        }
    }

    #[test]
    fn every_backbone_keeps_its_shapes_at_every_width() {
        for name in [
            "resnet18-cifar",
            "resnet50",
            "mobilenetv2",
            "mobilenetv2-cifar",
            "efficientnet-lite0",
            "efficientnet-lite0-cifar",
            "resnet8",
            "resnet14-b-s2",
            "plain8",
        ] {
            let graph = by_name(name, 1, 64, 64, Some(10)).unwrap();
            for percent in 10..=100 {
                let width = Width::new(f64::from(percent) / 100.0).unwrap();
                let logits = graph.output_shape("logits", width);
                assert_eq!(logits.map(|s| s.channels()), Ok(10), "{name} at {width}");
            }
        }
    }

    #[test]
    fn a_classifier_reads_codes_and_alone_is_wide() {
        let graph = by_name("resnet8", 3, 32, 32, Some(10)).unwrap();
        let stages = graph.stages().unwrap();
        let [.., pool, classifier] = &stages[..] else {
            panic!("{stages:?}")
        };
        assert_eq!(pool.precision, Precision::Eight);
        assert_eq!(classifier.precision, Precision::Wide);
        assert!(classifier.eight_bit_weights);
        let headless = by_name("resnet8", 3, 32, 32, None)
            .unwrap()
            .stages()
            .unwrap();
        assert_eq!(headless.last().unwrap().precision, Precision::Wide);
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        for name in [
            "vgg16",
            "resnet21",
            "resnet2",
            "resnet20-c",
            "resnet20-s2-b",
            "plain20-b",
            "",
        ] {
            let text = by_name(name, 3, 32, 32, None).unwrap_err().to_string();
            assert!(
                text.contains(&format!("`{name}`")) && text.contains("mobilenetv2-cifar"),
                "{text}"
            );
        }
    }
}
