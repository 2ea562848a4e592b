//! Arguments of what is done with a `.slim` file.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use slimbit_graph::Point;

use super::numbers::*;
use super::{CsvArgs, MemoryArgs};
use crate::machine::parse_threads;

/// Arguments of `inspect`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit inspect net.slim
  slimbit inspect net.slim --prove --point \"0.5x W4A8\"")]
pub struct InspectArgs {
    /// The .slim file.
    pub file: PathBuf,
    /// Prove again, for every channel of every point, that the integers give the same codes as the
    /// batch-norm they replace, for every accumulator, and that nothing can overflow.
    #[arg(long)]
    pub prove: bool,
    /// With --prove, show every stage of every point instead of a line per point.
    #[arg(long, requires = "prove")]
    pub all: bool,
    /// Print a model card in Markdown instead: the network, its points, its input, where it comes from.
    #[arg(long, conflicts_with_all = ["prove", "json"])]
    pub card: bool,
    /// Only these points (repeatable); by default all in the file.
    #[arg(long)]
    pub point: Vec<Point>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// A table for another program.
    #[command(flatten)]
    pub csv: CsvArgs,
}

/// Arguments of `verify`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit verify net.slim --images photos/
  slimbit verify runs/first/model.slim --images photos/ --run runs/first")]
pub struct VerifyArgs {
    /// The .slim file.
    pub file: PathBuf,
    /// Images to compare on.
    #[arg(long)]
    pub images: PathBuf,
    /// How many images.
    #[arg(long, default_value_t = 16, value_parser = at_least_one)]
    pub limit: usize,
    /// Run directory the file was exported from: adds the training-side simulation.
    #[arg(long)]
    pub run: Option<PathBuf>,
    /// Only these points (repeatable); by default all in the file.
    #[arg(long)]
    pub point: Vec<Point>,
    /// How much memory the network may take.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// A table for another program.
    #[command(flatten)]
    pub csv: CsvArgs,
}

/// Arguments of `compare`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit compare net.safetensors net.slim --images photos/
  slimbit compare net.onnx net.slim --images photos/ --point \"1x W8A8\" --fail-below 20")]
pub struct CompareArgs {
    /// The float network: ONNX, or as `slimbit import` writes it.
    pub reference: PathBuf,
    /// The .slim file.
    pub model: PathBuf,
    /// Images to compare on; of a folder with splits, the test images.
    #[arg(long)]
    pub images: PathBuf,
    /// The point, of full width; by default the first such in the file.
    #[arg(long)]
    pub point: Option<Point>,
    /// How many images, spread evenly over the folder.
    #[arg(long, default_value_t = 16, value_parser = at_least_one)]
    pub limit: usize,
    /// Signal-to-noise ratio of a stage, in dB, below which the networks have parted.
    #[arg(long, value_name = "DB", default_value_t = 20.0, value_parser = number)]
    pub threshold: f64,
    /// Fold scales between layers of the float network first, as `quantize --equalise` does.
    #[arg(long)]
    pub equalise: bool,
    /// Exit with an error if any stage has a lower ratio than this.
    #[arg(long, value_name = "DB", value_parser = number)]
    pub fail_below: Option<f64>,
    /// Show every stage instead of the worst.
    #[arg(long)]
    pub all: bool,
    /// How much memory the network may take.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Print JSON, with every stage.
    #[arg(long)]
    pub json: bool,
    /// A table for another program.
    #[command(flatten)]
    pub csv: CsvArgs,
}

/// Arguments of `run`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit run net.slim cat.jpg dog.png
  slimbit run net.slim cat.jpg --point \"0.5x W4A8\" --json")]
pub struct RunArgs {
    /// The .slim file.
    pub file: PathBuf,
    /// Image files.
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
    /// The point; by default the first in the file.
    #[arg(long)]
    pub point: Option<Point>,
    /// How much memory the network may take.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Print JSON, with every output value.
    #[arg(long)]
    pub json: bool,
    /// A table for another program.
    #[command(flatten)]
    pub csv: CsvArgs,
}

/// Which part of a dataset.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitArg {
    /// The training images.
    Train,
    /// The test images.
    Test,
    /// The images of all parts.
    All,
}

/// Arguments of `embed`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit embed net.slim --images photos/ -o features.npy         and the names in features.txt
  slimbit embed net.slim --images photos/ -o features.parquet --point \"0.5x W4A8\"")]
pub struct EmbedArgs {
    /// The .slim file.
    pub file: PathBuf,
    /// Images.
    #[arg(long)]
    pub images: PathBuf,
    /// Which of them, where there are train and test parts.
    #[arg(long, value_enum, default_value = "all")]
    pub split: SplitArg,
    /// The file to write. NAME.npy holds [images, features] in f32, and the images' names go to
    /// NAME.txt, one a line; NAME.parquet holds a row per image with its name, label, class and
    /// embedding. In names, line breaks, other control characters and bytes that are not UTF-8 are
    /// written as `\n` and `\xNN`, and a backslash as `\\`.
    #[arg(short, long)]
    pub output: PathBuf,
    /// The output of the network that is the embedding; by default `features`, or the only one.
    #[arg(long, value_name = "NAME")]
    pub output_name: Option<String>,
    /// The point; by default the first in the file.
    #[arg(long)]
    pub point: Option<Point>,
    /// How much memory the network may take.
    #[command(flatten)]
    pub memory: MemoryArgs,
}

/// Arguments of `bench`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit bench net.slim
  slimbit bench net.slim --point \"1x W8A8\" --threads 2 --per-op
  slimbit bench net.slim --batch 16 --csv latencies.csv

The engine runs the best level that the CPU has: avx512vnni, avx2 or scalar. Every level gives the same
bytes. To measure another one, set the environment variable SLIMBIT_ISA to its name.")]
pub struct BenchArgs {
    /// The .slim file.
    pub file: PathBuf,
    /// Only these points (repeatable); by default all in the file.
    #[arg(long)]
    pub point: Vec<Point>,
    /// Timed runs of each point.
    #[arg(long, default_value_t = 200, value_parser = at_least_one)]
    pub repeat: usize,
    /// Threads that share an inference; with a batch, each runs images of its own.
    #[arg(long, default_value_t = 1, value_parser = parse_threads)]
    pub threads: usize,
    /// Images per timed run.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub batch: usize,
    /// Show where the time of one inference goes, and the fraction of the peak of the processor's
    /// multiply-accumulate instruction.
    #[arg(long)]
    pub per_op: bool,
    /// How much memory the network may take.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// With --per-op, show every stage instead of the slowest.
    #[arg(long, requires = "per_op")]
    pub all: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// A table for another program.
    #[command(flatten)]
    pub csv: CsvArgs,
}
