use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use slimbit_data::{Parts, Preprocess};
use slimbit_graph::{ClassNames, Graph, Width};
use slimbit_interchange::FileKind;
use slimbit_train::config::WidthsConfig;
use slimbit_train::probe::{Knn, LabelBudget, LinearProbe};

use super::Outcome;
use super::classes::Classes;
use super::classify::{self, Answers};
use super::csv::CsvTable;
use super::evaluate::interval;
use super::features::{
    Images, engine_features, labelled, open_model, open_parts, open_test, points_of, preprocess_of,
    warn_of_training_images,
};
use super::float::{CALIBRATION, FloatNetwork, FloatSource};
use super::open::{self, Wanted};
use super::{export, progress, quantize};
use crate::cli::{ClassArgs, LinearArgs, ProbeArgs, ProbeKind};
use crate::console::{self, say};
use crate::table::Table;

/// The widths of a run that are probed where none are named, as far as it trained them.
const GRID_WIDTHS: [f64; 4] = [1.0, 0.75, 0.5, 0.25];

#[derive(Serialize)]
struct Row {
    /// A point, or `float`.
    point: String,
    top1: f64,
    /// Standard deviation over the seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    spread: Option<f64>,
    /// What each seed gave.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    runs: Vec<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correct: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<usize>,
    /// Wilson's interval with 95 % confidence, in per cent.
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<[f64; 2]>,
    /// Mean cosine of the features with those of the float network.
    #[serde(skip_serializing_if = "Option::is_none")]
    cosine: Option<f64>,
    /// Per cent of images of which the float network thinks the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    agreement: Option<f64>,
}

impl Row {
    /// Mean and spread of what several seeds gave, in per cent.
    fn of_runs(point: String, runs: Vec<f64>) -> Self {
        let mean = runs.iter().sum::<f64>() / runs.len() as f64;
        let squares: f64 = runs.iter().map(|top1| (top1 - mean).powi(2)).sum();
        let several = runs.len() > 1;
        Self {
            point,
            top1: mean,
            spread: several.then(|| (squares / (runs.len() - 1) as f64).sqrt()),
            runs: if several { runs } else { Vec::new() },
            correct: None,
            images: None,
            interval: None,
            cosine: None,
            agreement: None,
        }
    }
}

pub(super) fn execute(args: &ProbeArgs) -> Result<Outcome> {
    let kind = open::expect(&args.file, &[Wanted::Slim, Wanted::Network, Wanted::Run])?;
    let csv = CsvTable::check(&args.csv, args.json, &[&args.file])?;
    check(args)?;
    let float = kind == FileKind::Network;
    let rows = match (args.kind, float) {
        _ if args.file.is_dir() => run_rows(args)?,
        (ProbeKind::Top1, true) => vec![float_row(args)?],
        (ProbeKind::Top1, false) => engine_rows(args)?,
        (_, false) => feature_rows(args)?,
        (_, true) => bail!(
            "{} is a float network; --kind top1 runs it, the other kinds want a .slim file",
            args.file.display()
        ),
    };
    let printed = csv.write(&rows, &["point", "top1"])?;
    if args.json {
        console::print_json(&rows)?;
    } else if !printed {
        say!("{}", table(&rows))?;
    }
    Ok(Outcome::Done)
}

/// Refuses options that would change nothing.
fn check(args: &ProbeArgs) -> Result<()> {
    check_source(args)?;
    let LinearArgs { epochs, lr, batch } = &args.linear;
    let linear = [
        ("--epochs", epochs.is_some()),
        ("--lr", lr.is_some()),
        ("--batch", batch.is_some()),
    ];
    match linear.iter().find(|(_, given)| *given) {
        Some((option, _)) if args.kind != ProbeKind::Linear => {
            bail!("{option} belongs to --kind linear; the other kinds train nothing")
        }
        _ => {}
    }
    let ClassArgs { classes, map } = &args.classes;
    for (option, given) in [("--classes", classes.is_some()), ("--map", !map.is_empty())] {
        if given && args.kind != ProbeKind::Top1 {
            bail!(
                "{option} belongs to --kind top1; the other kinds ask for no class of the network's"
            )
        }
    }
    let all = args.labels == LabelBudget::All;
    match args.kind {
        ProbeKind::Top1 if !all || args.seeds > 1 => {
            bail!(
                "--kind top1 uses no training labels, so --labels and --seeds change nothing; leave them out"
            )
        }
        ProbeKind::Knn if all && args.seeds > 1 => {
            bail!(
                "every seed gives the same neighbours of all labels; give --labels too, or leave --seeds out"
            )
        }
        _ => Ok(()),
    }
}

/// Refuses options that do not go with a file, or with a run directory.
fn check_source(args: &ProbeArgs) -> Result<()> {
    let file = args.file.display();
    if args.file.is_dir() {
        if args.kind == ProbeKind::Top1 {
            bail!(
                "{file} is a folder, and a run has no classifier; --kind top1 wants a .slim file or a float network"
            );
        }
        if !args.point.is_empty() || args.float.is_some() {
            bail!(
                "{file} is a run, of which the float network is probed at --widths; --point and --float go with the .slim \
                 file that `slimbit export` writes"
            );
        }
        return Ok(());
    }
    let given = [
        ("--widths", args.widths.is_some()),
        ("--batch-norm", args.batch_norm.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((option, _)) => bail!("{option} goes with a run directory, and {file} is none"),
        None => Ok(()),
    }
}

fn table(rows: &[Row]) -> Table {
    let mut header = vec!["point", "top-1 %"];
    let spread = rows.iter().any(|row| row.spread.is_some());
    if spread {
        header.push("± over seeds");
    }
    let counted = rows.iter().any(|row| row.correct.is_some());
    let compared = rows.iter().any(|row| row.agreement.is_some());
    if counted {
        header.extend(["95 % interval", "correct"]);
    }
    if compared {
        header.extend(["same top-1 as float %", "cosine with float"]);
    }
    let mut table = Table::new(header);
    for row in rows {
        let mut cells = vec![row.point.clone(), format!("{:.2}", row.top1)];
        if let Some(spread) = row.spread {
            cells.push(format!("{spread:.2}"));
        }
        if let (Some(correct), Some(images), Some([low, high])) =
            (row.correct, row.images, row.interval)
        {
            cells.push(format!("{low:.1} to {high:.1}"));
            cells.push(format!("{correct} of {images}"));
        }
        if let Some(agreement) = row.agreement {
            let cosine = row
                .cosine
                .map_or_else(|| "-".to_owned(), |c| format!("{c:.5}"));
            cells.extend([format!("{agreement:.2}"), cosine]);
        }
        table.row(cells);
    }
    table
}

/// The float network's own classifier.
fn float_row(args: &ProbeArgs) -> Result<Row> {
    let network = open::network(&args.file)?;
    let preprocess = quantize::preprocess_of(&network, &args.file)?;
    let holdout = args.holdout.drawn(args.seed);
    warn_of_training_images(&network.metadata, &args.data, holdout)?;
    let classes = network_classes(&network.graph, network.classes()?, args)?;
    let dataset = open_test(&args.data, &args.holdout, args.seed)?;
    let images = Images::load(&dataset, &preprocess, args.limit)?;
    let truths = classify::truths(&classes, &dataset, &images, &args.classes.map, &args.data)?;
    let answers = classify::by_float(&network, &preprocess, &images)?;
    Ok(top1("float".to_owned(), &answers, &truths, None))
}

/// The classifier of every point, on the integer engine.
fn engine_rows(args: &ProbeArgs) -> Result<Vec<Row>> {
    let model = Arc::new(open_model(&args.file, args.memory)?);
    let preprocess = preprocess_of(&model)?;
    let points = points_of(&model, &args.point)?;
    let holdout = args.holdout.drawn(args.seed);
    warn_of_training_images(model.metadata(), &args.data, holdout)?;
    let classes = network_classes(model.graph(), model.classes()?, args)?;
    let dataset = open_test(&args.data, &args.holdout, args.seed)?;
    let images = Images::load(&dataset, &preprocess, args.limit)?;
    let truths = classify::truths(&classes, &dataset, &images, &args.classes.map, &args.data)?;
    let mut rows = Vec::new();
    let float = match &args.float {
        Some(path) => {
            let network = open::network(path)?;
            if quantize::preprocess_of(&network, path)? != preprocess {
                bail!(
                    "{} and {} do not preprocess alike",
                    path.display(),
                    args.file.display()
                );
            }
            let answers = classify::by_float(&network, &preprocess, &images)?;
            rows.push(top1("float".to_owned(), &answers, &truths, None));
            Some(answers)
        }
        None => None,
    };
    let bar = progress::steps("probing", points.len());
    for point in points {
        bar.set_message(point.to_string());
        let answers = classify::by_engine(&model, point, &images)?;
        rows.push(top1(point.to_string(), &answers, &truths, float.as_ref()));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(rows)
}

/// The classes of the network that is probed.
fn network_classes(graph: &Graph, names: Option<ClassNames>, args: &ProbeArgs) -> Result<Classes> {
    let list = args.classes.classes.as_deref();
    Classes::of(graph, names, list, &args.file)
}

fn top1(point: String, answers: &Answers, truths: &[u32], float: Option<&Answers>) -> Row {
    let percent = |count: usize| 100.0 * count as f64 / truths.len().max(1) as f64;
    let correct = answers.correct(truths);
    Row {
        point,
        top1: percent(correct),
        spread: None,
        runs: Vec::new(),
        correct: Some(correct),
        images: Some(truths.len()),
        interval: Some(interval(correct as u64, truths.len() as u64).map(|share| 100.0 * share)),
        cosine: float.and_then(|float| answers.cosine(float)),
        agreement: float.map(|float| percent(answers.agreeing(float))),
    }
}

/// What the probes of one file share: the images, and which labels each seed may see.
struct Judge<'a> {
    args: &'a ProbeArgs,
    /// Training images whose label any seed sees, and test images.
    images: [Images; 2],
    labels: [Vec<u32>; 2],
    /// Per seed, positions among the training images.
    draws: Vec<(u64, Vec<usize>)>,
}

impl<'a> Judge<'a> {
    /// With the images on which batch-norm of a float network is estimated.
    fn open(args: &'a ProbeArgs, preprocess: &Preprocess) -> Result<(Self, Images)> {
        let Parts { train, test } = open_parts(&args.data, &args.holdout, args.seed)?;
        let train = Images::load(&train, preprocess, args.limit)?;
        let test = Images::load(&test, preprocess, None)?;
        Ok((Self::new(args, &train, test)?, train.spread(CALIBRATION)))
    }

    fn new(args: &'a ProbeArgs, train: &Images, test: Images) -> Result<Self> {
        let labels = train.labels(&args.data)?;
        let seeds = (args.seed..).take(args.seeds);
        let draws: Vec<(u64, Vec<usize>)> = seeds
            .map(|seed| Ok((seed, args.labels.draw_of(&labels, &train.classes, seed)?)))
            .collect::<Result<_>>()?;
        let mut used: Vec<usize> = draws.iter().flat_map(|(_, rows)| rows).copied().collect();
        used.sort_unstable();
        used.dedup();
        let train = train.subset(&used);
        let place = |row: &usize| used.partition_point(|used| used < row);
        Ok(Self {
            labels: [train.labels(&args.data)?, test.labels(&args.data)?],
            images: [train, test],
            draws: draws
                .into_iter()
                .map(|(seed, rows)| (seed, rows.iter().map(place).collect()))
                .collect(),
            args,
        })
    }

    /// A row from the features of the training and the test images.
    fn row(&self, point: String, features: impl Fn(&Images) -> Result<Vec<f32>>) -> Result<Row> {
        let [train, test] = &self.images;
        let train = labelled(features(train)?, &self.labels[0])?;
        let test = labelled(features(test)?, &self.labels[1])?;
        let judge = |(seed, rows): &(u64, Vec<usize>)| -> Result<f64> {
            let train = train.subset(rows)?;
            let report = match self.args.kind {
                ProbeKind::Linear => linear(self.args, *seed).classify(&train, &test),
                _ => Knn::default().classify(&train, &test),
            };
            Ok(100.0 * report.with_context(|| format!("probing {point}"))?.top1)
        };
        let runs: Vec<f64> = self.draws.iter().map(judge).collect::<Result<_>>()?;
        Ok(Row::of_runs(point, runs))
    }
}

fn linear(args: &ProbeArgs, seed: u64) -> LinearProbe {
    let default = LinearProbe::default();
    LinearProbe {
        epochs: args.linear.epochs.unwrap_or(default.epochs),
        lr: args.linear.lr.unwrap_or(default.lr),
        batch: args.linear.batch.unwrap_or(default.batch),
        seed,
        ..default
    }
}

fn widths_of(trained: &WidthsConfig) -> Result<Vec<Width>> {
    let within = |width: &f64| (trained.min..=trained.max).contains(width);
    let mut widths: Vec<f64> = GRID_WIDTHS.into_iter().filter(within).collect();
    if widths.is_empty() {
        widths.push(trained.max);
    }
    let widths = widths.into_iter().map(Width::new);
    Ok(widths.collect::<Result<_, _>>()?)
}

/// A classifier trained or looked up on the features of a run's float network at every width.
fn run_rows(args: &ProbeArgs) -> Result<Vec<Row>> {
    let run = export::latest_checkpoint(&args.file)?;
    let input = export::settings(&run)?.input(&run.graph)?;
    let estimate = args.batch_norm.unwrap_or_default();
    let widths = match &args.widths {
        Some(widths) => widths.clone(),
        None => widths_of(&run.config.objective.widths)?,
    };
    export::check_trained(&run, &widths)?;
    let (judge, calibration) = Judge::open(args, &run.config.preprocess)?;
    let bar = progress::steps("probing", widths.len());
    let mut rows = Vec::new();
    for width in widths {
        let name = format!("{width} float");
        bar.set_message(name.clone());
        let params = run.params_at(width)?;
        let network = FloatNetwork::with_estimate(
            &run.graph,
            &params,
            width,
            &input,
            &calibration,
            estimate,
        )?;
        rows.push(judge.row(name, |images| network.features(images))?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(rows)
}

/// A classifier trained or looked up on the features of every point, and of the float network at every
/// width where there is one.
fn feature_rows(args: &ProbeArgs) -> Result<Vec<Row>> {
    let model = Arc::new(open_model(&args.file, args.memory)?);
    let preprocess = preprocess_of(&model)?;
    let points = points_of(&model, &args.point)?;
    let float = match &args.float {
        Some(path) => {
            let source = FloatSource::open(path)?;
            source.check_preprocess(path, &preprocess, &args.file)?;
            Some(source)
        }
        None => None,
    };
    let (judge, calibration) = Judge::open(args, &preprocess)?;

    let mut widths: Vec<Width> = Vec::new();
    for point in &points {
        if !widths.contains(&point.width) {
            widths.push(point.width);
        }
    }
    let controls = if float.is_some() { widths.len() } else { 0 };
    let bar = progress::steps("probing", controls + points.len());
    let mut rows = Vec::new();
    for width in widths {
        if let Some(float) = &float {
            let name = format!("{width} float");
            bar.set_message(name.clone());
            let network = float.at(width, model.input(), &calibration)?;
            rows.push(judge.row(name, |images| network.features(images))?);
            bar.inc(1);
        }
        for &point in points.iter().filter(|point| point.width == width) {
            bar.set_message(point.to_string());
            rows.push(judge.row(point.to_string(), |images| {
                engine_features(&model, point, images)
            })?);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(rows)
}
