//! A gRPC service and a client that checks its answers, in Rust by tonic: for the end-to-end tests
//! and for `cargo xtask bench grpc`. Neither knows anything of tracing.

mod ask;
mod raw;
mod serve;

use std::process::ExitCode;

use clap::Parser;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What the program is.
#[derive(Debug, Parser)]
enum Role {
    /// A service at the port that `PORT` names. It notes trace headers in the file `SEEN`, and asks
    /// `NEXT`, a gRPC server, or `NEXT_HTTP`, an HTTP/1.1 server, if there is one of these
    Serve,
    /// A client
    Ask(ask::Ask),
}

fn main() -> ExitCode {
    let role = Role::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| match role {
        Role::Serve => runtime.block_on(serve::run()),
        Role::Ask(ask) => runtime.block_on(ask.run()),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("grpc: {error}");
            ExitCode::FAILURE
        }
    }
}
