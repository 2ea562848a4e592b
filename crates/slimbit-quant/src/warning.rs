//! What is wrong with an input of quantisation, or was done otherwise than asked, short of an error.

use std::collections::BTreeSet;
use std::fmt;

use slimbit_graph::{Graph, PointStatistics, Range};

use crate::compare::Normalisation;
pub use crate::input_range::of_input;

/// Something that the user should know of a quantised network.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// The network and a single image take more than the memory that was given.
    Memory {
        /// Bytes that were given.
        given: usize,
        /// Bytes that it takes.
        least: usize,
    },
    /// A layer's weights were rounded to nearest although they were to be reconstructed.
    Nearest {
        /// The layer.
        layer: LayerSize,
        /// Bytes in all that a reconstruction would take; nothing where it would take too long.
        memory: Option<usize>,
    },
    /// A layer's weights were reconstructed from fewer of its inputs than there should be.
    Sampled {
        /// The layer.
        layer: LayerSize,
        /// Inputs used.
        used: usize,
        /// Inputs that there should be.
        wanted: usize,
        /// Bytes in all that those would take; nothing where they would take too long.
        memory: Option<usize>,
    },
    /// Every calibration image is of one colour throughout.
    Constant {
        /// How many there are.
        images: usize,
    },
    /// The calibration images use a small part of the range of pixels.
    Narrow {
        /// The least and the greatest value of a pixel, of 0 to 255.
        pixels: [u8; 2],
    },
    /// Stages that gave nothing but zeros on the calibration images.
    Dead {
        /// Their names.
        stages: Vec<String>,
    },
    /// The first batch-norm was trained on other values than the network now gets.
    Input {
        /// How many times less the trained statistics are at odds with the better normalisation.
        factor: f64,
        /// How pixels are normalised.
        given: Normalisation,
        /// How they probably should be.
        better: Normalisation,
    },
}

/// A layer whose size made a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSize {
    /// The stage.
    pub stage: String,
    /// Bits of its weights.
    pub bits: u8,
    /// Weights per output.
    pub weights: usize,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { given, least } => write!(
                f,
                "the network and one image take {} MiB, more than the {} MiB of --memory; one image \
                 was looked at when weights were rounded",
                mebibytes(*least),
                given >> 20
            ),
            Self::Nearest { layer, memory } => {
                write!(f, "{layer} were rounded to the nearest code, because ")?;
                match memory {
                    Some(bytes) => write!(
                        f,
                        "reconstructing them takes more memory; --memory {} has room for it",
                        mebibytes(*bytes)
                    ),
                    None => f.write_str("reconstructing them would take too long"),
                }
            }
            Self::Sampled {
                layer,
                used,
                wanted,
                memory,
            } => {
                write!(
                    f,
                    "{layer} were reconstructed from {used} inputs instead of {wanted}, because more "
                )?;
                match memory {
                    Some(bytes) => write!(
                        f,
                        "take more memory; --memory {} has room for them",
                        mebibytes(*bytes)
                    ),
                    None => f.write_str("would take too long"),
                }
            }
            Self::Constant { images: 1 } => f.write_str(
                "the only calibration image has one colour throughout; ranges measured on it say \
                 nothing about real images",
            ),
            Self::Constant { images } => write!(
                f,
                "all {images} calibration images have one colour throughout; ranges measured on them \
                 say nothing about real images"
            ),
            Self::Narrow {
                pixels: [low, high],
            } => write!(
                f,
                "the calibration images use pixel values from {low} to {high} only, of 0 to 255; if \
                 they hold classes, are already normalised or come from a 16-bit source, convert them \
                 to ordinary 8-bit images first"
            ),
            Self::Dead { stages } => {
                let (first, more) = (&stages[0], stages.len() - 1);
                write!(f, "stage `{first}`")?;
                match more {
                    0 => f.write_str(" is")?,
                    1 => f.write_str(" and one more are")?,
                    _ => write!(f, " and {more} more are")?,
                }
                f.write_str(
                    " zero on every calibration image; on other images the codes there will \
                     saturate: calibrate on images that make the network respond",
                )
            }
            Self::Input {
                factor,
                given,
                better,
            } => write!(
                f,
                "the first batch-norm was trained on other values than the network now gets: {better} \
                 fits its statistics {factor:.0} times better than {given}; if that is how the network \
                 was trained, import it with {}",
                options(better)
            ),
        }
    }
}

impl fmt::Display for LayerSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            stage,
            bits,
            weights,
        } = self;
        write!(
            f,
            "the {bits}-bit weights of layer `{stage}` ({weights} per output)"
        )
    }
}

/// The options of `slimbit import` that say so.
fn options(normalisation: &Normalisation) -> String {
    let list = |values: &[f64]| {
        let texts: Vec<String> = values.iter().map(|v| (*v as f32).to_string()).collect();
        texts.join(",")
    };
    format!(
        "--mean {} --std {}",
        list(&normalisation.mean),
        list(&normalisation.std)
    )
}

/// Whole mebibytes, rounded up to a hundred.
fn mebibytes(bytes: usize) -> usize {
    (bytes >> 20).div_ceil(100).saturating_mul(100)
}

/// Levels of 256 that images should use.
const FEW_LEVELS: u8 = 24;

/// What is wrong with calibration images as such: whole images of the network's input shape.
pub fn of_images(graph: &Graph, pixels: &[u8]) -> Option<Warning> {
    let shape = graph.input_shape();
    let (size, channels) = (shape.elements(), shape.channels());
    let constant = |image: &[u8]| {
        let first = &image[..channels];
        image.chunks_exact(channels).all(|pixel| pixel == first)
    };
    if pixels.chunks_exact(size).all(constant) {
        return Some(Warning::Constant {
            images: pixels.len() / size,
        });
    }
    let (low, high) = pixels.iter().fold((u8::MAX, u8::MIN), |(low, high), &p| {
        (low.min(p), high.max(p))
    });
    (high.saturating_sub(low) < FEW_LEVELS).then_some(Warning::Narrow {
        pixels: [low, high],
    })
}

/// Stages of measured points whose values were all zero.
pub(crate) fn of_ranges(statistics: &[PointStatistics]) -> Option<Warning> {
    let zero = |range: &Range| range.min == 0.0 && range.max == 0.0;
    let ranges = statistics.iter().flat_map(|point| &point.ranges);
    let dead: BTreeSet<&String> = ranges
        .filter(|(_, r)| zero(r))
        .map(|(name, _)| name)
        .collect();
    let stages: Vec<String> = dead.into_iter().cloned().collect();
    (!stages.is_empty()).then_some(Warning::Dead { stages })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_agree() {
        let layer = LayerSize {
            stage: "fc".into(),
            bits: 4,
            weights: 25088,
        };
        let text = Warning::Nearest {
            layer: layer.clone(),
            memory: Some(1_500 << 20),
        };
        let text = text.to_string();
        assert!(
            text.contains("`fc` (25088 per output)") && text.contains("--memory 1500"),
            "{text}"
        );
        let dead = |count: usize| {
            let stages = (0..count).map(|i| format!("s{i}")).collect();
            Warning::Dead { stages }.to_string()
        };
        assert!(dead(1).starts_with("stage `s0` is zero"));
        assert!(dead(2).contains("and one more are"));
        assert!(dead(3).contains("and 2 more are"));
    }

    #[test]
    fn images_without_content_are_noticed() {
        let mut b = slimbit_graph::GraphBuilder::new("one");
        let x = b.input(1, 2, 2);
        let x = b.conv_bn("a", x, slimbit_graph::Channels::Fixed(2), 1, 1);
        let graph = b.finish(&[("out", x)]).unwrap();
        let black = of_images(&graph, &[0; 8]);
        assert_eq!(black, Some(Warning::Constant { images: 2 }));
        let mask = of_images(&graph, &[0, 1, 1, 0, 2, 2, 2, 2]);
        assert_eq!(mask, Some(Warning::Narrow { pixels: [0, 2] }));
        assert_eq!(of_images(&graph, &[0, 100, 20, 30]), None);
    }
}
