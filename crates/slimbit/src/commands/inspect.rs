use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use slimbit_data::printable;
use slimbit_engine::prove::{self, PointProof, ProofReport};
use slimbit_engine::{Codes, EngineError, Model};
use slimbit_graph::{ClassNames, Point};

use super::card::shortened;
use super::classes::quoted;
use super::csv::CsvTable;
use super::features::{PREPROCESS, open_file, points_of};
use super::{Outcome, card, weigh};
use crate::cli::InspectArgs;
use crate::console::{self, count, say};
use crate::table::Table;

pub(super) fn execute(args: &InspectArgs) -> Result<Outcome> {
    let csv = CsvTable::check(&args.csv, args.json, &[&args.file])?;
    let model = open_file(&args.file)?;
    let points = points_of(&model, &args.point)?;
    let bytes = std::fs::metadata(&args.file)?.len();
    if args.card {
        console::print_exactly(&card::markdown(&model, &points, bytes)?)?;
        return Ok(Outcome::Done);
    }
    let proof = args.prove.then(|| prove::prove(&model));
    let verdict = proof.as_ref().map(verdict);
    let report = as_json(&model, &points, proof.as_ref().map(Result::as_ref))?;
    let rows = report["points"].as_array().context("rows of points")?;
    let for_programs = csv.write(rows, &["point"])? || args.json;
    if args.json {
        console::print_json(&report)?;
    }
    if !for_programs {
        if let Some(verdict) = &verdict {
            say!("{verdict}\n")?;
        }
        summary(args, &model, &points, bytes)?;
    }
    match proof {
        None => {}
        Some(Err(_)) => bail!("{}: {}", args.file.display(), verdict.unwrap_or_default()),
        Some(Ok(_)) if for_programs => {}
        Some(Ok(proof)) => {
            say!("{}", proven(&proof, &points, args.all))?;
            say!("{}", verdict.unwrap_or_default())?;
        }
    }
    Ok(Outcome::Done)
}

/// The outcome of a proof, in a line.
fn verdict(proof: &Result<ProofReport, EngineError>) -> String {
    match proof {
        Ok(proof) => format!(
            "proven: {} rescalings equal their batch-norm for every accumulator, at {} points; {} float \
             operations",
            proof.channels(),
            proof.points.len(),
            proof.float_operations()
        ),
        Err(error) => format!("NOT proven: {error}"),
    }
}

fn summary(args: &InspectArgs, model: &Model, points: &[Point], bytes: u64) -> Result<()> {
    say!(
        "{}: {}, {}, {bytes} bytes, grid {}",
        args.file.display(),
        printable(model.graph().name()),
        count(model.points().len(), "point"),
        model.grid()
    )?;
    say!(
        "input {}, outputs {}",
        model.graph().input_shape(),
        shortened(&outputs(model).join(", "))
    )?;
    let weights: usize = model
        .weights()
        .values()
        .map(|w| w.shape.iter().product::<usize>())
        .sum();
    say!("{} weights, stored {}", weights, copies(model))?;
    say!("digest {}", model.digest())?;
    let shown = |key: &str| key != PREPROCESS && key != ClassNames::KEY;
    for (key, value) in model.metadata().iter().filter(|(key, _)| shown(key)) {
        say!("{}: {}", shortened(key), shortened(value))?;
    }
    if let Some(classes) = model.classes()? {
        let names: Vec<&str> = classes.names().iter().map(String::as_str).collect();
        say!("{} classes: {}", names.len(), quoted(&names))?;
    }
    let mut table = Table::new(["point", "MMAC", "parameters", "KiB on its own"]);
    for row in weigh::rows(model, points)? {
        table.row(row);
    }
    say!("{table}")?;
    Ok(())
}

/// What was proven of the points asked for: a line each, or a line per stage.
fn proven(proof: &ProofReport, points: &[Point], all: bool) -> String {
    let mut text = String::new();
    for point in proof.points.iter().filter(|p| points.contains(&p.point)) {
        if all {
            text += &format!("\n{}\n", point.point);
            for stage in &point.stages {
                text += &format!("  {stage}\n");
            }
        } else {
            text += &format!("{}\n", of_point(point));
        }
    }
    if !all {
        text += "(--all shows every stage)\n";
    }
    text
}

fn of_point(proof: &PointProof) -> String {
    let stages = &proof.stages;
    let rescalings: usize = stages.iter().map(|stage| stage.channels).sum();
    let tables: usize = stages.iter().map(|stage| stage.tables).sum();
    let reached = stages.iter().filter_map(|stage| stage.accumulator);
    let reached = reached.map(|acc| acc.lo.abs().max(acc.hi.abs())).max();
    let multiplier = stages.iter().map(|stage| stage.multiplier_bits).max();
    let shifts = || stages.iter().filter_map(|stage| stage.shifts);
    let shifts = [
        shifts().map(|(least, _)| least).min().unwrap_or(0),
        shifts().map(|(_, most)| most).max().unwrap_or(0),
    ];
    format!(
        "{}: {} stages, {rescalings} rescalings proven, {tables} tables equal; |acc| <= {}, m <= {} bits, \
         k {}..={}",
        proof.point,
        stages.len(),
        reached.unwrap_or(0),
        multiplier.unwrap_or(0),
        shifts[0],
        shifts[1]
    )
}

pub(super) fn outputs(model: &Model) -> Vec<String> {
    model
        .graph()
        .outputs()
        .iter()
        .map(|(name, _)| name.clone())
        .collect()
}

fn copies(model: &Model) -> &'static str {
    match model.weights().values().next().map(|w| &w.codes) {
        Some(Codes::MinMax(_)) => "once per bit-width",
        _ => "once, at 8 bits, for every width and bit-width",
    }
}

fn as_json(
    model: &Model,
    points: &[Point],
    proof: Option<Result<&ProofReport, &EngineError>>,
) -> Result<Value> {
    let report = proof.and_then(Result::ok);
    let mut rows = Vec::new();
    for &point in points {
        let cost = model.graph().cost(point.width)?;
        let stages = report.and_then(|p| p.points.iter().find(|p| p.point == point)).map(|p| {
            let stage = |s: &prove::StageProof| {
                json!({
                    "stage": s.name, "arithmetic": s.arithmetic, "channels_proven": s.channels,
                    "accumulator": s.accumulator.map(|i| [i.lo, i.hi]), "multiplier_bits": s.multiplier_bits,
                    "shifts": s.shifts, "tables": s.tables, "float_operations": s.float_operations,
                })
            };
            p.stages.iter().map(stage).collect::<Vec<_>>()
        });
        rows.push(json!({
            "point": point, "macs": cost.macs, "parameters": cost.params,
            "bytes": weigh::point_bytes(model, point)?, "proof": stages,
        }));
    }
    let mut report = json!({
        "network": model.graph().name(), "grid": model.grid().to_string(), "outputs": outputs(model),
        "digest": model.digest(), "metadata": model.metadata(), "points": rows,
    });
    if let Some(proof) = proof {
        report["proven"] = proof.is_ok().into();
        report["refutation"] = proof.err().map(ToString::to_string).into();
    }
    Ok(report)
}
