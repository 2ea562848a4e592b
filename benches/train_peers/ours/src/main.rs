//! Slimbit's training steps behind the pipe that `benches/train_peers/run` speaks:
//! `slimbit-training-server FOLDER IMAGES SHAPE THREADS STEP`. Parameters are written to FOLDER
//! before the first step, for the peer to start from.

#![deny(unsafe_code)]

#[path = "../../../../crates/slimbit/src/memory.rs"]
mod allocator;
mod memory;
#[path = "../../../peers/protocol.rs"]
mod protocol;
mod steps;

use protocol::{Arguments, Engine, Result};
use serde_json::{Value, json};
use steps::Learner;

struct Server {
    learner: Learner,
    /// Bytes that were resident before the first step.
    settled: u64,
    /// Of every step so far.
    losses: Vec<Vec<f32>>,
}

impl Server {
    fn load(arguments: &Arguments) -> Result<Self> {
        allocator::keep_freed_pages();
        rayon::ThreadPoolBuilder::new()
            .num_threads(arguments.threads)
            // As the program does.
            .use_current_thread()
            .build_global()?;
        let learner = Learner::new(&arguments.which, &arguments.input, &arguments.shape)?;
        learner.export(&arguments.model)?;
        Ok(Self {
            learner,
            settled: memory::settle()?,
            losses: vec![],
        })
    }
}

impl Engine for Server {
    fn run(&mut self, _batch: usize) -> Result<Vec<f32>> {
        let losses = self.learner.step()?;
        self.losses.push(losses.clone());
        Ok(losses)
    }

    fn facts(&self) -> Value {
        json!({ "version": env!("CARGO_PKG_VERSION"), "settled_bytes": self.settled })
    }

    fn answer(&mut self, command: &str, argument: &str) -> Result<Value> {
        match command {
            "losses" => Ok(json!({ "losses": self.losses })),
            "memory" => Ok(json!({ "peak_bytes": memory::peak()? })),
            _ => Err(format!("unknown command {command} {argument}").into()),
        }
    }
}

fn main() {
    protocol::serve(Server::load, Arguments::parse(std::env::args().skip(1)));
}
