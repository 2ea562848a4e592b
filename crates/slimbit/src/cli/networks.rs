//! Arguments of what brings networks in, quantises them and writes files.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use slimbit_data::{Filter, Resize};
use slimbit_graph::{Point, Width};
use slimbit_interchange::checkpoint::Weights;
use slimbit_num::WeightGrid;
use slimbit_quant::{Correction, ValueRule};

use super::CardArgs;
use super::numbers::*;

/// Arguments of `import`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit import mobilenet_v2.pth -o net.safetensors              the tensors say which network it is
  slimbit import net.onnx -o net.safetensors --images photos/     compared with ONNX Runtime
  slimbit import lite0.safetensors --arch tf_efficientnet_lite0 -o net.safetensors
  slimbit import --random 1 --arch resnet50 -o random.safetensors")]
pub struct ImportArgs {
    /// The checkpoint: safetensors, PyTorch's (.pth, .pt, .th) or ONNX. No code in it is ever run.
    #[arg(required_unless_present = "random", conflicts_with = "random")]
    pub source: Option<PathBuf>,
    /// The network, by our name, torchvision's or timm's; by default, what the tensors fit.
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// Which weights of a checkpoint that also holds an average of them (EMA, SWA, a momentum encoder, a
    /// teacher): by default the network's own, but a teacher's rather than a student's.
    #[arg(long, value_enum, default_value = "auto")]
    pub weights: WeightsArg,
    /// Take only the tensors whose names begin with this, where several networks are in one checkpoint.
    #[arg(long, value_name = "NAME")]
    pub prefix: Option<String>,
    /// The network file to write (.safetensors).
    #[arg(short, long)]
    pub output: PathBuf,
    /// Random weights of this seed instead of a checkpoint, for benchmarks.
    #[arg(long, value_name = "SEED", requires = "arch", value_parser = whole::<u64>)]
    pub random: Option<u64>,
    /// Names of the classes, which the network file then carries: a text file with one a line, in the order of the
    /// logits, or a JSON list of strings. With --random, also their number [default: 1000].
    #[arg(long, value_name = "NAMES.TXT|N")]
    pub classes: Option<Classes>,
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
    /// Memory for activations while the network is checked, in MiB. A network that needs more is
    /// refused.
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = at_least_one)]
    pub memory: usize,
    /// Print a summary as JSON.
    #[arg(long)]
    pub json: bool,
}

/// The classes of a network that is brought in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Classes {
    /// So many, without names.
    Count(usize),
    /// Those that a file names.
    Names(PathBuf),
}

impl From<OsString> for Classes {
    fn from(text: OsString) -> Self {
        match text.to_str().and_then(|text| text.parse().ok()) {
            Some(count) => Self::Count(count),
            None => Self::Names(text.into()),
        }
    }
}

/// Which weights of a checkpoint.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightsArg {
    /// The network's own; a teacher's rather than a student's.
    Auto,
    /// The network's own.
    Model,
    /// The average.
    Ema,
}

impl From<WeightsArg> for Weights {
    fn from(arg: WeightsArg) -> Self {
        match arg {
            WeightsArg::Auto => Self::Auto,
            WeightsArg::Model => Self::Model,
            WeightsArg::Ema => Self::Average,
        }
    }
}

fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let sides = text.split_once('x').unwrap_or((text, text));
    match (sides.0.parse(), sides.1.parse()) {
        (Ok(height), Ok(width)) if height > 0 && width > 0 => Ok([height, width]),
        _ => Err(format!(
            "expected rows and columns as in 224x224, got `{text}`"
        )),
    }
}

/// The evaluation transform that a network file carries.
#[derive(Args, Debug)]
pub struct PreprocessArgs {
    /// Mean per channel of pixels in 0 to 1; by default ImageNet's.
    #[arg(long, value_delimiter = ',', value_name = "R,G,B", value_parser = single_precision)]
    pub mean: Option<Vec<f32>>,
    /// Standard deviation per channel of pixels in 0 to 1; by default ImageNet's.
    #[arg(long, value_delimiter = ',', value_name = "R,G,B", value_parser = single_precision)]
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
        _ => match text.parse() {
            Ok(pixels) if pixels > 0 => Ok(Resize::Shorter(pixels)),
            _ => Err(format!(
                "expected `stretch` or a number of pixels of at least 1, got `{text}`"
            )),
        },
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
        format!("expected a pair of bit-widths such as W4A8, each of 2 to 8 bits, got `{text}`")
    })?;
    Ok((point.weight_bits, point.act_bits))
}

/// Arguments of `export`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit export runs/first                                       writes runs/first/model.slim
  slimbit export runs/first --images photos/ --widths 1,0.5 --bits W8A8,W4A8 -o small.slim
  slimbit export net.slim --onnx net.onnx --point \"1x W8A8\" --check photos/")]
pub struct ExportArgs {
    /// Run directory of `pretrain`; with --onnx, a float network (.safetensors) or a .slim file.
    #[arg(value_name = "SOURCE")]
    pub run: PathBuf,
    /// Calibration images; by default the training images of the run.
    #[arg(long)]
    pub images: Option<PathBuf>,
    /// How many images calibrate.
    #[arg(long, default_value_t = 1024, value_parser = at_least_one)]
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
    /// What the file says about itself.
    #[command(flatten)]
    pub card: CardArgs,
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
    #[arg(long, requires = "onnx", value_parser = at_least_one)]
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
    #[arg(long, requires = "check", value_parser = at_least_one)]
    pub limit: Option<usize>,
    /// Python that has those runtimes; by default SLIMBIT_PYTHON or python3.
    #[arg(long, value_name = "PATH", requires = "check")]
    pub python: Option<PathBuf>,
}

/// Arguments of `quantize`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  slimbit quantize net.safetensors --images photos/ -o net.slim
  slimbit quantize net.safetensors --images photos/ -o net.slim --bits W8A8,W4A8 --equalise")]
pub struct QuantizeArgs {
    /// The float network, as `slimbit import` writes it.
    pub network: PathBuf,
    /// Calibration images. Labels are not read; of a folder with splits, the training images.
    #[arg(long)]
    pub images: PathBuf,
    /// The file to write. An old one stays as it is until the new one is whole.
    #[arg(short, long)]
    pub output: PathBuf,
    /// Names of the classes where the network has none, or others: a text file with one a line, in the order of the
    /// logits, or a JSON list of strings.
    #[arg(long, value_name = "NAMES.TXT")]
    pub classes: Option<PathBuf>,
    /// How many images calibrate at most; they are spread evenly over the folder.
    #[arg(long, default_value_t = 256, value_parser = at_least_one)]
    pub calibration_images: usize,
    /// Widths of the points. Widths below 1 are useful only for slimmable networks.
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
    #[arg(long, default_value_t = 6, value_name = "BITS", value_parser = up_to_eight)]
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
    /// Memory for all of it, in MiB, the network included; kept within 1.2 times. More of it means that
    /// more images are looked at when weights are rounded, and that larger layers are reconstructed.
    #[arg(long, default_value_t = 2048, value_parser = at_least_one)]
    pub memory: usize,
    /// What the file says about itself.
    #[command(flatten)]
    pub card: CardArgs,
    /// Print a summary as JSON, with the error of every layer.
    #[arg(long)]
    pub json: bool,
}

impl QuantizeArgs {
    /// How a file was quantised, for the file itself: the settings that its integers depend on.
    pub fn recorded(&self, images: usize) -> String {
        let correction = self.correction.to_possible_value();
        let correction = correction.map_or_else(String::new, |value| value.get_name().to_owned());
        let mut text = format!(
            "{images} calibration images, --observer {} --correction {correction} --reconstruct {}",
            self.observer, self.reconstruct
        );
        for (given, flag) in [
            (self.equalise, "--equalise"),
            (self.no_compensate, "--no-compensate"),
            (self.no_clip, "--no-clip"),
            (self.renormalise, "--renormalise"),
        ] {
            if given {
                text += &format!(" {flag}");
            }
        }
        if self.headroom != 1.0 {
            text += &format!(" --headroom {}", self.headroom);
        }
        text
    }
}

fn parse_headroom(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(factor) if (1.0..=2.0).contains(&factor) => Ok(factor),
        _ => Err(format!("expected a factor from 1 to 2, got `{text}`")),
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
