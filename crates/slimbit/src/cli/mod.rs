//! The command line, declared.

mod classify;
mod deployed;
mod evaluate;
mod manual;
mod networks;
mod numbers;
mod shared;
mod train;

use clap::{Parser, Subcommand};

use crate::console::Color;
use crate::version;

pub use classify::*;
pub use deployed::*;
pub use evaluate::*;
pub use manual::*;
pub use networks::*;
pub use shared::*;
pub use train::*;

/// The command line, as `clap` reads it.
#[derive(Parser, Debug)]
#[command(
    name = "slimbit",
    version,
    long_version = version::long(),
    about = "One network, trained once without labels, deployed at any width and bit-width, on integers only, from one file.",
    after_help = "\
Start here:
  slimbit quickstart                                  the whole job on Fashion-MNIST, in minutes
Then, on your own images:
  slimbit pretrain --data photos/ --out runs/first    train without labels (Ctrl-C saves, --resume goes on)
  slimbit export runs/first --images photos/          calibrate every point and write runs/first/model.slim
  slimbit probe runs/first/model.slim --data photos/  accuracy of every point, on the engine's own features
  slimbit bench runs/first/model.slim                 latency of every point on this machine

A point is a width and two bit-widths, written `0.5x W4A8`."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Log more: -v shows progress of each step, -vv everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Print results and errors only: no progress, notes or warnings.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Colours: on a terminal unless NO_COLOR is set, always or never.
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true,
        hide_default_value = true
    )]
    pub color: Color,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Train, calibrate, export and measure a small network on Fashion-MNIST.
    Quickstart(QuickstartArgs),
    /// Train a slimmable network without labels.
    Pretrain(PretrainArgs),
    /// List the training recipes, or print one.
    Recipes(RecipesArgs),
    /// Train a classifier on a pre-trained run, and as much of the backbone as you want, with labels.
    Finetune(FinetuneArgs),
    /// Read a checkpoint of another library into a float network file.
    Import(ImportArgs),
    /// Calibrate a trained network at every point and write one .slim file; with --onnx, write a
    /// float network or one point of a .slim file as ONNX.
    Export(ExportArgs),
    /// Quantise a trained float network at every point, without labels, into one .slim file.
    Quantize(QuantizeArgs),
    /// Accuracy of a .slim file's points, on the integer engine's own features or classifier; or of a
    /// run's float network at every width.
    Probe(ProbeArgs),
    /// Name the class of images, with probabilities.
    Predict(PredictArgs),
    /// Accuracy of a classifier on labelled images, in all and for each class, and what it takes for what.
    Evaluate(EvaluateArgs),
    /// Predict without labels how much every point will lose, and which stages cause it.
    Readiness(ReadinessArgs),
    /// What a .slim file holds; with --prove, re-check its arithmetic from the file alone.
    Inspect(InspectArgs),
    /// Compare the reference, every SIMD level and the training-side simulation, layer by layer.
    Verify(VerifyArgs),
    /// Find the stage at which a .slim file and its float network diverge, and why.
    Compare(CompareArgs),
    /// Run images through one point and print the outputs.
    Run(RunArgs),
    /// Write one feature vector per image to a .npy file.
    Embed(EmbedArgs),
    /// Latency of a .slim file's points on this machine.
    Bench(BenchArgs),
    /// Print the completions of a shell.
    Completions(CompletionsArgs),
    /// Write manual pages, one per command.
    Man(ManArgs),
}

impl Command {
    /// Whether it takes and frees the same memory again and again, step after step.
    pub fn trains(&self) -> bool {
        matches!(
            self,
            Self::Quickstart(_) | Self::Pretrain(_) | Self::Finetune(_) | Self::Probe(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The words of an example, as a shell would pass them on; what stands after two spaces explains it.
    fn words(line: &str) -> Vec<String> {
        let line = line.trim();
        let line = line.split("  ").next().unwrap_or(line);
        let line = line.split(" > ").next().unwrap_or(line);
        let (mut words, mut quoted) = (vec![String::new()], false);
        for char in line.chars() {
            match char {
                '"' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                _ => words.last_mut().expect("there is one").push(char),
            }
        }
        assert!(!quoted, "{line}");
        words
    }

    /// A word that is no number, bit-width, share or name.
    #[test]
    fn what_cannot_be_parsed_is_refused_in_plain_words() {
        let root = Cli::command();
        for command in root.get_subcommands() {
            for argument in command.get_arguments().filter(|a| a.get_long().is_some()) {
                let option = format!("--{}=§", argument.get_long().unwrap());
                let words = ["slimbit", command.get_name(), &option];
                let error = match Cli::try_parse_from(words) {
                    Ok(_) => continue,
                    Err(error) => error.to_string(),
                };
                for part in ["digit", "target type", "float literal", "u64", "usize"] {
                    assert!(!error.contains(part), "{words:?}: {error}");
                }
            }
        }
    }

    #[test]
    fn every_example_of_the_help_is_a_correct_command() {
        let root = Cli::command();
        root.clone().debug_assert();
        for command in std::iter::once(&root).chain(root.get_subcommands()) {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_else(|| panic!("{} has no examples", command.get_name()));
            let examples = help.lines().map(str::trim);
            let examples: Vec<&str> = examples.filter(|l| l.starts_with("slimbit ")).collect();
            let own = |line: &&&str| words(line).get(1).is_some_and(|w| w == command.get_name());
            let named = command.get_name() == "slimbit" || examples.iter().any(|l| own(&l));
            assert!(named, "{} has no example of its own", command.get_name());
            for line in examples {
                if let Err(error) = Cli::try_parse_from(words(line)) {
                    panic!("{line}: {error}");
                }
            }
        }
    }
}
