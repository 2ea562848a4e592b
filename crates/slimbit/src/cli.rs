//! The command line, declared.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use slimbit_data::{Filter, Resize};
use slimbit_graph::{Point, Width};
use slimbit_num::WeightGrid;
use slimbit_quant::{Correction, ValueRule};
use slimbit_train::finetune::Freeze;
use slimbit_train::probe::LabelBudget;

/// The command line, as `clap` reads it.
#[derive(Parser, Debug)]
#[command(
    name = "slimbit",
    version,
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
    /// Accuracy of a .slim file's points, on the integer engine's own features or classifier.
    Probe(ProbeArgs),
    /// Predict without labels how much every point will lose, and which stages cause it.
    Readiness(ReadinessArgs),
    /// What a .slim file holds; with --prove, re-check its arithmetic from the file alone.
    Inspect(InspectArgs),
    /// Compare the reference, every SIMD level and the training-side simulation, layer by layer.
    Verify(VerifyArgs),
    /// Find the stage at which a .slim file and its float network part, and why.
    Compare(CompareArgs),
    /// Run images through one point and print the outputs.
    Run(RunArgs),
    /// Write one feature vector per image to a .npy file.
    Embed(EmbedArgs),
    /// Latency of a .slim file's points on this machine.
    Bench(BenchArgs),
}

/// Arguments of `quickstart`.
#[derive(Args, Debug)]
pub struct QuickstartArgs {
    /// Folder for everything the run writes. An interrupted run there is continued.
    #[arg(long, default_value = "out/quickstart")]
    pub out: PathBuf,
    /// Folder with the four IDX files; by default the one in this repository.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Start over, even if the folder holds an interrupted run.
    #[arg(long)]
    pub fresh: bool,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// Changes to the configuration, such as `epochs=4` or `optim.lr=0.1`.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Arguments of `pretrain`.
#[derive(Args, Debug)]
pub struct PretrainArgs {
    /// Images: an image folder, or a folder of IDX or CIFAR binary files. Labels are not read.
    #[arg(long, required_unless_present = "resume")]
    pub data: Option<PathBuf>,
    /// TOML configuration; every key has a default.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Run directory to make.
    #[arg(long, default_value = "runs/slimbit")]
    pub out: PathBuf,
    /// Continue the run in this directory, to the same weights as if it had never stopped.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["data", "config", "overrides"])]
    pub resume: Option<PathBuf>,
    /// Print the resolved configuration and stop.
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
pub struct RecipesArgs {
    /// The recipe to print; by default all are listed.
    pub name: Option<String>,
    /// List them as JSON.
    #[arg(long, conflicts_with = "name")]
    pub json: bool,
}

/// Arguments of `finetune`.
#[derive(Args, Debug)]
#[command(after_help = "\
Fine-tune, quantise, measure:
  slimbit finetune runs/first --data labelled/ --out runs/first-tuned --warm-head 50
  slimbit quantize runs/first-tuned/network.safetensors --images labelled/ -o tuned.slim
  slimbit probe tuned.slim --data labelled/ --kind top1 --float runs/first-tuned/network.safetensors
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
    /// Folder for settings, metrics, checkpoints and the tuned network.
    #[arg(long, default_value = "runs/finetune")]
    pub out: PathBuf,
    /// Continue the fine-tuning in this folder, to the same weights as if it had never stopped.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["run", "data", "out"])]
    pub resume: Option<PathBuf>,
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
    #[arg(long, value_name = "EPOCHS", default_value_t = 0)]
    pub warm_head: usize,
    /// Factor of the learning rate from each layer to the one below it, above 0 and up to 1.
    #[arg(long, default_value_t = 1.0)]
    pub layer_decay: f64,
    /// Passes over the labelled images; the rate falls to a tenth after 60 % and after 80 % of them
    /// [default: 20].
    #[arg(long)]
    pub epochs: Option<u64>,
    /// Learning rate [default: 0.05; with --freeze all 30 for a batch of 512, in proportion].
    #[arg(long)]
    pub lr: Option<f64>,
    /// Images per step [default: 64].
    #[arg(long)]
    pub batch: Option<usize>,
    /// L2 penalty [default: 1e-4; with --freeze all none].
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Decides the labels drawn, the order of the images, their crops and the classifier's start.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Do not flip images, where left and right matter.
    #[arg(long)]
    pub no_flip: bool,
    /// Print a summary as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// The checkpoint: safetensors, PyTorch's (.pth, .pt, .th) or ONNX. No code in it is ever run.
    #[arg(required_unless_present = "random", conflicts_with = "random")]
    pub source: Option<PathBuf>,
    /// The network, by our name, torchvision's or timm's; by default, what the tensors fit.
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// The network file to write (.safetensors).
    #[arg(short, long)]
    pub output: PathBuf,
    /// Random weights of this seed instead of a checkpoint, for benchmarks.
    #[arg(long, value_name = "SEED", requires = "arch")]
    pub random: Option<u64>,
    /// Classes of a network of random weights.
    #[arg(long, default_value_t = 1000, requires = "random")]
    pub classes: usize,
    /// Rows and columns of the input; by default those of the published network.
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    pub input: Option<[usize; 2]>,
    /// How images become the network's input.
    #[command(flatten)]
    pub preprocess: PreprocessArgs,
    /// Compare an ONNX file with ONNX Runtime on images of this folder too, not only on random ones.
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Python that has ONNX Runtime; by default SLIMBIT_PYTHON or python3.
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// Print a summary as JSON.
    #[arg(long)]
    pub json: bool,
}

fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let sides = text.split_once('x').unwrap_or((text, text));
    match (sides.0.parse(), sides.1.parse()) {
        (Ok(height), Ok(width)) => Ok([height, width]),
        _ => Err(format!(
            "`{text}` is no size; write rows and columns as in 224x224"
        )),
    }
}

/// The evaluation transform that a network file carries.
#[derive(Args, Debug)]
pub struct PreprocessArgs {
    /// Mean per channel of pixels in 0 to 1; by default ImageNet's.
    #[arg(long, value_delimiter = ',', value_name = "R,G,B")]
    pub mean: Option<Vec<f32>>,
    /// Standard deviation per channel of pixels in 0 to 1; by default ImageNet's.
    #[arg(long, value_delimiter = ',', value_name = "R,G,B")]
    pub std: Option<Vec<f32>>,
    /// `stretch` to the input's size, or the pixels of the shorter side, of which the centre is
    /// taken; by default 8/7 of the input, and `stretch` up to 64 pixels.
    #[arg(long, value_parser = parse_resize)]
    pub resize: Option<Resize>,
    /// Kernel of the resize.
    #[arg(long, value_enum)]
    pub filter: Option<FilterArg>,
}

fn parse_resize(text: &str) -> Result<Resize, String> {
    match text {
        "stretch" => Ok(Resize::Stretch),
        _ => text
            .parse()
            .map(Resize::Shorter)
            .map_err(|_| format!("`{text}` is neither `stretch` nor a number of pixels")),
    }
}

/// The kernel of a resize.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterArg {
    /// Triangle.
    Bilinear,
    /// Keys' cubic.
    Bicubic,
}

impl From<FilterArg> for Filter {
    fn from(arg: FilterArg) -> Self {
        match arg {
            FilterArg::Bilinear => Self::Bilinear,
            FilterArg::Bicubic => Self::Bicubic,
        }
    }
}

/// Which points of a grid.
#[derive(Args, Debug, Clone)]
pub struct GridArgs {
    /// Widths of the grid.
    #[arg(long, value_delimiter = ',', default_value = "1,0.75,0.5,0.25")]
    pub widths: Vec<Width>,
    /// Weight and activation bits of the grid.
    #[arg(long, value_delimiter = ',', default_value = "W8A8,W4A8,W4A4,W3A4,W2A4", value_parser = parse_bits)]
    pub bits: Vec<(u8, u8)>,
}

fn parse_bits(text: &str) -> Result<(u8, u8), String> {
    let point: Point = format!("1x {text}").parse().map_err(|_| {
        format!("`{text}` is no pair of bit-widths; write weights and activations, of 2 to 8 bits each, as in W4A8")
    })?;
    Ok((point.weight_bits, point.act_bits))
}

/// Arguments of `export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Run directory of `pretrain`; with --onnx, a float network (.safetensors) or a .slim file.
    #[arg(value_name = "SOURCE")]
    pub run: PathBuf,
    /// Calibration images; by default the training images of the run.
    #[arg(long)]
    pub images: Option<PathBuf>,
    /// How many images calibrate.
    #[arg(long, default_value_t = 1024)]
    pub calibration_images: usize,
    /// The file to write; by default `model.slim` in the run directory.
    #[arg(short, long)]
    pub output: Option<PathBuf>,
    /// The points to export.
    #[command(flatten)]
    pub grid: GridArgs,
    /// What is particular to ONNX.
    #[command(flatten)]
    pub onnx: OnnxArgs,
    /// Print a summary as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `export` with --onnx.
#[derive(Args, Debug)]
pub struct OnnxArgs {
    /// Write this ONNX file: float from a network, quantised (QDQ) from one point of a .slim file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["images", "output"])]
    pub onnx: Option<PathBuf>,
    /// The point of the .slim file; by default its first.
    #[arg(long, requires = "onnx")]
    pub point: Option<Point>,
    /// Images per run of the ONNX file; by default any number.
    #[arg(long, requires = "onnx", value_parser = parse_batch)]
    pub batch: Option<usize>,
    /// Keep batch-norms of a float network as operators instead of folding them.
    #[arg(long, requires = "onnx")]
    pub keep_batch_norm: bool,
    /// Store weights of 2 to 4 bits as INT8: ONNX Runtime and OpenVINO execute INT4 in float.
    #[arg(long, requires = "onnx")]
    pub int8_weights: bool,
    /// Compare ONNX Runtime and OpenVINO on the written file with our own outputs, on the images of
    /// this folder.
    #[arg(long, value_name = "DIR", requires = "onnx")]
    pub check: Option<PathBuf>,
    /// Check on at most this many images.
    #[arg(long, requires = "check")]
    pub limit: Option<usize>,
    /// Python that has those runtimes; by default SLIMBIT_PYTHON or python3.
    #[arg(long, value_name = "PATH", requires = "check")]
    pub python: Option<PathBuf>,
}

fn parse_batch(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(batch) if batch > 0 => Ok(batch),
        _ => Err(format!("`{text}` is no number of images above 0")),
    }
}

/// Arguments of `quantize`.
#[derive(Args, Debug)]
pub struct QuantizeArgs {
    /// The float network, as `slimbit import` writes it.
    pub network: PathBuf,
    /// Calibration images. Labels are not read; of a folder with splits, the training images.
    #[arg(long)]
    pub images: PathBuf,
    /// The file to write. An old one stays as it is until the new one is whole.
    #[arg(short, long)]
    pub output: PathBuf,
    /// How many images calibrate at most; they are spread evenly over the folder.
    #[arg(long, default_value_t = 256)]
    pub calibration_images: usize,
    /// Widths of the points. Only slimmable networks are any good below 1.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    pub widths: Vec<Width>,
    /// Weight and activation bits of the points.
    #[arg(long, value_delimiter = ',', default_value = "W8A8,W6A6,W4A8,W4A4", value_parser = parse_bits)]
    pub bits: Vec<(u8, u8)>,
    /// How activation ranges follow from values: min-max, percentile[=P] or mse.
    #[arg(long, default_value = "mse")]
    pub observer: ValueRule,
    /// Weight grid: nested (one 8-bit copy holds every bit-width), nested-odd or minmax (a copy per
    /// bit-width).
    #[arg(long, default_value = "nested")]
    pub grid: WeightGrid,
    /// What is corrected in every output channel: its mean, mean and slope, or nothing.
    #[arg(long, value_enum, default_value = "line")]
    pub correction: CorrectionArg,
    /// Fold scales between consecutive layers, for networks whose channels differ much in size.
    #[arg(long)]
    pub equalise: bool,
    /// Weights of this many bits and fewer are rounded so that their layer's output changes least;
    /// above, and with 0 all, each to its nearest code.
    #[arg(long, default_value_t = 6, value_name = "BITS", value_parser = clap::value_parser!(u8).range(0..=8))]
    pub reconstruct: u8,
    /// Reconstruct for the inputs of the float network instead of those of the quantised one.
    #[arg(long)]
    pub no_compensate: bool,
    /// Never clip a weight.
    #[arg(long)]
    pub no_clip: bool,
    /// Widen the scale of 8-bit weights by this factor, 1 to 2. 1.4 costs them half a bit, and CPUs
    /// without an 8-bit dot product (AVX2) then run them about a quarter faster.
    #[arg(long, default_value_t = 1.0, value_parser = parse_headroom)]
    pub headroom: f32,
    /// Estimate batch-norm again on the calibration images, which pays where they differ from those
    /// that the network was trained on.
    #[arg(long)]
    pub renormalise: bool,
    /// Memory for intermediate results, in MiB. More of it means more images are looked at when
    /// weights are rounded.
    #[arg(long, default_value_t = 2048)]
    pub memory: usize,
    /// Print a summary as JSON, with the error of every layer.
    #[arg(long)]
    pub json: bool,
}

fn parse_headroom(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(factor) if (1.0..=2.0).contains(&factor) => Ok(factor),
        _ => Err(format!("`{text}` is no factor from 1 to 2")),
    }
}

/// What `quantize` corrects.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorrectionArg {
    /// Nothing.
    None,
    /// The mean of every output channel.
    Mean,
    /// Mean and slope of every output channel.
    Line,
}

impl From<CorrectionArg> for Correction {
    fn from(arg: CorrectionArg) -> Self {
        match arg {
            CorrectionArg::None => Self::None,
            CorrectionArg::Mean => Self::Mean,
            CorrectionArg::Line => Self::Line,
        }
    }
}

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

/// Arguments of `probe`.
#[derive(Args, Debug)]
pub struct ProbeArgs {
    /// The .slim file; for `--kind top1` also a float network.
    pub file: PathBuf,
    /// Labelled images, with train and test parts. `--kind top1` needs no training images; there,
    /// class folders that are all named by numbers are those classes.
    #[arg(long)]
    pub data: PathBuf,
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
    /// Use at most this many training images; for `--kind top1`, test images.
    #[arg(long)]
    pub limit: Option<usize>,
    /// Labels of the training images to use, the same for every point: a share (`1%`, `10%`), a
    /// number per class (`25`), or `all`. The other training images are not looked at.
    #[arg(long, default_value = "all")]
    pub labels: LabelBudget,
    /// Decides which labels are drawn, and the start and order of the linear classifier's training.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Repeat with this many seeds, from --seed on, and give the mean and the standard deviation.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub seeds: usize,
    /// How `--kind linear` trains.
    #[command(flatten)]
    pub linear: LinearArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
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
    #[arg(long)]
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
    /// Labelled images, with train and test parts: adds every point's kNN accuracy, and the rank
    /// correlation of the prediction with it.
    #[arg(long, value_name = "DATA")]
    pub check: Option<PathBuf>,
    /// Name the worst stages of every point, not only of those that are not green.
    #[arg(long)]
    pub all: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// The .slim file.
    pub file: PathBuf,
    /// Prove again, for every channel of every point, that the integers give the same codes as the
    /// batch-norm they replace, for every accumulator, and that nothing can overflow.
    #[arg(long)]
    pub prove: bool,
    /// Only these points (repeatable); by default all in the file.
    #[arg(long)]
    pub point: Vec<Point>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The .slim file.
    pub file: PathBuf,
    /// Images to compare on.
    #[arg(long)]
    pub images: PathBuf,
    /// How many images.
    #[arg(long, default_value_t = 16)]
    pub limit: usize,
    /// Run directory the file was exported from: adds the training-side simulation.
    #[arg(long)]
    pub run: Option<PathBuf>,
    /// Only these points (repeatable); by default all in the file.
    #[arg(long)]
    pub point: Vec<Point>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `compare`.
#[derive(Args, Debug)]
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
    #[arg(long, default_value_t = 16)]
    pub limit: usize,
    /// Signal-to-noise ratio of a stage, in dB, below which the networks have parted.
    #[arg(long, value_name = "DB", default_value_t = 20.0)]
    pub threshold: f64,
    /// Fold scales between layers of the float network first, as `quantize --equalise` does.
    #[arg(long)]
    pub equalise: bool,
    /// Exit with an error if any stage has a lower ratio than this.
    #[arg(long, value_name = "DB")]
    pub fail_below: Option<f64>,
    /// Show every stage instead of the worst.
    #[arg(long)]
    pub all: bool,
    /// Print JSON, with every stage.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The .slim file.
    pub file: PathBuf,
    /// Image files.
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
    /// The point; by default the first in the file.
    #[arg(long)]
    pub point: Option<Point>,
    /// Print JSON, with every output value.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `embed`.
#[derive(Args, Debug)]
pub struct EmbedArgs {
    /// The .slim file.
    pub file: PathBuf,
    /// Images.
    #[arg(long)]
    pub images: PathBuf,
    /// The file to write. NAME.npy holds [images, features] in f32, and the images' names go to
    /// NAME.txt; NAME.parquet holds a row per image with its name, label, class and embedding.
    #[arg(short, long)]
    pub output: PathBuf,
    /// The point; by default the first in the file.
    #[arg(long)]
    pub point: Option<Point>,
}

/// Arguments of `bench`.
#[derive(Args, Debug)]
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
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub threads: usize,
    /// Images per timed run.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub batch: usize,
    /// Show where the time of one inference goes, and the fraction of the peak of the processor's
    /// multiply-accumulate instruction.
    #[arg(long)]
    pub per_op: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("not a whole number of at least 1".to_owned()),
    }
}
