//! rten, with weights packed when the network is loaded and a pool of as many threads as asked.

use std::sync::Arc;

use rten::{Model, ModelOptions, RunOptions, ThreadPool, Value};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;
use serde_json::json;

use crate::protocol::{Arguments, Engine, Result};

pub struct Rten {
    model: Model,
    inputs: Vec<NdTensor<f32, 4>>,
    options: RunOptions,
}

pub fn load(arguments: &Arguments) -> Result<Rten> {
    let model = ModelOptions::with_all_ops()
        .prepack_weights(true)
        .load_file(&arguments.model)?;
    let inputs = crate::batches(arguments)?;
    let pool = ThreadPool::with_num_threads(arguments.threads);
    Ok(Rten {
        model,
        inputs: inputs
            .into_iter()
            .map(|values| NdTensor::from_data(arguments.shape, values))
            .collect(),
        options: RunOptions::default().with_thread_pool(Some(Arc::new(pool))),
    })
}

impl Engine for Rten {
    fn run(&mut self, batch: usize) -> Result<Vec<f32>> {
        let input = self.inputs.get(batch).ok_or("no such batch")?;
        match self
            .model
            .run_one(input.view().into(), Some(self.options.clone()))?
        {
            Value::FloatTensor(logits) => Ok(logits.to_vec()),
            _ => Err("the output is not a float tensor".into()),
        }
    }

    fn facts(&self) -> serde_json::Value {
        json!({ "version": crate::version("rten") })
    }
}
