//! What developers of Tracewire run: build, lint, test, exactness, causality, fuzz, vm,
//! demo, bench.
//!
//! Each command prepares what the machine lacks, says so, and does nothing twice.

mod agent;
mod bench;
mod build_agent;
mod causality;
mod cgroup;
mod demo;
mod exactness;
mod fuzz;
mod leftovers;
mod lint;
mod network;
mod nginx;
mod packages;
mod process;
mod progress;
mod scratch;
mod signals;
mod test;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, checks, shows and measures Tracewire.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
    /// Where the compiler of the eBPF half comes from
    #[arg(long, global = true, value_enum, default_value_t, env = "TRACEWIRE_TOOLCHAIN")]
    toolchain: toolchain::Source,
}

#[derive(Subcommand)]
enum Task {
    /// Build the agent, eBPF object inside: target/release/tracewire
    Build,
    /// Check formatting and lints of both halves
    Lint,
    /// Run every test: lints, unit tests, end to end
    Test(test::Arguments),
    /// Judge whether the agent changes traffic: many protocols, in all ways to send and receive
    Exactness(exactness::Arguments),
    /// Measure how often the right parent is found, in services of many runtimes
    Causality(causality::Arguments),
    /// Run the fuzz targets of the parsers, each for some minutes
    Fuzz(fuzz::Arguments),
    /// Show the joined trace of three services that know nothing of tracing
    Demo(demo::Arguments),
    /// Try the agent on other kernels, in virtual machines
    Vm(vm::Arguments),
    /// Measure what the agent costs
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    signals::install();
    let result = run(arguments);
    if let Err(error) = &result {
        eprintln!("xtask: error: {error:#}");
    }
    match (signals::exit_code(), result) {
        (Some(code), _) => ExitCode::from(code),
        (None, Ok(())) => ExitCode::SUCCESS,
        (None, Err(_)) => ExitCode::FAILURE,
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let source = arguments.toolchain;
    match arguments.command {
        Task::Build => build_agent::build(source).map(drop),
        Task::Lint => lint::run(&build_agent::build(source)?),
        Task::Test(arguments) => test::run(&arguments, source),
        Task::Exactness(arguments) => exactness::run(&arguments, source),
        Task::Causality(arguments) => causality::run(&arguments, source),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Demo(arguments) => demo::run(&arguments, source),
        Task::Vm(arguments) => vm::run(&arguments, source),
        Task::Bench(bench) => bench::run(&bench, source),
    }
}
