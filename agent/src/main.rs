//! The agent. See `docs/architecture.md` for the data's way through it.

mod app;
mod assemble;
mod check;
mod cli;
mod clock;
mod config;
mod executables;
mod export;
mod kernel;
mod logging;
mod metrics;
mod reading;
mod resolve;
mod span;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};

/// Bad usage, as clap's own.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(args) => {
            if check::check(args.cgroup.as_deref()) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Command::Run(args) => {
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
