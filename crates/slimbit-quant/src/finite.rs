//! Whether a network consists of numbers.

use slimbit_graph::GraphError;
use slimbit_nn::Net;

use crate::{Norms, QuantError};

/// Values that are copied at a time.
const BLOCK: usize = 1 << 20;

/// Refuses parameters and batch-norm statistics that are infinite or not a number, and negative
/// variances.
pub(crate) fn check(net: &Net, norms: &Norms) -> Result<(), QuantError> {
    for (spec, values) in net.store().specs().iter().zip(net.store().values()) {
        let count = values.dims()[0];
        for first in (0..count).step_by(BLOCK) {
            let block = values.clone().without_autodiff();
            let block = block.slice(first..count.min(first + BLOCK)).into_data();
            let block: Vec<f32> = block.try_into_vec().expect("parameters are f32");
            if let Some(at) = block.iter().position(|v| !v.is_finite()) {
                return refused(&spec.name, block[at], first + at);
            }
        }
    }
    for (node, (mean, variance)) in norms {
        if let Some(at) = mean.iter().position(|v| !v.is_finite()) {
            return refused(&format!("{node}.running_mean"), mean[at], at);
        }
        let usable = |v: &f32| v.is_finite() && *v >= 0.0;
        if let Some(at) = variance.iter().position(|v| !usable(v)) {
            return refused(&format!("{node}.running_var"), variance[at], at);
        }
    }
    Ok(())
}

fn refused(name: &str, value: f32, at: usize) -> Result<(), QuantError> {
    let (name, what) = (name.to_owned(), format!("holds {value} at element {at}"));
    Err(GraphError::Param { name, what }.into())
}
