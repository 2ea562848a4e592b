//! Tables: for a reader, and as CSV for a program.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use comfy_table::{Attribute, Cell, CellAlignment, Color, presets};
use serde::Serialize;
use serde_json::Value;

/// A table that is printed. Names come first and are set to the left; numbers follow, to the right.
pub struct Table {
    table: comfy_table::Table,
    names: usize,
}

impl Table {
    /// A table whose first column holds names.
    pub fn new<T: Into<String>>(header: impl IntoIterator<Item = T>) -> Self {
        let mut table = comfy_table::Table::new();
        let bold = |text: T| Cell::new(text.into()).add_attribute(Attribute::Bold);
        table
            .load_preset(presets::UTF8_HORIZONTAL_ONLY)
            .enforce_styling()
            .set_header(header.into_iter().map(bold));
        Self { table, names: 1 }
    }

    /// With so many columns of names.
    #[must_use]
    pub fn names(mut self, names: usize) -> Self {
        self.names = names;
        self
    }

    /// Without lines between rows and header.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.table.load_preset(presets::NOTHING);
        self
    }

    /// Adds a row.
    pub fn row<T: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.table.add_row(cells.into_iter().map(Into::into));
    }

    /// The text of the header's cells.
    pub fn header(&self) -> Vec<String> {
        self.table.header().map_or_else(Vec::new, texts)
    }

    /// The text of the cells of every row.
    pub fn rows(&self) -> impl Iterator<Item = Vec<String>> {
        self.table.row_iter().map(texts)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.table.row_count() == 0
    }
}

fn texts(row: &comfy_table::Row) -> Vec<String> {
    row.cell_iter().map(Cell::content).collect()
}

/// A cell of a colour, where output is coloured.
pub fn coloured(text: &str, color: Color) -> Cell {
    Cell::new(text).fg(color)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = self.table.clone();
        for column in table.column_iter_mut().skip(self.names) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.fmt(f)
    }
}

/// Rows as CSV with a header: the values of their JSON, with a column for every value of an object in an object
/// (`latency.median_ms`) and of a list (`runs.0`). Lists of objects are tables of their own and left out; what is
/// missing is empty. The columns `first` come first, the others by name.
///
/// # Errors
/// Rows that are no JSON objects.
pub fn csv<T: Serialize>(rows: &[T], first: &[&str]) -> Result<String> {
    let mut flat = Vec::with_capacity(rows.len());
    let mut columns: Vec<String> = first.iter().map(|&name| name.to_owned()).collect();
    let mut others = BTreeMap::new();
    for row in rows {
        let mut cells = BTreeMap::new();
        flatten(&serde_json::to_value(row)?, "", &mut cells);
        for name in cells.keys().filter(|name| !columns.contains(name)) {
            others.insert(order(name), name.clone());
        }
        flat.push(cells);
    }
    columns.extend(others.into_values());
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&columns)?;
    for cells in &flat {
        let cell = |name| cells.get(name).map_or("", String::as_str);
        writer.write_record(columns.iter().map(cell))?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

fn flatten(value: &Value, name: &str, cells: &mut BTreeMap<String, String>) {
    let inner = |part: &dyn fmt::Display| match name {
        "" => part.to_string(),
        _ => format!("{name}.{part}"),
    };
    let mut insert = |text: String| cells.insert(name.to_owned(), text);
    match value {
        Value::Null => drop(insert(String::new())),
        Value::Bool(value) => drop(insert(value.to_string())),
        Value::Number(value) => drop(insert(value.to_string())),
        Value::String(value) => drop(insert(value.clone())),
        Value::Array(values) if values.iter().any(Value::is_object) => {}
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                flatten(value, &inner(&index), cells);
            }
        }
        Value::Object(values) => {
            for (key, value) in values {
                flatten(value, &inner(key), cells);
            }
        }
    }
}

/// The parts of a column's name, with numbers that sort as numbers do.
fn order(name: &str) -> Vec<(String, u64)> {
    let part = |part: &str| match part.parse() {
        Ok(number) => (String::new(), number),
        Err(_) => (part.to_owned(), 0),
    };
    name.split('.').map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn csv_has_a_column_for_every_value() {
        let rows = [
            json!({"point": "1x W8A8", "top1": 0.5, "ms": {"p10": 1, "median": 2}, "runs": [3, 4]}),
            json!({"point": "a, \"b\"", "top1": null, "stages": [{"a": 1}], "runs": []}),
        ];
        assert_eq!(
            csv(&rows, &["point"]).unwrap(),
            "point,ms.median,ms.p10,runs.0,runs.1,top1\n\
             1x W8A8,2,1,3,4,0.5\n\"a, \"\"b\"\"\",,,,,\n"
        );
        let long = [json!({ "v": (0..12).collect::<Vec<_>>() })];
        let header = csv(&long, &[]).unwrap();
        assert!(header.starts_with("v.0,v.1,v.2,") && header.contains("v.9,v.10,v.11\n"));
        assert_eq!(csv(&[json!({})][..0], &["point"]).unwrap(), "point\n");
    }

    #[test]
    fn numbers_stand_to_the_right() {
        let mut table = Table::new(["point", "ms"]);
        table.row(["1x", "10.00"]);
        table.row(["0.25x", "9.00"]);
        let text = anstream::adapter::strip_str(&table.to_string()).to_string();
        assert!(text.contains(" 0.25x    9.00 "), "{text}");
    }
}
