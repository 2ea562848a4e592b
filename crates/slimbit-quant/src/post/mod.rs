//! Post-training quantisation: a trained network and a few unlabelled images to a model.
//!
//! The float network runs once over all images, which gives every tensor's histogram and so the
//! ranges of every point. Then, point by point and stage by stage, the float and the quantised
//! network run side by side over as many images as memory allows: weights are rounded, and outputs
//! corrected, for the inputs that the stages before really give.

mod blocks;
mod budget;
mod correction;
mod gram;
mod inputs;
mod layer;
mod magnitude;
mod rounding;
mod samples;
mod walk;
mod work;

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Tensor, TensorData};
use slimbit_engine::{Model, layouts, weight_bits, weight_shape};
use slimbit_graph::{
    GraphError, Params, Point, PointStatistics, Precision, Shape, Stage, StageKind, Width,
};
use slimbit_nn::{Averaging, Mode, Net, NormMode, Observer, Value};
use slimbit_num::WeightGrid;

use self::budget::Budget;
pub(crate) use self::correction::Adjustment;
pub use self::correction::Correction;
use self::layer::{Layer, Rows};
use self::walk::Walk;
use self::work::Work;
use crate::lower::{Adjustments, Source, lower_weights};
use crate::{
    Histogram, Norms, Progress, QuantError, Ranges, Settings, Task, ValueRule, Warning, finite,
    input_values, warning,
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
    /// Bytes that all of it may take, the network and its integers included; it is kept within a
    /// fifth. A network that needs more with a single image gets what it needs, with a
    /// [`Warning`]; a layer whose reconstruction does not fit is reconstructed from fewer inputs or
    /// rounded to nearest, with one as well.
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
    /// What the user should know of it: inputs that look wrong, and what memory did not allow.
    pub warnings: Vec<Warning>,
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
/// [`QuantError::Images`] for no images or parts of images, [`QuantError::NoPoints`] without points,
/// [`QuantError::NotFinite`] and [`QuantError::Graph`] for a network whose values, parameters or
/// statistics are no finite numbers; otherwise as the network's passes and as
/// [`lower`](crate::lower).
pub fn quantise(
    net: &Net,
    norms: &Norms,
    pixels: &[u8],
    points: &[Point],
    settings: &Settings,
    options: &PostTraining,
    progress: impl Fn(Progress) + Sync,
) -> Result<PostTrained, QuantError> {
    let job = Job::new(net, norms, pixels, points, settings, options)?;
    let mut warnings: Vec<Warning> = Vec::new();
    warnings.extend(warning::of_images(net.graph(), pixels));
    warnings.extend(warning::of_input(net, norms, &job.input, pixels)?);
    let statistics = job.statistics(norms, &progress)?;
    warnings.extend(warning::of_ranges(&statistics));
    let (layers, adjustments, errors) = job.points(&statistics, &progress, &mut warnings)?;
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
        images: job.budget.images,
        warnings,
    })
}

/// Everything that stays the same from point to point.
struct Job<'a> {
    net: &'a Net,
    /// All but the weights of layers, which stay where the network has them.
    params: slimbit_graph::Params,
    budget: Budget,
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
type Outcome = (Layers, Vec<Adjustments>, Vec<Vec<LayerError>>);

impl<'a> Job<'a> {
    fn new(
        net: &'a Net,
        norms: &Norms,
        pixels: &'a [u8],
        points: &'a [Point],
        settings: &'a Settings,
        options: &'a PostTraining,
    ) -> Result<Self, QuantError> {
        let shape = net.graph().input_shape();
        let image = shape.elements();
        check_images(pixels, image, shape)?;
        if points.is_empty() {
            return Err(QuantError::NoPoints);
        }
        finite::check(net, norms)?;
        let images = pixels.len() / image;
        let copies = match settings.grid {
            WeightGrid::MinMax => {
                let bits: BTreeSet<u8> = points.iter().map(|p| p.weight_bits).collect();
                bits.len()
            }
            _ => 1,
        };
        let memory = options.memory;
        Ok(Self {
            net,
            params: constants(net)?,
            budget: Budget::new(net, images, pixels.len(), copies, memory)?,
            pixels,
            points,
            settings,
            options,
            input: settings.input(net.graph())?,
            image,
            images,
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
        // Batch statistics want more images than memory allows for a large network, and averages over
        // batches do.
        let batches = self.batches(self.images, self.budget.batch(self.options.memory));
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
            // The first in execution order: where it begins.
            for stage in self.net.stages() {
                let values = histograms.get(&stage.name);
                let values = values.map_or(0, Histogram::not_finite);
                if values > 0 {
                    return Err(QuantError::NotFinite {
                        stage: stage.name.clone(),
                        values,
                    });
                }
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
        warnings: &mut Vec<Warning>,
    ) -> Result<Outcome, QuantError> {
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
        let turns: Vec<Point> = order.iter().map(|&i| statistics[i].point).collect();
        let mut layers = self.layers()?;
        if self.budget.is_exceeded() {
            warnings.push(Warning::Memory {
                given: self.options.memory,
                least: self.budget.least(),
            });
        }
        let work = Work::new(self, &layers, &turns, progress);
        self.share(&mut layers, &work);
        let mut adjustments = vec![Adjustments::new(); statistics.len()];
        let mut errors = vec![Vec::new(); statistics.len()];
        for &i in &order {
            let mut walk = Walk::new(self, &statistics[i], &work)?;
            if self.is_plain(&layers, &statistics[i]) {
                walk.decide_plainly(&mut layers)?;
                continue;
            }
            for index in 0..self.net.stages().len() {
                walk.step(index, &mut layers)?;
            }
            warnings.append(&mut walk.warnings);
            (adjustments[i], errors[i]) = walk.finish();
        }
        work.finish(turns[turns.len() - 1]);
        Ok((layers, adjustments, errors))
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
        self.would_reconstruct(layer.is_bound(), bits) && !layer.is_decided(bits)
    }

    /// Whether weights of a layer are reconstructed at some bits, for a layer that fewer bits may
    /// have bound.
    fn would_reconstruct(&self, bound: bool, bits: u8) -> bool {
        let most = self.options.reconstructed_bits;
        bits <= most || (most > 0 && bound)
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
            let weights = rows(self.net, &node.name)?;
            layers.insert(index, Layer::new(weights, groups, self.settings.grid));
        }
        Ok(layers)
    }

    /// Settles what the bit-widths of every layer share.
    fn share(&self, layers: &mut Layers, work: &Work) {
        for (&index, layer) in layers {
            let stage = &self.net.stages()[index];
            let bits: BTreeSet<u8> = self.points.iter().map(|&p| weight_bits(stage, p)).collect();
            layer.share(&bits, self.options.clip_weights, self.options.headroom);
            let done = work::sharing(layer, bits.len());
            work.advance(self.points[0], &stage.name, done);
        }
    }
}

pub(crate) fn check_images(pixels: &[u8], image: usize, shape: Shape) -> Result<(), QuantError> {
    if pixels.is_empty() {
        let what = format!("0 bytes; at least one image of {image} ({shape}) is needed");
        return Err(QuantError::Images(what));
    }
    if !pixels.len().is_multiple_of(image) {
        return Err(QuantError::Images(format!(
            "{} bytes are not one or more images of {image} ({shape})",
            pixels.len()
        )));
    }
    Ok(())
}

/// The weights of a convolution or linear node.
fn rows(net: &Net, node: &str) -> Result<Rows, QuantError> {
    let name = format!("{node}.weight");
    let specs = net.store().specs().iter().zip(net.store().values());
    let found = specs.clone().find(|(spec, _)| spec.name == name);
    let Some((spec, values)) = found else {
        let what = "is missing".to_owned();
        return Err(GraphError::Param { name, what }.into());
    };
    Ok(Rows::new(values.clone(), spec.shape[0]))
}

/// Every parameter but the weights of convolutions and linear layers, which have more dimensions.
fn constants(net: &Net) -> Result<Params, QuantError> {
    let mut params = Params::default();
    for spec in net.store().specs().iter().filter(|s| s.shape.len() == 1) {
        let array = net.store().array(&spec.name)?;
        params.0.insert(spec.name.clone(), array);
    }
    Ok(params)
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
