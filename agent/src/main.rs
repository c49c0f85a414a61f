//! The agent. See `docs/architecture.md` for the data's way through it.

mod app;
mod assemble;
mod check;
mod cli;
mod clock;
mod config;
mod elf;
mod executables;
mod export;
#[cfg(test)]
#[expect(unreachable_pub, reason = "it is public where the fuzz targets are built of it")]
mod fuzzing;
mod golang;
mod grpc;
mod heap;
mod kernel;
mod logging;
mod metrics;
mod node;
mod panics;
mod privileges;
mod python;
mod reading;
mod resolve;
mod ruby;
mod span;
mod tls;
mod tokio_tasks;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};

/// Bad usage, as clap's own.
const EXIT_USAGE: u8 = 2;

/// Environment variables of the command line that may be set to nothing.
const VARIABLES: &[&str] = &[
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "TRACEWIRE_CGROUP",
    "TRACEWIRE_PROPAGATE",
    "TRACEWIRE_LOG",
    "TRACEWIRE_LOG_FORMAT",
    "TRACEWIRE_RING_BYTES",
    "TRACEWIRE_MAX_CONNECTIONS",
    "TRACEWIRE_MAX_ACTIVITIES",
    "TRACEWIRE_PROGRAM_TIMES",
    "TRACEWIRE_NICE",
];

/// An empty variable counts as not set (OpenTelemetry, Environment Variable Specification).
fn forget_empty_variables() {
    for name in VARIABLES {
        if std::env::var_os(name).is_some_and(|value| value.is_empty()) {
            // SAFETY: the process has one thread, this one.
            unsafe { std::env::remove_var(name) };
        }
    }
}

fn main() -> ExitCode {
    forget_empty_variables();
    privileges::forbid_core_dumps();
    match Cli::parse().command {
        Command::Check(args) => {
            let can = match args.pid {
                Some(pid) => check::process::check(pid),
                None => check::check(args.cgroup.as_deref()),
            };
            if can { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Command::Run(args) => {
            panics::report_briefly(args.log_format);
            logging::start(config::LogConfig { level: args.log_level, format: args.log_format });
            let config = match config::RunConfig::new(&args) {
                Ok(config) => config,
                Err(error) => {
                    eprintln!("error: {error}");
                    return ExitCode::from(EXIT_USAGE);
                }
            };
            match app::run(config, args.log_format) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("error: {error:#}");
                    ExitCode::FAILURE
                }
            }
        }
    }
}
