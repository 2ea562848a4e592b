//! Arguments of what trains.

use std::path::PathBuf;

use clap::Args;
use slimbit_graph::Width;
use slimbit_train::finetune::Freeze;
use slimbit_train::probe::LabelBudget;

use super::numbers::*;
use super::{CsvArgs, HoldoutArgs};

/// Arguments of `quickstart`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit quickstart                          a few minutes on two cores; then open out/quickstart/report.html
  slimbit quickstart --out demo epochs=2      shorter, and less accurate")]
pub struct QuickstartArgs {
    /// Folder for everything the run writes. An interrupted run there is continued.
    #[arg(long, default_value = "out/quickstart")]
    pub out: PathBuf,
    /// Folder with the four IDX files of other images; by default those of Fashion-MNIST that the program
    /// carries, which are unpacked into OUT/fashion-mnist.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Start over, even if the folder holds an interrupted run.
    #[arg(long)]
    pub fresh: bool,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// A table for another program.
    #[command(flatten)]
    pub csv: CsvArgs,
    /// Changes to the configuration, such as `epochs=4` or `optim.lr=0.1`.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Arguments of `pretrain`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit pretrain --data photos/ --out runs/first
  slimbit pretrain --resume runs/first                            after Ctrl-C
  slimbit pretrain --data photos/ --out runs/second recipe=ssql/resnet18-cifar10 epochs=100
  slimbit pretrain --config settings.toml --out runs/third --dashboard")]
pub struct PretrainArgs {
    /// Images: an image folder, or a folder of IDX or CIFAR binary files. Labels are not read. The same as
    /// `data.path` of a configuration. Without a recipe or --config, network, input, batch and epochs are
    /// chosen for a first result in about an hour on this machine.
    #[arg(long, required_unless_present_any = ["resume", "config", "print_config"])]
    pub data: Option<PathBuf>,
    /// TOML configuration; every key has a default.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Run directory to make.
    #[arg(long, default_value = "runs/slimbit")]
    pub out: PathBuf,
    /// Continue the run in this directory, to the same weights as if it had never stopped. Its epochs,
    /// workers, data.path, run.* and watch.* may change: `--resume RUN epochs=200` trains longer.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "out"])]
    pub resume: Option<PathBuf>,
    /// Resume although images were added, removed or replaced since the run began.
    #[arg(long, requires = "resume")]
    pub allow_changed_data: bool,
    /// What trains: `cpu`, `gpu`, or `gpu:N`, the N-th adapter from 0. GPUs need a program that was built
    /// with `--features gpu`. Not part of the run: a resumed run may continue on a different device.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// Print every setting with its meaning, chosen ones included, and stop.
    #[arg(long)]
    pub print_config: bool,
    /// Show curves and news on the whole terminal instead of a progress bar.
    #[arg(long)]
    pub dashboard: bool,
    /// Changes to the configuration, such as `recipe=ssql/resnet18-cifar10` (`slimbit recipes` lists
    /// them), `epochs=100` or `optim.lr=0.1`.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Arguments of `recipes`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit recipes
  slimbit recipes combined/resnet20-cifar10                       its settings, as a configuration file")]
pub struct RecipesArgs {
    /// The recipe to print; by default all are listed.
    pub name: Option<String>,
    /// List them as JSON.
    #[arg(long, conflicts_with = "name")]
    pub json: bool,
    /// A table for another program.
    #[command(flatten)]
    pub csv: CsvArgs,
    /// Print the JSON schema of recipes and of `pretrain --config` files: every key with its meaning,
    /// its values and its default. Editors complete and check TOML with it.
    #[arg(long, conflicts_with_all = ["name", "json", "csv"])]
    pub schema: bool,
}

/// Arguments of `finetune`.
#[derive(Args, Debug)]
#[command(after_help = "\
Fine-tune, quantise, measure:
  slimbit finetune runs/first --data labelled/ --out runs/first-tuned --warm-head 50
  slimbit quantize runs/first-tuned/network.safetensors --images labelled/ -o tuned.slim
  slimbit evaluate tuned.slim --data labelled/ --float runs/first-tuned/network.safetensors
With few labels:
  slimbit finetune runs/first --data labelled/ --labels 1% --layer-decay 0.8 --warm-head 50")]
pub struct FinetuneArgs {
    /// Run directory of `pretrain`, whose newest checkpoint is tuned.
    #[arg(required_unless_present = "resume")]
    pub run: Option<PathBuf>,
    /// Labelled images: class folders, IDX or CIFAR files. Of several parts the training images; the
    /// accuracy is that on the test images.
    #[arg(long, required_unless_present = "resume")]
    pub data: Option<PathBuf>,
    /// Images held out of those.
    #[command(flatten)]
    pub holdout: HoldoutArgs,
    /// Folder for settings, metrics, checkpoints and the tuned network.
    #[arg(long, default_value = "runs/finetune")]
    pub out: PathBuf,
    /// Continue the fine-tuning in this folder, to the same weights as if it had never stopped; with
    /// `--epochs`, to another number of them in all. Other settings stay.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["run", "data", "out", "holdout", "width", "labels", "freeze",
        "warm_head", "layer_decay", "lr", "batch", "weight_decay", "seed", "no_flip"])]
    pub resume: Option<PathBuf>,
    /// Resume although images were added, removed or replaced since the tuning began.
    #[arg(long, requires = "resume")]
    pub allow_changed_data: bool,
    /// The width to tune. Below 1, the written network is the narrow one on its own.
    #[arg(long, default_value = "1")]
    pub width: Width,
    /// Labels to use: a share (`1%`, `10%`), a number per class (`25`), or `all`.
    #[arg(long, visible_alias = "label-fraction", default_value = "all")]
    pub labels: LabelBudget,
    /// What stays as it is: the first N layers with weights, or `all` but the classifier.
    #[arg(long, value_name = "N|all", default_value = "0")]
    pub freeze: Freeze,
    /// Epochs in which only the classifier learns, as a linear probe, before the first step.
    #[arg(long, value_name = "EPOCHS", default_value_t = 0, value_parser = whole::<usize>)]
    pub warm_head: usize,
    /// Factor of the learning rate from each layer to the one below it, above 0 and up to 1.
    #[arg(long, default_value_t = 1.0, value_parser = number)]
    pub layer_decay: f64,
    /// Passes over the labelled images; the rate falls to a tenth after 60 % and after 80 % of them
    /// [default: 20].
    #[arg(long, value_parser = epochs)]
    pub epochs: Option<u64>,
    /// Learning rate [default: 0.05; with --freeze all 30 for a batch of 512, in proportion].
    #[arg(long, value_parser = above_zero)]
    pub lr: Option<f64>,
    /// Images per step [default: 64].
    #[arg(long, value_parser = at_least_two)]
    pub batch: Option<usize>,
    /// L2 penalty [default: 1e-4; with --freeze all none].
    #[arg(long, value_parser = number)]
    pub weight_decay: Option<f64>,
    /// Decides the labels drawn, the order of the images, their crops and the classifier's start.
    #[arg(long, default_value_t = 0, value_parser = whole::<u64>)]
    pub seed: u64,
    /// Do not flip images, where left and right matter.
    #[arg(long)]
    pub no_flip: bool,
    /// Print a summary as JSON.
    #[arg(long)]
    pub json: bool,
}
