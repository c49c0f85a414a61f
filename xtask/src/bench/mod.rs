//! `cargo xtask bench`: what the agent costs, in alternating rounds against no agent.

mod counter;
mod http1;
mod kernel_time;
mod load;
mod row;
mod usage;

use anyhow::Result;

use crate::toolchain;

/// What can be measured.
#[derive(clap::Subcommand)]
pub(crate) enum Bench {
    /// HTTP/1.1 through nginx: hello world, proxy, and a fixed rate
    Http1(http1::Arguments),
}

/// Runs a bench.
///
/// # Errors
///
/// If something cannot be had, started or measured.
pub(crate) fn run(bench: &Bench, source: toolchain::Source) -> Result<()> {
    match bench {
        Bench::Http1(arguments) => http1::run(arguments, source),
    }
}
