//! Post-training quantisation: a trained network and a few unlabelled images to a model.
//!
//! The float network runs once over all images, which gives every tensor's histogram and so the
//! ranges of every point. Then, point by point and stage by stage, the float and the quantised
//! network run side by side over as many images as memory allows: weights are rounded, and outputs
//! corrected, for the inputs that the stages before really give.

mod correction;
mod gram;
mod inputs;
mod layer;
mod rounding;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Tensor, TensorData};
use slimbit_engine::{Model, layouts, weight_bits, weight_shape};
use slimbit_graph::{Point, PointStatistics, Precision, Stage, StageKind, Width};
use slimbit_nn::{Averaging, Mode, Net, NormMode, Observer, Value};

pub(crate) use self::correction::Adjustment;
pub use self::correction::Correction;
use self::layer::Layer;
use self::walk::Walk;
use crate::lower::{Adjustments, Source, lower_weights};
use crate::{
    Histogram, Norms, Progress, QuantError, Ranges, Settings, Task, ValueRule, input_values,
};

/// How a trained network is quantised. The default is what measured best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PostTraining {
    /// How activation ranges follow from values.
    pub rule: ValueRule,
    /// What is corrected in every output channel.
    pub correction: Correction,
    /// Weights of this many bits and fewer are rounded so that their layer's output changes least,
    /// instead of each to its nearest code; 0 for none.
    pub reconstructed_bits: u8,
    /// Whether that rounding also makes up for what quantisation did to the layer's inputs.
    pub compensate: bool,
    /// Whether weights of fewer than 8 bits may be clipped where that lowers their squared error.
    pub clip_weights: bool,
    /// What the magnitude of 8-bit codes is multiplied by, at least 1. Smaller codes let CPUs
    /// without an 8-bit dot product add more products in 16 bits, for a fraction of a bit. Without
    /// effect where a nested grid has narrower points too, which share that magnitude.
    pub headroom: f32,
    /// Whether batch-norm is estimated again on the calibration images at full width too, instead
    /// of taken as trained. Narrower widths always are: nobody trained statistics for them.
    pub renormalise: bool,
    /// Bytes that intermediate results may take.
    pub memory: usize,
}

impl Default for PostTraining {
    fn default() -> Self {
        Self {
            rule: ValueRule::Mse,
            correction: Correction::Line,
            reconstructed_bits: 6,
            compensate: true,
            clip_weights: true,
            headroom: 1.0,
            renormalise: false,
            memory: 2 << 30,
        }
    }
}

/// A quantised network, and how well its layers came out.
#[derive(Debug)]
pub struct PostTrained {
    /// The model, with every point.
    pub model: Model,
    /// Layer errors by point, in the order of the points; empty where nothing was measured because
    /// nothing depends on it.
    pub errors: Vec<Vec<LayerError>>,
    /// Images on which layers were rounded and corrected.
    pub images: usize,
}

/// How far a layer's outputs, before its activation, are from those of the float network.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerError {
    /// The stage.
    pub stage: String,
    /// Mean squared error divided by the variance of the float outputs.
    pub relative: f64,
}

/// Quantises a trained network at every point, from `pixels`: whole images of the network's input
/// shape, NHWC, without labels. `norms` are the trained batch-norm statistics.
///
/// The result depends on nothing but the arguments; [`PostTraining::memory`] counts among them,
/// because it decides how many images are looked at side by side.
///
/// # Errors
/// [`QuantError::Images`] for no images or parts of images; otherwise as the network's passes and
/// as [`lower`](crate::lower).
pub fn quantise(
    net: &Net,
    norms: &Norms,
    pixels: &[u8],
    points: &[Point],
    settings: &Settings,
    options: &PostTraining,
    progress: impl Fn(Progress) + Sync,
) -> Result<PostTrained, QuantError> {
    let job = Job::new(net, pixels, points, settings, options)?;
    let statistics = job.statistics(norms, &progress)?;
    let (layers, adjustments, errors, images) = job.points(&statistics, &progress)?;
    let layouts = layouts(net.graph(), net.stages(), Width::FULL)?;
    let mut weights = BTreeMap::new();
    for (index, layer) in layers {
        let stage = &net.stages()[index];
        let input = layouts[stage.inputs[0]];
        if let Some(shape) = weight_shape(net.graph(), stage, input, layouts[index]) {
            weights.insert(stage.name.clone(), layer.finish(shape));
        }
    }
    let source = Source {
        graph: net.graph(),
        params: &job.params,
        statistics: &statistics,
        adjustments: &adjustments,
    };
    let model = lower_weights(&source, weights, settings, progress)?;
    Ok(PostTrained {
        model,
        errors,
        images,
    })
}

/// Everything that stays the same from point to point.
struct Job<'a> {
    net: &'a Net,
    params: slimbit_graph::Params,
    pixels: &'a [u8],
    points: &'a [Point],
    settings: &'a Settings,
    options: &'a PostTraining,
    input: slimbit_engine::InputCodes,
    /// Bytes and number of images.
    image: usize,
    images: usize,
}

type Layers = BTreeMap<usize, Layer>;
type Outcome = (Layers, Vec<Adjustments>, Vec<Vec<LayerError>>, usize);

impl<'a> Job<'a> {
    fn new(
        net: &'a Net,
        pixels: &'a [u8],
        points: &'a [Point],
        settings: &'a Settings,
        options: &'a PostTraining,
    ) -> Result<Self, QuantError> {
        let shape = net.graph().input_shape();
        let image = shape.elements();
        if pixels.is_empty() || !pixels.len().is_multiple_of(image) {
            return Err(QuantError::Images(format!(
                "{} bytes are not one or more images of {image} ({shape})",
                pixels.len()
            )));
        }
        Ok(Self {
            net,
            params: net.params(),
            pixels,
            points,
            settings,
            options,
            input: settings.input(net.graph())?,
            image,
            images: pixels.len() / image,
        })
    }

    /// Normalised images `[count, channels, rows, columns]`.
    fn batch(&self, first: usize, count: usize) -> Tensor<4> {
        let shape = self.net.graph().input_shape();
        let (height, width) = shape.spatial();
        let pixels = &self.pixels[first * self.image..(first + count) * self.image];
        let values = input_values(&self.input, pixels, height * width);
        let dims = [count, shape.channels(), height, width];
        Tensor::from_data(
            TensorData::new(values, dims),
            &self.net.store().device().clone().without_autodiff(),
        )
    }

    /// First image and number of images of consecutive batches of at most `size`.
    fn batches(&self, images: usize, size: usize) -> Vec<(usize, usize)> {
        let size = size.max(1);
        (0..images)
            .step_by(size)
            .map(|first| (first, size.min(images - first)))
            .collect()
    }

    /// Batch-norm statistics and ranges of every point.
    fn statistics(
        &self,
        norms: &Norms,
        progress: &(impl Fn(Progress) + Sync),
    ) -> Result<Vec<PointStatistics>, QuantError> {
        let mut widths: Vec<Width> = Vec::new();
        for point in self.points {
            if !widths.contains(&point.width) {
                widths.push(point.width);
            }
        }
        // A tenth of the memory is plenty for a pass that keeps nothing; batch statistics want more
        // images than that allows for a large network, and averages over batches do.
        let live = walk::live_bytes(self.net)?;
        let batches = self.batches(self.images, (self.options.memory / 10 / live).clamp(1, 128));
        let passes = widths.len() + widths.iter().filter(|w| self.estimates_norms(**w)).count();
        let (mut done, total) = (0, passes * batches.len());
        let mut step = |point| {
            done += 1;
            progress(Progress {
                task: Task::Calibrate,
                point,
                stage: "",
                done,
                total,
            });
        };
        let mut of_width: BTreeMap<String, (Norms, BTreeMap<String, Histogram>)> = BTreeMap::new();
        for &width in &widths {
            let Some(&point) = self.points.iter().find(|p| p.width == width) else {
                continue;
            };
            let own = if self.estimates_norms(width) {
                let mut observer = Observer::new(Averaging::Cumulative);
                let net = self.net.frozen();
                for &(first, count) in &batches {
                    let images = self.batch(first, count);
                    net.forward(&images, &Mode::float(width), Some(&mut observer))?;
                    step(point);
                }
                observer.norms()
            } else {
                norms.clone()
            };
            let mut histograms: BTreeMap<String, Histogram> = BTreeMap::new();
            for &(first, count) in &batches {
                let images = self.batch(first, count);
                let given = NormMode::Given(&own);
                self.net.trace(&images, width, given, &mut |stage, value| {
                    if stage.has_range() {
                        let histogram = histograms.entry(stage.name.clone()).or_default();
                        histogram.extend(&values_of(value));
                    }
                })?;
                step(point);
            }
            of_width.insert(width.to_string(), (own, histograms));
        }
        let of_point = |&point: &Point| {
            let (norms, histograms) = &of_width[&point.width.to_string()];
            let stages = self.net.stages().iter().filter(|stage| stage.has_range());
            let ranges: Ranges = stages
                .map(|stage| {
                    let range = self.range(stage, &histograms[&stage.name], point);
                    (stage.name.clone(), range)
                })
                .collect();
            PointStatistics {
                point,
                norms: norms.clone(),
                ranges,
            }
        };
        Ok(self.points.iter().map(of_point).collect())
    }

    fn estimates_norms(&self, width: Width) -> bool {
        width != Width::FULL || self.options.renormalise
    }

    /// Sixteen bits have room for every value: wide outputs are never clipped.
    fn range(&self, stage: &Stage, values: &Histogram, point: Point) -> slimbit_graph::Range {
        let rule = match stage.precision {
            Precision::Wide => ValueRule::MinMax,
            _ => self.options.rule,
        };
        rule.range(stage, values, stage.bits(point.act_bits))
    }

    /// Integers of every layer, corrections of every point.
    fn points(
        &self,
        statistics: &[PointStatistics],
        progress: &(impl Fn(Progress) + Sync),
    ) -> Result<Outcome, QuantError> {
        let mut layers = self.layers()?;
        // Few weight bits first: on the nested grids they leave the others the least choice. Full
        // width before narrower ones, which take its codes; many activation bits before few, so that
        // weights are rounded for inputs that are nearly right.
        let mut order: Vec<usize> = (0..statistics.len()).collect();
        order.sort_by_key(|&i| {
            let point = statistics[i].point;
            let narrow = point.width != Width::FULL;
            (
                narrow,
                point.weight_bits,
                std::cmp::Reverse(point.act_bits),
                i,
            )
        });
        let images = (self.options.memory / walk::live_bytes(self.net)?).clamp(1, self.images);
        let chunks = self.batches(images, 32);
        let total = order.len() * self.net.stages().len();
        let mut adjustments = vec![Adjustments::new(); statistics.len()];
        let mut errors = vec![Vec::new(); statistics.len()];
        for (turn, &i) in order.iter().enumerate() {
            let mut walk = Walk::new(self, &statistics[i], &chunks)?;
            if self.is_plain(&layers, &statistics[i]) {
                walk.decide_plainly(&mut layers)?;
                continue;
            }
            for index in 0..self.net.stages().len() {
                walk.step(index, &mut layers)?;
                progress(Progress {
                    task: Task::Reconstruct,
                    point: statistics[i].point,
                    stage: &self.net.stages()[index].name,
                    done: turn * self.net.stages().len() + index + 1,
                    total,
                });
            }
            (adjustments[i], errors[i]) = walk.finish();
        }
        Ok((layers, adjustments, errors, images))
    }

    /// Whether a point can be decided without running the network.
    fn is_plain(&self, layers: &Layers, statistics: &PointStatistics) -> bool {
        let reconstructs = layers.iter().any(|(&index, layer)| {
            self.reconstructs(
                layer,
                weight_bits(&self.net.stages()[index], statistics.point),
            )
        });
        self.options.correction == Correction::None && !reconstructs
    }

    fn reconstructs(&self, layer: &Layer, bits: u8) -> bool {
        let most = self.options.reconstructed_bits;
        let few = bits <= most || (most > 0 && layer.is_bound());
        few && !layer.is_decided(bits)
    }

    fn layers(&self) -> Result<Layers, QuantError> {
        let shapes = self.net.graph().shapes(Width::FULL)?;
        let mut layers = Layers::new();
        for (index, stage) in self.net.stages().iter().enumerate() {
            let node = match stage.kind {
                StageKind::Conv { conv: node, .. } | StageKind::Linear { linear: node, .. } => node,
                _ => continue,
            };
            let node = self.net.graph().node(node);
            let operand = shapes[node.inputs[0].index()].channels();
            let groups = self
                .net
                .geometry(index, operand)
                .map_or(1, |(_, conv)| conv.groups);
            let weights = self.net.store().array(&format!("{}.weight", node.name))?;
            let bits: BTreeSet<u8> = self.points.iter().map(|&p| weight_bits(stage, p)).collect();
            let layer = Layer::new(
                &weights.data,
                weights.shape[0],
                groups,
                self.settings.grid,
                &bits,
                self.options.clip_weights,
                self.options.headroom,
            );
            layers.insert(index, layer);
        }
        Ok(layers)
    }
}

/// A tensor's values in order of its dimensions.
pub(crate) fn values_of(value: &Value) -> Vec<f32> {
    match value {
        Value::Map(map) => values_in(map),
        Value::Vector(vector) => values_in(vector),
    }
}

fn values_in<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    let values = tensor.clone().into_data().try_into_vec();
    values.expect("activations are f32")
}
