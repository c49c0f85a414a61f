//! Measures how often the right parent is found, runtime by runtime: `cargo xtask causality`.
//!
//! A service of each runtime is asked by many clients at once, and asks a backend in
//! consequence. The number of the request is in both paths, so the truth is known without
//! tracing. It is compared with the parents of the agent's spans.

mod asking;
mod backend;
mod report;
mod runtimes;
mod truth;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tracewire_tests::world::World;

use crate::asking::ask;
use crate::backend::Backend;
use crate::report::Row;
use crate::runtimes::Runtime;
use crate::truth::{PATTERNS, Pattern};

/// Numbers of requests that no pattern has: they only open connections.
const WARMING: usize = 10_000_000;
/// How long what goes on behind an answer may take.
const AFTERMATH: Duration = Duration::from_millis(400);

/// What is measured.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only this runtime; several times for several
    #[arg(long, value_enum)]
    runtime: Vec<Runtime>,
    /// Only this pattern of calls; several times for several
    #[arg(long)]
    pattern: Vec<String>,
    /// Requests at once; several times for several
    #[arg(long, default_values_t = [16])]
    concurrency: Vec<usize>,
    /// Requests of each pattern
    #[arg(long, default_value_t = 1000)]
    requests: usize,
    /// The service's connections are older than the agent
    #[arg(long)]
    older: bool,
    /// Fail if a runtime falls behind what is known to hold for it
    #[arg(long)]
    check: bool,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    /// More flags for the agent
    #[arg(last = true)]
    flags: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtimes =
        if arguments.runtime.is_empty() { Runtime::all() } else { arguments.runtime.clone() };
    let mut rows = Vec::new();
    for runtime in runtimes {
        if let Err(why) = runtime.is_possible() {
            eprintln!("causality: {runtime}: left out: {why}");
            continue;
        }
        for &concurrency in &arguments.concurrency {
            let measured = measure(&arguments, runtime, concurrency);
            for row in &measured {
                eprintln!("causality: {row}");
            }
            rows.extend(measured);
        }
    }
    if arguments.json {
        println!("{}", report::json(&rows));
    } else {
        print!("{}", report::table(&rows));
    }
    let behind: Vec<String> = rows.iter().filter_map(Row::falls_behind).collect();
    if arguments.check {
        behind.iter().for_each(|row| eprintln!("causality: FAILED: {row}"));
    }
    let failed = rows.is_empty() || arguments.check && !behind.is_empty();
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// One runtime, all patterns, under one agent.
fn measure(arguments: &Arguments, runtime: Runtime, concurrency: usize) -> Vec<Row> {
    let mut world = World::new();
    let backend = Backend::start();
    let flags: Vec<&str> = arguments.flags.iter().map(String::as_str).collect();
    if !arguments.older {
        world.start_agent(&flags);
    }
    let service = runtime.start(&world, backend.port());
    let is_wanted = |pattern: &&Pattern| {
        runtime.has(pattern)
            && (arguments.pattern.is_empty()
                || arguments.pattern.iter().any(|name| name == pattern.name))
    };
    let patterns: Vec<&Pattern> = PATTERNS.iter().filter(is_wanted).collect();
    if arguments.older {
        for pattern in &patterns {
            ask(service.port, pattern, WARMING, 2 * concurrency, concurrency);
        }
        std::thread::sleep(AFTERMATH);
        world.start_agent(&flags);
    }
    let requests = if concurrency == 1 { arguments.requests / 10 } else { arguments.requests };
    for pattern in &patterns {
        ask(service.port, pattern, 0, requests, concurrency);
        std::thread::sleep(AFTERMATH);
    }
    let spans = world.stop_agent().map_or_else(Vec::new, |outcome| outcome.spans);
    patterns
        .iter()
        .map(|pattern| {
            Row::new(runtime, pattern, concurrency, truth::judge(pattern, requests, &spans))
        })
        .collect()
}
