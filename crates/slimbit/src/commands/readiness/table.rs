//! The verdicts as a person reads them.

use anyhow::Result;
use comfy_table::{Cell, Color};
use slimbit_train::probe::RankCheck;

use super::{LIGHTS, Light, Readiness, Report};
use crate::console::{count, say};
use crate::table::{Table, coloured};

/// Prints a row per point, then the stages behind those that are not ready (`all`: behind every one).
pub(super) fn print(report: &Report, all: bool) -> Result<()> {
    say!("{}", points(report))?;
    let stages = stages(report, all);
    if !stages.is_empty() {
        say!("{stages}")?;
    }
    say!(
        "agreement with the float full width on {}, {} each; loss up to {} is green, up to {} yellow",
        count(report.images, "image"),
        count(report.neighbours, "neighbour"),
        LIGHTS[0],
        LIGHTS[1]
    )?;
    if let Some(check) = &report.check {
        say!("{}", trust(check))?;
    }
    Ok(())
}

/// What the check against labels came to, and what it can show.
fn trust(check: &RankCheck) -> String {
    let [low, high] = check.interval;
    let [least, most] = check.accuracy.map(|share| 100.0 * share);
    let mut text = format!(
        "rank correlation of the prediction with kNN accuracy over {} points: {:.2}; between {low:.2} and \
         {high:.2} (95 %) over draws of the {} test images, for this one network\n\
         accuracies from {least:.2} % to {most:.2} %: these images tell {} of {} pairs of points apart",
        check.points, check.correlation, check.images, check.told_apart, check.pairs
    );
    if check.is_mostly_chance() {
        text.push_str(
            "; the points are closer together than that measures, so their order says little: check \
             on more labelled images, or on points that differ more",
        );
    }
    text
}

fn light(light: Light) -> Cell {
    match light {
        Light::Green => coloured("green", Color::Green),
        Light::Yellow => coloured("yellow", Color::Yellow),
        Light::Red => coloured("red", Color::Red),
    }
}

fn points(report: &Report) -> Table {
    let checked = report.points.iter().any(|point| point.top1.is_some());
    let mut header = vec![
        "point",
        "ready",
        "loss",
        "neighbours %",
        "alignment",
        "loss by width",
        "loss by bits",
    ];
    if checked {
        header.push("kNN %");
    }
    let mut table = Table::new(header).names(2);
    for point in &report.points {
        let mut cells = vec![
            Cell::new(point.point),
            light(point.light),
            Cell::new(format!("{:.3}", point.loss)),
            Cell::new(format!("{:.1}", 100.0 * point.full.neighbours)),
            Cell::new(format!("{:.3}", point.full.alignment)),
            Cell::new(format!("{:.3}", point.width.loss())),
            Cell::new(format!("{:.3}", point.bits.loss())),
        ];
        cells.extend(point.top1.map(|top1| Cell::new(format!("{top1:.2}"))));
        table.row(cells);
    }
    table
}

fn stages(report: &Report, all: bool) -> Table {
    let mut table = Table::new([
        "point",
        "stage",
        "own dB",
        "dB",
        "drop dB",
        "bits",
        "float range",
        "code range",
        "clipped %",
        "cause",
    ])
    .names(2);
    let shown = |point: &&Readiness| all || point.light != Light::Green;
    for point in report.points.iter().filter(shown) {
        for (index, stage) in point.stages.iter().enumerate() {
            let range = |[low, high]: [f64; 2]| format!("{low:.2} to {high:.2}");
            let (weights, output) = stage.bits;
            table.row([
                if index == 0 {
                    point.point.to_string()
                } else {
                    String::new()
                },
                stage.stage.clone(),
                format!("{:.1}", stage.own_sqnr),
                format!("{:.1}", stage.sqnr),
                stage
                    .drop
                    .map_or_else(|| "-".to_owned(), |drop| format!("{drop:.1}")),
                weights.map_or_else(
                    || format!("A{output}"),
                    |weights| format!("W{weights}A{output}"),
                ),
                range(stage.range),
                stage.code_range.map_or_else(|| "32 bits".to_owned(), range),
                format!("{:.2}", 100.0 * stage.clipped),
                stage.cause.to_owned(),
            ]);
        }
    }
    table
}
