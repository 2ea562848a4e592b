use burn::tensor::{Gradients, Tensor, TensorData};

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
/// Weight decay applies to every parameter. A parameter outside the current width's slice gets a
/// gradient of zero and so keeps moving by its momentum; so does a head that took part in an
/// earlier step but not in this one. A head that never took part stays where it is (spec section
/// 3.6, facts 2 and 3).
#[derive(Clone, Debug)]
pub struct Sgd {
    momentum: f64,
    weight_decay: f64,
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
            velocity: velocity.collect(),
        }
    }

    /// One step at learning rate `lr`, on the sum of `grads` (one backward pass each).
    ///
    /// # Errors
    /// [`NnError::Mode`] where the stores are not as many as the optimiser was made for.
    pub fn step(
        &mut self,
        lr: f64,
        stores: &mut [&mut ParamStore],
        grads: &mut [Gradients],
        penalty: Penalty<'_>,
    ) -> Result<(), NnError> {
        if stores.len() != self.velocity.len() {
            return Err(NnError::Mode(
                "an optimiser steps exactly the stores that it was made for",
            ));
        }
        for (s, (store, velocity)) in stores.iter_mut().zip(&mut self.velocity).enumerate() {
            for (i, velocity) in velocity.iter_mut().enumerate() {
                let leaf = store.values()[i].clone();
                let value = leaf.clone().without_autodiff();
                let mut gradient = grads
                    .iter_mut()
                    .filter_map(|grads| leaf.grad_remove(grads))
                    .reduce(|sum, gradient| sum + gradient);
                if let Penalty::Groups { reg, epoch, stores } = penalty
                    && stores.get(s).copied().unwrap_or(false)
                {
                    let own = reg.gradient(&store.specs()[i], value.clone(), epoch);
                    gradient = Some(match gradient {
                        Some(gradient) => gradient + own,
                        None => own,
                    });
                }
                let gradient = match (gradient, &velocity) {
                    (Some(gradient), _) => gradient,
                    (None, Some(_)) => value.zeros_like(),
                    (None, None) => continue,
                };
                let gradient = match self.weight_decay == 0.0 {
                    true => gradient,
                    false => gradient + value.clone() * self.weight_decay,
                };
                let next = match velocity.take() {
                    Some(velocity) => velocity * self.momentum + gradient,
                    None => gradient,
                };
                store.replace(i, value - next.clone() * lr);
                *velocity = Some(next);
            }
        }
        Ok(())
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
