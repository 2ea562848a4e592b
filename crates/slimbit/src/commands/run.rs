use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::json;
use slimbit_data::{escape_name, open_image, printable};
use slimbit_engine::Session;
use slimbit_graph::LOGITS;

use super::Outcome;
use super::csv::CsvTable;
use super::features::{open_model, points_of, preprocess_of};
use crate::cli::RunArgs;
use crate::console::{self, say};

/// How many of the largest values are printed of each output.
const TOP: usize = 5;

pub(super) fn execute(args: &RunArgs) -> Result<Outcome> {
    let csv = CsvTable::check(&args.csv, args.json, &[&args.file])?;
    let model = Arc::new(open_model(&args.file, args.memory)?);
    let preprocess = preprocess_of(&model)?;
    let wanted: Vec<_> = args.point.into_iter().collect();
    let point = points_of(&model, &wanted)?[0];
    let mut session = Session::new(Arc::clone(&model), point)?;
    let names = model.classes()?;
    let mut records = Vec::new();
    for path in &args.images {
        let image = open_image(path)?;
        let outputs = session
            .run(&preprocess.codes(&image))
            .with_context(|| printable(path).into_owned())?;
        for (name, _) in model.graph().outputs() {
            let values = outputs
                .get(name)
                .with_context(|| format!("output `{name}`"))?
                .to_f32();
            if args.json || args.csv.csv.is_some() {
                records.push(
                    json!({ "image": escape_name(path.as_os_str()), "point": point, "output": name, "values": values }),
                );
            }
            if !args.json && !csv.is_printed() {
                let mut order: Vec<usize> = (0..values.len()).collect();
                order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
                let top: Vec<String> = order
                    .iter()
                    .take(TOP)
                    .map(|&i| match &names {
                        Some(names) if name == LOGITS => {
                            format!("{}: {:.4}", printable(&names.names()[i]), values[i])
                        }
                        _ => format!("{i}: {:.4}", values[i]),
                    })
                    .collect();
                say!(
                    "{}  {name} [{}] at {point}, largest: {}",
                    printable(path),
                    values.len(),
                    top.join(", ")
                )?;
            }
        }
    }
    if args.json {
        console::print_exactly(&(serde_json::to_string(&records)? + "\n"))?;
    }
    csv.write(&records, &["image", "point", "output"])?;
    Ok(Outcome::Done)
}
