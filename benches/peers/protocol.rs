//! The conversation between the driver and an engine's process: one JSON object per line.
//!
//! The process loads its network, runs it once and says `{"ready": …}`. Then `time W` runs `W`
//! inferences, times one more and answers `{"ns": …}`; `output I FILE` writes the output for input
//! `I` as little-endian floats. Whatever goes wrong is answered as `{"error": …}`.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use serde_json::{Value, json};

/// Any error, as text for the report.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What an engine is asked to load.
pub(crate) struct Arguments {
    /// The network.
    pub(crate) model: PathBuf,
    /// Raw inputs, one batch behind the other.
    pub(crate) input: PathBuf,
    /// Images, channels, rows and columns of a batch.
    pub(crate) shape: [usize; 4],
    /// Threads that one inference may use.
    pub(crate) threads: usize,
    /// What this process needs to know beyond that: our point, or which of several engines.
    pub(crate) which: String,
}

impl Arguments {
    /// Reads `MODEL INPUT BATCHxCHANNELSxROWSxCOLUMNS THREADS WHICH`.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        const USAGE: &str = "MODEL INPUT BATCHxCHANNELSxROWSxCOLUMNS THREADS WHICH";
        let mut word = || words.next().ok_or(USAGE);
        let (model, input) = (word()?.into(), word()?.into());
        let shape = word()?
            .split('x')
            .map(str::parse)
            .collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(Self {
            model,
            input,
            shape: shape.try_into().map_err(|_| USAGE)?,
            threads: word()?.parse()?,
            which: word()?,
        })
    }
}

/// A network with memory and threads, ready to run.
pub(crate) trait Engine {
    /// Runs a batch and returns its outputs. This is what is timed.
    fn run(&mut self, batch: usize) -> Result<Vec<f32>>;

    /// What the driver should know of this engine.
    fn facts(&self) -> Value {
        json!({})
    }

    /// Answers a command that only this engine knows.
    fn answer(&mut self, command: &str, argument: &str) -> Result<Value> {
        Err(format!("unknown command {command} {argument}").into())
    }
}

/// Loads an engine and answers the driver until it closes the pipe.
pub(crate) fn serve<E: Engine>(
    load: impl FnOnce(&Arguments) -> Result<E>,
    arguments: Result<Arguments>,
) {
    let start = Instant::now();
    let loaded = arguments.and_then(|arguments| {
        let mut engine = load(&arguments)?;
        let load_ns = start.elapsed().as_nanos() as u64;
        engine.run(0)?;
        let first_ns = start.elapsed().as_nanos() as u64;
        Ok((engine, json!({ "load_ns": load_ns, "first_ns": first_ns })))
    });
    let mut engine = match loaded {
        Ok((engine, times)) => {
            say(&json!({ "ready": times, "facts": engine.facts() }));
            engine
        }
        Err(error) => return say(&failure(&*error)),
    };
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let (command, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match command {
            "time" => time(&mut engine, argument),
            "output" => output(&mut engine, argument),
            _ => engine.answer(command, argument),
        };
        say(&answer.unwrap_or_else(|error| failure(&*error)));
    }
}

fn time(engine: &mut impl Engine, warm_up: &str) -> Result<Value> {
    for _ in 0..warm_up.parse()? {
        engine.run(0)?;
    }
    let start = Instant::now();
    let output = engine.run(0)?;
    let ns = start.elapsed().as_nanos() as u64;
    std::hint::black_box(output);
    Ok(json!({ "ns": ns }))
}

fn output(engine: &mut impl Engine, argument: &str) -> Result<Value> {
    let (batch, path) = argument
        .split_once(' ')
        .ok_or("output needs a number and a file")?;
    let values = engine.run(batch.parse()?)?;
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    std::fs::write(path, bytes)?;
    Ok(json!({ "length": values.len() }))
}

/// The whole chain of causes, since the outermost one is often only "cannot load the model".
fn failure(error: &dyn Error) -> Value {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    json!({ "error": text })
}

fn say(answer: &Value) {
    let mut out = std::io::stdout().lock();
    // A driver that has gone needs no answer; the next read from it ends the loop.
    let _ = writeln!(out, "{answer}").and_then(|()| out.flush());
}
