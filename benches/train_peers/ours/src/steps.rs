//! The steps that are compared, on the public parts of `slimbit-nn`.

use std::path::Path;

use burn::tensor::{Gradients, Tensor, TensorData, activation::log_softmax};
use serde_json::json;
use slimbit_graph::backbones::{MobileNetV2, ResNet, ResNetDepth};
use slimbit_graph::{Graph, Width};
use slimbit_nn::{
    Averaging, Bits, Head, HeadSpec, Mode, Net, NormMode, Observer, ParamStore, Penalty,
    Quantisation, Sgd, ema_update, losses, parse_device,
};
use slimbit_num::WeightGrid;

use crate::protocol::Result;

const CLASSES: usize = 10;
const SEED: u64 = 1;
/// Small, so that losses stay comparable for some steps.
const LEARNING_RATE: f64 = 0.005;
const MOMENTUM: f64 = 0.9;
const WEIGHT_DECAY: f64 = 5e-4;
/// SSQL's bits: one pair of those it draws.
const BITS: Bits = Bits { weight: 4, act: 5 };
/// US3L's widths below 1, of which the first stands for the drawn one.
const STUDENTS: [f64; 2] = [0.5, 0.25];
const TEACHER_MOMENTUM: f64 = 0.99;
const TEMPERATURE: f64 = 0.5;
const HIDDEN: usize = 2048;

enum Step {
    /// Cross-entropy on the first view.
    Supervised,
    /// Spec section 4.5, SimSiam flavour: float and quantised pass, one step on half of each.
    Ssql {
        projector: Box<Head>,
        predictor: Box<Head>,
    },
    /// Spec section 3.6: a step per width, against one momentum teacher.
    Us3l {
        projector: Box<Head>,
        auxiliary: Box<Head>,
        teacher: Box<Net>,
        teacher_projector: Box<Head>,
    },
}

/// A network, what it learns with, and the batch that it sees in every step.
pub(crate) struct Learner {
    net: Net,
    step: Step,
    sgd: Sgd,
    views: [Tensor<4>; 2],
    /// `[images, classes]`, a one in each row.
    labels: Tensor<2>,
}

impl Learner {
    /// `images` holds both views as normalised floats, each of `shape` `[images, channels, rows,
    /// columns]`.
    pub(crate) fn new(step: &str, images: &Path, shape: &[usize]) -> Result<Self> {
        let shape: [usize; 4] = shape.try_into()?;
        let device = parse_device("cpu")?.autodiff();
        let mut net = Net::init(graph(step, shape)?, SEED, &device)?;
        // The peer's operators take the derivative of the scale, too.
        net.detach_weight_scales(false);
        let features = match step {
            "resnet18" | "mobilenetv2" => 0,
            _ => net
                .graph()
                .output_shape("features", Width::FULL)?
                .channels(),
        };
        let head = |name, spec| Head::init(name, spec, SEED, &device).map(Box::new);
        let step = match step {
            "ssql" => Step::Ssql {
                projector: head(
                    "projector",
                    HeadSpec::normalised_projector(features, HIDDEN, 2048),
                )?,
                predictor: head("predictor", HeadSpec::predictor(2048, HIDDEN))?,
            },
            "us3l" => {
                let projector = head(
                    "projector",
                    HeadSpec::projector(features, HIDDEN, 256, true),
                )?;
                Step::Us3l {
                    auxiliary: head("auxiliary", HeadSpec::predictor(256, HIDDEN))?,
                    teacher: Box::new(net.teacher()),
                    teacher_projector: Box::new(projector.teacher()),
                    projector,
                }
            }
            _ => Step::Supervised,
        };
        let mut learner = Self {
            net,
            step,
            sgd: Sgd::new(MOMENTUM, WEIGHT_DECAY, &[]),
            views: read_views(images, shape)?,
            labels: labels(shape[0])?,
        };
        learner.sgd = Sgd::new(MOMENTUM, WEIGHT_DECAY, &learner.stores());
        Ok(learner)
    }

    fn stores(&self) -> Vec<&ParamStore> {
        let heads = match &self.step {
            Step::Supervised => vec![],
            Step::Ssql {
                projector,
                predictor,
            } => vec![projector.store(), predictor.store()],
            Step::Us3l {
                projector,
                auxiliary,
                ..
            } => vec![projector.store(), auxiliary.store()],
        };
        [self.net.store()].into_iter().chain(heads).collect()
    }

    /// Writes every parameter: `parameters.json` has names and shapes in order, `parameters.f32` the
    /// values.
    pub(crate) fn export(&self, folder: &Path) -> Result<()> {
        let stores = self.stores();
        let specs = stores.iter().flat_map(|store| store.specs());
        let index: Vec<_> = specs
            .map(|spec| json!({ "name": spec.name, "shape": spec.shape }))
            .collect();
        std::fs::write(folder.join("parameters.json"), serde_json::to_vec(&index)?)?;
        let bytes: Vec<u8> = stores.iter().flat_map(|store| store.to_bytes()).collect();
        std::fs::write(folder.join("parameters.f32"), bytes)?;
        Ok(())
    }

    /// One iteration; gives the loss of each of its networks.
    pub(crate) fn step(&mut self) -> Result<Vec<f32>> {
        match self.step {
            Step::Supervised => self.supervised(),
            Step::Ssql { .. } => self.ssql(),
            Step::Us3l { .. } => self.us3l(),
        }
    }

    fn supervised(&mut self) -> Result<Vec<f32>> {
        let mode = Mode::float(Width::FULL);
        let outputs = self.net.forward(&self.views[0], &mode, None)?;
        let likelihoods = log_softmax(outputs.vector("logits")?, 1);
        let images = self.labels.dims()[0] as f64;
        let loss = (likelihoods * self.labels.clone().autodiff()).sum() / -images;
        let value = scalar(&loss);
        self.descend(&mut [vec![loss.backward()]])?;
        Ok(vec![value])
    }

    fn ssql(&mut self) -> Result<Vec<f32>> {
        let Step::Ssql {
            projector,
            predictor,
        } = &self.step
        else {
            return Ok(vec![]);
        };
        let float = Mode::float(Width::FULL);
        let mut observer = Observer::new(Averaging::Cumulative);
        let mut embed = |view| -> Result<Tensor<2>> {
            let outputs = self.net.forward(view, &float, Some(&mut observer))?;
            Ok(projector.forward(outputs.vector("features")?)?)
        };
        let [first, second] = [embed(&self.views[0])?, embed(&self.views[1])?];
        let targets = [&first, &second].map(|z| z.clone().without_autodiff());
        let predictions = [predictor.forward(first)?, predictor.forward(second)?];
        let loss = losses::cosine(predictions, targets.clone());
        let mut values = vec![scalar(&loss)];
        let mut gradients = vec![vec![(loss * 0.5).backward()]];

        let quantised = Mode {
            quant: Quantisation::Ranges {
                bits: BITS,
                grid: WeightGrid::MinMax,
                ranges: observer.ranges(),
            },
            ..float
        };
        let predict = |view| -> Result<Tensor<2>> {
            let features = self
                .net
                .forward(view, &quantised, None)?
                .vector("features")?;
            let z = projector.forward_quantised(features, WeightGrid::MinMax)?;
            Ok(predictor.forward(z)?)
        };
        let predictions = [predict(&self.views[0])?, predict(&self.views[1])?];
        let loss = losses::cosine(predictions, targets);
        values.push(scalar(&loss));
        gradients.push(vec![(loss * 0.5).backward()]);
        self.descend(&mut gradients)?;
        Ok(values)
    }

    fn us3l(&mut self) -> Result<Vec<f32>> {
        let Step::Us3l {
            projector,
            teacher,
            teacher_projector,
            ..
        } = &mut self.step
        else {
            return Ok(vec![]);
        };
        ema_update(teacher.store_mut(), self.net.store(), TEACHER_MOMENTUM)?;
        ema_update(
            teacher_projector.store_mut(),
            projector.store(),
            TEACHER_MOMENTUM,
        )?;
        let full = Mode::float(Width::FULL);
        let target = |view| -> Result<Tensor<2>> {
            let outputs = teacher.forward(view, &full, None)?;
            Ok(teacher_projector.forward(outputs.vector("features")?)?)
        };
        let targets = [target(&self.views[0])?, target(&self.views[1])?];
        let mut values = Vec::with_capacity(1 + STUDENTS.len());
        for width in [1.0].into_iter().chain(STUDENTS) {
            let mode = Mode {
                norm: NormMode::Batch,
                ..Mode::float(Width::new(width)?)
            };
            let loss = self.us3l_loss(&mode, targets.clone())?;
            values.push(scalar(&loss));
            self.descend(&mut [vec![loss.backward()]])?;
        }
        Ok(values)
    }

    fn us3l_loss(&self, mode: &Mode<'_>, targets: [Tensor<2>; 2]) -> Result<Tensor<1>> {
        let Step::Us3l {
            projector,
            auxiliary,
            ..
        } = &self.step
        else {
            return Err("not a US3L step".into());
        };
        let embed = |view| -> Result<Tensor<2>> {
            let outputs = self.net.forward(view, mode, None)?;
            Ok(projector.forward(outputs.vector("features")?)?)
        };
        let [first, second] = [embed(&self.views[0])?, embed(&self.views[1])?];
        if mode.width == Width::FULL {
            return Ok(losses::info_nce([first, second], targets, TEMPERATURE));
        }
        let predictions = [auxiliary.forward(first)?, auxiliary.forward(second)?];
        Ok(losses::cosine(predictions, targets))
    }

    fn descend(&mut self, gradients: &mut [Vec<Gradients>]) -> Result<()> {
        let mut stores = vec![self.net.store_mut()];
        match &mut self.step {
            Step::Supervised => {}
            Step::Ssql {
                projector,
                predictor: other,
            }
            | Step::Us3l {
                projector,
                auxiliary: other,
                ..
            } => stores.extend([projector.store_mut(), other.store_mut()]),
        }
        self.sgd
            .step(LEARNING_RATE, &mut stores, gradients, Penalty::None)?;
        Ok(())
    }
}

fn graph(step: &str, [_, channels, rows, columns]: [usize; 4]) -> Result<Graph> {
    let input = [channels, rows, columns];
    let resnet = ResNet::cifar(ResNetDepth::D18, input);
    Ok(match step {
        "resnet18" => ResNet {
            classes: Some(CLASSES),
            ..resnet
        }
        .graph()?,
        "mobilenetv2" => MobileNetV2 {
            classes: Some(CLASSES),
            ..MobileNetV2::cifar(input)
        }
        .graph()?,
        "ssql" | "us3l" => resnet.graph()?,
        _ => return Err(format!("no step is called {step}").into()),
    })
}

fn read_views(path: &Path, shape: [usize; 4]) -> Result<[Tensor<4>; 2]> {
    let bytes = std::fs::read(path)?;
    let (values, _) = bytes.as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let length = shape.iter().product::<usize>();
    if values.len() != 2 * length {
        return Err(format!("{} floats are not two views of {shape:?}", values.len()).into());
    }
    let device = parse_device("cpu")?;
    let view = |values: &[f32]| Tensor::from_data(TensorData::new(values.to_vec(), shape), &device);
    Ok([view(&values[..length]), view(&values[length..])])
}

/// Image `i` is of class `i mod 10`.
fn labels(images: usize) -> Result<Tensor<2>> {
    let one_hot = (0..images * CLASSES)
        .map(|at| f32::from(at / CLASSES % CLASSES == at % CLASSES))
        .collect::<Vec<_>>();
    let data = TensorData::new(one_hot, [images, CLASSES]);
    Ok(Tensor::from_data(data, &parse_device("cpu")?))
}

fn scalar(loss: &Tensor<1>) -> f32 {
    loss.clone().without_autodiff().into_scalar()
}
