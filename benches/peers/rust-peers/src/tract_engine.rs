//! tract, optimised for the fixed shape, with a pool of as many threads as asked.

use std::sync::Arc;

use serde_json::json;
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

use crate::protocol::{Arguments, Engine, Result};

pub struct Tract {
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<TValue>,
}

pub fn load(arguments: &Arguments) -> Result<Tract> {
    if arguments.threads > 1 {
        set_default_executor(Executor::multithread(arguments.threads));
    }
    let plan = tract_onnx::onnx()
        .model_for_path(&arguments.model)?
        .with_input_fact(0, f32::fact(arguments.shape).into())?
        .into_optimized()?
        .into_runnable()?;
    let inputs = crate::batches(arguments)?
        .iter()
        .map(|values| Ok(Tensor::from_shape(&arguments.shape, values)?.into_tvalue()))
        .collect::<Result<_>>()?;
    Ok(Tract { plan, inputs })
}

impl Engine for Tract {
    fn run(&mut self, batch: usize) -> Result<Vec<f32>> {
        let input = self.inputs.get(batch).ok_or("no such batch")?.clone();
        let outputs = self.plan.run(tvec![input])?;
        Ok(outputs[0]
            .to_plain_array_view::<f32>()?
            .iter()
            .copied()
            .collect())
    }

    fn facts(&self) -> serde_json::Value {
        json!({ "version": crate::version("tract-onnx") })
    }
}
