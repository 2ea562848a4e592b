//! Arguments of what answers with a network's own classifier.

use std::path::PathBuf;

use clap::Args;
use slimbit_graph::Point;

use super::numbers::*;
use super::{HoldoutArgs, MemoryArgs};
use crate::machine::parse_threads;

/// Arguments of `predict`.
#[derive(Args, Debug)]
#[command(after_help = "\
Probabilities are the softmax of the logits. It is computed in floating point, for display; everything up to the logits of
a .slim file is computed in integers.

  slimbit predict tuned.slim photo.jpg
  slimbit predict tuned.slim photos/ --csv predictions.csv
  slimbit predict net.slim photos/ --classes names.txt --top 1 --json

Exit code: 0 where every image was read; 3 where some were damaged and skipped, each of which is named on standard error;
1 where none could be read, and for every other error; 130 after Ctrl-C.")]
pub struct PredictArgs {
    /// A .slim file, or a float network (.safetensors) as `slimbit import` and `finetune` write it.
    pub file: PathBuf,
    /// Images; of folders, all images in them and below; also IDX and CIFAR files.
    #[arg(required = true)]
    pub images: Vec<PathBuf>,
    /// How many of the most probable classes are given of each image.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one)]
    pub top: usize,
    /// The point of a .slim file; by default the first in the file.
    #[arg(long)]
    pub point: Option<Point>,
    /// Names of the classes where the file has none, or others.
    #[arg(long, value_name = "NAMES.TXT")]
    pub classes: Option<PathBuf>,
    /// Threads; by default one for every core.
    #[arg(long, value_parser = parse_threads)]
    pub threads: Option<usize>,
    /// How much memory the network may take.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Write a CSV table with a row for each image; `-` for standard output.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// How class folders become the network's classes.
#[derive(Args, Debug, Default)]
pub struct ClassArgs {
    /// The network's class names where the file has none, or others: a text file with one a line, in the order of
    /// the logits, or a JSON list of strings.
    #[arg(long, value_name = "NAMES.TXT")]
    pub classes: Option<PathBuf>,
    /// The class of a folder whose name is another, by name or by number (repeatable).
    #[arg(long, value_name = "FOLDER=CLASS", value_parser = parse_map)]
    pub map: Vec<(String, String)>,
}

fn parse_map(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((folder, class)) if !folder.is_empty() && !class.is_empty() => {
            Ok((folder.to_owned(), class.to_owned()))
        }
        _ => Err("write a class folder and a class of the network, as in tabby=cat".to_owned()),
    }
}

/// Arguments of `evaluate`.
#[derive(Args, Debug)]
#[command(after_help = "\
Class folders are matched with the network's classes by name, whatever their order. A file without class names takes
folders that are all named by numbers for the classes of those numbers, and as many folders as it has classes in their
alphabetical order. A folder that fits no class is an error.

  slimbit evaluate tuned.slim --data labelled/
  slimbit evaluate tuned.slim --data labelled/ --point \"1x W8A8\" --point \"1x W4A4\" --float tuned/network.safetensors
  slimbit evaluate net.slim --data labelled/ --classes names.txt --confusion matrix.svg")]
pub struct EvaluateArgs {
    /// A .slim file, or a float network (.safetensors) as `slimbit import` and `finetune` write it.
    pub file: PathBuf,
    /// Labelled images: class folders, IDX or CIFAR files. Of several parts the test images.
    #[arg(long)]
    pub data: PathBuf,
    /// Images held out of those, as `finetune` held them out.
    #[command(flatten)]
    pub holdout: HoldoutArgs,
    /// The points of a .slim file (repeatable); by default the first in the file.
    #[arg(long)]
    pub point: Vec<Point>,
    /// The float network that the .slim file was made of, to compare with.
    #[arg(long, value_name = "NETWORK")]
    pub float: Option<PathBuf>,
    /// Which folder is which class.
    #[command(flatten)]
    pub classes: ClassArgs,
    /// Use at most this many images, spread evenly over all.
    #[arg(long, value_parser = at_least_one)]
    pub limit: Option<usize>,
    /// Threads; by default one for every core.
    #[arg(long, value_parser = parse_threads)]
    pub threads: Option<usize>,
    /// How much memory the network may take.
    #[command(flatten)]
    pub memory: MemoryArgs,
    /// Show every class and every confusion instead of the most telling.
    #[arg(long)]
    pub all: bool,
    /// Write the accuracy of each class as a CSV table; `-` for standard output.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write the confusion matrix of one point: a picture (.svg) or a table (.csv). Repeatable.
    #[arg(long, value_name = "FILE")]
    pub confusion: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
