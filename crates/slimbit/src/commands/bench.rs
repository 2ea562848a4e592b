use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use serde::Serialize;
use slimbit_engine::{EngineError, Model, Session, StagePlan};
use slimbit_graph::{Point, Width};
use slimbit_kernels::Isa;

use super::Outcome;
use super::csv::CsvTable;
use super::features::{open_model, points_of};
use crate::cli::BenchArgs;
use crate::console::{self, count, say};
use crate::machine::Machine;
use crate::results::Latency;
use crate::table::Table;

/// Stages that are shown of each point, the slowest first, unless all are asked for.
const SLOWEST: usize = 8;

/// What the clock may change between a kernel and the probe of the peak next to it.
const TOLERANCE: f64 = 1.15;

/// Untimed runs before the timed ones.
const WARM_UP: usize = 20;

#[derive(Serialize)]
struct Row {
    point: Point,
    /// Of one image.
    macs: u64,
    /// Of one batch.
    latency: Latency,
    gmacs_per_second: f64,
    /// Of all threads together, probed next to the timed runs.
    peak_gmacs_per_second: f64,
    arena_bytes: usize,
    stages: Vec<StageRow>,
}

#[derive(Serialize)]
struct StageRow {
    stage: String,
    kernel: &'static str,
    macs: u64,
    microseconds: f64,
    share: f64,
    fraction_of_peak: f64,
}

pub(super) fn execute(args: &BenchArgs) -> Result<Outcome> {
    let model = Arc::new(open_model(&args.file, args.memory)?);
    check_batch(&model, args)?;
    let table = CsvTable::check(&args.csv, args.json, &[&args.file])?;
    let machine = Machine::detect();
    let mut rows = Vec::new();
    for point in points_of(&model, &args.point)? {
        rows.push(measure(&model, point, args)?);
    }
    if write_csv(table, &rows, args.per_op)? {
        return Ok(Outcome::Done);
    }
    if args.json {
        let report = serde_json::json!({
            "machine": machine,
            "best_isa": Isa::detect().to_string(),
            "threads": args.threads,
            "batch": args.batch,
            "points": rows,
        });
        console::print_json(&report)?;
        return Ok(Outcome::Done);
    }
    say!(
        "{machine}; {}, batch {}, {}",
        count(args.threads, "thread"),
        args.batch,
        count(args.repeat, "run")
    )?;
    say!("{}", level(&machine.isa))?;
    let mut table = Table::new([
        "point",
        "median ms",
        "p10",
        "p90",
        "MMAC",
        "GMAC/s",
        "% of peak",
        "arena KiB",
    ]);
    for row in &rows {
        table.row([
            row.point.to_string(),
            format!("{:.4}", row.latency.median_ms),
            format!("{:.4}", row.latency.p10_ms),
            format!("{:.4}", row.latency.p90_ms),
            format!("{:.2}", row.macs as f64 / 1e6),
            format!("{:.2}", row.gmacs_per_second),
            format!(
                "{:.1}",
                100.0 * row.gmacs_per_second / row.peak_gmacs_per_second
            ),
            format!("{:.1}", row.arena_bytes as f64 / 1024.0),
        ]);
    }
    say!("{table}")?;
    for row in rows.iter().filter(|_| args.per_op) {
        say!(
            "\n{}, one image at a time; peak {:.1} GMAC/s",
            row.point,
            row.peak_gmacs_per_second
        )?;
        say!("{}", stages_table(&row.stages, args.all))?;
    }
    Ok(Outcome::Done)
}

/// Which CPU level ran, and why.
fn level(isa: &str) -> String {
    let best = Isa::detect().to_string();
    if isa == best {
        format!("CPU level {isa}, the best that this CPU has (SLIMBIT_ISA chooses another)")
    } else {
        format!("CPU level {isa}, because SLIMBIT_ISA asks for it; this CPU has {best}")
    }
}

/// A row per point; with `per_op`, a row per stage of every point.
fn write_csv(table: CsvTable, rows: &[Row], per_op: bool) -> Result<bool> {
    #[derive(Serialize)]
    struct OfPoint<'a> {
        point: Point,
        #[serde(flatten)]
        stage: &'a StageRow,
    }
    if !per_op {
        return table.write(rows, &["point"]);
    }
    let stages = rows.iter().flat_map(|row| {
        let point = row.point;
        row.stages.iter().map(move |stage| OfPoint { point, stage })
    });
    let stages: Vec<OfPoint> = stages.collect();
    table.write(&stages, &["point", "stage", "kernel"])
}

/// All stages in order, or the slowest and what the others take together.
fn stages_table(stages: &[StageRow], all: bool) -> Table {
    let mut table =
        Table::new(["stage", "kernel", "µs", "%", "MMAC", "GMAC/s", "% of peak"]).names(2);
    let mut shown: Vec<&StageRow> = stages.iter().collect();
    let mut rest = Vec::new();
    if !all && stages.len() > SLOWEST + 1 {
        shown.sort_by(|a, b| b.microseconds.total_cmp(&a.microseconds));
        rest = shown.split_off(SLOWEST);
    }
    for stage in shown {
        table.row([
            stage.stage.clone(),
            stage.kernel.to_owned(),
            format!("{:.1}", stage.microseconds),
            format!("{:.1}", 100.0 * stage.share),
            format!("{:.3}", stage.macs as f64 / 1e6),
            format!("{:.2}", stage.macs as f64 / stage.microseconds / 1e3),
            format!("{:.1}", 100.0 * stage.fraction_of_peak),
        ]);
    }
    if !rest.is_empty() {
        let sum = |value: fn(&StageRow) -> f64| rest.iter().map(|stage| value(stage)).sum::<f64>();
        table.row([
            format!("{} others (--all)", rest.len()),
            String::new(),
            format!("{:.1}", sum(|stage| stage.microseconds)),
            format!("{:.1}", 100.0 * sum(|stage| stage.share)),
            format!("{:.3}", sum(|stage| stage.macs as f64) / 1e6),
        ]);
    }
    table
}

/// Refuses a batch whose images and outputs take more memory than is allowed.
fn check_batch(model: &Model, args: &BenchArgs) -> Result<()> {
    let graph = model.graph();
    let mut image = graph.input_shape().elements();
    for (name, _) in graph.outputs() {
        image += 4 * graph.output_shape(name, Width::FULL)?.elements();
    }
    let most = args.memory.limit().unwrap_or(usize::MAX) / image;
    // One image is the session's to refuse, which knows all that it takes.
    if args.batch > most.max(1) {
        bail!(
            "--batch {}: at {image} bytes an image, {most} fit into the memory allowed; lower --batch or raise --memory",
            args.batch
        );
    }
    Ok(())
}

fn measure(model: &Arc<Model>, point: Point, args: &BenchArgs) -> Result<Row> {
    let mut session = Session::with_threads(Arc::clone(model), point, args.threads)?;
    let image = test_image(model);
    let images = image.repeat(args.batch);
    let latency = time(args.repeat, || session.run_batch(&images).map(drop))?;
    let peak = slimbit_kernels::peak(session.plan().isa())? * args.threads as f64;
    let macs = session.plan().macs();
    let stages = if args.per_op {
        profile(&mut session, &image, args.repeat, peak)?
    } else {
        Vec::new()
    };
    let gmacs_per_second = macs as f64 * args.batch as f64 / latency.median_ms / 1e6;
    // Scalar code is what the compiler makes of it: there, the probe is no limit.
    if session.plan().isa() != Isa::Scalar && gmacs_per_second > TOLERANCE * peak / 1e9 {
        log::warn!(
            "{point}: {gmacs_per_second:.1} GMAC/s is above the measured peak of {:.1}; the peak is wrong, or \
             the clock changed in between",
            peak / 1e9
        );
    }
    Ok(Row {
        point,
        macs,
        latency,
        gmacs_per_second,
        peak_gmacs_per_second: peak / 1e9,
        arena_bytes: session.arena_bytes(),
        stages,
    })
}

/// The median time of every stage.
fn profile(session: &mut Session, image: &[u8], repeat: usize, peak: f64) -> Result<Vec<StageRow>> {
    let mut profiles = Vec::new();
    for _ in 0..repeat {
        profiles.push(session.run_profiled(image)?);
    }
    let median = |index: usize| {
        let mut times: Vec<u64> = profiles.iter().map(|profile| profile[index]).collect();
        times.sort_unstable();
        times[times.len() / 2] as f64 / 1e3
    };
    let stages = session.plan().stages();
    let total: f64 = (0..stages.len()).map(median).sum();
    let row = |(index, stage): (usize, &StagePlan)| StageRow {
        stage: stage.name().to_owned(),
        kernel: stage.kernel(),
        macs: stage.macs(),
        microseconds: median(index),
        share: median(index) / total,
        fraction_of_peak: stage.macs() as f64 / (median(index) * 1e-6) / peak,
    };
    Ok(stages.iter().enumerate().map(row).collect())
}

fn time(repeat: usize, mut run: impl FnMut() -> Result<(), EngineError>) -> Result<Latency> {
    for _ in 0..WARM_UP.min(repeat) {
        run()?;
    }
    let mut seconds = Vec::new();
    for _ in 0..repeat {
        let start = Instant::now();
        run()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(Latency::of(seconds))
}

/// An image that is not a special case: a fixed sequence of all byte values.
fn test_image(model: &Model) -> Vec<u8> {
    (0..model.graph().input_shape().elements())
        .map(|i| (i * 89 + i / 256 * 31) as u8)
        .collect()
}
