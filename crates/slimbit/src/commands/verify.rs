use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::tensor::{Tensor, TensorData};
use serde::Serialize;
use slimbit_data::Dataset;
use slimbit_engine::{Model, Session, StageTrace, Trace, reference};
use slimbit_graph::{Params, Point, PointStatistics};
use slimbit_kernels::Isa;
use slimbit_nn::{Mode, Net};
use slimbit_quant::{input_values, simulate};

use super::csv::CsvTable;
use super::export::{latest_checkpoint, params_for};
use super::features::{Images, open_model, points_of, preprocess_of};
use super::{Outcome, progress, statistics};
use crate::cli::VerifyArgs;
use crate::console::{self, count, say};
use crate::table::Table;

/// Differing codes of one stage, over all points and images.
#[derive(Clone, Debug, Default, Serialize)]
struct Row {
    codes: usize,
    /// Differing codes of each CPU level against the reference.
    levels: BTreeMap<String, usize>,
    /// Against the stored coefficients, evaluated in floating point.
    stored: usize,
    /// Against the batch-norm formula with unrounded coefficients.
    formula: Option<usize>,
    /// Of the training-side simulation, run on its own from the image on.
    simulation: Option<usize>,
}

/// A row of the CSV.
#[derive(Serialize)]
struct Named<'a> {
    stage: &'a str,
    #[serde(flatten)]
    row: &'a Row,
}

/// What the training side knows: parameters, and statistics per point.
struct Training {
    params: Params,
    net: Net,
    statistics: Vec<PointStatistics>,
}

pub(super) fn execute(args: &VerifyArgs) -> Result<Outcome> {
    let csv = CsvTable::check(&args.csv, args.json, &[&args.file])?;
    let model = Arc::new(open_model(&args.file, args.memory)?);
    let preprocess = preprocess_of(&model)?;
    let points = points_of(&model, &args.point)?;
    let images = Images::load(&Dataset::open(&args.images)?, &preprocess, Some(args.limit))?;
    let training = args
        .run
        .as_deref()
        .map(|run| open_training(run, &args.file, &model, &points))
        .transpose()?;
    let bar = progress::steps("verifying", points.len() * images.len());
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for &point in &points {
        let mut levels = Vec::new();
        for isa in Isa::available() {
            levels.push((isa, Session::with_isa(Arc::clone(&model), point, isa)?));
        }
        for image in 0..images.len() {
            let pixels = images.image(image);
            let defined = reference::run(&model, point, pixels)?;
            for (isa, session) in &mut levels {
                for difference in defined.compare(&session.trace(pixels)?) {
                    let row = rows.entry(difference.stage).or_default();
                    *row.levels.entry(isa.to_string()).or_default() += difference.differing;
                }
            }
            for stage in &defined.stages {
                rows.entry(stage.name.clone()).or_default().codes += stage.codes.len();
            }
            compare_arithmetic(&model, point, &defined, training.as_ref(), &mut rows)?;
            if let Some(training) = &training {
                compare_simulation(&model, point, &defined, pixels, training, &mut rows)?;
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let ordered: Vec<(&str, &Row)> = model
        .stages()
        .iter()
        .map(|stage| (stage.name.as_str(), &rows[&stage.name]))
        .collect();
    let sum = |count: fn(&Row) -> usize| ordered.iter().map(|(_, row)| count(row)).sum::<usize>();
    let broken = sum(|row| row.levels.values().sum()) + sum(|row| row.stored);
    let codes = sum(|row| row.codes);
    let verdict = verdict(broken, codes, points.len(), images.len());
    let rows: Vec<Named> = ordered
        .iter()
        .map(|&(stage, row)| Named { stage, row })
        .collect();
    let printed = csv.write(&rows, &["stage", "codes"])?;
    if args.json {
        console::print_json(&serde_json::json!({
            "verified": broken == 0, "images": images.len(), "points": points, "stages": ordered,
        }))?;
    } else if !printed {
        say!("{verdict}\n\nDiffering codes of each stage, over all points and images:")?;
        say!("{}", table(&ordered))?;
        say!("{}", legend(args.run.is_some()))?;
    }
    if broken > 0 {
        bail!("{verdict}: this build computes wrong results on this machine; please report it");
    }
    if !args.json && !printed {
        say!("\n{verdict}")?;
    }
    Ok(Outcome::Done)
}

/// What was found, in a line.
fn verdict(broken: usize, codes: usize, points: usize, images: usize) -> String {
    let levels: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
    let what = format!(
        "{} and {}, on {}",
        count(points, "point"),
        count(images, "image"),
        levels.join(", ")
    );
    match broken {
        0 => format!("verified: all {codes} codes are what the file defines, at {what}"),
        1 => format!("NOT verified: 1 of {codes} codes differs, at {what}"),
        _ => format!("NOT verified: {broken} of {codes} codes differ, at {what}"),
    }
}

/// What the table's columns compare.
fn legend(with_run: bool) -> String {
    let mut text = "\
LEVEL / reference  the engine's kernels against the plain loops that define the result: must be 0
stored A, B        the integers against the real map that the file stores, in floating point: must be 0"
        .to_owned();
    text += if with_run {
        "
formula            against batch-norm's formula with unrounded coefficients: next to a tie, a code
                   may differ by one
simulation         against the training-side network with fake quantisation, run on its own from the
                   image on: it rounds where integers do not, so some codes differ"
    } else {
        "
formula, simulation need the training run: give it with --run"
    };
    text
}

fn open_training(run: &Path, file: &Path, model: &Model, points: &[Point]) -> Result<Training> {
    let all: Vec<Point> = model.points().iter().map(|p| p.point).collect();
    let params = params_for(&latest_checkpoint(run)?, &all)?;
    let device = slimbit_nn::parse_device("cpu")?;
    let net = Net::from_params(model.graph().clone(), &params, &device).with_context(|| {
        format!(
            "{} is not the run that this file was exported from",
            run.display()
        )
    })?;
    let statistics = statistics::of_file(run, file, model, &params, points)?;
    Ok(Training {
        params,
        net,
        statistics,
    })
}

impl Training {
    fn statistics(&self, point: Point) -> Result<&PointStatistics> {
        let found = self.statistics.iter().find(|s| s.point == point);
        found.with_context(|| format!("the run has no statistics for {point}; export it again"))
    }
}

fn compare_arithmetic(
    model: &Model,
    point: Point,
    defined: &Trace,
    training: Option<&Training>,
    rows: &mut BTreeMap<String, Row>,
) -> Result<()> {
    let source = match training {
        Some(t) => Some(simulate::Source {
            params: &t.params,
            statistics: t.statistics(point)?,
        }),
        None => None,
    };
    for difference in simulate::compare(model, point, defined, source)? {
        let row = rows.entry(difference.stage).or_default();
        row.stored += difference.from_stored;
        if let Some(count) = difference.from_formula {
            *row.formula.get_or_insert(0) += count;
        }
    }
    Ok(())
}

fn compare_simulation(
    model: &Model,
    point: Point,
    defined: &Trace,
    pixels: &[u8],
    training: &Training,
    rows: &mut BTreeMap<String, Row>,
) -> Result<()> {
    let shape = model.graph().input_shape();
    let (height, width) = shape.spatial();
    let values = input_values(model.input(), pixels, height * width);
    let device = slimbit_nn::parse_device("cpu")?;
    let data = TensorData::new(values, [1, shape.channels(), height, width]);
    let images = Tensor::<4>::from_data(data, &device);
    let statistics = training.statistics(point)?;
    let mode = Mode::deployed(statistics, model.grid(), model.input().quant);
    for simulated in training.net.codes(&images, &mode)? {
        let defined = defined
            .get(&simulated.stage)
            .with_context(|| simulated.stage.clone())?;
        let row = rows.entry(simulated.stage.clone()).or_default();
        *row.simulation.get_or_insert(0) += differing(defined, &simulated.codes);
    }
    Ok(())
}

fn differing(defined: &StageTrace, simulated: &[i32]) -> usize {
    let common = defined
        .codes
        .iter()
        .zip(simulated)
        .filter(|(a, b)| a != b)
        .count();
    common + defined.codes.len().abs_diff(simulated.len())
}

fn table(rows: &[(&str, &Row)]) -> Table {
    let levels: Vec<&String> = rows
        .first()
        .map_or_else(Vec::new, |(_, row)| row.levels.keys().collect());
    let mut header = vec!["stage".to_owned(), "codes".to_owned()];
    header.extend(levels.iter().map(|isa| format!("{isa} / reference")));
    header.extend(["stored A, B", "formula", "simulation"].map(str::to_owned));
    let mut table = Table::new(header);
    let optional = |count: Option<usize>| count.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let mut total = Row {
        formula: None,
        simulation: None,
        ..Row::default()
    };
    for (name, row) in rows {
        let mut cells = vec![(*name).to_owned(), row.codes.to_string()];
        cells.extend(levels.iter().map(|isa| row.levels[*isa].to_string()));
        cells.extend([
            row.stored.to_string(),
            optional(row.formula),
            optional(row.simulation),
        ]);
        table.row(cells);
        total.codes += row.codes;
        total.stored += row.stored;
        for (isa, count) in &row.levels {
            *total.levels.entry(isa.clone()).or_default() += count;
        }
        for (sum, count) in [
            (&mut total.formula, row.formula),
            (&mut total.simulation, row.simulation),
        ] {
            if let Some(count) = count {
                *sum.get_or_insert(0) += count;
            }
        }
    }
    let mut cells = vec!["all".to_owned(), total.codes.to_string()];
    cells.extend(levels.iter().map(|isa| total.levels[*isa].to_string()));
    cells.extend([
        total.stored.to_string(),
        optional(total.formula),
        optional(total.simulation),
    ]);
    table.row(cells);
    table
}
