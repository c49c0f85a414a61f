//! Rows as tables in Markdown, and the documents that have them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::load::columns;
use crate::report::Row;
use crate::runtimes::Runtime;

const BEGIN: &str = "<!-- causality: written by `cargo xtask causality --write` -->\n";
const END: &str = "<!-- end of causality -->\n";

/// Requests at once in what is measured in full.
pub(crate) const CONCURRENCY: [usize; 3] = [1, 16, 128];

/// What one table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    concurrency: usize,
    older: bool,
}

/// The one that the README has.
const CHIEF: Table = Table { concurrency: 16, older: false };

impl Table {
    /// Of all that is measured in full.
    fn full() -> Vec<Self> {
        let with = |older| CONCURRENCY.map(|concurrency| Self { concurrency, older });
        [with(false), with(true)].concat()
    }

    fn title(self) -> String {
        let older = if self.older { ", connections older than the agent" } else { "" };
        format!("### {} at once{older}\n", self.concurrency)
    }

    fn has(self, row: &Row) -> bool {
        row.concurrency == self.concurrency && row.older == self.older
    }

    /// Its text: the rows, and for runtimes without a row the lines that `old` has.
    fn text(self, rows: &[Row], old: &str) -> String {
        let names: Vec<&str> = columns().collect();
        let mut text = format!("| runtime | {} |\n", names.join(" | "));
        text.push_str(&format!("| --- |{}\n", " --- |".repeat(names.len())));
        for runtime in Runtime::all() {
            let name = runtime.to_string();
            let of: Vec<&Row> =
                rows.iter().filter(|row| self.has(row) && row.runtime == name).collect();
            let start = format!("| {name} |");
            if of.is_empty() {
                let kept = old.lines().find(|line| line.starts_with(&start));
                text.extend(kept.map(|line| format!("{line}\n")));
                continue;
            }
            text.push_str(&start);
            for column in &names {
                let row = of.iter().find(|row| row.pattern == *column);
                let cell = row.map_or_else(|| " |".to_owned(), |row| format!(" {} |", cell(row)));
                text.push_str(&cell);
            }
            text.push('\n');
        }
        text
    }
}

/// Right and wrong, in percent; what is wrong is never rounded down to nothing.
fn cell(row: &Row) -> String {
    let right = if row.right == row.calls() {
        "100".to_owned()
    } else {
        format!("{:.1}", row.share(row.right).min(99.9))
    };
    let wrong = match row.wrong {
        0 => "0".to_owned(),
        wrong => format!("{:.2}", row.share(wrong).max(0.01)),
    };
    format!("{right} / {wrong}")
}

/// All tables that have a row.
pub(crate) fn all(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut done: Vec<Table> = Vec::new();
    for row in rows {
        let table = Table { concurrency: row.concurrency, older: row.older };
        if !done.contains(&table) {
            done.push(table);
            text.push_str(&format!("{}\n{}\n", table.title(), table.text(rows, "")));
        }
    }
    text
}

fn readme() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/causality.md")
}

/// Writes the rows into the README and the page of all tables.
///
/// # Errors
///
/// If one of them cannot be read or written, or lacks the two marks.
pub(crate) fn write(rows: &[Row]) -> Result<(), String> {
    renew(&readme(), |old| CHIEF.text(rows, old))?;
    renew(&page(), |old| {
        let text = |table: Table| {
            format!("\n{}\n{}", table.title(), table.text(rows, section(old, &table.title())))
        };
        Table::full().into_iter().map(text).collect::<String>() + "\n"
    })
}

fn renew(path: &Path, make: impl FnOnce(&str) -> String) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (before, old, after) =
        parts(&text).ok_or_else(|| format!("{} lacks the marks", path.display()))?;
    let renewed = [before, BEGIN, &make(old), END, after].concat();
    fs::write(path, renewed).map_err(|error| format!("{}: {error}", path.display()))
}

fn parts(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (table, after) = rest.split_once(END)?;
    Some((before, table, after))
}

/// What stands between a title and the next one.
fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let rest = text.split_once(title).map_or("", |(_, rest)| rest);
    rest.split_once("### ").map_or(rest, |(section, _)| section)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generated(path: &Path) -> String {
        let text = fs::read_to_string(path).expect("the document is in the repository");
        let (_, table, _) = parts(&text).expect("the document has the marks");
        table.to_owned()
    }

    /// A table has the suite's runtimes and columns: no more, no fewer, in that order.
    #[track_caller]
    fn check(table: &str) {
        let mut lines = table.lines().filter(|line| line.starts_with('|'));
        let head: Vec<&str> = cells(lines.next().expect("a head"));
        let wanted: Vec<&str> = ["runtime"].into_iter().chain(columns()).collect();
        assert_eq!(head, wanted);
        lines.next();
        for runtime in Runtime::all() {
            let line = lines.next().unwrap_or_else(|| panic!("{runtime} has no row"));
            let cells = cells(line);
            assert_eq!(cells[0], runtime.to_string());
            for (cell, column) in cells[1..].iter().zip(columns()) {
                assert_eq!(!cell.is_empty(), runtime.has_column(column), "{column} in {line}");
            }
        }
        assert_eq!(lines.next(), None);
    }

    fn cells(line: &str) -> Vec<&str> {
        let inner = line.trim_start_matches('|').trim_end_matches('|');
        inner.split('|').map(str::trim).collect()
    }

    #[test]
    fn the_readme_has_the_rows_and_columns_of_the_suite() {
        check(&generated(&readme()));
    }

    #[test]
    fn the_page_of_all_tables_has_the_rows_and_columns_of_the_suite() {
        let text = generated(&page());
        for table in Table::full() {
            check(section(&text, &table.title()));
        }
    }

    fn row(runtime: &str, right: usize, wrong: usize) -> Row {
        Row {
            runtime: runtime.to_owned(),
            pattern: "one".to_owned(),
            concurrency: 16,
            older: false,
            right,
            missing: 0,
            wrong,
            unseen: 0,
            rules: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn a_row_takes_the_place_of_the_one_before_and_leaves_the_others() {
        let old = "| Go net/http | old |\n| nginx, proxy | old |\n| gone | old |\n";
        let text = CHIEF.text(&[row("Go net/http", 1, 0)], old);
        let rows: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(rows, ["| nginx, proxy | old |", "| Go net/http | 100 / 0 | | | | | | | |"]);
    }

    #[test]
    fn what_is_wrong_or_not_right_is_never_rounded_away() {
        assert_eq!(cell(&row("Go net/http", 99_999, 1)), "99.9 / 0.01");
        assert_eq!(cell(&row("Go net/http", 0, 3)), "0.0 / 100.00");
    }
}
