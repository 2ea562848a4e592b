//! `slimbit evaluate`: how often a classifier is right, in all and for each class, and what it takes for what.

mod picture;
mod table;
mod tally;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use serde::Serialize;
use slimbit_data::{DataError, Dataset, printable, spread};
use slimbit_engine::replace_file;

pub(super) use tally::{choice, interval};

use self::tally::{Tally, share};
use super::classes::Classes;
use super::classifier::{Classifier, Variant};
use super::features::{open_test, warn_of_training_images};
use super::output::{self, Product};
use super::{Outcome, progress};
use crate::cli::{EvaluateArgs, STANDARD_OUTPUT};
use crate::console::{self, note, say};

/// Images that are decoded, and run, at a time.
const BATCH: usize = 64;

/// What one point, or the float network, said of all images.
struct Answered {
    variant: Variant,
    tally: Tally,
    /// Images of which the float network says the same.
    agreeing: u64,
}

/// What is evaluated, and on what.
struct Evaluation {
    answered: Vec<Answered>,
    classes: Classes,
    /// Whether a float network was there to compare with.
    compared: bool,
    /// Images that could not be decoded.
    skipped: usize,
}

#[derive(Serialize)]
struct Report<'a> {
    file: String,
    data: String,
    images: u64,
    skipped: usize,
    points: Vec<PointReport<'a>>,
}

#[derive(Serialize)]
struct PointReport<'a> {
    /// A point, or `float`.
    point: String,
    /// Per cent of the images that are taken for what they are.
    top1: f64,
    /// Wilson's interval of that with 95 % confidence, in per cent.
    interval: [f64; 2],
    correct: u64,
    images: u64,
    /// Per cent of the images whose class is among the five most probable.
    #[serde(skip_serializing_if = "Option::is_none")]
    top5: Option<f64>,
    /// Per cent of the images of which the float network says the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    agreement: Option<f64>,
    classes: Vec<ClassReport<'a>>,
    confusions: Vec<ConfusionReport<'a>>,
}

#[derive(Serialize)]
struct ClassReport<'a> {
    class: std::borrow::Cow<'a, str>,
    index: usize,
    images: u64,
    predicted: u64,
    correct: u64,
    recall: Option<f64>,
    precision: Option<f64>,
}

#[derive(Serialize)]
struct ConfusionReport<'a> {
    class: std::borrow::Cow<'a, str>,
    taken_for: std::borrow::Cow<'a, str>,
    images: u64,
}

pub(super) fn execute(args: &EvaluateArgs) -> Result<Outcome> {
    check_outputs(args)?;
    let list = args.classes.classes.as_deref();
    let mut network = Classifier::open(&args.file, list, args.threads, args.memory)?;
    let variants = network.variants(&args.point, &args.file)?;
    if variants.len() > 1 && !args.confusion.is_empty() {
        bail!(
            "--confusion shows one point, and there are {}; give one --point",
            variants.len()
        );
    }
    for path in args.confusion.iter() {
        let most = picture::MOST_CLASSES;
        ensure!(
            network.classes.len() <= most,
            "{}: a matrix of {} classes is larger than anybody looks at ({most}); --csv and --json have every class",
            path.display(),
            network.classes.len()
        );
    }
    let mut float = match &args.float {
        Some(path) => Some(open_float(path, args, &network)?),
        None => None,
    };
    let holdout = args.holdout.drawn(0);
    warn_of_training_images(&network.metadata, &args.data, holdout)?;
    let dataset = open_test(&args.data, &args.holdout, 0)?;
    let classes = network
        .classes
        .of_folders(&dataset, &args.classes.map, &args.data)?;
    let evaluation = evaluate(
        &mut network,
        &variants,
        float.as_mut(),
        &dataset,
        &classes,
        args,
    )?;
    write_outputs(args, &evaluation)?;
    Ok(Outcome::Done)
}

/// Refuses outputs that contradict one another, or are of no kind that can be written.
fn check_outputs(args: &EvaluateArgs) -> Result<()> {
    let to_standard_output = args
        .csv
        .as_deref()
        .is_some_and(|csv| csv == Path::new(STANDARD_OUTPUT));
    ensure!(
        !(args.json && to_standard_output),
        "--json and --csv - both write to standard output; give --csv a file"
    );
    let mut inputs = vec![args.file.as_path(), args.data.as_path()];
    inputs.extend(
        args.float
            .iter()
            .chain(&args.classes.classes)
            .map(PathBuf::as_path),
    );
    if let Some(csv) = args.csv.as_deref().filter(|_| !to_standard_output) {
        output::check_file(csv, Product::Csv, &inputs)?;
    }
    for path in &args.confusion {
        let product = match Format::of(path)? {
            Format::Svg => Product::Svg,
            Format::Csv => Product::Csv,
        };
        output::check_file(path, product, &inputs)?;
        ensure!(
            args.csv.as_deref() != Some(path.as_path()),
            "{}: --csv and --confusion are two tables; give two files",
            path.display()
        );
    }
    Ok(())
}

/// What a confusion matrix is written as, told by the file's name.
enum Format {
    Svg,
    Csv,
}

impl Format {
    fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("svg") => Ok(Self::Svg),
            Some("csv") => Ok(Self::Csv),
            _ => bail!(
                "{}: the name of a confusion matrix must end in .svg (a picture) or .csv (a table)",
                path.display()
            ),
        }
    }
}

/// The float network, which must see the same images and know the same classes.
fn open_float(path: &Path, args: &EvaluateArgs, network: &Classifier) -> Result<Classifier> {
    let float = Classifier::open(
        path,
        args.classes.classes.as_deref(),
        args.threads,
        args.memory,
    )?;
    let (path, file) = (path.display(), args.file.display());
    ensure!(
        float.variants(&[], args.file.as_path())? == [Variant::Float],
        "{path} is no float network; give the one that {file} was made of"
    );
    ensure!(
        float.preprocess == network.preprocess,
        "{path} and {file} do not preprocess alike; give the network that the file was made of"
    );
    let alike = match (float.classes.names(), network.classes.names()) {
        (Some(a), Some(b)) => a == b,
        _ => float.classes.len() == network.classes.len(),
    };
    ensure!(
        alike,
        "{path} and {file} have other classes; give the network that the file was made of"
    );
    Ok(float)
}

/// Runs every variant on all images, a few at a time.
fn evaluate(
    network: &mut Classifier,
    variants: &[Variant],
    mut float: Option<&mut Classifier>,
    dataset: &Dataset,
    classes: &[Option<u32>],
    args: &EvaluateArgs,
) -> Result<Evaluation> {
    let count = network.classes.len();
    let start = |variant| Answered {
        variant,
        tally: Tally::new(count),
        agreeing: 0,
    };
    let mut reference = float.as_ref().map(|_| start(Variant::Float));
    let mut answered: Vec<Answered> = variants.iter().copied().map(start).collect();
    let images = args.limit.unwrap_or(usize::MAX).min(dataset.len());
    let rows: Vec<usize> = spread(dataset.len(), images).collect();
    let bar = progress::steps("evaluating", images);
    let mut skipped = 0;
    for rows in rows.chunks(BATCH) {
        let (codes, truths) = read(network, dataset, classes, rows)?;
        skipped += rows.len() - truths.len();
        bar.inc(rows.len() as u64);
        if truths.is_empty() {
            continue;
        }
        let mut said = None;
        if let (Some(float), Some(reference)) = (&mut float, &mut reference) {
            let logits = float.logits(Variant::Float, &codes)?;
            said = Some(reference.count(&truths, &logits, None));
        }
        for answered in &mut answered {
            let logits = network.logits(answered.variant, &codes)?;
            answered.count(&truths, &logits, said.as_deref());
        }
    }
    bar.finish_and_clear();
    if skipped == rows.len() {
        bail!(
            "none of the {skipped} images in {} can be decoded; copy or download them again",
            args.data.display()
        );
    }
    let compared = reference.is_some();
    Ok(Evaluation {
        answered: reference.into_iter().chain(answered).collect(),
        classes: network.classes.clone(),
        compared,
        skipped,
    })
}

/// The codes of some images and their classes, without those that cannot be decoded.
fn read(
    network: &Classifier,
    dataset: &Dataset,
    classes: &[Option<u32>],
    rows: &[usize],
) -> Result<(Vec<u8>, Vec<u32>)> {
    let read = |&row: &usize| -> Result<Option<(Vec<u8>, u32)>> {
        let label = dataset.label(row).context("every image has a label")?;
        let class = classes[label as usize].context("every class with images is matched")?;
        match dataset.image(row) {
            Ok(image) => Ok(Some((network.preprocess.codes(&image), class))),
            // The dataset has reported it.
            Err(DataError::Decode { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    let read = network.within(|| rows.par_iter().map(read).collect::<Result<Vec<_>>>())?;
    let (codes, truths): (Vec<_>, Vec<_>) = read.into_iter().flatten().unzip();
    Ok((codes.concat(), truths))
}

impl Answered {
    /// Counts the answers to some images, and gives them.
    fn count(&mut self, truths: &[u32], logits: &[f32], float: Option<&[u32]>) -> Vec<u32> {
        let classes = logits.len() / truths.len();
        let rows = logits.chunks_exact(classes);
        for (&truth, row) in truths.iter().zip(rows.clone()) {
            self.tally.add(truth, row);
        }
        let choices: Vec<u32> = rows.map(choice).collect();
        let same = choices
            .iter()
            .zip(float.into_iter().flatten())
            .filter(|(a, b)| a == b);
        self.agreeing += same.count() as u64;
        choices
    }

    fn report<'a>(&self, classes: &'a Classes, compared: bool) -> PointReport<'a> {
        let tally = &self.tally;
        let (correct, images) = (tally.correct(), tally.images());
        let percent = |part| 100.0 * share(part, images).unwrap_or(0.0);
        let counts = tally.by_class().into_iter().enumerate();
        PointReport {
            point: self.variant.to_string(),
            top1: percent(correct),
            interval: interval(correct, images).map(|share| 100.0 * share),
            correct,
            images,
            top5: tally.within_top().map(percent),
            agreement: (compared && self.variant != Variant::Float).then(|| percent(self.agreeing)),
            classes: counts
                .map(|(index, counts)| ClassReport {
                    class: classes.name(index),
                    index,
                    images: counts.images,
                    predicted: counts.predicted,
                    correct: counts.correct,
                    recall: counts.recall().map(|share| 100.0 * share),
                    precision: counts.precision().map(|share| 100.0 * share),
                })
                .collect(),
            confusions: tally
                .confusions()
                .into_iter()
                .map(|confusion| ConfusionReport {
                    class: classes.name(confusion.class as usize),
                    taken_for: classes.name(confusion.taken_for as usize),
                    images: confusion.images,
                })
                .collect(),
        }
    }
}

fn write_outputs(args: &EvaluateArgs, evaluation: &Evaluation) -> Result<()> {
    let Evaluation {
        answered,
        classes,
        compared,
        skipped,
    } = evaluation;
    let shown = &answered[usize::from(*compared)..];
    for path in &args.confusion {
        let one = &shown[0];
        let file = args.file.file_name().unwrap_or(args.file.as_os_str());
        let bytes = match Format::of(path)? {
            Format::Svg => {
                let title = format!(
                    "{}, {}, on {}",
                    file.display(),
                    one.variant,
                    args.data.display()
                );
                picture::svg(&one.tally, classes, &title).into_bytes()
            }
            Format::Csv => table::matrix_csv(&one.tally, classes)?,
        };
        replace_file(path, &bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    let points: Vec<PointReport<'_>> = answered
        .iter()
        .map(|answered| answered.report(classes, *compared))
        .collect();
    let to_standard_output = match args.csv.as_deref() {
        Some(path) if path == Path::new(STANDARD_OUTPUT) => {
            console::print_exactly(&table::classes_csv(&points)?)?;
            true
        }
        Some(path) => {
            replace_file(path, table::classes_csv(&points)?.as_bytes())
                .with_context(|| format!("writing {}", path.display()))?;
            false
        }
        None => false,
    };
    if args.json {
        let report = Report {
            file: printable(&args.file).into_owned(),
            data: printable(&args.data).into_owned(),
            images: points[0].images,
            skipped: *skipped,
            points,
        };
        console::print_json(&report)?;
    } else if !to_standard_output {
        say!("{}", table::summary(&points))?;
        for (answered, point) in shown.iter().zip(&points[usize::from(*compared)..]) {
            table::print(&answered.tally, point, classes, args.all)?;
        }
    }
    if *skipped > 0 {
        let of = points_images(answered) + *skipped as u64;
        note!("{skipped} of {of} images could not be decoded and were left out");
    }
    Ok(())
}

fn points_images(answered: &[Answered]) -> u64 {
    answered
        .first()
        .map_or(0, |answered| answered.tally.images())
}
