//! A model card: what a file says about itself, for people.

use std::fmt::Write;

use anyhow::Result;
use slimbit_data::{Filter, Preprocess, Resize, printable};
use slimbit_engine::Model;
use slimbit_graph::{Point, Width};

use super::features::PREPROCESS;
use super::weigh;

/// Keys of the free text that have a place of their own on the card.
const PLACED: [&str; 5] = ["author", "license", "description", CLASSES, PREPROCESS];

/// The key of the class names, a JSON list.
const CLASSES: &str = "classes";

/// Class names that are listed at most.
const LISTED: usize = 100;

/// Most characters of free text on a line.
const SHOWN: usize = 400;

/// The card, in Markdown.
pub(super) fn markdown(model: &Model, points: &[Point], bytes: u64) -> Result<String> {
    let text = |key: &str| model.metadata().get(key).map(|value| cell(value));
    let mut card = format!("# {}\n\n", cell(model.graph().name()));
    if let Some(description) = text("description") {
        let _ = write!(card, "{description}\n\n");
    }
    let unknown = || "not stated".to_owned();
    let _ = write!(
        card,
        "| | |\n|---|---|\n| author | {} |\n| licence | {} |\n| digest | `{}` |\n| file | {bytes} bytes, \
         {} points, weight grid {} |\n\n",
        text("author").unwrap_or_else(unknown),
        text("license").unwrap_or_else(unknown),
        model.digest(),
        model.points().len(),
        model.grid(),
    );
    card +=
        "## Points\n\nThe same network at several widths and bit-widths, all in the one file.\n\n";
    card += "| point | MMAC | parameters | KiB on its own |\n|---|---:|---:|---:|\n";
    for row in weigh::rows(model, points)? {
        let _ = writeln!(card, "| {} |", row.join(" | "));
    }
    let _ = write!(card, "\n## Input\n\n{}\n", input(model));
    card += "\n## Outputs\n\n";
    for (name, _) in model.graph().outputs() {
        let shape = model.graph().output_shape(name, Width::FULL)?;
        let _ = writeln!(card, "- `{}`: {shape} at full width", cell(name));
    }
    if let Some(classes) = model.metadata().get(CLASSES) {
        let _ = write!(card, "\n## Classes\n\n{}\n", class_names(classes));
    }
    let rest: Vec<_> = model
        .metadata()
        .iter()
        .filter(|(key, _)| !PLACED.contains(&key.as_str()))
        .collect();
    if !rest.is_empty() {
        card += "\n## How it was made\n\n";
        for (key, value) in rest {
            let _ = writeln!(card, "- {}: {}", cell(key), cell(&shortened(value)));
        }
    }
    Ok(card)
}

fn input(model: &Model) -> String {
    let shape = model.graph().input_shape();
    let (height, width) = shape.spatial();
    let colours = match shape.channels() {
        1 => "Grey".to_owned(),
        3 => "RGB".to_owned(),
        n => format!("{n} channels"),
    };
    let numbers = |values: &[f32]| {
        let values: Vec<String> = values.iter().map(f32::to_string).collect();
        values.join(", ")
    };
    let mut text = format!(
        "{colours}, {height} rows by {width} columns, a byte per channel; mean {}, standard deviation {} of \
         pixels from 0 to 1.",
        numbers(&model.input().mean),
        numbers(&model.input().std)
    );
    text += &match Preprocess::from_model(model) {
        Ok(Preprocess { resize, filter, .. }) => {
            let filter = match filter {
                Filter::Bilinear => "bilinear",
                Filter::Bicubic => "bicubic",
            };
            match resize {
                Resize::Stretch => format!(" Photos are stretched to that size ({filter})."),
                Resize::Shorter(side) => format!(
                    " Of photos the shorter side becomes {side} pixels ({filter}), and the centre is taken."
                ),
            }
        }
        Err(_) => " The file does not say how a photo becomes this size.".to_owned(),
    };
    text
}

fn class_names(json: &str) -> String {
    let Ok(names) = serde_json::from_str::<Vec<String>>(json) else {
        return "The file's list of names cannot be read.".to_owned();
    };
    let listed: Vec<String> = names.iter().take(LISTED).map(|name| cell(name)).collect();
    let more = match names.len() - listed.len() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("{}: {}{more}", names.len(), listed.join(", "))
}

/// Free text as it may be printed on a line, cut where it is longer than a few of them.
pub(super) fn shortened(text: &str) -> String {
    let safe = printable(text);
    match safe.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}… ({} characters)", &safe[..end], text.chars().count()),
        None => safe.into_owned(),
    }
}

/// Text that neither leaves its line nor ends a table's cell.
fn cell(text: &str) -> String {
    printable(text).replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_and_says_how_long_it_was() {
        let cut = shortened(&"é".repeat(1000));
        assert!(cut.ends_with("… (1000 characters)") && cut.chars().count() < 450);
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn class_names_are_listed_up_to_a_limit() {
        assert_eq!(class_names(r#"["cat","a|b"]"#), "2: cat, a\\|b");
        let many: Vec<String> = (0..150).map(|i| i.to_string()).collect();
        let text = class_names(&serde_json::to_string(&many).unwrap());
        assert!(
            text.starts_with("150: 0, 1") && text.ends_with("99, and 50 more"),
            "{text}"
        );
        assert!(class_names("{").contains("cannot be read"));
    }
}
