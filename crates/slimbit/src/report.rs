//! `report.html`: one self-contained page with the charts, the table and the configuration.

use std::collections::BTreeMap;
use std::fmt::Write;

use plotly::common::{Mode, Title};
use plotly::layout::{Axis, AxisType};
use plotly::{Layout, Plot, Scatter};

use crate::results::{PointRow, Results};

/// The page.
pub fn html(results: &Results) -> String {
    let latency = accuracy_chart(results, "Latency of one image, one thread (ms)", |row| {
        row.latency.median_ms
    });
    let bytes = accuracy_chart(results, "Weights and tables (KiB)", |row| {
        row.bytes as f64 / 1024.0
    });
    let seconds = results.seconds;
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Slimbit quickstart</title>\n<style>body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}pre{background:#f6f6f6;padding:1rem;overflow:auto}</style>\n",
    );
    page += &plotly_script();
    let _ = write!(
        page,
        "</head><body>\n<h1>One file, {} points</h1>\n<p>{}. kNN (k = 200, T = 0.1) on the integer engine's features, {} images to search, {} queries; \
         latency is the median, batch 1, one thread. Raw pixels reach {:.2} %.</p>\n\
         <p>Pre-training {:.0} s, calibration {:.0} s, export {:.0} s, measuring {:.0} s: {:.0} s in all. \
         The file has {} bytes; the points, each stored on its own with bit-packed weights, would have {} together ({:.1} times as much).</p>\n",
        results.points.len(),
        escape(&results.machine),
        results.images[0],
        results.images[1],
        results.raw_pixels_knn,
        seconds.pretrain,
        seconds.calibrate,
        seconds.export,
        seconds.measure,
        seconds.total,
        results.file.bytes,
        results.file.separate_bytes,
        results.file.separate_bytes as f64 / results.file.bytes as f64,
    );
    let charts = [
        ("Accuracy against latency", latency),
        ("Accuracy against bytes", bytes),
        ("Training", loss_chart(results)),
    ];
    for (index, (heading, chart)) in charts.iter().enumerate() {
        let _ = write!(
            page,
            "<h2>{heading}</h2>\n{}\n",
            chart.to_inline_html(Some(&format!("chart{index}")))
        );
    }
    page += "<h2>Every point</h2>\n";
    page += &table(results);
    let _ = write!(
        page,
        "<h2>Configuration</h2>\n<pre>{}</pre>\n</body></html>\n",
        escape(&results.config)
    );
    page
}

fn accuracy_chart(results: &Results, x_title: &str, x: fn(&PointRow) -> f64) -> Plot {
    let mut columns: BTreeMap<(u8, u8), Vec<&PointRow>> = BTreeMap::new();
    for row in &results.points {
        columns
            .entry((row.point.weight_bits, row.point.act_bits))
            .or_default()
            .push(row);
    }
    let mut plot = Plot::new();
    for ((weight_bits, act_bits), rows) in columns.into_iter().rev() {
        let trace = Scatter::new(
            rows.iter().map(|row| x(row)).collect(),
            rows.iter().map(|row| row.knn).collect(),
        )
        .mode(Mode::LinesMarkers)
        .name(format!("W{weight_bits}A{act_bits}"))
        .text_array(
            rows.iter()
                .map(|row| row.point.to_string())
                .collect::<Vec<_>>(),
        );
        plot.add_trace(trace);
    }
    plot.set_layout(
        layout(x_title, "kNN top-1 (%)")
            .x_axis(Axis::new().title(Title::from(x_title)).type_(AxisType::Log)),
    );
    plot
}

fn loss_chart(results: &Results) -> Plot {
    let mut plot = Plot::new();
    let steps = |keep: fn(&crate::results::LossRow) -> Option<f64>| {
        let kept = results
            .losses
            .iter()
            .filter_map(|row| Some((row.step, keep(row)?)));
        kept.unzip::<u64, f64, Vec<_>, Vec<_>>()
    };
    let (x, y) = steps(|row| Some(row.base));
    plot.add_trace(
        Scatter::new(x, y)
            .mode(Mode::Lines)
            .name("full network against the teacher"),
    );
    let (x, y) = steps(|row| row.students);
    plot.add_trace(
        Scatter::new(x, y)
            .mode(Mode::Lines)
            .name("students against the teacher (mean)"),
    );
    plot.set_layout(layout("Iteration", "Loss"));
    plot
}

fn layout(x: &str, y: &str) -> Layout {
    Layout::new()
        .height(420)
        .x_axis(Axis::new().title(Title::from(x)))
        .y_axis(Axis::new().title(Title::from(y)))
}

fn table(results: &Results) -> String {
    let table = results.table();
    let row = |cells: Vec<String>, tag: &str| {
        let cells: String = cells
            .iter()
            .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)))
            .collect();
        format!("<tr>{cells}</tr>\n")
    };
    let header = table.header().map_or_else(String::new, |h| {
        row(h.cell_iter().map(|c| c.content()).collect(), "th")
    });
    let body: String = table
        .row_iter()
        .map(|r| row(r.cell_iter().map(|c| c.content()).collect(), "td"))
        .collect();
    format!("<table>\n{header}{body}</table>\n")
}

/// The chart library without the formula renderer that its crate bundles after it.
fn plotly_script() -> String {
    let mut sources = Plot::offline_js_sources();
    const END: &str = "</script>";
    if let Some(end) = sources.find(END) {
        sources.truncate(end + END.len());
    }
    sources
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
