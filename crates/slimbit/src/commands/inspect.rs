use anyhow::{Context, Result};
use serde_json::{Value, json};
use slimbit_engine::prove::{self, ProofReport};
use slimbit_engine::{Codes, Model};
use slimbit_graph::{ClassNames, Point};

use super::classes::quoted;
use super::features::{PREPROCESS, points_of};
use super::{Outcome, weigh};
use crate::cli::InspectArgs;
use crate::console::{self, say};
use crate::table::{Table, csv};

pub(super) fn execute(args: &InspectArgs) -> Result<Outcome> {
    let model = Model::open(&args.file)?;
    let points = points_of(&model, &args.point)?;
    let proof = if args.prove {
        Some(prove::prove(&model)?)
    } else {
        None
    };
    if args.json {
        console::print_json(&as_json(&model, &points, proof.as_ref())?)?;
        return Ok(Outcome::Done);
    }
    if args.csv {
        let report = as_json(&model, &points, proof.as_ref())?;
        let rows = report["points"].as_array().context("rows of points")?;
        console::print_exactly(&csv(rows, &["point"])?)?;
        return Ok(Outcome::Done);
    }
    let bytes = std::fs::metadata(&args.file)?.len();
    say!(
        "{}: {}, {} points, {bytes} bytes, grid {}",
        args.file.display(),
        model.graph().name(),
        model.points().len(),
        model.grid()
    )?;
    say!(
        "input {}, outputs {}",
        model.graph().input_shape(),
        outputs(&model).join(", ")
    )?;
    let weights: usize = model
        .weights()
        .values()
        .map(|w| w.shape.iter().product::<usize>())
        .sum();
    say!("{} weights, stored {}", weights, copies(&model))?;
    for (key, value) in model
        .metadata()
        .iter()
        .filter(|(key, _)| *key != PREPROCESS && *key != ClassNames::KEY)
    {
        say!("{key}: {value}")?;
    }
    if let Some(classes) = model.classes()? {
        let names: Vec<&str> = classes.names().iter().map(String::as_str).collect();
        say!("{} classes: {}", names.len(), quoted(&names))?;
    }
    let mut table = Table::new(["point", "MMAC", "parameters", "KiB on its own"]);
    for point in &points {
        let cost = model.graph().cost(point.width)?;
        table.row([
            point.to_string(),
            format!("{:.2}", cost.macs as f64 / 1e6),
            cost.params.to_string(),
            format!("{:.1}", weigh::point_bytes(&model, *point)? as f64 / 1024.0),
        ]);
    }
    say!("{table}")?;
    if let Some(proof) = proof {
        for point in proof.points.iter().filter(|p| points.contains(&p.point)) {
            say!("\n{}", point.point)?;
            for stage in &point.stages {
                say!("  {stage}")?;
            }
        }
        say!(
            "\nproven: {} rescalings equal their batch-norm for every accumulator; {} float operations",
            proof.channels(),
            proof.float_operations()
        )?;
    }
    Ok(Outcome::Done)
}

fn outputs(model: &Model) -> Vec<String> {
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

fn as_json(model: &Model, points: &[Point], proof: Option<&ProofReport>) -> Result<Value> {
    let mut rows = Vec::new();
    for &point in points {
        let cost = model.graph().cost(point.width)?;
        let stages = proof.and_then(|p| p.points.iter().find(|p| p.point == point)).map(|p| {
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
    Ok(json!({
        "network": model.graph().name(), "grid": model.grid().to_string(), "outputs": outputs(model),
        "metadata": model.metadata(), "points": rows,
    }))
}
