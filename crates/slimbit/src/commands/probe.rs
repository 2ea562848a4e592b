use std::sync::Arc;

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use serde::Serialize;
use slimbit_engine::Model;
use slimbit_graph::Point;
use slimbit_train::probe::{Knn, LinearProbe};

use super::Outcome;
use super::features::{Images, engine_features, labelled, open_splits, points_of, preprocess_of};
use super::progress;
use crate::cli::{ProbeArgs, ProbeKind};

#[derive(Serialize)]
struct Row {
    point: Point,
    top1: f64,
}

pub(super) fn execute(args: &ProbeArgs) -> Result<Outcome> {
    let model = Arc::new(Model::open(&args.file)?);
    let preprocess = preprocess_of(&model)?;
    let points = points_of(&model, &args.point)?;
    let (train, test) = open_splits(&args.data)?;
    let train = Images::load(&train, &preprocess, args.limit)?;
    let test = Images::load(&test, &preprocess, None)?;
    let labels = [train.labels(&args.data)?, test.labels(&args.data)?];
    let bar = progress::steps("probing", points.len());
    let mut rows = Vec::new();
    for point in points {
        bar.set_message(point.to_string());
        let features = [&train, &test].map(|images| engine_features(&model, point, images));
        let [train, test] = features;
        let (train, test) = (labelled(train?, &labels[0])?, labelled(test?, &labels[1])?);
        let report = match args.kind {
            ProbeKind::Knn => Knn::default().classify(&train, &test),
            ProbeKind::Linear => LinearProbe::default().classify(&train, &test),
        }
        .with_context(|| format!("probing {point}"))?;
        rows.push(Row {
            point,
            top1: 100.0 * report.top1,
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        let mut table = Table::new();
        table
            .load_preset(presets::UTF8_HORIZONTAL_ONLY)
            .set_header(["point", "top-1 %"]);
        for row in &rows {
            table.add_row([row.point.to_string(), format!("{:.2}", row.top1)]);
        }
        println!("{table}");
    }
    Ok(Outcome::Done)
}
