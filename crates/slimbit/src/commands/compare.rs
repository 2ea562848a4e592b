//! `slimbit compare`: where a `.slim` file and its float network diverge, and why.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use slimbit_data::{Dataset, Preprocess};
use slimbit_engine::{Model, Session, Trace};
use slimbit_graph::{Point, Width};
use slimbit_interchange::{FileKind, Network, onnx};
use slimbit_nn::Net;
use slimbit_quant::compare::{Cause, Comparison, Finding, Report, StageComparison};
use slimbit_quant::{equalise, warning};

use super::csv::CsvTable;
use super::features::{Images, PREPROCESS, open_model, preprocess_of};
use super::open::{self, Wanted};
use super::remedy::{Quantised, Situation};
use super::{Outcome, progress, quantize};
use crate::cli::CompareArgs;
use crate::console::{self, count, say};
use crate::table::Table;

/// Images whose tensors are kept together.
const BATCH: usize = 4;

/// Stages that the table shows unless all are asked for.
const WORST: usize = 10;

pub(super) fn execute(args: &CompareArgs) -> Result<Outcome> {
    let inputs = [args.reference.as_path(), args.model.as_path()];
    let csv = CsvTable::check(&args.csv, args.json, &inputs)?;
    let model = Arc::new(open_model(&args.model, args.memory)?);
    let point = point_of(&model, args.point)?;
    let preprocess = preprocess_of(&model)?;
    let (network, float_preprocess) = reference(&args.reference, &preprocess)?;
    let mut params = network.params.clone();
    if args.equalise {
        equalise(&network.graph, &mut params, &network.norms)?;
    }
    let device = slimbit_nn::parse_device("cpu")?;
    let net = Net::from_params(network.graph.clone(), &params, &device)?;
    let made = Quantised::read(&model);
    let moved = made.as_ref().is_none_or(Quantised::moves_weights);
    let mut comparison = Comparison::new(&net, &network.norms, &model, point)?;
    comparison.expect_moved_weights(moved);
    let mut session = Session::new(Arc::clone(&model), point)?;

    let dataset = Dataset::open_test(&args.images, None)?;
    let images = Images::load(&dataset, &preprocess, Some(args.limit))?;
    let count = images.len();
    let shown = images.spread(8);
    let warnings = [
        warning::of_images(net.graph(), &shown.codes),
        warning::of_input(&net, &network.norms, model.input(), &shown.codes)?,
    ];
    for warning in warnings.iter().flatten() {
        log::warn!("{warning}");
    }
    let bar = progress::steps("comparing", count);
    for first in (0..count).step_by(BATCH) {
        let (mut values, mut traces): (Vec<f32>, Vec<Trace>) = Default::default();
        for row in first..count.min(first + BATCH) {
            let codes = images.image(row);
            if float_preprocess == preprocess {
                values.extend(preprocess.normalise(codes));
            } else {
                let image = dataset.image(images.indices[row])?;
                values.extend(float_preprocess.normalise(&float_preprocess.codes(&image)));
            }
            traces.push(session.trace(codes)?);
        }
        comparison.add(values, &traces)?;
        bar.inc(traces.len() as u64);
    }
    bar.finish_and_clear();

    let report = comparison.report();
    let points: Vec<Point> = model.points().iter().map(|made| made.point).collect();
    let finding = report.finding(args.threshold).map(|finding| {
        let name = &report.stages[finding.origin].stage;
        let stage = model.stages().iter().find(|stage| stage.name == *name);
        let stage = stage.unwrap_or_else(|| unreachable!("reports are of the model's stages"));
        let made = made.as_ref();
        let known = Situation::new(&model, &points, point, stage, made, args.equalise);
        let remedy = known.remedy(&finding.cause);
        (finding, remedy)
    });
    let stages: Vec<Value> = report.stages.iter().map(stage_summary).collect();
    let printed = csv.write(&stages, &["stage", "sqnr", "own_sqnr"])?;
    if args.json {
        console::print_json(&summary(&report, finding.as_ref(), point))?;
    } else if !printed {
        print(args, &report, finding.as_ref(), point)?;
    }
    let lowest = lowest(&report);
    match (args.fail_below, lowest) {
        (Some(limit), Some(stage)) if stage.sqnr < limit => bail!(
            "stage `{}` has an SQNR of {:.1} dB, below {limit}",
            stage.stage,
            stage.sqnr
        ),
        _ => Ok(Outcome::Done),
    }
}

/// The point asked for, or the first of full width: a float network has the statistics of no other.
fn point_of(model: &Model, wanted: Option<Point>) -> Result<Point> {
    let mut points = model.points().iter().map(|made| made.point);
    let Some(point) = wanted.or_else(|| points.find(|point| point.width == Width::FULL)) else {
        bail!("the file has no point of full width to compare with a float network");
    };
    if point.width != Width::FULL {
        bail!(
            "{point}: a float network has batch-norm statistics of its full width only; compare a 1x point"
        );
    }
    Ok(point)
}

/// The float network and its evaluation transform. An ONNX file has none of its own and gets the
/// `.slim` file's.
fn reference(path: &Path, preprocess: &Preprocess) -> Result<(Network, Preprocess)> {
    let network = if open::expect(path, &[Wanted::Network, Wanted::Onnx])? == FileKind::Onnx {
        let bytes = std::fs::read(path)
            .map_err(|error| anyhow::anyhow!("reading {}: {error}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let side = [preprocess.height, preprocess.width];
        onnx::import_in(folder, &bytes, Some(side))?.network
    } else {
        open::network(path)?
    };
    let preprocess = match network.metadata.contains_key(PREPROCESS) {
        true => quantize::preprocess_of(&network, path)?,
        false => preprocess.clone(),
    };
    Ok((network, preprocess))
}

fn lowest(report: &Report) -> Option<&StageComparison> {
    report
        .stages
        .iter()
        .min_by(|a, b| a.sqnr.total_cmp(&b.sqnr))
}

fn stage_summary(stage: &StageComparison) -> Value {
    json!({
        "stage": stage.stage, "reference": stage.reference, "values": stage.values,
        "sqnr": stage.sqnr, "cosine": stage.cosine, "largest": stage.largest,
        "own_sqnr": stage.own_sqnr, "own_error": stage.own_error,
        "weight_error": stage.weight_error, "output_error": stage.output_error,
        "clipping_error": stage.clipping_error, "clipped": stage.clipped, "step": stage.step,
        "float_range": stage.float_range, "code_range": stage.code_range,
        "codes_used": stage.codes.map(|(used, _)| used), "codes": stage.codes.map(|(_, all)| all),
        "weight_steps": stage.weights.map(|w| w.steps),
        "weight_cosine": stage.weights.map(|w| w.cosine),
    })
}

fn summary(report: &Report, finding: Option<&(Finding, String)>, point: Point) -> Value {
    let finding = finding.map(|(finding, remedy)| {
        json!({
            "stage": report.stages[finding.stage].stage,
            "sqnr": report.stages[finding.stage].sqnr,
            "origin": report.stages[finding.origin].stage,
            "own_sqnr": report.stages[finding.origin].own_sqnr,
            "cause": finding.cause.name(), "detail": finding.cause.to_string(),
            "remedy": remedy,
        })
    });
    let stages: Vec<Value> = report.stages.iter().map(stage_summary).collect();
    json!({ "point": point, "images": report.images, "finding": finding, "stages": stages })
}

fn print(
    args: &CompareArgs,
    report: &Report,
    finding: Option<&(Finding, String)>,
    point: Point,
) -> Result<()> {
    say!(
        "{} and {} at {point}, on {}",
        args.reference.display(),
        args.model.display(),
        count(report.images, "image")
    )?;
    say!(
        "{}",
        table(args, report, finding.map(|(finding, _)| finding))
    )?;
    let Some((finding, remedy)) = finding else {
        let lowest = lowest(report).map_or_else(String::new, |stage| {
            format!(
                "; the lowest SQNR is {:.1} dB, at `{}`",
                stage.sqnr, stage.stage
            )
        });
        say!("the networks stay together{lowest}")?;
        return Ok(());
    };
    let [stage, origin] = [finding.stage, finding.origin].map(|index| &report.stages[index]);
    let whence = if finding.stage == finding.origin {
        format!("its own error alone leaves {:.1} dB", origin.own_sqnr)
    } else {
        format!(
            "most of it inherited, and `{}` adds the most: its own error leaves {:.1} dB",
            origin.stage, origin.own_sqnr
        )
    };
    let whence = match finding.cause {
        Cause::Preprocessing { .. } => String::new(),
        _ => format!(" ({whence})"),
    };
    say!(
        "the networks diverge at `{}`, SQNR {:.1} dB{whence}\ncause   {}: {}\nremedy  {}",
        stage.stage,
        stage.sqnr,
        finding.cause.name(),
        finding.cause,
        remedy
    )
}

fn table(args: &CompareArgs, report: &Report, finding: Option<&Finding>) -> Table {
    let mut order: Vec<usize> = (0..report.stages.len()).collect();
    order.sort_by(|&a, &b| report.stages[a].sqnr.total_cmp(&report.stages[b].sqnr));
    let named = finding.map_or_else(Vec::new, |finding| vec![finding.stage, finding.origin]);
    let shown = if args.all { order.len() } else { WORST };
    let shown: BTreeSet<usize> = order.into_iter().take(shown).chain(named).collect();
    let mut table = Table::new([
        "stage",
        "SQNR dB",
        "own dB",
        "cosine",
        "max difference",
        "clipped %",
        "codes in use",
    ]);
    for index in shown {
        let stage = &report.stages[index];
        let codes = stage.codes.map(|(used, all)| format!("{used} of {all}"));
        table.row([
            stage.stage.clone(),
            format!("{:.1}", stage.sqnr),
            format!("{:.1}", stage.own_sqnr),
            format!("{:.5}", stage.cosine),
            format!("{:.3}", stage.largest),
            format!("{:.2}", 100.0 * stage.clipped),
            codes.unwrap_or_else(|| "32 bits".to_owned()),
        ]);
    }
    table
}
