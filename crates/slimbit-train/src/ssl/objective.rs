//! What the networks of an iteration minimise, given what they and their teacher make of the views.

use burn::tensor::{Int, Tensor};
use slimbit_nn::{NnError, Recomputed, losses};

use super::learner::Learner;
use crate::config::{Head, Loss, ObjectiveConfig};
use crate::run_dir::RoundingError;

/// One tensor per view that was looked at.
pub(super) type Views<const D: usize> = Vec<Tensor<D>>;

/// What a network makes of the views.
pub(super) struct Embedding<'a> {
    /// Backbone features `[batch, channels]` of the first view.
    pub(super) features: Tensor<2>,
    /// Projections `[batch, dim]`.
    pub(super) z: Views<2>,
    /// Intermediate maps of every view.
    pub(super) maps: Vec<Views<4>>,
    /// The passes that gave the features, where those are to be computed again for the gradients.
    pub(super) passes: Vec<Recomputed<'a>>,
}

/// What a network is to agree with. Carries no gradient.
#[derive(Clone)]
pub(super) struct Targets {
    pub(super) z: Views<2>,
    pub(super) maps: Vec<Views<4>>,
}

impl Embedding<'_> {
    pub(super) fn detached(&self) -> Targets {
        let constant = |z: &Tensor<2>| z.clone().without_autodiff();
        let constants = |maps: &Views<4>| {
            let maps = maps.iter().map(|map| map.clone().without_autodiff());
            maps.collect()
        };
        Targets {
            z: self.z.iter().map(constant).collect(),
            maps: self.maps.iter().map(constants).collect(),
        }
    }
}

/// What rounding does to embeddings that were float.
pub(super) fn rounding_error(float: &Views<2>, rounded: &Views<2>) -> RoundingError {
    let scalar = |x: Tensor<1>| f64::from(x.into_scalar::<f32>());
    let constant = |x: &Tensor<2>| x.clone().without_autodiff();
    let (mut error, mut size, mut alignment) = (0.0, 0.0, 0.0);
    for (view, (z, q)) in float.iter().zip(rounded).enumerate() {
        let e = constant(q) - constant(z);
        // With one view there is no residual, and the alignment is 0.
        let residual = constant(z) - constant(&float[float.len() - 1 - view]);
        let cosine = losses::normalise(e.clone()) * losses::normalise(residual);
        error += scalar(e.square().sum());
        size += scalar(constant(z).square().sum());
        alignment += scalar(cosine.sum_dim(1).mean()) / float.len() as f64;
    }
    RoundingError {
        relative: error / size.max(f64::MIN_POSITIVE),
        alignment,
    }
}

/// A loss, and how far what it compares agrees: the mean cosine, or the share of equal answers of a classifier.
pub(super) struct Scored {
    pub(super) loss: Tensor<1>,
    pub(super) agreement: f64,
}

/// The views that the trained networks see, and those that the teacher sees.
pub(crate) fn views_of(objective: &ObjectiveConfig) -> [std::ops::Range<usize>; 2] {
    match objective.base_loss {
        Loss::Cosine | Loss::InfoNce => [0..2, 0..2],
        Loss::Moco => [0..1, 1..2],
        Loss::Seed | Loss::CrossEntropy => [0..1, 0..1],
    }
}

impl Learner {
    /// The loss of a network that learns from the data: the base, or every network where students have targets of their
    /// own.
    pub(super) fn base_loss(
        &self,
        objective: &ObjectiveConfig,
        z: Views<2>,
        targets: &Targets,
        classes: Option<&Tensor<1, Int>>,
    ) -> Result<Scored, NnError> {
        let predictions = match (objective.base_loss, &self.predictor) {
            (Loss::Cosine, Some(h)) => through(h, z)?,
            _ => z,
        };
        Ok(match objective.base_loss {
            // Without a teacher this is SimCLR: both views carry gradients.
            Loss::InfoNce if self.teacher.is_none() => {
                let [first, second] = both(&predictions);
                Scored {
                    agreement: agreement(&predictions, &targets.z),
                    loss: losses::info_nce_pair(first, second, objective.temperature),
                }
            }
            Loss::CrossEntropy => {
                let logits = predictions[0].clone();
                let classes = classes.expect("checked: the images have labels").clone();
                Scored {
                    agreement: share_equal(&logits, classes.clone()),
                    loss: losses::cross_entropy(logits, classes),
                }
            }
            loss => self.compare(objective, loss, &predictions, &targets.z),
        })
    }

    /// The loss of a student, which learns from the base's targets.
    pub(super) fn student_loss(
        &self,
        objective: &ObjectiveConfig,
        seen: &Embedding<'_>,
        targets: &Targets,
    ) -> Result<Scored, NnError> {
        let head = match objective.head {
            Head::Auxiliary => self.auxiliary.as_ref(),
            Head::Shared => self.predictor.as_ref(),
            Head::None => None,
        };
        let predictions = match head {
            Some(head) => through(head, seen.z.clone())?,
            None => seen.z.clone(),
        };
        let Scored { loss, agreement } = match objective.student_loss {
            Loss::CrossEntropy => {
                let (logits, answers) = (predictions[0].clone(), targets.z[0].clone());
                let best = answers.clone().argmax(1).flatten(0, 1);
                Scored {
                    agreement: share_equal(&logits, best),
                    loss: losses::soft_cross_entropy(logits, answers),
                }
            }
            loss => self.compare(objective, loss, &predictions, &targets.z),
        };
        let mut loss = loss * objective.student_weight;
        if let Some(projector) = &self.maps {
            let mut differences = Vec::new();
            // Cross-view, as the embeddings are (spec section 3.8).
            for (own, other) in seen.maps.iter().zip(targets.maps.iter().rev()) {
                for (index, (map, target)) in own.iter().zip(other).enumerate() {
                    let difference = projector.forward(index, map.clone())? - target.clone();
                    differences.push(difference.square().mean());
                }
            }
            let weight = objective.map_weight / differences.len() as f64;
            loss = loss + Tensor::cat(differences, 0).sum() * weight;
        }
        Ok(Scored { loss, agreement })
    }

    fn compare(
        &self,
        objective: &ObjectiveConfig,
        loss: Loss,
        predictions: &Views<2>,
        targets: &Views<2>,
    ) -> Scored {
        let agreement = agreement(predictions, targets);
        let temperature = objective.temperature;
        let loss = match loss {
            Loss::Cosine => losses::cosine(both(predictions), both(targets)),
            Loss::InfoNce => losses::info_nce(both(predictions), both(targets), temperature),
            Loss::Moco | Loss::Seed => {
                let (query, key) = (predictions[0].clone(), targets[0].clone());
                let queue = self.queue.as_ref().expect("made where a loss has one");
                let queue = queue.tensor(&key.device());
                match loss {
                    Loss::Seed => {
                        let temperatures = [temperature, objective.teacher_temperature];
                        losses::seed(query, key, queue, temperatures)
                    }
                    _ => losses::moco(query, key, queue, temperature),
                }
            }
            Loss::CrossEntropy => unreachable!("has labels or answers, not embeddings"),
        };
        Scored { loss, agreement }
    }
}

fn through(head: &slimbit_nn::Head, z: Views<2>) -> Result<Views<2>, NnError> {
    z.into_iter().map(|z| head.forward(z)).collect()
}

fn both(views: &Views<2>) -> [Tensor<2>; 2] {
    [views[0].clone(), views[1].clone()]
}

/// Mean cosine of predictions and the targets of the other view.
fn agreement(predictions: &Views<2>, targets: &Views<2>) -> f64 {
    let pairs = predictions.iter().zip(targets.iter().rev());
    let cosines: Vec<f64> = pairs
        .map(|(p, t)| {
            let [p, t] = [p, t].map(|x| losses::normalise(x.clone().without_autodiff()));
            let mean: f32 = (p * t).sum_dim(1).mean().into_scalar();
            f64::from(mean)
        })
        .collect();
    cosines.iter().sum::<f64>() / cosines.len() as f64
}

/// Share of rows whose largest logit is that of the given class.
fn share_equal(logits: &Tensor<2>, classes: Tensor<1, Int>) -> f64 {
    let answers = logits.clone().without_autodiff().argmax(1).flatten(0, 1);
    let share: f32 = answers.equal(classes).float().mean().into_scalar();
    share.into()
}
