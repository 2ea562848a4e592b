//! One file per command.

mod bench;
#[cfg(feature = "images")]
mod bundled;
mod card;
mod classes;
mod classifier;
mod classify;
mod compare;
mod completions;
mod csv;
mod dashboard;
mod embed;
mod evaluate;
mod export;
mod export_onnx;
mod features;
mod finetune;
mod float;
mod footprint;
mod foreign;
mod forward;
mod import;
mod import_onnx;
mod input_range;
mod inspect;
mod interrupt;
mod man;
mod open;
mod output;
mod predict;
mod pretrain;
mod probe;
mod progress;
mod quantize;
mod quickstart;
mod readiness;
mod recipes;
mod remedy;
mod run;
mod statistics;
mod verify;
mod weigh;

use anyhow::Result;

use crate::cli::Command;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what was asked.
    Done,
    /// It did what was asked of all that could be read, and named the rest.
    Incomplete,
    /// Ctrl-C ended it; what it had done is saved.
    Interrupted,
}

/// Runs a command.
///
/// # Errors
/// Whatever stopped it, with what, where, and the remedy.
pub fn execute(command: Command) -> Result<Outcome> {
    match command {
        Command::Quickstart(args) => quickstart::execute(&args),
        Command::Pretrain(args) => pretrain::execute(&args),
        Command::Recipes(args) => recipes::execute(&args),
        Command::Finetune(args) => finetune::execute(&args),
        Command::Import(args) => import::execute(&args),
        Command::Export(args) => export::execute(&args),
        Command::Quantize(args) => quantize::execute(&args),
        Command::Probe(args) => probe::execute(&args),
        Command::Predict(args) => predict::execute(&args),
        Command::Evaluate(args) => evaluate::execute(&args),
        Command::Readiness(args) => readiness::execute(&args),
        Command::Inspect(args) => inspect::execute(&args),
        Command::Verify(args) => verify::execute(&args),
        Command::Compare(args) => compare::execute(&args),
        Command::Run(args) => run::execute(&args),
        Command::Embed(args) => embed::execute(&args),
        Command::Bench(args) => bench::execute(&args),
        Command::Completions(args) => completions::execute(&args),
        Command::Man(args) => man::execute(&args),
    }
}
