//! A float network and a model of integers on the same images, stage by stage: where they diverge, by
//! how much, and why.
//!
//! The model's operands are given to the float stage as well, which tells a stage's own error from
//! what it inherits; and the float stage's weights are replaced by the model's, which tells the
//! rounding of weights from that of activations.

mod finding;
mod input;
mod layer;
mod matching;
mod measures;

use burn::tensor::{Tensor, TensorData};
use slimbit_engine::{Arithmetic, Layout, Model, PointModel, Trace, layouts};
use slimbit_graph::{Point, PointStatistics, Shape, StageId, StageKind};
use slimbit_nn::{Net, NormMode, Value};

pub use self::finding::{Cause, Finding};
use self::input::InputFit;
pub use self::input::Normalisation;
pub use self::layer::WeightDistance;
use self::layer::{FloatLayer, Layer};
use self::matching::{source, twins};
pub use self::measures::StageComparison;
use self::measures::{Sums, Values};
use crate::post::values_of;
use crate::{Norms, QuantError, Ranges};

/// A comparison under way: make one, [add](Self::add) batches of images, and read the
/// [report](Self::report).
pub struct Comparison<'a> {
    net: &'a Net,
    norms: &'a Norms,
    model: &'a Model,
    made: &'a PointModel,
    layouts: Vec<Layout>,
    /// In the model's execution order.
    pairs: Vec<Pair>,
    /// Positions in `pairs` by stage of the reference.
    of_reference: Vec<Option<usize>>,
    input: InputFit,
    moved: bool,
    images: usize,
}

struct Pair {
    reference: StageId,
    model: StageId,
    layer: Option<Layer>,
    sums: Sums,
}

/// What a comparison found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Every stage, in the model's execution order.
    pub stages: Vec<StageComparison>,
    /// Set where the two networks do not see the same images.
    pub preprocessing: Option<Cause>,
    /// Whether the model's weights [may have been moved](Comparison::expect_moved_weights).
    pub moved: bool,
    /// Images compared.
    pub images: usize,
}

impl Report {
    /// The first stage at which the two diverge: its inputs or its weights are others than the
    /// reference's, its own error is more than its steps explain, or its SQNR is below `threshold`
    /// dB.
    pub fn finding(&self, threshold: f64) -> Option<Finding> {
        finding::first(self, threshold)
    }
}

impl<'a> Comparison<'a> {
    /// Matches the stages of a float network, with the batch-norm statistics `norms`, and of a model
    /// at `point`.
    ///
    /// # Errors
    /// [`QuantError::Structure`] for networks of different structure, [`QuantError::Engine`] for a
    /// point that the model does not hold, [`QuantError::Statistics`] for statistics of another
    /// width.
    pub fn new(
        net: &'a Net,
        norms: &'a Norms,
        model: &'a Model,
        point: Point,
    ) -> Result<Self, QuantError> {
        let made = model.point(point)?;
        let twins = twins(
            (net.graph(), net.stages()),
            (model.graph(), model.stages()),
            point.width,
        )?;
        let statistics = PointStatistics {
            point,
            norms: norms.clone(),
            ranges: Ranges::new(),
        };
        let params = net.params();
        let pair = |&(reference, model_stage): &(StageId, StageId)| {
            let float = FloatLayer {
                graph: net.graph(),
                params: &params,
                statistics: &statistics,
                stage: &net.stages()[reference],
            };
            Ok(Pair {
                reference,
                model: model_stage,
                layer: Layer::new(&float, model, made, model_stage)?,
                sums: Sums::new(made.stages[model_stage].output),
            })
        };
        let pairs: Vec<Pair> = twins.iter().map(pair).collect::<Result<_, QuantError>>()?;
        let mut of_reference = vec![None; net.stages().len()];
        for (index, pair) in pairs.iter().enumerate() {
            of_reference[pair.reference] = Some(index);
        }
        Ok(Self {
            net,
            norms,
            model,
            made,
            layouts: layouts(model.graph(), model.stages(), point.width)?,
            pairs,
            of_reference,
            input: InputFit::default(),
            moved: false,
            images: 0,
        })
    }

    /// Tells whether the model's weights may have been moved further than rounding does, to make up for
    /// what happens to their inputs. Where they may, weights that are more than a step apart are no
    /// finding by themselves, as long as the stage does what it should.
    pub fn expect_moved_weights(&mut self, moved: bool) {
        self.moved = moved;
    }

    /// Compares some images: `values` are the reference's normalised inputs, NCHW; `traces` what the
    /// engine computes of the same images, one each.
    ///
    /// # Errors
    /// [`QuantError::Images`] for another number of values than the traces' images have, or traces
    /// of another network; otherwise as the float network's passes.
    pub fn add(&mut self, values: Vec<f32>, traces: &[Trace]) -> Result<(), QuantError> {
        let shape = self.net.graph().input_shape();
        if traces.is_empty() || values.len() != traces.len() * shape.elements() {
            return Err(QuantError::Images(format!(
                "{} values for {} images of {shape}",
                values.len(),
                traces.len()
            )));
        }
        let fits = |trace: &Trace| {
            let own = trace.stages.iter().map(|stage| stage.layout);
            own.eq(self.layouts.iter().copied())
        };
        if !traces.iter().all(fits) {
            let what = format!("a trace is not one of this model at {}", self.made.point);
            return Err(QuantError::Images(what));
        }
        let (height, width) = shape.spatial();
        let device = self.net.store().device().clone().without_autodiff();
        let dims = [traces.len(), shape.channels(), height, width];
        let images = Tensor::<4>::from_data(TensorData::new(values, dims), &device);
        let (net, norm) = (self.net, NormMode::Given(self.norms));
        let (mut next, mut result) = (0, Ok(()));
        net.trace(&images, self.made.point.width, norm, &mut |_, value| {
            if result.is_ok() {
                result = self.observe(next, value, traces);
            }
            next += 1;
        })?;
        self.images += traces.len();
        result
    }

    /// Compares one stage on a batch, given the float network's output of it.
    fn observe(
        &mut self,
        reference: StageId,
        float: &Value,
        traces: &[Trace],
    ) -> Result<(), QuantError> {
        let Some(index) = self.of_reference[reference] else {
            return Ok(());
        };
        let stage = &self.net.stages()[reference];
        let pair = &self.pairs[index];
        let float = values_of(float);
        let model = self.real(pair.model, traces);
        if stage.kind == StageKind::Input {
            let Layout {
                height,
                width,
                channels,
            } = self.layouts[pair.model];
            self.input.add(&model, &float, channels, height * width);
            // The input is where the model's own operands begin.
            let values = Values {
                float: &float,
                model: &model,
                own: &model,
                weighted: None,
            };
            self.pairs[index].sums.add(&values);
            return Ok(());
        }
        let operands: Vec<Value> = stage
            .inputs
            .iter()
            .map(|&input| self.operand(input, traces))
            .collect::<Result<_, _>>()?;
        let width = self.made.point.width;
        let norm = NormMode::Given(self.norms);
        let first = operands.first().cloned();
        let own = values_of(&self.net.stage(reference, operands, width, norm)?);
        let weighted = match (&pair.layer, first) {
            (Some(layer), Some(operand)) => {
                let sums = self.net.accumulate(reference, operand, &layer.weights);
                let [_, _, rows, columns] = sums.dims();
                let sums = values_of(&Value::Map(sums));
                let lines = [&layer.model, &layer.reference];
                Some(lines.map(|lines| layer.outputs(lines, &sums, rows * columns)))
            }
            _ => None,
        };
        let values = Values {
            float: &float,
            model: &model,
            own: &own,
            weighted: weighted.as_ref().map(|[a, b]| [&a[..], &b[..]]),
        };
        self.pairs[index].sums.add(&values);
        Ok(())
    }

    /// The model's values of what a stage of the reference reads.
    fn operand(&self, input: StageId, traces: &[Trace]) -> Result<Value, QuantError> {
        let input = source(self.net.stages(), input);
        let pair = self.of_reference[input].map(|index| &self.pairs[index]);
        let pair = pair.unwrap_or_else(|| unreachable!("every computing stage has a twin"));
        let values = self.real(pair.model, traces);
        let device = self.net.store().device().clone().without_autodiff();
        let node = self.net.stages()[input].node;
        let shape = self.net.graph().shapes(self.made.point.width)?[node.index()];
        Ok(match shape {
            Shape::Map {
                channels,
                height,
                width,
            } => {
                let dims = [traces.len(), channels, height, width];
                Value::Map(Tensor::from_data(TensorData::new(values, dims), &device))
            }
            Shape::Vector { channels } => {
                let dims = [traces.len(), channels];
                Value::Vector(Tensor::from_data(TensorData::new(values, dims), &device))
            }
        })
    }

    /// The real values of a stage's integers, channels before positions.
    fn real(&self, stage: StageId, traces: &[Trace]) -> Vec<f32> {
        let output = self.made.stages[stage].output;
        let channels = self.layouts[stage].channels;
        let mut values = Vec::with_capacity(traces.len() * self.layouts[stage].elements());
        for trace in traces {
            let codes = &trace.stages[stage].codes;
            for channel in 0..channels {
                let plane = codes.iter().skip(channel).step_by(channels);
                values.extend(plane.map(|q| output.scale() * (q - output.zero_point()) as f32));
            }
        }
        values
    }

    /// What was found on all images so far.
    pub fn report(&self) -> Report {
        let stage = |pair: &Pair| {
            let (model, float) = (
                &self.model.stages()[pair.model],
                &self.net.stages()[pair.reference],
            );
            let distance = pair.layer.as_ref().map(|layer| layer.distance);
            pair.sums.finish(&model.name, &float.name, distance)
        };
        Report {
            stages: self.pairs.iter().map(stage).collect(),
            preprocessing: self.preprocessing(),
            moved: self.moved,
            images: self.images,
        }
    }

    /// Codes round the input by half a step at most, and so does a mean that becomes a whole pixel.
    fn preprocessing(&self) -> Option<Cause> {
        let pair = self.pairs.first()?;
        let Arithmetic::Input = self.made.stages[pair.model].arithmetic else {
            return None;
        };
        let step = f64::from(self.made.stages[pair.model].output.scale());
        let steps = pair.sums.root_mean_square() / step;
        if steps <= 0.51 {
            return None;
        }
        let input = self.model.input();
        let double = |values: &[f32]| values.iter().map(|&v| v.into()).collect();
        Some(Cause::Preprocessing {
            steps,
            reference: self.input.normalisation(&input.mean, &input.std, step),
            model: Normalisation {
                mean: double(&input.mean),
                std: double(&input.std),
            },
        })
    }
}
