//! Slimbit's engine behind the pipe that `benches/peers/run` speaks: `slimbit-timing-server MODEL
//! INPUT SHAPE THREADS POINT`, where the input holds pixels, HWC, one byte each.

#![forbid(unsafe_code)]

#[path = "../../protocol.rs"]
mod protocol;

use std::sync::Arc;
use std::time::Instant;

use protocol::{Arguments, Engine, Result};
use serde_json::{Value, json};
use slimbit_engine::{Model, Outputs, Session};
use slimbit_graph::Point;

struct Slimbit {
    session: Session,
    pixels: Vec<u8>,
    batch: usize,
}

impl Slimbit {
    fn load(arguments: &Arguments) -> Result<Self> {
        let point: Point = arguments.which.parse()?;
        let model = Arc::new(Model::open(&arguments.model)?);
        let session = Session::with_threads(model, point, arguments.threads)?;
        Ok(Self {
            session,
            pixels: std::fs::read(&arguments.input)?,
            batch: arguments.shape[0],
        })
    }
}

impl Engine for Slimbit {
    fn run(&mut self, batch: usize) -> Result<Vec<f32>> {
        let image = self.session.model().graph().input_shape().elements();
        let start = batch * self.batch * image;
        let pixels = self
            .pixels
            .get(start..start + self.batch * image)
            .ok_or("no such batch")?;
        if self.batch == 1 {
            return logits(self.session.run(pixels)?);
        }
        let rows = self
            .session
            .run_batch(pixels)?
            .iter()
            .map(logits)
            .collect::<Result<Vec<_>>>()?;
        Ok(rows.concat())
    }

    fn facts(&self) -> Value {
        let (plan, model) = (self.session.plan(), self.session.model());
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "isa": plan.isa().to_string(),
            "macs": plan.macs() * self.batch as u64,
            "arena_bytes": self.session.arena_bytes(),
            "mean": model.input().mean,
            "std": model.input().std,
            "points": model.points().iter().map(|p| p.point.to_string()).collect::<Vec<_>>(),
        })
    }

    fn answer(&mut self, command: &str, argument: &str) -> Result<Value> {
        match command {
            "peak" => {
                let rate = slimbit_kernels::peak(self.session.plan().isa())?;
                Ok(json!({ "macs_per_second": rate }))
            }
            "point" => {
                let point = argument.parse()?;
                let start = Instant::now();
                self.session.set_point(point)?;
                Ok(json!({ "ns": start.elapsed().as_nanos() as u64 }))
            }
            _ => Err(format!("unknown command {command} {argument}").into()),
        }
    }
}

/// The classifier's output, or the first of a network without one.
fn logits(outputs: Outputs) -> Result<Vec<f32>> {
    let first = outputs.iter().next().map(|(_, tensor)| tensor);
    let tensor = outputs
        .get("logits")
        .or(first)
        .ok_or("the network has no output")?;
    Ok(tensor.to_f32())
}

fn main() {
    protocol::serve(Slimbit::load, Arguments::parse(std::env::args().skip(1)));
}
