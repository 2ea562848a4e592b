use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use slimbit_data::{Dataset, printable};
use slimbit_engine::Model;
use slimbit_graph::{Params, Point, PointStatistics, Width};
use slimbit_nn::Net;
use slimbit_quant::{Calibration, Progress, Settings, Task, calibrate, lower};
use slimbit_train::config::BatchNorms;
use slimbit_train::{Checkpoint, RunDir};

use super::features::{Images, PREPROCESS};
use super::open::{self, Wanted};
use super::output::{self, Product};
use super::progress::Meter;
use super::{Outcome, export_onnx, progress, statistics, weigh};
use crate::cli::{CardArgs, ExportArgs};
use crate::console::{self, count, say};

pub(super) fn execute(args: &ExportArgs) -> Result<Outcome> {
    if let Some(output) = &args.onnx.onnx {
        return export_onnx::execute(&args.run, output, args);
    }
    let checkpoint = latest_checkpoint(&args.run)?;
    let output = args.output.clone();
    let output = output.unwrap_or_else(|| args.run.join("model.slim"));
    output::check_file(&output, Product::Slim, &[])?;
    output::check_file(&args.run.join(statistics::FILE), Product::Json, &[])?;
    let points = Point::grid(&args.grid.widths, &args.grid.bits)?;
    check_trained(&checkpoint, &args.grid.widths)?;
    let path = args
        .images
        .as_deref()
        .unwrap_or(&checkpoint.config.data.path);
    let dataset = Dataset::open(path)?;
    let images = Images::load(
        &dataset,
        &checkpoint.config.preprocess,
        Some(args.calibration_images),
    )?;
    let measured = measure(&checkpoint, &images, &points)?;
    let model = make(&checkpoint, &measured, &args.card)?;
    model.write(&output)?;
    statistics::keep(&args.run, &measured)?;
    let bytes = fs::metadata(&output)?.len();
    let separate: u64 = points
        .iter()
        .map(|&point| weigh::point_bytes(&model, point))
        .sum::<Result<_>>()?;
    if args.json {
        console::print_json(&serde_json::json!({
            "file": printable(&output), "points": points, "bytes": bytes, "separate_bytes": separate, "calibration_images": images.len(),
        }))?;
    } else {
        say!(
            "{}: {} in {bytes} bytes; stored separately they would take {separate} bytes",
            output.display(),
            count(points.len(), "point")
        )?;
    }
    Ok(Outcome::Done)
}

/// The newest intact checkpoint of a run.
pub(super) fn latest_checkpoint(run: &Path) -> Result<Checkpoint> {
    open::expect(run, &[Wanted::Run])?;
    let (dir, config) = RunDir::open(run)?;
    let latest = dir.checkpoints(config.run.keep).latest()?;
    latest.with_context(|| format!("{} has no checkpoint yet; train it first", run.display()))
}

/// Refuses widths that have no trained weights, and warns of those that were never trained by themselves.
pub(super) fn check_trained(checkpoint: &Checkpoint, widths: &[Width]) -> Result<()> {
    let trained = &checkpoint.config.objective.widths;
    for width in widths {
        if width.get() > trained.max {
            bail!(
                "{width} is wider than the trained {}x; choose others with --widths",
                trained.max
            );
        }
        if width.get() < trained.min {
            log::warn!("{width}: the run trained no width below {}x", trained.min);
        }
    }
    Ok(())
}

/// The parameters of the given points. Those of a run with switchable batch-norm must be of one width.
pub(super) fn params_for(checkpoint: &Checkpoint, points: &[Point]) -> Result<Params> {
    if checkpoint.config.model.batch_norm == BatchNorms::Shared {
        return Ok(checkpoint.params());
    }
    let width = points.first().map_or(Width::FULL, |point| point.width);
    if let Some(other) = points.iter().find(|point| point.width != width) {
        bail!(
            "the run has batch-norms for each width (switchable): export one width to a file, {} or {}, with --widths",
            points[0],
            other
        );
    }
    Ok(checkpoint.params_at(width)?)
}

/// Batch-norm statistics and ranges of every point, with a progress bar.
pub(super) fn measure(
    checkpoint: &Checkpoint,
    images: &Images,
    points: &[Point],
) -> Result<Vec<PointStatistics>> {
    let device = slimbit_nn::parse_device("cpu")?;
    let net = Net::from_params(
        checkpoint.graph.clone(),
        &params_for(checkpoint, points)?,
        &device,
    )?;
    let bar = progress::steps("calibrating", 0);
    let calibration = Calibration {
        images: images.len(),
        ..Calibration::default()
    };
    let settings = settings(checkpoint)?;
    let statistics = calibrate(&net, &images.codes, points, &settings, &calibration, |p| {
        show(&bar, &p);
    })?;
    bar.finish_and_clear();
    Ok(statistics)
}

/// The integer model, with a progress bar.
pub(super) fn make(
    checkpoint: &Checkpoint,
    statistics: &[PointStatistics],
    card: &CardArgs,
) -> Result<Model> {
    let bar = progress::steps("lowering", 0);
    let mut settings = settings(checkpoint)?;
    settings.metadata.extend(card.metadata());
    let points: Vec<Point> = statistics.iter().map(|s| s.point).collect();
    let model = lower(
        &checkpoint.graph,
        &params_for(checkpoint, &points)?,
        statistics,
        &settings,
        |p| show(&bar, &p),
    )?;
    bar.finish_and_clear();
    Ok(model)
}

/// What calibration and lowering need to know besides the network.
pub(super) fn settings(checkpoint: &Checkpoint) -> Result<Settings> {
    let preprocess = &checkpoint.config.preprocess;
    let metadata = BTreeMap::from([
        (PREPROCESS.to_owned(), serde_json::to_string(preprocess)?),
        (
            "created_by".to_owned(),
            format!("slimbit {}", env!("CARGO_PKG_VERSION")),
        ),
        ("recipe".to_owned(), checkpoint.config.recipe.clone()),
        ("trained_steps".to_owned(), checkpoint.step.to_string()),
    ]);
    Ok(Settings {
        grid: checkpoint.config.grid,
        mean: preprocess.mean.clone(),
        std: preprocess.std.clone(),
        metadata,
    })
}

fn show(bar: &Meter, progress: &Progress) {
    bar.set_length(progress.total as u64);
    bar.set_position(progress.done as u64);
    let task = match progress.task {
        Task::Calibrate => "measuring",
        Task::Reconstruct => "rounding",
        Task::Lower => "solving",
    };
    bar.set_message(format!("{task} {} {}", progress.point, progress.stage));
}
