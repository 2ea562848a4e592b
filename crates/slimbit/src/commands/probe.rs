use std::ffi::OsStr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use slimbit_engine::Model;
use slimbit_interchange::Network;
use slimbit_train::probe::{Knn, LinearProbe};

use super::Outcome;
use super::classify::{self, Answers};
use super::features::{Images, engine_features, labelled, open_splits, points_of, preprocess_of};
use super::{progress, quantize};
use crate::cli::{ProbeArgs, ProbeKind};

#[derive(Serialize)]
struct Row {
    /// A point, or `float`.
    point: String,
    top1: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    correct: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    images: Option<usize>,
    /// Mean cosine of the features with those of the float network.
    #[serde(skip_serializing_if = "Option::is_none")]
    cosine: Option<f64>,
    /// Per cent of images of which the float network thinks the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    agreement: Option<f64>,
}

pub(super) fn execute(args: &ProbeArgs) -> Result<Outcome> {
    let float = args.file.extension() == Some(OsStr::new("safetensors"));
    let rows = match (args.kind, float) {
        (ProbeKind::Top1, true) => vec![float_row(args)?],
        (ProbeKind::Top1, false) => engine_rows(args)?,
        (_, false) => feature_rows(args)?,
        (_, true) => bail!(
            "{} is a float network; --kind top1 runs it, the other kinds want a .slim file",
            args.file.display()
        ),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        println!("{}", table(&rows));
    }
    Ok(Outcome::Done)
}

fn table(rows: &[Row]) -> Table {
    let mut header = vec!["point", "top-1 %"];
    let counted = rows.iter().any(|row| row.correct.is_some());
    let compared = rows.iter().any(|row| row.agreement.is_some());
    if counted {
        header.push("correct");
    }
    if compared {
        header.extend(["same top-1 as float %", "cosine with float"]);
    }
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(header);
    for row in rows {
        let mut cells = vec![row.point.clone(), format!("{:.2}", row.top1)];
        if let (Some(correct), Some(images)) = (row.correct, row.images) {
            cells.push(format!("{correct} of {images}"));
        }
        if let Some(agreement) = row.agreement {
            let cosine = row
                .cosine
                .map_or_else(|| "-".to_owned(), |c| format!("{c:.5}"));
            cells.extend([format!("{agreement:.2}"), cosine]);
        }
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The float network's own classifier.
fn float_row(args: &ProbeArgs) -> Result<Row> {
    let network = Network::open(&args.file)?;
    let preprocess = quantize::preprocess_of(&network, &args.file)?;
    let dataset = classify::open_test(&args.data)?;
    let images = Images::load(&dataset, &preprocess, args.limit)?;
    let classes = classify::classes(&dataset, &images, &args.data)?;
    let answers = classify::by_float(&network, &images)?;
    Ok(top1("float".to_owned(), &answers, &classes, None))
}

/// The classifier of every point, on the integer engine.
fn engine_rows(args: &ProbeArgs) -> Result<Vec<Row>> {
    let model = Arc::new(Model::open(&args.file)?);
    let preprocess = preprocess_of(&model)?;
    let points = points_of(&model, &args.point)?;
    let dataset = classify::open_test(&args.data)?;
    let images = Images::load(&dataset, &preprocess, args.limit)?;
    let classes = classify::classes(&dataset, &images, &args.data)?;
    let mut rows = Vec::new();
    let float = match &args.float {
        Some(path) => {
            let network = Network::open(path)?;
            if quantize::preprocess_of(&network, path)? != preprocess {
                bail!(
                    "{} and {} do not preprocess alike",
                    path.display(),
                    args.file.display()
                );
            }
            let answers = classify::by_float(&network, &images)?;
            rows.push(top1("float".to_owned(), &answers, &classes, None));
            Some(answers)
        }
        None => None,
    };
    let bar = progress::steps("probing", points.len());
    for point in points {
        bar.set_message(point.to_string());
        let answers = classify::by_engine(&model, point, &images)?;
        rows.push(top1(point.to_string(), &answers, &classes, float.as_ref()));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(rows)
}

fn top1(point: String, answers: &Answers, classes: &[u32], float: Option<&Answers>) -> Row {
    let percent = |count: usize| 100.0 * count as f64 / classes.len().max(1) as f64;
    let correct = answers.correct(classes);
    Row {
        point,
        top1: percent(correct),
        correct: Some(correct),
        images: Some(classes.len()),
        cosine: float.and_then(|float| answers.cosine(float)),
        agreement: float.map(|float| percent(answers.agreeing(float))),
    }
}

/// A classifier trained or looked up on the features of every point.
fn feature_rows(args: &ProbeArgs) -> Result<Vec<Row>> {
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
            ProbeKind::Linear => LinearProbe::default().classify(&train, &test),
            _ => Knn::default().classify(&train, &test),
        }
        .with_context(|| format!("probing {point}"))?;
        rows.push(Row {
            point: point.to_string(),
            top1: 100.0 * report.top1,
            correct: None,
            images: None,
            cosine: None,
            agreement: None,
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(rows)
}
