//! Rows of what was measured, for people and for programs.

use std::fmt;

use serde::Serialize;

use crate::runtimes::Runtime;
use crate::truth::{PATTERNS, Pattern, Verdict};

/// One pattern of one runtime.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    runtime: String,
    pattern: &'static str,
    concurrency: usize,
    right: usize,
    missing: usize,
    wrong: usize,
    unseen: usize,
    /// By rule: right, missing, wrong.
    rules: std::collections::BTreeMap<String, [usize; 3]>,
}

impl Row {
    /// A row of the table.
    pub(crate) fn new(
        runtime: Runtime,
        pattern: &Pattern,
        concurrency: usize,
        verdict: Verdict,
    ) -> Self {
        let Verdict { right, missing, wrong, unseen, rules } = verdict;
        let runtime = runtime.to_string();
        Self { runtime, pattern: pattern.name, concurrency, right, missing, wrong, unseen, rules }
    }

    /// Says so if less holds than is known to hold at 16 requests at once.
    pub(crate) fn falls_behind(&self) -> Option<String> {
        let (least_right, most_wrong) = self.known()?;
        let calls = self.calls() as f64;
        let right = 100.0 * self.right as f64 / calls;
        let wrong = 100.0 * self.wrong as f64 / calls;
        (right < least_right || wrong > most_wrong).then(|| {
            format!("{self}; known are {least_right}% right and at most {most_wrong}% wrong")
        })
    }

    /// Calls with a right parent, at least, and with a wrong one, at most, in percent.
    fn known(&self) -> Option<(f64, f64)> {
        // Of a thousand; a busy machine has more of what is mistaken for one another.
        const WRONG: f64 = 0.5;
        let by_thread = ["one", "sequence", "timer", "retry"].contains(&self.pattern);
        match self.runtime.as_str() {
            "nginx, proxy" => Some((100.0, 0.0)),
            "Python threads, requests" | "gunicorn gthread, requests" if by_thread => {
                Some((100.0, 0.0))
            }
            "Node http" if ["one", "sequence", "retry"].contains(&self.pattern) => {
                Some((90.0, WRONG))
            }
            "Node http" | "aiohttp" | "FastAPI async, httpx" | "gevent, requests" => {
                Some((0.0, WRONG))
            }
            _ => None,
        }
    }

    fn calls(&self) -> usize {
        self.right + self.missing + self.wrong + self.unseen
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runtime, pattern, concurrency, right, missing, wrong, unseen, rules } = self;
        write!(
            f,
            "{runtime}, {pattern}, {concurrency} at once: {right} right, {missing} missing, {wrong} wrong"
        )?;
        if *unseen > 0 {
            write!(f, ", {unseen} without a span")?;
        }
        for (rule, [right, missing, wrong]) in rules {
            write!(f, "; by {rule} {right}/{missing}/{wrong}")?;
        }
        Ok(())
    }
}

/// An object with all rows.
pub(crate) fn json(rows: &[Row]) -> String {
    serde_json::json!({ "rows": rows }).to_string()
}

/// A table in Markdown: right and wrong parents in percent of the calls.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from("| runtime | at once |");
    for pattern in PATTERNS {
        text.push_str(&format!(" {} |", pattern.name));
    }
    text.push_str(&format!("\n| --- | --- |{}\n", " --- |".repeat(PATTERNS.len())));
    let mut lines: Vec<(&str, usize)> = Vec::new();
    for row in rows {
        if !lines.contains(&(row.runtime.as_str(), row.concurrency)) {
            lines.push((&row.runtime, row.concurrency));
        }
    }
    for (runtime, concurrency) in lines {
        text.push_str(&format!("| {runtime} | {concurrency} |"));
        for pattern in PATTERNS {
            let row = rows.iter().find(|row| {
                row.runtime == runtime
                    && row.concurrency == concurrency
                    && row.pattern == pattern.name
            });
            text.push_str(&row.map_or_else(|| " |".to_owned(), |row| format!(" {} |", cell(row))));
        }
        text.push('\n');
    }
    text
}

/// Right and wrong, in percent; what is wrong is never rounded down to nothing.
fn cell(row: &Row) -> String {
    let share = |count: usize| 100.0 * count as f64 / row.calls().max(1) as f64;
    let right = if row.right == row.calls() {
        "100".to_owned()
    } else {
        format!("{:.1}", share(row.right).min(99.9))
    };
    let wrong =
        if row.wrong == 0 { "0".to_owned() } else { format!("{:.1}", share(row.wrong).max(0.1)) };
    format!("{right} / {wrong}")
}
