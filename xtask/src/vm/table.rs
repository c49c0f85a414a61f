//! The README's table of kernels, made of what was seen.

use std::fs;

use anyhow::{Context, Result, bail};

use super::kernels::Series;
use super::transcript::{Seen, Verdict};
use crate::workspace;

const BEGIN: &str = "<!-- kernels: written by `cargo xtask vm --write` -->\n";
const END: &str = "<!-- end of kernels -->\n";

const HEAD: &str = "\
| Linux | requests are timed | headers are written | receivers are learned by | heads are followed by | TLS libraries and runtimes are probed | `FIONREAD` on enrolled sockets | end-to-end tests |
| --- | --- | --- | --- | --- | --- | --- | --- |
";

/// The line of one kernel.
pub(crate) fn row(series: Series, seen: &Seen) -> String {
    let yes_no = |yes: bool| if yes { "yes" } else { "no" };
    let receivers = ["sock_recv_length", "tcp_rcv_space_adjust"]
        .into_iter()
        .find(|tracepoint| seen.uses(tracepoint))
        .map_or_else(|| "no".to_owned(), |tracepoint| format!("`{tracepoint}`"));
    let timed = seen.runs() && seen.claims("read_egress") && seen.claims("read_ingress");
    let fionread = match seen.offers.get("fionread").map(String::as_str) {
        Some("right") => "right",
        Some("restored") => "restored by a verdict program",
        _ => "wrong",
    };
    let any = |wanted| seen.tests.iter().any(|(.., verdict)| *verdict == wanted);
    let tests = if seen.tests.is_empty() {
        "not run"
    } else if any(Verdict::Failed) {
        "some fail"
    } else if any(Verdict::Skipped) {
        "pass, but for what the kernel lacks"
    } else {
        "pass"
    };
    format!(
        "| {series} | {} | {} | {receivers} | {} | {} | {fionread} | {tests} |",
        yes_no(timed),
        yes_no(seen.runs() && seen.claims("propagation")),
        match (timed, seen.claims("bpf_loop")) {
            (false, _) => "no",
            (_, true) => "`bpf_loop`",
            _ => "loops of a fixed bound",
        },
        yes_no(seen.runs() && seen.claims("probes of TLS libraries")),
    )
}

/// Compares the rows with the README's; with `write` the README is given them instead.
///
/// # Errors
///
/// If the README has no such table, or says something else.
pub(crate) fn settle(rows: &[(Series, String)], write: bool) -> Result<()> {
    let path = workspace::root().join("README.md");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let renewed = renew(&text, rows)?;
    if renewed == text {
        return Ok(());
    }
    if write {
        return fs::write(&path, renewed)
            .with_context(|| format!("cannot write {}", path.display()));
    }
    let (_, old, _) = parts(&text)?;
    let differing: Vec<&str> = rows
        .iter()
        .map(|(_, row)| row.as_str())
        .filter(|row| !old.lines().any(|line| line == *row))
        .collect();
    bail!(
        "README.md says something else of the kernels than was seen:\n{}\nrun `cargo xtask vm --write`",
        differing.join("\n")
    );
}

/// The text with these rows in place of the ones of the same kernels.
fn renew(text: &str, rows: &[(Series, String)]) -> Result<String> {
    let (before, old, after) = parts(text)?;
    let mut table = HEAD.to_owned();
    for series in Series::ALL {
        let start = format!("| {series} |");
        let row = rows
            .iter()
            .find(|(of, _)| *of == series)
            .map(|(_, row)| row.as_str())
            .or_else(|| old.lines().find(|line| line.starts_with(&start)));
        if let Some(row) = row {
            table.push_str(row);
            table.push('\n');
        }
    }
    Ok([before, BEGIN, &table, END, after].concat())
}

fn parts(text: &str) -> Result<(&str, &str, &str)> {
    text.split_once(BEGIN)
        .and_then(|(before, rest)| {
            rest.split_once(END).map(|(table, after)| (before, table, after))
        })
        .context("README.md has no table of kernels between its two marks")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_a_row_for_every_kernel() {
        let text = fs::read_to_string(workspace::root().join("README.md")).expect("a README");
        let (_, table, _) = parts(&text).expect("a table");
        assert!(table.starts_with(HEAD), "{table}");
        for series in Series::ALL {
            let start = format!("| {series} |");
            let rows = table.lines().filter(|line| line.starts_with(&start)).count();
            assert_eq!(rows, 1, "rows for {series} in\n{table}");
        }
        assert_eq!(table.lines().count(), HEAD.lines().count() + Series::ALL.len(), "{table}");
    }

    #[test]
    fn a_kernel_on_which_tests_are_skipped_does_not_pass_like_others() {
        let tests = |transcript: &str| {
            let mut seen = Seen::default();
            for line in transcript.lines() {
                seen.line(line);
            }
            let row = row(Series::V6_1, &seen);
            row.rsplit(" | ").next().map(str::to_owned)
        };
        let told = |text: &str| Some(format!("{text} |"));
        assert_eq!(tests(""), told("not run"));
        assert_eq!(tests("test a ... ok"), told("pass"));
        let lacking = "test a ... ok\ntest b ... skipped: no probes\nok\n";
        assert_eq!(tests(lacking), told("pass, but for what the kernel lacks"));
        // What guests lack says nothing of the kernel.
        assert_eq!(tests("test a ... skipped: not installed: wget\nok"), told("pass"));
        assert_eq!(tests(&format!("{lacking}test c ... FAILED")), told("some fail"));
    }

    #[test]
    fn a_row_takes_the_place_of_the_one_before_and_leaves_the_others() {
        let text = format!("before\n{BEGIN}{HEAD}| 5.10 | old |\n| 6.1 | old |\n{END}after\n");
        let renewed = renew(&text, &[(Series::V6_1, "| 6.1 | new |".to_owned())]).expect("marks");
        let wanted = format!("before\n{BEGIN}{HEAD}| 5.10 | old |\n| 6.1 | new |\n{END}after\n");
        assert_eq!(renewed, wanted);
    }
}
