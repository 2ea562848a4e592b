use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use slimbit_engine::{Model, Session};
use slimbit_graph::Point;

use super::Outcome;
use super::features::points_of;
use crate::cli::BenchArgs;
use crate::machine::Machine;
use crate::results::Latency;

/// Untimed runs before the timed ones.
const WARM_UP: usize = 20;

#[derive(Serialize)]
struct Row {
    point: Point,
    macs: u64,
    latency: Latency,
    gmacs_per_second: f64,
    arena_bytes: usize,
    stages: Vec<StageRow>,
}

#[derive(Serialize)]
struct StageRow {
    stage: String,
    kernel: &'static str,
    macs: u64,
    microseconds: f64,
}

pub(super) fn execute(args: &BenchArgs) -> Result<Outcome> {
    let model = Arc::new(Model::open(&args.file)?);
    let machine = Machine::detect();
    let mut rows = Vec::new();
    for point in points_of(&model, &args.point)? {
        rows.push(measure(&model, point, args.repeat.max(1), args.per_op)?);
    }
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(
                &serde_json::json!({ "machine": machine, "threads": 1, "points": rows })
            )?
        );
        return Ok(Outcome::Done);
    }
    println!(
        "{machine}; one thread, batch 1, {} runs",
        args.repeat.max(1)
    );
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header([
            "point",
            "median ms",
            "p10",
            "p90",
            "MMAC",
            "GMAC/s",
            "arena KiB",
        ]);
    for row in &rows {
        table.add_row([
            row.point.to_string(),
            format!("{:.4}", row.latency.median_ms),
            format!("{:.4}", row.latency.p10_ms),
            format!("{:.4}", row.latency.p90_ms),
            format!("{:.2}", row.macs as f64 / 1e6),
            format!("{:.2}", row.gmacs_per_second),
            format!("{:.1}", row.arena_bytes as f64 / 1024.0),
        ]);
    }
    align_right(&mut table);
    println!("{table}");
    for row in rows.iter().filter(|_| args.per_op) {
        println!("\n{}", row.point);
        let total: f64 = row.stages.iter().map(|s| s.microseconds).sum();
        let mut table = Table::new();
        table
            .load_preset(presets::UTF8_HORIZONTAL_ONLY)
            .set_header(["stage", "kernel", "µs", "%", "MMAC", "GMAC/s"]);
        for stage in &row.stages {
            table.add_row([
                stage.stage.clone(),
                stage.kernel.to_owned(),
                format!("{:.1}", stage.microseconds),
                format!("{:.1}", 100.0 * stage.microseconds / total),
                format!("{:.3}", stage.macs as f64 / 1e6),
                format!("{:.2}", stage.macs as f64 / stage.microseconds / 1e3),
            ]);
        }
        align_right(&mut table);
        println!("{table}");
    }
    Ok(Outcome::Done)
}

fn align_right(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn measure(model: &Arc<Model>, point: Point, repeat: usize, per_op: bool) -> Result<Row> {
    let mut session = Session::new(Arc::clone(model), point)?;
    let pixels = test_image(model);
    let latency = latency(&mut session, &pixels, repeat)?;
    let macs = session.plan().macs();
    let mut stages = Vec::new();
    if per_op {
        let mut profiles = Vec::with_capacity(repeat);
        for _ in 0..repeat {
            profiles.push(session.run_profiled(&pixels)?);
        }
        for (index, stage) in session.plan().stages().iter().enumerate() {
            let mut times: Vec<u64> = profiles.iter().map(|profile| profile[index]).collect();
            times.sort_unstable();
            stages.push(StageRow {
                stage: stage.name().to_owned(),
                kernel: stage.kernel(),
                macs: stage.macs(),
                microseconds: times[times.len() / 2] as f64 / 1e3,
            });
        }
    }
    Ok(Row {
        point,
        macs,
        latency,
        gmacs_per_second: macs as f64 / latency.median_ms / 1e6,
        arena_bytes: session.plan().arena_bytes(),
        stages,
    })
}

/// Timed single-image runs of a session.
pub(super) fn latency(session: &mut Session, pixels: &[u8], repeat: usize) -> Result<Latency> {
    for _ in 0..WARM_UP {
        session.run(pixels)?;
    }
    let mut seconds = Vec::with_capacity(repeat);
    for _ in 0..repeat {
        let start = Instant::now();
        session.run(pixels)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(Latency::of(seconds))
}

/// An image that is no special case: a fixed sequence of all byte values.
fn test_image(model: &Model) -> Vec<u8> {
    (0..model.graph().input_shape().elements())
        .map(|i| (i * 89 + i / 256 * 31) as u8)
        .collect()
}
