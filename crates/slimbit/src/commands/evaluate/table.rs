//! What `evaluate` prints, and its CSV tables.

use anyhow::Result;
use serde::Serialize;
use slimbit_data::printable;

use super::super::classes::Classes;
use super::tally::Tally;
use super::{ClassReport, PointReport};
use crate::console::say;
use crate::table::{Table, csv};

/// Classes up to which the whole matrix is printed.
const MATRIX: usize = 20;

/// Classes and confusions that are printed where there are more.
const SHOWN: usize = 20;

/// A row per point.
pub(super) fn summary(points: &[PointReport<'_>]) -> Table {
    let top5 = points.iter().any(|point| point.top5.is_some());
    let agreement = points.iter().any(|point| point.agreement.is_some());
    let mut header = vec!["point", "top-1 %", "95 % interval", "correct"];
    if top5 {
        header.push("top-5 %");
    }
    if agreement {
        header.push("same top-1 as float %");
    }
    let mut table = Table::new(header);
    for point in points {
        let [low, high] = point.interval;
        let mut cells = vec![
            point.point.clone(),
            format!("{:.2}", point.top1),
            format!("{low:.1} to {high:.1}"),
            format!("{} of {}", point.correct, point.images),
        ];
        if let Some(top5) = point.top5 {
            cells.push(format!("{top5:.2}"));
        }
        if agreement {
            cells.push(percent(point.agreement, 2));
        }
        table.row(cells);
    }
    table
}

/// Prints the classes and confusions of a point: those that tell most, or all.
///
/// # Errors
/// Where standard output is full.
pub(super) fn print(
    tally: &Tally,
    point: &PointReport<'_>,
    classes: &Classes,
    all: bool,
) -> Result<()> {
    let count = classes.len();
    let mut rows: Vec<&ClassReport<'_>> = point.classes.iter().collect();
    let cut = !all && count > SHOWN;
    if cut {
        rows.retain(|row| row.images > 0);
        rows.sort_by(|a, b| {
            a.recall
                .partial_cmp(&b.recall)
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        rows.truncate(SHOWN);
    }
    match cut {
        true => say!(
            "\n{}: the {} worst of {count} classes (--all shows the others)",
            point.point,
            rows.len()
        ),
        false => say!("\n{}: every class", point.point),
    }?;
    let mut table = Table::new([
        "class",
        "images",
        "recall %",
        "precision %",
        "most often taken for",
    ])
    .plain();
    for row in rows {
        let worst = point
            .confusions
            .iter()
            .find(|confusion| confusion.class == row.class);
        table.row([
            named(row, classes),
            row.images.to_string(),
            percent(row.recall, 1),
            percent(row.precision, 1),
            worst.map_or_else(String::new, |worst| {
                format!("{} ({})", printable(&*worst.taken_for), worst.images)
            }),
        ]);
    }
    say!("{table}")?;
    if count <= MATRIX {
        say!(
            "\n{}: images by class (row) and by what they are taken for (column)",
            point.point
        )?;
        say!("{}", matrix(tally, classes))
    } else {
        confusions(point, all)
    }
}

fn confusions(point: &PointReport<'_>, all: bool) -> Result<()> {
    let shown = if all {
        point.confusions.len()
    } else {
        SHOWN.min(point.confusions.len())
    };
    if shown == 0 {
        return Ok(());
    }
    say!(
        "\n{}: {shown} of {} kinds of confusion, the most frequent first",
        point.point,
        point.confusions.len()
    )?;
    let mut table = Table::new(["class", "taken for", "images"]).names(2);
    for confusion in &point.confusions[..shown] {
        table.row([
            printable(&*confusion.class).into_owned(),
            printable(&*confusion.taken_for).into_owned(),
            confusion.images.to_string(),
        ]);
    }
    say!("{table}")
}

/// Columns are numbered as the rows are, so that long names fit.
fn matrix(tally: &Tally, classes: &Classes) -> Table {
    let count = classes.len();
    let mut header = vec![String::new()];
    header.extend((0..count).map(|class| class.to_string()));
    let mut table = Table::new(header).plain();
    for class in 0..count as u32 {
        let mut cells = vec![numbered(classes, class as usize)];
        cells.extend(
            (0..count as u32).map(|answer| match tally.pair(class, answer) {
                0 => "·".to_owned(),
                images => images.to_string(),
            }),
        );
        table.row(cells);
    }
    table
}

fn numbered(classes: &Classes, class: usize) -> String {
    match classes.names() {
        Some(names) => format!("{class} {}", printable(&names.names()[class])),
        None => class.to_string(),
    }
}

fn named(row: &ClassReport<'_>, classes: &Classes) -> String {
    match classes.names() {
        Some(_) if classes.len() > MATRIX => printable(&*row.class).into_owned(),
        _ => numbered(classes, row.index),
    }
}

fn percent(share: Option<f64>, digits: usize) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{share:.digits$}"))
}

/// A row for every class of every point.
pub(super) fn classes_csv(points: &[PointReport<'_>]) -> Result<String> {
    #[derive(Serialize)]
    struct Row<'a> {
        point: &'a str,
        #[serde(flatten)]
        class: &'a ClassReport<'a>,
    }
    let mut rows = Vec::new();
    for PointReport { point, classes, .. } in points {
        rows.extend(classes.iter().map(|class| Row { point, class }));
    }
    let columns = [
        "point",
        "class",
        "index",
        "images",
        "predicted",
        "correct",
        "recall",
        "precision",
    ];
    csv(&rows, &columns)
}

/// The matrix: a row per class, a column per answer.
pub(super) fn matrix_csv(tally: &Tally, classes: &Classes) -> Result<Vec<u8>> {
    let count = classes.len();
    let mut csv = csv::Writer::from_writer(Vec::new());
    let names: Vec<_> = (0..count).map(|class| classes.name(class)).collect();
    csv.write_record(std::iter::once("class").chain(names.iter().map(|name| &**name)))?;
    for (class, name) in (0..count as u32).zip(&names) {
        let images = (0..count as u32).map(|answer| tally.pair(class, answer).to_string());
        csv.write_record(std::iter::once((**name).to_owned()).chain(images))?;
    }
    Ok(csv.into_inner()?)
}
