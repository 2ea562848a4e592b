//! One iteration: in which order networks see the images, learn, and step.

use burn::tensor::{Gradients, Int, Tensor, TensorData};
use slimbit_data::ViewBatch;
use slimbit_graph::Width;
use slimbit_nn::{
    Averaging, Bits, Mode, NnError, NormMode, Observer, Penalty, Quantisation, Recomputed,
    effective_rank, ema_update, feature_std,
};

use super::learner::{Learner, Part};
use super::objective::{Embedding, Scored, Targets, Views, rounding_error, views_of};
use super::{Networks, Student};
use crate::config::{EmaUpdate, ObjectiveConfig, Ranges, StudentTarget, Target, Update};
use crate::run_dir::{NetworkRecord, RoundingError};
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

/// Images that pass the networks together.
struct Chunk {
    images: Views<4>,
    classes: Option<Tensor<1, Int>>,
    targets: Option<Targets>,
    /// The base's own embedding.
    base: Views<2>,
    /// What the base's float pass measured, where a student rounds by it.
    observer: Option<Observer>,
}

impl Learner {
    /// One iteration of the combined step (spec section 5.2): the teacher moves and gives the targets, once; the
    /// float base takes its sub-step on the base loss; each student regresses the same targets in one of its own.
    /// The optimiser steps after every sub-step, or once at the end on half the base's gradient and half the
    /// students' mean. Gives a record per network, the base first.
    ///
    /// `classes` are the images' labels, where the base learns from labels.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] as soon as a loss is not.
    pub(crate) fn iterate(
        &mut self,
        config: &TrainConfig,
        drawn: &Networks,
        views: &ViewBatch,
        classes: Option<&[u32]>,
        moment: Moment,
    ) -> Result<Vec<NetworkRecord>, TrainError> {
        let objective = &config.objective;
        let mut chunks = self.chunks(views, classes, config.micro_batch);
        let students = match objective.target {
            Target::Quantised => &[][..],
            Target::Ema | Target::Online | Target::Frozen => &drawn.students,
        };
        let (base_share, student_share) = shares(objective, students.len());
        let mut descent = Descent {
            moment,
            update: objective.update,
            loss_scale: self.sgd.loss_scale(),
            pending: vec![],
            records: vec![],
        };

        self.move_teacher(objective.ema)?;
        self.teach(&mut chunks, drawn.base, objective)?;
        let base = Student {
            width: drawn.base,
            bits: None,
        };
        let mut measured = Measured::default();
        for chunk in &mut chunks {
            let share = base_share / measured.over(views.n, chunk);
            let (scored, seen) = self.base_pass(config, drawn, chunk)?;
            descent.take(base, &scored, seen.passes, share)?;
            measured.add(&scored, &seen.features, None);
        }
        descent.close(self, base, &measured)?;

        for &student in students {
            if objective.ema_update != EmaUpdate::Iteration {
                self.move_teacher(objective.ema)?;
            }
            if objective.ema_update == EmaUpdate::SubStepFresh {
                self.teach(&mut chunks, drawn.base, objective)?;
            }
            let mut measured = Measured::default();
            for chunk in &chunks {
                let (scored, seen) = self.student_pass(config, student, chunk)?;
                let share = student_share / measured.over(views.n, chunk);
                descent.take(student, &scored, seen.passes, share)?;
                let rounded = student.bits.is_some() && student.width == drawn.base;
                let error = rounded.then(|| rounding_error(&chunk.base, &seen.z));
                measured.add(&scored, &seen.features, error);
            }
            descent.close(self, student, &measured)?;
        }
        self.enqueue(&chunks, moment.step * views.n as u64);
        descent.finish(self)
    }

    fn chunks(&self, views: &ViewBatch, classes: Option<&[u32]>, size: usize) -> Vec<Chunk> {
        let device = self.net.store().device().clone().without_autodiff();
        let size = if size == 0 { views.n } else { size };
        let image = views.c * views.h * views.w;
        let chunk = |first: usize| {
            let rows = first..(first + size).min(views.n);
            let shape = [rows.len(), views.c, views.h, views.w];
            let images = views.views.iter().map(|values| {
                let values = values[rows.start * image..rows.end * image].to_vec();
                Tensor::from_data(TensorData::new(values, shape), &device)
            });
            let classes = classes.map(|classes| {
                let classes: Vec<i32> = classes[rows.clone()].iter().map(|&c| c as i32).collect();
                Tensor::from_data(TensorData::new(classes, [rows.len()]), &device)
            });
            Chunk {
                images: images.collect(),
                classes,
                targets: None,
                base: vec![],
                observer: None,
            }
        };
        (0..views.n).step_by(size).map(chunk).collect()
    }

    fn move_teacher(&mut self, ema: f64) -> Result<(), NnError> {
        let Some(teacher) = self.teacher.as_mut().filter(|teacher| teacher.moves()) else {
            return Ok(());
        };
        ema_update(teacher.net.store_mut(), self.net.store(), ema)?;
        ema_update(teacher.projector.store_mut(), self.projector.store(), ema)
    }

    /// Gives every chunk the teacher's targets, where there is a teacher.
    fn teach(
        &self,
        chunks: &mut [Chunk],
        width: Width,
        objective: &ObjectiveConfig,
    ) -> Result<(), NnError> {
        for chunk in chunks {
            chunk.targets = self.teacher_targets(chunk, width, objective)?;
        }
        Ok(())
    }

    fn teacher_targets(
        &self,
        chunk: &Chunk,
        width: Width,
        objective: &ObjectiveConfig,
    ) -> Result<Option<Targets>, NnError> {
        let Some(teacher) = &self.teacher else {
            return Ok(None);
        };
        let [_, seen] = views_of(objective);
        let mut targets = Targets {
            z: vec![],
            maps: vec![],
        };
        let mode = Mode::float(teacher.frozen_at.unwrap_or(width));
        for images in &chunk.images[seen] {
            let (outputs, maps) =
                teacher
                    .net
                    .forward_tapped(images, &mode, None, &objective.maps)?;
            targets
                .z
                .push(teacher.projector.forward(outputs.vector("features")?)?);
            targets.maps.push(maps);
        }
        Ok(Some(targets))
    }

    fn base_pass(
        &self,
        config: &TrainConfig,
        drawn: &Networks,
        chunk: &mut Chunk,
    ) -> Result<(Scored, Embedding<'_>), NnError> {
        let objective = &config.objective;
        chunk.observer = observes(objective, drawn).then(|| Observer::new(Averaging::Cumulative));
        let mode = Mode::float(drawn.base);
        let seen = self.embed(config, &chunk.images, &mode, chunk.observer.as_mut(), None)?;
        let targets = match (objective.target, &drawn.students[..]) {
            (Target::Quantised, [student, ..]) => {
                self.embed_student(config, *student, chunk)?.detached()
            }
            _ => match chunk.targets.take() {
                Some(targets) => targets,
                None => seen.detached(),
            },
        };
        let classes = chunk.classes.as_ref();
        chunk.base = seen.detached().z;
        let scored = self.base_loss(objective, seen.z.clone(), &targets, classes)?;
        chunk.targets = Some(targets);
        Ok((scored, seen))
    }

    fn student_pass<'a>(
        &'a self,
        config: &TrainConfig,
        student: Student,
        chunk: &'a Chunk,
    ) -> Result<(Scored, Embedding<'a>), NnError> {
        let objective = &config.objective;
        let seen = self.embed_student(config, student, chunk)?;
        let scored = match objective.student_target {
            StudentTarget::Base => {
                let targets = chunk.targets.as_ref().expect("the base went first");
                self.student_loss(objective, &seen, targets)?
            }
            StudentTarget::Own => {
                let taught = self.teacher_targets(chunk, student.width, objective)?;
                let targets = taught.unwrap_or_else(|| seen.detached());
                let classes = chunk.classes.as_ref();
                let Scored { loss, agreement } =
                    self.base_loss(objective, seen.z.clone(), &targets, classes)?;
                Scored {
                    loss: loss * objective.student_weight,
                    agreement,
                }
            }
        };
        Ok((scored, seen))
    }

    /// Each view in a pass of its own, so that each has its own batch statistics. With `rounding`, the projector's
    /// weights are rounded to 8 bits on its grid.
    fn embed<'a>(
        &'a self,
        config: &TrainConfig,
        images: &Views<4>,
        mode: &Mode<'a>,
        mut observer: Option<&mut Observer>,
        rounding: Option<slimbit_num::WeightGrid>,
    ) -> Result<Embedding<'a>, NnError> {
        let objective = &config.objective;
        let [looked_at, _] = views_of(objective);
        let mut first = None;
        let (mut z, mut maps, mut passes) = (vec![], vec![], vec![]);
        for images in &images[looked_at] {
            let observer = observer.as_deref_mut();
            let features = if config.gradient_checkpointing {
                let pass = self.net.forward_recomputed(images, mode, observer)?;
                let features = pass.features();
                passes.push(pass);
                features
            } else {
                let taps = &objective.maps;
                let (outputs, tapped) = self.net.forward_tapped(images, mode, observer, taps)?;
                maps.push(tapped);
                outputs.vector("features")?
            };
            first.get_or_insert_with(|| features.clone());
            z.push(match rounding {
                Some(grid) => self.projector.forward_quantised(features, grid)?,
                None => self.projector.forward(features)?,
            });
        }
        Ok(Embedding {
            features: first.expect("every objective looks at a view"),
            z,
            maps,
            passes,
        })
    }

    /// A student rounds on the grid that is deployed. Its activation ranges are those that the base's float pass
    /// measured, where there is such a pass of its width, or those of each tensor itself (spec section 5.4).
    fn embed_student<'a>(
        &'a self,
        config: &TrainConfig,
        student: Student,
        chunk: &'a Chunk,
    ) -> Result<Embedding<'a>, NnError> {
        let grid = config.grid;
        let at_base = student.width.get() == config.objective.widths.max;
        let quant = match student.bits {
            None => Quantisation::Off,
            Some(pair) => {
                let bits = Bits {
                    weight: pair.weight,
                    act: pair.act,
                };
                match chunk.observer.as_ref().filter(|_| at_base) {
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
        let rounds = student.bits.is_some() && config.heads.eight_bit_projector;
        let rounding = rounds.then_some(grid);
        self.embed(config, &chunk.images, &mode, None, rounding)
    }

    /// Puts an iteration's targets into the queue, where there is one.
    fn enqueue(&mut self, chunks: &[Chunk], before: u64) {
        let Some(queue) = &mut self.queue else {
            return;
        };
        let mut before = before;
        for chunk in chunks {
            let targets = chunk.targets.as_ref().expect("the base went first");
            let rows = targets.z[0].clone().into_data().try_to_vec::<f32>();
            queue.push(&rows.expect("targets are f32"), before);
            before += targets.z[0].dims()[0] as u64;
        }
    }
}

/// Whether a student needs the ranges of the base's float pass.
fn observes(objective: &ObjectiveConfig, drawn: &Networks) -> bool {
    objective.bits.full_width_ranges == Ranges::Measured
        && drawn.base.get() == objective.widths.max
        && drawn
            .students
            .iter()
            .any(|s| s.width == drawn.base && s.bits.is_some())
}

/// What the base's loss and each student's count in the gradient (spec section 5.6).
fn shares(objective: &ObjectiveConfig, students: usize) -> (f64, f64) {
    match objective.update {
        Update::PerStudent => (1.0, 1.0),
        Update::Accumulated if students == 0 => (1.0, 0.0),
        Update::Accumulated => (0.5, 0.5 / students as f64),
    }
}

/// What was measured of a network, summed over chunks.
#[derive(Default)]
struct Measured {
    chunks: f64,
    loss: f64,
    agreement: f64,
    feature_std: f64,
    effective_rank: f64,
    relative: f64,
    alignment: f64,
    rounded: bool,
}

impl Measured {
    /// By what a chunk's mean loss is divided to become its part of the batch's mean.
    fn over(&self, images: usize, chunk: &Chunk) -> f64 {
        images as f64 / chunk.images[0].dims()[0] as f64
    }

    fn add(&mut self, scored: &Scored, features: &Tensor<2>, error: Option<RoundingError>) {
        let loss: f32 = scored.loss.clone().without_autodiff().into_scalar();
        self.chunks += 1.0;
        self.loss += f64::from(loss);
        self.agreement += scored.agreement;
        self.feature_std += feature_std(features);
        self.effective_rank += effective_rank(features);
        if let Some(error) = error {
            self.rounded = true;
            self.relative += error.relative;
            self.alignment += error.alignment;
        }
    }
}

/// The gradients of one iteration, and when the optimiser steps on them.
struct Descent {
    moment: Moment,
    update: Update,
    /// What losses are multiplied by, for gradients in 16-bit floats.
    loss_scale: f64,
    pending: Vec<Vec<Gradients>>,
    records: Vec<NetworkRecord>,
}

impl Descent {
    /// Takes the gradient of a part of one network's loss, and that of the passes behind it.
    fn take(
        &mut self,
        network: Student,
        scored: &Scored,
        passes: Vec<Recomputed<'_>>,
        share: f64,
    ) -> Result<(), TrainError> {
        let value: f32 = scored.loss.clone().without_autodiff().into_scalar();
        if !value.is_finite() {
            return Err(TrainError::NotFinite {
                step: self.moment.step,
                place: format!("sub-step {} ({network})", self.records.len()),
                lr: self.moment.lr,
                what: format!("the loss is {value}"),
            });
        }
        let mut gradients = (scored.loss.clone() * (share * self.loss_scale)).backward();
        let mut parts = Vec::new();
        for pass in passes {
            parts.extend(pass.backward(&mut gradients)?);
        }
        parts.push(gradients);
        self.pending.push(parts);
        Ok(())
    }

    /// Records a network, and steps where every network has a step of its own.
    fn close(
        &mut self,
        learner: &mut Learner,
        network: Student,
        sums: &Measured,
    ) -> Result<(), TrainError> {
        let mean = |sum: f64| sum / sums.chunks;
        self.records.push(NetworkRecord {
            width: network.width.get(),
            bits: network.bits.map(|pair| [pair.weight, pair.act]),
            loss: mean(sums.loss),
            agreement: mean(sums.agreement),
            feature_std: mean(sums.feature_std),
            effective_rank: mean(sums.effective_rank),
            gradient_norm: None,
            rounding: sums.rounded.then(|| RoundingError {
                relative: mean(sums.relative),
                alignment: mean(sums.alignment),
            }),
        });
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
        let regularised: Vec<bool> = learner
            .trained_parts()
            .into_iter()
            .map(|part| match part {
                Part::Net | Part::Projector => true,
                Part::Predictor => predictors,
                Part::Maps => false,
            })
            .collect();
        let (sgd, mut stores) = learner.descent();
        let penalty = group.as_ref().map_or(Penalty::None, |reg| Penalty::Groups {
            reg,
            epoch: self.moment.epoch as usize,
            stores: &regularised,
        });
        let norm = sgd.step(self.moment.lr, &mut stores, &mut self.pending, penalty)?;
        self.pending.clear();
        self.loss_scale = sgd.loss_scale();
        if let Some(record) = self.records.last_mut() {
            record.gradient_norm = norm;
        }
        // Without a norm, the step was left out and the next is scaled by half as much.
        let Some(norm) = norm.filter(|norm| !norm.is_finite()) else {
            return Ok(());
        };
        Err(TrainError::NotFinite {
            step: self.moment.step,
            place: format!("sub-step {}", self.records.len() - 1),
            lr: self.moment.lr,
            what: format!("the gradient's norm is {norm}"),
        })
    }
}
