//! `report.html`: one self-contained page with the charts, the table and the configuration.

use std::collections::BTreeMap;

use plotly::common::{Mode, Title};
use plotly::layout::{Axis, AxisType};
use plotly::{Configuration, Layout, Plot, Scatter};

use crate::page::Page;
use crate::results::{LossRow, PointRow, Results};

/// What the reader of the page has to know before the first figure.
const READING: &str = "A point is one way to run the network: a width, as a share of its channels, and the bits of its \
    weights (W) and of its activations (A), written 0.5x W4A8. All points are in the one file, and a device chooses one \
    when it runs.";

/// What the columns of the table mean.
const COLUMNS: &str = "kNN: accuracy of nearest neighbours on this point's features. float, random: the same of the \
    trained and of the untrained float network of this width; pixels: of the raw images. cosine: mean similarity of this \
    point's features to the float network's. KiB: weights, bit-packed, and tables that this point reads. MMAC: millions of \
    multiply-accumulates of one image. ms: median latency of one image on one thread; ms/float ms: that, over the float \
    network's.";

/// The page.
pub fn html(results: &Results) -> String {
    let title = format!(
        "Slimbit quickstart: one file, {} points",
        results.points.len()
    );
    let mut page = Page::new(&title, results.provenance.clone());
    page.head(&plotly_script());
    page.paragraph(READING);
    page.paragraph(&format!(
        "{}. Accuracy is that of nearest neighbours (kNN, k = 200, T = 0.1) on the integer engine's features, with {} images to \
         search and {} queries. Latency is the median, batch 1, one thread. Raw pixels reach {:.2} %.",
        results.machine, results.images[0], results.images[1], results.raw_pixels_knn,
    ));
    let seconds = results.seconds;
    page.paragraph(&format!(
        "Pre-training took {:.0} s, calibration {:.0} s, export {:.0} s, measuring {:.0} s: {:.0} s in all. The file has {} \
         bytes; the points stored separately, with bit-packed weights, would take {} bytes ({:.1} times as many).",
        seconds.pretrain,
        seconds.calibrate,
        seconds.export,
        seconds.measure,
        seconds.total,
        results.file.bytes,
        results.file.separate_bytes,
        results.file.separate_bytes as f64 / results.file.bytes as f64,
    ));
    let charts = [
        (
            "Accuracy against latency",
            accuracy_chart(results, "Latency of one image, one thread (ms)", |row| {
                row.latency.median_ms
            }),
        ),
        (
            "Accuracy against bytes",
            accuracy_chart(results, "Weights and tables (KiB)", |row| {
                row.bytes as f64 / 1024.0
            }),
        ),
        (
            "Training: the full network against its teacher",
            loss_chart(results, "Loss", |row| Some(row.base)),
        ),
        (
            "Training: narrow and rounded students against the teacher, mean of each iteration",
            loss_chart(results, "Loss", |row| row.students),
        ),
    ];
    for (index, (heading, chart)) in charts.iter().enumerate() {
        page.heading(heading);
        page.wide(&chart.to_inline_html(Some(&format!("chart{index}"))));
    }
    page.heading("Every point");
    page.paragraph(COLUMNS);
    page.table(&results.table());
    page.heading("Configuration");
    page.preformatted(&results.config);
    page.finish()
}

/// Accuracy over something that spans decades, with a line per pair of bit-widths.
fn accuracy_chart(results: &Results, x_title: &str, x: fn(&PointRow) -> f64) -> Plot {
    let mut columns: BTreeMap<(u8, u8), Vec<&PointRow>> = BTreeMap::new();
    for row in &results.points {
        columns
            .entry((row.point.weight_bits, row.point.act_bits))
            .or_default()
            .push(row);
    }
    let mut plot = chart();
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
    let (values, texts) = ticks(results.points.iter().map(x));
    let axis = Axis::new()
        .title(Title::from(x_title))
        .type_(AxisType::Log)
        .tick_values(values)
        .tick_text(texts);
    plot.set_layout(layout("kNN top-1 (%)").x_axis(axis));
    plot
}

/// Ticks of a logarithmic axis, at 1, 2 and 5 in every decade that the values touch: the library's own name only the
/// first digit between decades.
fn ticks(values: impl Iterator<Item = f64> + Clone) -> (Vec<f64>, Vec<String>) {
    let positive = values.filter(|&value| value > 0.0);
    let least = positive.clone().fold(f64::INFINITY, f64::min);
    let most = positive.fold(0.0, f64::max);
    if least > most {
        return (Vec::new(), Vec::new());
    }
    let decades = least.log10().floor() as i32..=most.log10().floor() as i32;
    let all = decades.flat_map(|decade| [(1, decade), (2, decade), (5, decade)]);
    all.map(|(digit, decade)| {
        let value = f64::from(digit) * 10f64.powi(decade);
        let decimals = usize::try_from(-decade).unwrap_or(0);
        (value, format!("{value:.decimals$}"))
    })
    .filter(|&(value, _)| value > least / 2.5 && value < most * 2.5)
    .unzip()
}

/// One loss over the iterations. Losses of different kinds have different scales, so each has a chart of its own.
fn loss_chart(results: &Results, y: &str, loss: fn(&LossRow) -> Option<f64>) -> Plot {
    let kept = results.losses.iter();
    let (steps, losses): (Vec<u64>, Vec<f64>) =
        kept.filter_map(|row| Some((row.step, loss(row)?))).unzip();
    let mut plot = chart();
    plot.add_trace(Scatter::new(steps, losses).mode(Mode::Lines).name(y));
    plot.set_layout(layout(y).x_axis(Axis::new().title(Title::from("Iteration"))));
    plot
}

/// A chart as wide as the page.
fn chart() -> Plot {
    let mut plot = Plot::new();
    plot.set_configuration(Configuration::new().responsive(true));
    plot
}

fn layout(y: &str) -> Layout {
    Layout::new()
        .height(420)
        .y_axis(Axis::new().title(Title::from(y)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_whole_numbers_of_every_decade() {
        let (values, texts) = ticks([0.026, 0.079, 1.2].into_iter());
        assert_eq!(
            texts,
            ["0.02", "0.05", "0.1", "0.2", "0.5", "1", "2"],
            "{values:?}"
        );
        assert_eq!(ticks([300.0].into_iter()).1, ["200", "500"]);
        assert!(ticks(std::iter::empty()).0.is_empty());
        assert!(ticks([0.0].into_iter()).0.is_empty());
    }
}
