use anyhow::Result;
use comfy_table::{Table, presets};
use serde_json::json;
use slimbit_train::config::recipes;

use super::Outcome;
use crate::cli::RecipesArgs;

pub(super) fn execute(args: &RecipesArgs) -> Result<Outcome> {
    if let Some(name) = &args.name {
        print!("{}", recipes::text(name)?);
        return Ok(Outcome::Done);
    }
    let names = recipes::names();
    if args.json {
        let list = names
            .iter()
            .map(|name| Ok(json!({ "name": name, "summary": recipes::summary(name)? })))
            .collect::<Result<Vec<_>>>()?;
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(Outcome::Done);
    }
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(["recipe", ""]);
    for name in &names {
        table.add_row([name, recipes::summary(name)?]);
    }
    println!("{table}");
    Ok(Outcome::Done)
}
