//! `--csv FILE`: the table of a command for another program.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use slimbit_engine::replace_file;

use super::output::{self, Product};
use crate::cli::{CsvArgs, STANDARD_OUTPUT};
use crate::{console, table};

/// Where the table goes, if it is wanted.
#[derive(Clone, Copy)]
pub(super) struct CsvTable<'a>(Option<&'a Path>);

impl<'a> CsvTable<'a> {
    /// Checks that the file can be written, before any work begins.
    pub(super) fn check(args: &'a CsvArgs, json: bool, inputs: &[&Path]) -> Result<Self> {
        let table = Self(args.csv.as_deref());
        ensure!(
            !(json && table.is_printed()),
            "--json and --csv - both write to standard output; give --csv a file"
        );
        if let Some(path) = table.0.filter(|_| !table.is_printed()) {
            output::check_file(path, Product::Csv, inputs)?;
        }
        Ok(table)
    }

    /// Whether the table is to be the only thing on standard output.
    pub(super) fn is_printed(self) -> bool {
        self.0
            .is_some_and(|path| path == Path::new(STANDARD_OUTPUT))
    }

    /// Writes the rows, if they are wanted. Says whether they were printed, and nothing else may be.
    pub(super) fn write<T: Serialize>(self, rows: &[T], first: &[&str]) -> Result<bool> {
        let Some(path) = self.0 else {
            return Ok(false);
        };
        let text = table::csv(rows, first)?;
        if self.is_printed() {
            console::print_exactly(&text)?;
            return Ok(true);
        }
        replace_file(path, text.as_bytes())
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(false)
    }
}
