use anyhow::{Result, ensure};
use serde_json::json;
use slimbit_train::TrainConfig;
use slimbit_train::config::recipes;

use super::Outcome;
use super::csv::CsvTable;
use crate::cli::RecipesArgs;
use crate::console::{self, say};
use crate::table::Table;

pub(super) fn execute(args: &RecipesArgs) -> Result<Outcome> {
    if let Some(name) = &args.name {
        ensure!(
            args.csv.csv.is_none(),
            "a recipe is settings, not a table; leave --csv or the name out"
        );
        console::print_exactly(recipes::text(name)?)?;
        return Ok(Outcome::Done);
    }
    if args.schema {
        console::print_json(&TrainConfig::schema())?;
        return Ok(Outcome::Done);
    }
    let names = recipes::names();
    let list = names
        .iter()
        .map(|name| Ok(json!({ "name": name, "summary": recipes::summary(name)? })))
        .collect::<Result<Vec<_>>>()?;
    if CsvTable::check(&args.csv, args.json, &[])?.write(&list, &["name"])? {
        return Ok(Outcome::Done);
    }
    if args.json {
        console::print_json(&list)?;
        return Ok(Outcome::Done);
    }
    let mut table = Table::new(["recipe", ""]).names(2).plain();
    for name in &names {
        table.row([name, recipes::summary(name)?]);
    }
    say!("{table}")?;
    Ok(Outcome::Done)
}
