use burn::tensor::{Gradients, Tensor, TensorData};

use crate::loss_scale::LossScale;
use crate::params::{floats, to_vec};
use crate::{GroupReg, NnError, ParamStore};

/// A penalty whose gradient joins those of the loss before the step.
#[derive(Clone, Copy, Debug)]
pub enum Penalty<'a> {
    /// None.
    None,
    /// Group regularisation.
    Groups {
        /// The penalty.
        reg: &'a GroupReg,
        /// The epoch.
        epoch: usize,
        /// Which stores it applies to. The reference leaves heads out at full width.
        stores: &'a [bool],
    },
}

/// Stochastic gradient descent with momentum, in the recurrence of spec section 1.2:
/// `g ← g + wd·θ; v ← m·v + g` (`v = g` at a parameter's first gradient); `θ ← θ - lr·v`.
///
/// On request gradients are clipped to a global norm, and scaled per tensor by LARS's trust ratio
/// (You, Gitman and Ginsburg 2017; in the form of spec section 3.9): `g ← (g + wd·θ) · trust·|θ| /
/// (|g| + wd·|θ| + 1e-8)`, where neither norm is 0.
///
/// Weight decay applies to every parameter. A parameter outside the current width's slice gets a
/// gradient of zero and so keeps moving by its momentum; so does a head that took part in an
/// earlier step but not in this one. A head that never took part stays where it is (spec section
/// 3.6, facts 2 and 3).
#[derive(Clone, Debug)]
pub struct Sgd {
    momentum: f64,
    weight_decay: f64,
    clip: Option<f64>,
    trust: Option<f64>,
    loss_scale: Option<LossScale>,
    /// Factors of the learning rate per store and parameter; 1 where there are none.
    rates: Vec<Vec<f64>>,
    /// Per store and parameter, once it had a gradient.
    velocity: Vec<Vec<Option<Tensor<1>>>>,
}

impl Sgd {
    /// An optimiser for these stores, which every step must give in this order.
    pub fn new(momentum: f64, weight_decay: f64, stores: &[&ParamStore]) -> Self {
        let velocity = stores.iter().map(|s| vec![None; s.values().len()]);
        Self {
            momentum,
            weight_decay,
            clip: None,
            trust: None,
            loss_scale: None,
            rates: Vec::new(),
            velocity: velocity.collect(),
        }
    }

    /// Scales gradients down to a global L2 norm of at most `norm`.
    #[must_use]
    pub fn with_clipping(mut self, norm: f64) -> Self {
        self.clip = Some(norm);
        self
    }

    /// Scales every tensor's gradient to its weights by LARS, with this trust coefficient.
    #[must_use]
    pub fn with_lars(mut self, trust: f64) -> Self {
        self.trust = Some(trust);
        self
    }

    /// Expects losses that are multiplied by [`loss_scale`](Self::loss_scale), so that small gradients
    /// survive 16-bit floats ([`Net::use_half_floats`](crate::Net::use_half_floats)).
    #[must_use]
    pub fn with_loss_scaling(mut self) -> Self {
        self.loss_scale = Some(LossScale::new());
        self
    }

    /// What the next losses are to be multiplied by before their gradients are taken: 1, or with loss
    /// scaling a power of two that halves when gradients overflow and doubles after 2,000 steps
    /// without.
    pub fn loss_scale(&self) -> f64 {
        self.loss_scale.map_or(1.0, LossScale::factor)
    }

    /// The state of loss scaling, where there is any.
    pub fn loss_scale_state(&self) -> Option<[f32; 2]> {
        self.loss_scale.map(LossScale::to_array)
    }

    /// Restores what [`loss_scale_state`](Self::loss_scale_state) gave.
    pub fn load_loss_scale_state(&mut self, state: [f32; 2]) {
        self.loss_scale = Some(LossScale::from_array(state));
    }

    /// Multiplies the learning rate of single parameters, per store and parameter in order:
    /// layer-wise learning rates. A parameter whose factor is 0 is frozen: neither decay nor
    /// momentum moves it.
    #[must_use]
    pub fn with_rates(mut self, rates: Vec<Vec<f64>>) -> Self {
        self.rates = rates;
        self
    }

    /// One step at learning rate `lr`, on the sum of `grads`: of each loss, the gradients of its
    /// backward pass, or of the parts that it was cut into. Gives the global L2 norm of that sum,
    /// the penalty's part included, before clipping; nothing where gradients overflowed the loss's
    /// scale, which moves nothing and halves the scale.
    ///
    /// # Errors
    /// [`NnError::Mode`] where the stores are not as many as the optimiser was made for.
    pub fn step(
        &mut self,
        lr: f64,
        stores: &mut [&mut ParamStore],
        grads: &mut [Vec<Gradients>],
        penalty: Penalty<'_>,
    ) -> Result<Option<f64>, NnError> {
        if stores.len() != self.velocity.len() {
            return Err(NnError::Mode(
                "an optimiser steps exactly the stores that it was made for",
            ));
        }
        let scale = self.loss_scale();
        let gradients: Vec<Vec<Option<Tensor<1>>>> = stores
            .iter()
            .enumerate()
            .map(|(s, store)| {
                let parameters = 0..store.values().len();
                parameters
                    .map(|i| gradient_of(store, (s, i), grads, scale, penalty))
                    .collect()
            })
            .collect();
        let norm = gradients
            .iter()
            .flatten()
            .flatten()
            .map(squares)
            .sum::<f64>()
            .sqrt();
        let skips = |scale: &mut LossScale| scale.update(norm.is_finite());
        if self.loss_scale.as_mut().is_some_and(skips) {
            return Ok(None);
        }
        let shrink = self.clip.map_or(1.0, |most| (most / norm).min(1.0));
        let (momentum, decay) = (self.momentum, self.weight_decay);
        let stores = stores.iter_mut().zip(&mut self.velocity).zip(gradients);
        for (s, ((store, velocity), gradients)) in stores.enumerate() {
            for (i, (velocity, gradient)) in velocity.iter_mut().zip(gradients).enumerate() {
                let rate = self.rates.get(s).map_or(1.0, |rates| rates[i]);
                if rate == 0.0 {
                    continue;
                }
                let value = store.values()[i].clone().without_autodiff();
                let gradient = match (gradient, &velocity) {
                    (Some(gradient), _) if shrink < 1.0 => gradient * shrink,
                    (Some(gradient), _) => gradient,
                    (None, Some(_)) => value.zeros_like(),
                    (None, None) => continue,
                };
                let ratio = self
                    .trust
                    .map_or(1.0, |trust| trust_ratio(trust, decay, &value, &gradient));
                let gradient = match decay == 0.0 {
                    true => gradient,
                    false => gradient + value.clone() * decay,
                };
                let gradient = match ratio == 1.0 {
                    true => gradient,
                    false => gradient * ratio,
                };
                let next = match velocity.take() {
                    Some(velocity) => velocity * momentum + gradient,
                    None => gradient,
                };
                store.replace(i, value - next.clone() * (lr * rate));
                *velocity = Some(next);
            }
        }
        Ok(Some(norm))
    }

    /// The momentum of every parameter: per parameter, in order, a byte that says whether it had a
    /// gradient yet, and if so its velocity as little-endian `f32`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for velocity in self.velocity.iter().flatten() {
            bytes.push(u8::from(velocity.is_some()));
            if let Some(velocity) = velocity {
                bytes.extend(to_vec(velocity).into_iter().flat_map(f32::to_le_bytes));
            }
        }
        bytes
    }

    /// Restores what [`to_bytes`](Self::to_bytes) gave, bit for bit, for stores of the same shapes.
    ///
    /// # Errors
    /// [`NnError::State`] for bytes of another length; nothing is changed then.
    pub fn load_bytes(&mut self, bytes: &[u8], stores: &[&ParamStore]) -> Result<(), NnError> {
        let mut rest = bytes;
        let mut read = |n: usize| -> Result<&[u8], NnError> {
            let (head, tail) = rest.split_at_checked(n).ok_or(NnError::State {
                got: bytes.len(),
                wanted: bytes.len() - rest.len() + n,
            })?;
            rest = tail;
            Ok(head)
        };
        let mut restored = Vec::with_capacity(stores.len());
        for store in stores {
            let mut velocity = Vec::with_capacity(store.values().len());
            for value in store.values() {
                let elements = value.dims()[0];
                velocity.push(match read(1)? {
                    [0] => None,
                    _ => {
                        let data = TensorData::new(floats(read(4 * elements)?), [elements]);
                        let device = store.device().clone().without_autodiff();
                        Some(Tensor::from_data(data, &device))
                    }
                });
            }
            restored.push(velocity);
        }
        if !rest.is_empty() {
            return Err(NnError::State {
                got: bytes.len(),
                wanted: bytes.len() - rest.len(),
            });
        }
        self.velocity = restored;
        Ok(())
    }
}

/// The summed gradient of parameter `i` of store `s`, where it has one, of losses times `scale`.
fn gradient_of(
    store: &ParamStore,
    (s, i): (usize, usize),
    grads: &mut [Vec<Gradients>],
    scale: f64,
    penalty: Penalty<'_>,
) -> Option<Tensor<1>> {
    let leaf = &store.values()[i];
    let gradient = grads
        .iter_mut()
        .filter_map(|parts| {
            let parts = parts.iter_mut();
            let found = parts.filter_map(|part| leaf.grad_remove(part));
            found.reduce(|sum, gradient| sum + gradient)
        })
        .reduce(|sum, gradient| sum + gradient)
        .map(|gradient| match scale == 1.0 {
            true => gradient,
            false => gradient / scale,
        });
    match penalty {
        Penalty::Groups { reg, epoch, stores } if stores.get(s).copied().unwrap_or(false) => {
            let value = leaf.clone().without_autodiff();
            let own = reg.gradient(&store.specs()[i], value, epoch);
            Some(match gradient {
                Some(gradient) => gradient + own,
                None => own,
            })
        }
        _ => gradient,
    }
}

fn trust_ratio(trust: f64, decay: f64, value: &Tensor<1>, gradient: &Tensor<1>) -> f64 {
    let (weights, slope) = (squares(value).sqrt(), squares(gradient).sqrt());
    match weights > 0.0 && slope > 0.0 {
        true => trust * weights / (slope + decay * weights + 1e-8),
        false => 1.0,
    }
}

fn squares(x: &Tensor<1>) -> f64 {
    to_vec(x).iter().map(|&v| f64::from(v).powi(2)).sum()
}
