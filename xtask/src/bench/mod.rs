//! `cargo xtask bench`: what the agent costs, in alternating rounds against no agent.

mod counter;
mod grpc;
mod http1;
mod kernel_time;
mod load;
mod rounds;
mod row;
mod tls;
mod usage;

use anyhow::Result;

use crate::toolchain;

/// What can be measured.
#[derive(clap::Subcommand)]
pub(crate) enum Bench {
    /// HTTP/1.1 through nginx: hello world, proxy, and a fixed rate
    Http1(http1::Arguments),
    /// HTTP/2 and gRPC: h2load on nghttpd, and calls between tonic and tonic
    Grpc(grpc::Arguments),
    /// HTTP/1.1 over TLS, through nginx
    Tls(tls::Arguments),
}

/// Runs a bench.
///
/// # Errors
///
/// If something cannot be had, started or measured.
pub(crate) fn run(bench: &Bench, source: toolchain::Source) -> Result<()> {
    match bench {
        Bench::Http1(arguments) => http1::run(arguments, source),
        Bench::Grpc(arguments) => grpc::run(arguments, source),
        Bench::Tls(arguments) => tls::run(arguments, source),
    }
}
