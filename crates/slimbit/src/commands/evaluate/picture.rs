//! The confusion matrix as a picture (SVG): a row for each class, a column for each answer.

use std::fmt::Write;

use slimbit_data::printable;

use super::super::classes::Classes;
use super::tally::{Tally, interval, share};

/// Classes of the largest picture.
pub(super) const MOST_CLASSES: usize = 2000;

/// Classes up to which a cell shows its number of images.
const NUMBERED: usize = 30;

/// Characters of a class's name beside the matrix; the whole name shows where the pointer rests.
const LONGEST_NAME: usize = 32;

/// Colours of right and wrong answers, at a share of 1; a share of 0 is white.
const RIGHT: [u8; 3] = [8, 81, 156];
const WRONG: [u8; 3] = [179, 0, 0];

/// Width of a character over the size of its font.
const CHARACTER: f64 = 0.62;

struct Layout {
    /// Side of a cell.
    cell: f64,
    font: f64,
    /// Left upper corner of the matrix.
    left: f64,
    top: f64,
    /// Room for names under the matrix.
    under: f64,
    classes: usize,
}

impl Layout {
    fn of(labels: &[String]) -> Self {
        let classes = labels.len();
        let cell = match classes {
            0..=12 => 44.0,
            13..=NUMBERED => 30.0,
            31..=60 => 16.0,
            _ => 11.0,
        };
        let font = f64::min(13.0, cell - 2.0);
        let longest = labels
            .iter()
            .map(|label| label.chars().count())
            .max()
            .unwrap_or(0);
        let names = longest as f64 * font * CHARACTER + 12.0;
        Self {
            cell,
            font,
            left: names + 30.0,
            top: 66.0,
            under: names + 30.0,
            classes,
        }
    }

    fn side(&self) -> f64 {
        self.cell * self.classes as f64
    }

    /// The place of a row or column.
    fn at(&self, index: usize) -> f64 {
        self.cell * index as f64
    }
}

/// The picture. Colours are shares of the class's images; wrong answers have a scale of their own, as far as the most
/// frequent goes, because they would all look white beside the right ones.
pub(super) fn svg(tally: &Tally, classes: &Classes, title: &str) -> String {
    let labels: Vec<String> = (0..classes.len())
        .map(|class| label(classes, class))
        .collect();
    let layout = Layout::of(&labels);
    let counts = tally.by_class();
    let row_share =
        |class: u32, images| share(images, counts[class as usize].images).unwrap_or(0.0);
    let worst = tally
        .confusions()
        .iter()
        .map(|confusion| row_share(confusion.class, confusion.images))
        .fold(0.0, f64::max);
    let most_wrong = f64::max(0.1, (worst * 10.0).ceil() / 10.0);

    let width = layout.left + f64::max(layout.side() + 130.0, 620.0);
    let height = layout.top + f64::max(layout.side(), 190.0) + layout.under;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} \
         {height:.0}\" font-family=\"system-ui, sans-serif\" font-size=\"{:.0}\" fill=\"#222\">\n<rect width=\"100%\" \
         height=\"100%\" fill=\"#fff\"/>\n",
        layout.font
    );
    heading(&mut svg, &layout, tally, title);
    axes(&mut svg, &layout, &labels);
    for (class, _) in counts
        .iter()
        .enumerate()
        .filter(|(_, counts)| counts.images == 0)
    {
        let (y, side, cell) = (layout.top + layout.at(class), layout.side(), layout.cell);
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{side:.1}\" height=\"{cell:.1}\" fill=\"#eee\"><title>{}: no \
             images</title></rect>",
            layout.left,
            escape(&classes.mention(class))
        );
    }
    for (class, answer, images) in tally.pairs() {
        let share = row_share(class, images);
        let (colour, depth) = match class == answer {
            true => (RIGHT, share),
            false => (WRONG, share / most_wrong),
        };
        let of = counts[class as usize].images;
        cell(
            &mut svg,
            &layout,
            [class, answer],
            (colour, depth),
            images,
            &format!(
                "{} taken for {}: {images} of {of} images ({:.1} %)",
                classes.mention(class as usize),
                classes.mention(answer as usize),
                100.0 * share
            ),
        );
    }
    let _ = writeln!(
        svg,
        "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{side:.1}\" height=\"{side:.1}\" fill=\"none\" stroke=\"#888\"/>",
        layout.left,
        layout.top,
        side = layout.side()
    );
    let x = layout.left + layout.side() + 24.0;
    scale(&mut svg, [x, layout.top], RIGHT, 1.0, "right");
    scale(&mut svg, [x + 52.0, layout.top], WRONG, most_wrong, "wrong");
    svg += "</svg>\n";
    svg
}

fn heading(svg: &mut String, layout: &Layout, tally: &Tally, title: &str) {
    let (correct, images) = (tally.correct(), tally.images());
    let [low, high] = interval(correct, images).map(|share| 100.0 * share);
    let percent = 100.0 * share(correct, images).unwrap_or(0.0);
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"24\" font-size=\"16\" font-weight=\"600\">{}</text>\n<text x=\"{x:.1}\" y=\"44\" \
         font-size=\"13\">{percent:.2} % of {images} images right (95 % interval {low:.1} to {high:.1} %); rows are the \
         classes, columns what they are taken for</text>",
        escape(title),
        x = 16.0
    );
    let _ = writeln!(
        svg,
        "<text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\" font-size=\"13\" \
         fill=\"#555\">class</text>\n<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"13\" \
         fill=\"#555\">taken for</text>",
        layout.top + layout.side() / 2.0,
        layout.left + layout.side() / 2.0,
        layout.top + layout.side() + layout.under - 8.0
    );
}

/// The names beside and under the matrix.
fn axes(svg: &mut String, layout: &Layout, labels: &[String]) {
    for (class, label) in labels.iter().enumerate() {
        let middle = layout.at(class) + layout.cell / 2.0;
        let lower = layout.font * 0.35;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n<text transform=\"translate({:.1} {:.1}) \
             rotate(-90)\" text-anchor=\"end\">{label}</text>",
            layout.left - 6.0,
            layout.top + middle + lower,
            layout.left + middle + lower,
            layout.top + layout.side() + 6.0,
            label = escape(label)
        );
    }
}

fn cell(
    svg: &mut String,
    layout: &Layout,
    [class, answer]: [u32; 2],
    (colour, depth): ([u8; 3], f64),
    images: u64,
    title: &str,
) {
    let (x, y) = (
        layout.left + layout.at(answer as usize),
        layout.top + layout.at(class as usize),
    );
    let _ = write!(
        svg,
        "<g><title>{}</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{side:.1}\" height=\"{side:.1}\" fill=\"{}\"/>",
        escape(title),
        tint(colour, depth),
        side = layout.cell
    );
    if layout.classes <= NUMBERED {
        let digits = images.to_string();
        let font = f64::min(
            layout.font,
            (layout.cell - 4.0) / (CHARACTER * digits.len() as f64),
        );
        let ink = if depth > 0.55 { "#fff" } else { "#222" };
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"{font:.1}\" fill=\"{ink}\">{digits}</text>",
            x + layout.cell / 2.0,
            y + layout.cell / 2.0 + font * 0.35
        );
    }
    *svg += "</g>\n";
}

/// A bar that says which share a colour is.
fn scale(svg: &mut String, [x, y]: [f64; 2], colour: [u8; 3], most: f64, name: &str) {
    const STEPS: usize = 5;
    let _ = write!(
        svg,
        "<defs><linearGradient id=\"{name}\" x1=\"0\" y1=\"1\" x2=\"0\" y2=\"0\"><stop offset=\"0\" stop-color=\"#fff\"/>\
         <stop offset=\"1\" stop-color=\"{}\"/></linearGradient></defs>\n<text x=\"{x:.1}\" y=\"{:.1}\" \
         font-size=\"12\">{name}</text>\n<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"14\" height=\"150\" \
         fill=\"url(#{name})\" stroke=\"#888\"/>\n",
        tint(colour, 1.0),
        y + 12.0,
        y + 22.0
    );
    for step in 0..=STEPS {
        let share = step as f64 / STEPS as f64;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\">{:.0} %</text>",
            x + 18.0,
            y + 22.0 + 150.0 * (1.0 - share) + 3.5,
            100.0 * share * most
        );
    }
}

/// Between white at 0 and the colour at 1.
fn tint(colour: [u8; 3], depth: f64) -> String {
    let depth = depth.clamp(0.0, 1.0);
    let [r, g, b] = colour.map(|part| (255.0 + (f64::from(part) - 255.0) * depth).round() as u8);
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn label(classes: &Classes, class: usize) -> String {
    let name = classes.name(class);
    let name = printable(&*name);
    match name.chars().count() {
        ..=LONGEST_NAME => name.into_owned(),
        _ => name.chars().take(LONGEST_NAME - 1).chain(['…']).collect(),
    }
}

fn escape(text: &str) -> String {
    // XML has no way to write these two.
    let text = text.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}");
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
