//! The verdicts as a person reads them.

use comfy_table::{CellAlignment, Table, presets};

use super::{LIGHTS, Light, Readiness, Report};

/// Prints a row per point, then the stages behind those that are not ready (`all`: behind every one).
pub(super) fn print(report: &Report, all: bool) {
    println!("{}", points(report));
    let stages = stages(report, all);
    if stages.row_count() > 0 {
        println!("{stages}");
    }
    println!(
        "agreement with the float full width on {} images, {} neighbours each; loss up to {} is green, up to {} yellow",
        report.images, report.neighbours, LIGHTS[0], LIGHTS[1]
    );
    if let Some(correlation) = report.rank_correlation {
        println!(
            "rank correlation of the prediction with kNN accuracy over {} points: {correlation:.3}",
            report.points.len()
        );
    }
}

fn light(light: Light) -> &'static str {
    match light {
        Light::Green => "green",
        Light::Yellow => "yellow",
        Light::Red => "red",
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
    let mut table = new(&header);
    for point in &report.points {
        let mut cells = vec![
            point.point.to_string(),
            light(point.light).to_owned(),
            format!("{:.3}", point.loss),
            format!("{:.1}", 100.0 * point.full.neighbours),
            format!("{:.3}", point.full.alignment),
            format!("{:.3}", point.width.loss()),
            format!("{:.3}", point.bits.loss()),
        ];
        cells.extend(point.top1.map(|top1| format!("{top1:.2}")));
        table.add_row(cells);
    }
    align(table, 2)
}

fn stages(report: &Report, all: bool) -> Table {
    let mut table = new(&[
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
    ]);
    let shown = |point: &&Readiness| all || point.light != Light::Green;
    for point in report.points.iter().filter(shown) {
        for (index, stage) in point.stages.iter().enumerate() {
            let range = |[low, high]: [f64; 2]| format!("{low:.2} to {high:.2}");
            let (weights, output) = stage.bits;
            table.add_row([
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
    align(table, 2)
}

fn new(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_header(header);
    table
}

/// Numbers to the right, from the column at `first` on.
fn align(mut table: Table, first: usize) -> Table {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
