//! The frame of every page that the program writes: one file that needs no network, reads well on a phone, and says
//! where its figures come from.

use std::fmt::Write;

use crate::table::Table;

/// What a page looks like. Wide tables and charts scroll inside their own box, so that the page itself never does.
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}\
    .wide{overflow-x:auto}\
    table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
    td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}\
    td:first-child,th:first-child{text-align:left}\
    pre{background:#f6f6f6;padding:1rem;overflow:auto}\
    footer{margin-top:3rem;border-top:1px solid #ddd;color:#666;font-size:13px}";

/// Where the figures of a page or a file come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Provenance {
    /// When they were measured, in RFC 3339, to the second, in UTC.
    pub date: String,
    /// Version of the program.
    pub version: String,
    /// The command line.
    pub command: String,
}

impl Provenance {
    /// Of this process, now.
    pub fn now() -> Self {
        let now = jiff::Timestamp::now();
        let arguments = std::env::args_os().skip(1);
        let quoted = arguments.map(|argument| quoted(&argument.to_string_lossy()));
        let command: Vec<String> = std::iter::once("slimbit".to_owned())
            .chain(quoted)
            .collect();
        Self {
            date: format!("{now:.0}"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: command.join(" "),
        }
    }
}

/// An argument as a shell takes it.
pub fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    match !argument.is_empty() && argument.chars().all(plain) {
        true => argument.to_owned(),
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    }
}

/// A page under construction: the frame is there, sections are added in order.
#[derive(Debug)]
pub struct Page {
    head: String,
    body: String,
    provenance: Provenance,
}

impl Page {
    /// An empty page with a heading.
    pub fn new(title: &str, provenance: Provenance) -> Self {
        let title = escape(title);
        Self {
            head: format!(
                "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
                 <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
                 <title>{title}</title>\n<style>{STYLE}</style>\n"
            ),
            body: format!("<h1>{title}</h1>\n"),
            provenance,
        }
    }

    /// Puts markup into the head, such as a script that charts need.
    pub fn head(&mut self, markup: &str) {
        self.head += markup;
    }

    /// Begins a section.
    pub fn heading(&mut self, text: &str) {
        let _ = writeln!(self.body, "<h2>{}</h2>", escape(text));
    }

    /// Adds a paragraph of plain text.
    pub fn paragraph(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p>{}</p>", escape(text));
    }

    /// Adds text whose lines stay as they are.
    pub fn preformatted(&mut self, text: &str) {
        let _ = writeln!(self.body, "<pre>{}</pre>", escape(text));
    }

    /// Adds a table that scrolls where it is wider than the page.
    pub fn table(&mut self, table: &Table) {
        let row = |cells: Vec<String>, tag: &str| {
            let cells: String = cells
                .iter()
                .map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)))
                .collect();
            format!("<tr>{cells}</tr>\n")
        };
        let header = row(table.header(), "th");
        let body: String = table.rows().map(|cells| row(cells, "td")).collect();
        self.wide(&format!("<table>\n{header}{body}</table>"));
    }

    /// Adds markup that may be wider than the page, such as a chart.
    pub fn wide(&mut self, markup: &str) {
        let _ = writeln!(self.body, "<div class=\"wide\">{markup}</div>");
    }

    /// The whole page.
    pub fn finish(self) -> String {
        let Provenance {
            date,
            version,
            command,
        } = &self.provenance;
        format!(
            "{}</head><body>\n{}<footer><p>Slimbit {}, {}: <code>{}</code></p></footer>\n</body></html>\n",
            self.head,
            self.body,
            escape(version),
            escape(date),
            escape(command),
        )
    }
}

/// Text as HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_escaped_and_says_where_it_comes_from() {
        let provenance = Provenance {
            date: "2026-12-01T10:00:00Z".to_owned(),
            version: "9.8.7".to_owned(),
            command: "slimbit quickstart --out 'a & b'".to_owned(),
        };
        let mut table = Table::new(["class"]);
        table.row(["<script>"]);
        let mut page = Page::new("a < b", provenance);
        page.table(&table);
        page.paragraph("1 & 2");
        let html = page.finish();
        for wanted in [
            "name=\"viewport\"",
            "<h1>a &lt; b</h1>",
            "<div class=\"wide\"><table>",
            "<td>&lt;script&gt;</td>",
            "<p>1 &amp; 2</p>",
            "Slimbit 9.8.7, 2026-12-01T10:00:00Z: <code>slimbit quickstart --out 'a &amp; b'</code>",
        ] {
            assert!(html.contains(wanted), "{wanted} in {html}");
        }
    }

    #[test]
    fn arguments_are_quoted_as_a_shell_takes_them() {
        let wanted = ["0.5x", "''", "'0.5x W4A8'", r"'it'\''s'", "epochs=4"];
        let given = ["0.5x", "", "0.5x W4A8", "it's", "epochs=4"];
        assert_eq!(given.map(quoted), wanted);
    }

    #[test]
    fn the_date_is_to_the_second() {
        let date = Provenance::now().date;
        assert_eq!(date.len(), "2026-12-01T10:00:00Z".len(), "{date}");
    }
}
