//! Arguments of what tells how good points are.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use slimbit_data::Holdout;
use slimbit_graph::{Point, Width};
use slimbit_train::probe::LabelBudget;

use super::numbers::*;
use super::{ClassArgs, CsvArgs, GridArgs, MemoryArgs};

/// How features are judged.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Weighted k-nearest neighbours (k = 200, T = 0.1).
    Knn,
    /// A linear classifier on frozen features.
    Linear,
    /// The network's own classifier; also on a float network file.
    Top1,
}

/// Where the batch-norm statistics of a float network come from.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchNorm {
    /// The mean over batches of training images.
    #[default]
    Cumulative,
    /// Three passes over the same, each batch counting a tenth (US3L's passes see all images, augmented).
    Exponential,
    /// Nowhere: mean 0 and variance 1, a control, which must be bad.
    None,
}

/// Which images of a folder without splits are measured on.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct HoldoutArgs {
    /// Labelled images without a test part: hold some out to measure on, a share of every class
    /// (`20%`) or a number in all (`500`). The others are learnt from.
    #[arg(long, value_name = "SHARE|NUMBER")]
    pub holdout: Option<Holdout>,
    /// Decides which images are held out: the same for every command with the same folder, holdout and
    /// seed [default: --seed, or 0].
    #[arg(long, value_name = "SEED", requires = "holdout", value_parser = whole::<u64>)]
    pub holdout_seed: Option<u64>,
}

impl HoldoutArgs {
    /// The holdout asked for and its seed; by default that of the command.
    pub fn drawn(&self, seed: u64) -> Option<(Holdout, u64)> {
        let seed = self.holdout_seed.unwrap_or(seed);
        self.holdout.map(|holdout| (holdout, seed))
    }
}

/// Arguments of `probe`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit probe runs/first/model.slim --data labelled/
  slimbit probe runs/first/model.slim --data labelled/ --kind linear --labels 1% --seeds 5
  slimbit probe runs/first --data labelled/ --widths 1,0.5        its float network
  slimbit probe net.slim --data labelled/ --kind top1 --float net.safetensors")]
pub struct ProbeArgs {
    /// The .slim file; or a run directory, for its float network at every width; for `--kind top1`
    /// also a float network.
    pub file: PathBuf,
    /// Labelled images, with train and test parts or with --holdout. `--kind top1` needs no training
    /// images; there, class folders are matched with the network's classes as `evaluate` does.
    #[arg(long)]
    pub data: PathBuf,
    /// Images held out of those.
    #[command(flatten)]
    pub holdout: HoldoutArgs,
    /// The run directory or float network that the file was made of: adds a row per width with what
    /// the float network reaches. With `--kind top1`, a network whose answers and features are
    /// compared.
    #[arg(long, value_name = "RUN_OR_NETWORK")]
    pub float: Option<PathBuf>,
    /// The judge.
    #[arg(long, value_enum, default_value = "knn")]
    pub kind: ProbeKind,
    /// Only these points (repeatable); by default all in the file.
    #[arg(long)]
    pub point: Vec<Point>,
    /// The widths of a run directory [default: those of 1,0.75,0.5,0.25 that it trained].
    #[arg(long, value_delimiter = ',')]
    pub widths: Option<Vec<Width>>,
    /// How batch-norm of a run directory is estimated at each width, on 1,024 training images
    /// [default: cumulative].
    #[arg(long, value_enum)]
    pub batch_norm: Option<BatchNorm>,
    /// Use at most this many training images; for `--kind top1`, test images.
    #[arg(long, value_parser = at_least_one)]
    pub limit: Option<usize>,
    /// Labels of the training images to use, the same for every point: a share (`1%`, `10%`), a
    /// number per class (`25`), or `all`. The other training images are not looked at.
    #[arg(long, default_value = "all")]
    pub labels: LabelBudget,
    /// Decides which labels are drawn, and the start and order of the linear classifier's training.
    #[arg(long, default_value_t = 0, value_parser = whole::<u64>)]
    pub seed: u64,
    /// Repeat with this many seeds, from --seed on, and give the mean and the standard deviation.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub seeds: usize,
    /// With `--kind top1`: which folder is which class.
    #[command(flatten)]
    pub classes: ClassArgs,
    /// How `--kind linear` trains.
    #[command(flatten)]
    pub linear: LinearArgs,
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

/// How a linear classifier trains.
#[derive(Args, Debug)]
pub struct LinearArgs {
    /// With `--kind linear`: passes over the training features; the rate falls to a tenth after 60 %
    /// and after 80 % of them [default: 100].
    #[arg(long, value_parser = at_least_one)]
    pub epochs: Option<usize>,
    /// With `--kind linear`: learning rate for a batch of 512, scaled in proportion to the batch
    /// [default: 30].
    #[arg(long, value_parser = above_zero)]
    pub lr: Option<f64>,
    /// With `--kind linear`: images per step [default: 512].
    #[arg(long, value_parser = at_least_one)]
    pub batch: Option<usize>,
}

/// Arguments of `readiness`.
#[derive(Args, Debug)]
#[command(after_help = "\
A point's loss is 1 less the mean of two agreements of its features with the float network of full
width: the share of nearest neighbours that both have, and linear centred kernel alignment. Loss by
width is that of the float network of the point's width; loss by bits is what is lost against it.

  slimbit readiness runs/first --images photos/              before anything is written
  slimbit readiness runs/first/model.slim --images photos/   of a file
  slimbit readiness runs/first/model.slim --images data/ --check data/
                                                             with labels: does the prediction hold?")]
pub struct ReadinessArgs {
    /// A .slim file, or a run directory, which is calibrated in memory.
    #[arg(value_name = "RUN_OR_SLIM")]
    pub source: PathBuf,
    /// Images; labels are not read. Of a folder with splits, the test images are compared and
    /// batch-norm is estimated on the training images.
    #[arg(long)]
    pub images: PathBuf,
    /// The run directory or float network that the .slim file was made of; by default the run
    /// directory in which it lies.
    #[arg(long, value_name = "RUN_OR_NETWORK")]
    pub float: Option<PathBuf>,
    /// Only these points (repeatable); by default all in the file, or the grid.
    #[arg(long)]
    pub point: Vec<Point>,
    /// The points of a run directory.
    #[command(flatten)]
    pub grid: GridArgs,
    /// How many images, spread evenly over the folder.
    #[arg(long, default_value_t = 1000, value_parser = at_least_one)]
    pub limit: usize,
    /// Nearest neighbours of each image.
    #[arg(long, default_value_t = 20, value_parser = at_least_one)]
    pub neighbours: usize,
    /// How many of the images are followed through every stage.
    #[arg(long, default_value_t = 16, value_parser = at_least_one)]
    pub trace_images: usize,
    /// Labelled images, with train and test parts or with --holdout: adds every point's kNN accuracy,
    /// and the rank correlation of the prediction with it.
    #[arg(long, value_name = "DATA")]
    pub check: Option<PathBuf>,
    /// Images held out of those.
    #[command(flatten)]
    pub holdout: HoldoutArgs,
    /// Name the worst stages of every point, not only of those that are not green.
    #[arg(long)]
    pub all: bool,
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
