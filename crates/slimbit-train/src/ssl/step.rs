use burn::tensor::{Gradients, Tensor, TensorData};
use slimbit_data::ViewBatch;
use slimbit_graph::Width;
use slimbit_nn::{
    Averaging, Bits, Mode, NnError, NormMode, Observer, Penalty, Quantisation, ema_update,
    feature_std, losses,
};

use super::learner::Learner;
use super::{Networks, Student};
use crate::config::{Head, Loss, ObjectiveConfig, Ranges, Target, Update};
use crate::run_dir::NetworkRecord;
use crate::{TrainConfig, TrainError};

/// Where in a run an iteration is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// The iteration, from 0.
    pub(crate) step: u64,
    /// The epoch, from 0.
    pub(crate) epoch: u64,
    /// The learning rate.
    pub(crate) lr: f64,
}

/// One tensor per view.
type Views<const D: usize> = [Tensor<D>; 2];

/// What a network makes of both views.
struct Embedding {
    /// Backbone features `[batch, channels]` of the first view.
    features: Tensor<2>,
    /// Projections `[batch, dim]`.
    z: Views<2>,
}

impl Learner {
    /// One iteration of the combined step (spec section 5.2): the teacher moves and gives the targets, once; the
    /// float base takes its sub-step on the base loss; each student regresses the same targets in one of its own.
    /// The optimiser steps after every sub-step, or once at the end on half the base's gradient and half the
    /// students' mean. Gives a record per network, the base first.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] as soon as a loss is not.
    pub(crate) fn iterate(
        &mut self,
        config: &TrainConfig,
        drawn: &Networks,
        views: ViewBatch,
        moment: Moment,
    ) -> Result<Vec<NetworkRecord>, TrainError> {
        let objective = &config.objective;
        let images = self.images(views);
        let taught = self.teach(&images, objective.ema)?;
        let (base_share, student_share) = shares(objective, drawn.students.len());
        let mut descent = Descent {
            moment,
            update: objective.update,
            pending: vec![],
            records: vec![],
        };

        let base = Student {
            width: drawn.base,
            bits: None,
        };
        let mut observer = observes(objective, drawn).then(|| Observer::new(Averaging::Cumulative));
        let seen = self.embed(&images, &Mode::float(base.width), observer.as_mut())?;
        let targets = taught.unwrap_or_else(|| seen.z.clone().map(Tensor::without_autodiff));
        let loss = self.base_loss(objective, seen.z, &targets)?;
        descent.take(self, base, &seen.features, loss, base_share)?;

        for &student in &drawn.students {
            let seen = self.embed_student(&images, student, config, observer.as_ref())?;
            let loss = self.student_loss(objective, seen.z, &targets)?;
            descent.take(self, student, &seen.features, loss, student_share)?;
        }
        descent.finish(self)
    }

    fn images(&self, views: ViewBatch) -> Views<4> {
        let shape = [views.n, views.c, views.h, views.w];
        let device = self.net.store().device().clone().without_autodiff();
        views
            .views
            .map(|values| Tensor::from_data(TensorData::new(values, shape), &device))
    }

    /// Moves the teacher, if there is one, and gives its projections of both views.
    fn teach(&mut self, images: &Views<4>, ema: f64) -> Result<Option<Views<2>>, NnError> {
        let Some(teacher) = &mut self.teacher else {
            return Ok(None);
        };
        ema_update(teacher.net.store_mut(), self.net.store(), ema)?;
        ema_update(teacher.projector.store_mut(), self.projector.store(), ema)?;
        let target = |image: &Tensor<4>| {
            let outputs = teacher
                .net
                .forward(image, &Mode::float(Width::FULL), None)?;
            teacher.projector.forward(outputs.vector("features")?)
        };
        Ok(Some([target(&images[0])?, target(&images[1])?]))
    }

    /// Each view in a pass of its own, so that each has its own batch statistics.
    fn embed(
        &self,
        images: &Views<4>,
        mode: &Mode<'_>,
        mut observer: Option<&mut Observer>,
    ) -> Result<Embedding, NnError> {
        let [first, second] = images.each_ref();
        let features = self
            .net
            .forward(first, mode, observer.as_deref_mut())?
            .vector("features")?;
        let other = self
            .net
            .forward(second, mode, observer)?
            .vector("features")?;
        let z = [
            self.projector.forward(features.clone())?,
            self.projector.forward(other)?,
        ];
        Ok(Embedding { features, z })
    }

    /// A student rounds on the grid that is deployed. Its activation ranges are those that the base's float pass
    /// measured, where there is such a pass of its width, or those of each tensor itself (spec section 5.4).
    fn embed_student(
        &self,
        images: &Views<4>,
        student: Student,
        config: &TrainConfig,
        measured: Option<&Observer>,
    ) -> Result<Embedding, NnError> {
        let grid = config.grid;
        let quant = match (student.bits, measured) {
            (None, _) => Quantisation::Off,
            (Some(pair), measured) => {
                let bits = Bits {
                    weight: pair.weight,
                    act: pair.act,
                };
                match measured.filter(|_| student.width == Width::FULL) {
                    Some(observer) => Quantisation::Ranges {
                        bits,
                        grid,
                        ranges: observer.ranges(),
                    },
                    None => Quantisation::Dynamic { bits, grid },
                }
            }
        };
        let mode = Mode {
            width: student.width,
            quant,
            norm: NormMode::Batch,
        };
        if student.bits.is_none() || !config.heads.eight_bit_projector {
            return self.embed(images, &mode, None);
        }
        let features = |image| self.net.forward(image, &mode, None)?.vector("features");
        let [first, second] = [features(&images[0])?, features(&images[1])?];
        let project = |x: &Tensor<2>| self.projector.forward_quantised(x.clone(), grid);
        let z = [project(&first)?, project(&second)?];
        Ok(Embedding { features: first, z })
    }

    fn base_loss(
        &self,
        objective: &ObjectiveConfig,
        z: Views<2>,
        targets: &Views<2>,
    ) -> Result<Tensor<1>, NnError> {
        Ok(match (objective.base_loss, &self.predictor) {
            (Loss::Cosine, Some(h)) => {
                let [first, second] = z;
                losses::cosine([h.forward(first)?, h.forward(second)?], targets.clone())
            }
            (Loss::Cosine, None) => losses::cosine(z, targets.clone()),
            // Without a teacher this is SimCLR: both views carry gradients.
            (Loss::InfoNce, _) if objective.target == Target::Online => {
                let [first, second] = z;
                losses::info_nce_pair(first, second, objective.temperature)
            }
            (Loss::InfoNce, _) => losses::info_nce(z, targets.clone(), objective.temperature, None),
        })
    }

    fn student_loss(
        &self,
        objective: &ObjectiveConfig,
        z: Views<2>,
        targets: &Views<2>,
    ) -> Result<Tensor<1>, NnError> {
        let head = match objective.head {
            Head::Auxiliary => self.auxiliary.as_ref(),
            Head::Shared => self.predictor.as_ref(),
            Head::None => None,
        };
        let [first, second] = z;
        let predictions = match head {
            Some(head) => [head.forward(first)?, head.forward(second)?],
            None => [first, second],
        };
        let loss = match objective.student_loss {
            Loss::Cosine => losses::cosine(predictions, targets.clone()),
            Loss::InfoNce => {
                losses::info_nce(predictions, targets.clone(), objective.temperature, None)
            }
        };
        Ok(loss * objective.student_weight)
    }
}

/// Whether a student needs the ranges of the base's float pass.
fn observes(objective: &ObjectiveConfig, drawn: &Networks) -> bool {
    objective.bits.full_width_ranges == Ranges::Measured
        && drawn.base == Width::FULL
        && drawn
            .students
            .iter()
            .any(|s| s.width == Width::FULL && s.bits.is_some())
}

/// What the base's loss and each student's count in the gradient (spec section 5.6).
fn shares(objective: &ObjectiveConfig, students: usize) -> (f64, f64) {
    match objective.update {
        Update::PerStudent => (1.0, 1.0),
        Update::Accumulated if students == 0 => (1.0, 0.0),
        Update::Accumulated => (0.5, 0.5 / students as f64),
    }
}

/// The gradients of one iteration, and when the optimiser steps on them.
struct Descent {
    moment: Moment,
    update: Update,
    pending: Vec<Gradients>,
    records: Vec<NetworkRecord>,
}

impl Descent {
    /// Takes the gradient of one network's loss, and steps where every network has a step of its own.
    fn take(
        &mut self,
        learner: &mut Learner,
        network: Student,
        features: &Tensor<2>,
        loss: Tensor<1>,
        share: f64,
    ) -> Result<(), TrainError> {
        let value: f32 = loss.clone().without_autodiff().into_scalar();
        if !value.is_finite() {
            return Err(TrainError::NotFinite {
                step: self.moment.step,
                place: format!("sub-step {} ({network})", self.records.len()),
                lr: self.moment.lr,
                what: format!("the loss is {value}"),
            });
        }
        self.records.push(NetworkRecord {
            width: network.width.get(),
            bits: network.bits.map(|pair| [pair.weight, pair.act]),
            loss: value.into(),
            feature_std: feature_std(features),
        });
        self.pending.push((loss * share).backward());
        match self.update {
            // The reference leaves predictors unregularised in the base's sub-step (spec section 3.7).
            Update::PerStudent => self.step(learner, self.records.len() > 1),
            Update::Accumulated => Ok(()),
        }
    }

    fn finish(mut self, learner: &mut Learner) -> Result<Vec<NetworkRecord>, TrainError> {
        if self.update == Update::Accumulated {
            self.step(learner, true)?;
        }
        Ok(self.records)
    }

    fn step(&mut self, learner: &mut Learner, predictors: bool) -> Result<(), TrainError> {
        let group = learner.group;
        let (sgd, mut stores) = learner.descent();
        let regularised: Vec<bool> = (0..stores.len()).map(|i| i < 2 || predictors).collect();
        let penalty = group.as_ref().map_or(Penalty::None, |reg| Penalty::Groups {
            reg,
            epoch: self.moment.epoch as usize,
            stores: &regularised,
        });
        sgd.step(self.moment.lr, &mut stores, &mut self.pending, penalty)?;
        self.pending.clear();
        Ok(())
    }
}
