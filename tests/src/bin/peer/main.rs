//! A scriptable peer for the end-to-end tests: raw sockets, a small HTTP server, a load client.

mod chain;
mod load;
mod serve;
mod socket;
mod steps;

use std::process::ExitCode;

use tracewire_tests::script::Script;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("peer: give it a script, a JSON file");
        return ExitCode::from(2);
    };
    let script = std::fs::read(&path)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
    let result = match script {
        Ok(Script::Serve(serve)) => serve::run(&serve),
        Ok(Script::Send(send)) => steps::run_client(&send),
        Ok(Script::Chain(chain)) => chain::run(&chain),
        Ok(Script::Load(load)) => load::run(&load),
        Err(error) => Err(format!("{}: {error}", path.display())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer: {error}");
            ExitCode::FAILURE
        }
    }
}
