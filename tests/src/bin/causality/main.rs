//! Measures how often the right parent is found, runtime by runtime: `cargo xtask causality`.
//!
//! A service of each runtime is asked by many clients at once, and asks a backend in
//! consequence. The number of the request is in both paths, so the truth is known without
//! tracing. It is compared with the parents of the agent's spans.

mod asking;
mod axum_service;
mod backend;
mod known;
mod load;
mod measure;

mod report;
mod runtimes;
mod table;
mod truth;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::measure::Plan;
use crate::report::{Row, Rows};
use crate::runtimes::Runtime;

/// What is measured.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only this runtime; several times for several
    #[arg(long, value_enum)]
    runtime: Vec<Runtime>,
    /// Only this pattern of calls, or `mixed`; several times for several
    #[arg(long, value_parser = load::columns().collect::<Vec<_>>())]
    pattern: Vec<String>,
    /// Requests at once; several times for several [default: 16, or with --full 1, 16 and 128]
    #[arg(long, value_parser = at_once)]
    concurrency: Vec<usize>,
    /// Requests of each pattern; a tenth of it with one at once
    #[arg(long, default_value_t = 1000)]
    requests: usize,
    /// Requests that warm each service up, after the agent has started; some of a quiet time follow
    #[arg(long, default_value_t = 2000)]
    warm_up: usize,
    /// The connections are older than the agent
    #[arg(long)]
    older: bool,
    /// All: with connections that are younger than the agent, and with older ones
    #[arg(long, conflicts_with = "older")]
    full: bool,
    /// Fail if less holds than has to
    #[arg(long)]
    check: bool,
    /// One JSON object on standard output, instead of tables
    #[arg(long)]
    json: bool,
    /// Write the tables of the README and of docs/causality.md; implies --full
    #[arg(long, conflicts_with_all = ["older", "pattern"])]
    write: bool,
    /// Take rows from a file that --json wrote, and measure nothing; several times for several
    #[arg(long, value_name = "FILE")]
    rows: Vec<PathBuf>,
    /// Be the Rust service
    #[arg(long, value_enum, hide = true)]
    serve: Option<axum_service::Calls>,
    /// More flags for the agent
    #[arg(last = true)]
    flags: Vec<String>,
}

fn at_once(text: &str) -> Result<usize, String> {
    const MOST: usize = 128;
    let count = text.parse().map_err(|error| format!("{error}"))?;
    if (1..=MOST).contains(&count) {
        return Ok(count);
    }
    Err(format!("the services have threads for 1 to {MOST}"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(calls) = arguments.serve {
        return match axum_service::run(calls) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("causality: the service: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let found = if arguments.rows.is_empty() { measure(&arguments) } else { read(&arguments.rows) };
    let Found { rows, mut problems } = found;
    if arguments.json {
        match serde_json::to_string(&Rows { rows: rows.clone() }) {
            Ok(text) => println!("{text}"),
            Err(error) => problems.push(format!("no JSON: {error}")),
        }
    } else {
        print!("{}", table::all(&rows));
    }
    if arguments.check {
        problems.extend(rows.iter().filter_map(Row::falls_behind));
    }
    if rows.is_empty() {
        problems.push("nothing was measured".to_owned());
    }
    if arguments.write {
        problems.extend(table::write(&rows).err());
    }
    for problem in &problems {
        eprintln!("causality: FAILED: {problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Rows, and what went wrong on the way to them.
#[derive(Debug, Default)]
struct Found {
    rows: Vec<Row>,
    problems: Vec<String>,
}

fn measure(arguments: &Arguments) -> Found {
    let is_full = arguments.full || arguments.write;
    let concurrency = match (arguments.concurrency.as_slice(), is_full) {
        ([], true) => table::CONCURRENCY.to_vec(),
        ([], false) => vec![16],
        (chosen, _) => chosen.to_vec(),
    };
    let ages: &[bool] = if is_full { &[false, true] } else { &[arguments.older] };
    let runtimes =
        if arguments.runtime.is_empty() { Runtime::all() } else { arguments.runtime.clone() };
    let mut found = Found::default();
    for runtime in runtimes {
        if let Err(why) = runtime.is_possible() {
            eprintln!("causality: {runtime}: left out: {why}");
            if arguments.check || arguments.write {
                found.problems.push(format!("{runtime}: left out: {why}"));
            }
            continue;
        }
        for &older in ages {
            let plan = Plan {
                columns: &arguments.pattern,
                concurrency: &concurrency,
                requests: arguments.requests,
                warm_up: arguments.warm_up,
                older,
                flags: &arguments.flags,
            };
            // One service that fails does not take away what is known of the others.
            match catch_unwind(AssertUnwindSafe(|| plan.run(runtime))) {
                Ok(rows) => {
                    rows.iter().for_each(|row| eprintln!("causality: {row}"));
                    found.rows.extend(rows);
                }
                Err(_) => found.problems.push(format!("{runtime}: could not be measured")),
            }
        }
    }
    found
}

fn read(files: &[PathBuf]) -> Found {
    let mut found = Found::default();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string());
        let rows = text.and_then(|text| {
            serde_json::from_str::<Rows>(&text).map_err(|error| error.to_string())
        });
        match rows {
            Ok(rows) => found.rows.extend(rows.rows),
            Err(error) => found.problems.push(format!("{}: {error}", file.display())),
        }
    }
    found
}
