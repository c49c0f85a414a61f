//! HTTP/2 without TLS, in two cases and three modes.
//!
//! `nghttpd`: h2load on nghttpd, no gRPC. `tonic`: calls on a service by tonic, whose client
//! checks each answer. Both ends are captured.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::load::{self, Load};
use super::rounds::{self, Options, Place, Servers};
use crate::build_agent::cargo;
use crate::packages::{self, Need};
use crate::{network, process, toolchain, workspace};

/// What `cargo xtask bench grpc` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Only these cases
    #[arg(long, value_enum, value_delimiter = ',')]
    cases: Vec<Case>,
}

/// What is put under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    /// h2load on nghttpd
    Nghttpd,
    /// tonic on tonic, each answer checked
    Tonic,
}

/// Connections of the load generators.
const CONNECTIONS: u32 = 8;

/// Requests at once on each.
const STREAMS: u32 = 5;

/// Measures and prints.
///
/// # Errors
///
/// If something cannot be had, started or measured.
pub(super) fn run(arguments: &Arguments, source: toolchain::Source) -> Result<()> {
    let cases: Vec<Case> = [Case::Nghttpd, Case::Tonic]
        .into_iter()
        .filter(|case| arguments.cases.is_empty() || arguments.cases.contains(case))
        .collect();
    let needs =
        [Need::program("nghttpd", "nghttp2-server"), Need::program("h2load", "nghttp2-client")];
    packages::require_root("the bench")?;
    if cases.contains(&Case::Tonic) {
        process::run(cargo("build").args([
            "--release",
            "--package",
            "tracewire-tests",
            "--bin",
            "grpc",
        ]))?;
    }
    rounds::run(&arguments.options, &cases, &needs, source)
}

/// The service and client by tonic.
fn tonic() -> PathBuf {
    workspace::target_dir().join("release/grpc")
}

impl rounds::Case for Case {
    fn name(self) -> &'static str {
        match self {
            Self::Nghttpd => "nghttpd",
            Self::Tonic => "tonic",
        }
    }

    /// The client's and the server's.
    fn spans_per_request(self) -> u64 {
        2
    }

    fn servers(self, place: &Place) -> Result<Servers> {
        let [port] = network::free_ports()?;
        let program = match self {
            Self::Nghttpd => packages::find_program("nghttpd").context("nghttpd is missing")?,
            Self::Tonic => tonic(),
        };
        place.scratch.write("hello", "hello world\n")?;
        let server = rounds::start(place, &program, self.name(), port, |command| match self {
            Self::Nghttpd => {
                command.args(["--no-tls", "--address=127.0.0.1", "--htdocs"]);
                command.arg(place.scratch.path()).arg(port.to_string());
            }
            Self::Tonic => drop(command.arg("serve").env("PORT", port.to_string())),
        })?;
        Ok(Servers { port, _running: vec![server] })
    }

    fn load(self, place: &Place, port: u16, span: Duration) -> Result<Load> {
        match self {
            Self::Nghttpd => {
                let log = place.scratch.path().join("h2load.log");
                load::streams(port, CONNECTIONS, STREAMS, span, &place.cgroup, &log)
            }
            Self::Tonic => calls(place, port, span),
        }
    }
}

/// As many calls as go.
fn calls(place: &Place, port: u16, span: Duration) -> Result<Load> {
    let mut command = Command::new(tonic());
    command
        .args(["ask", "--port", &port.to_string()])
        .args(["--connections", &CONNECTIONS.to_string(), "--streams", &STREAMS.to_string()])
        .args(["--seconds", &span.as_secs().max(1).to_string()]);
    place.cgroup.join(&mut command);
    let text = process::output(&mut command)?;
    report(&text)
}

/// What the client says: `done`, and an object.
fn report(text: &str) -> Result<Load> {
    let json =
        text.trim().strip_prefix("done ").context("the client did not say that it is done")?;
    let said: serde_json::Value = serde_json::from_str(json)?;
    let number = |name: &str| said[name].as_u64().with_context(|| format!("no {name} in {json}"));
    if number("failed")? > 0 {
        bail!("calls failed under load: {json}");
    }
    let (calls, elapsed_ms) = (number("calls")?, number("elapsed_ms")?);
    Ok(Load {
        requests: calls,
        rate: calls as f64 * 1000.0 / elapsed_ms.max(1) as f64,
        p50_us: number("p50_us")? as f64,
        p99_us: number("p99_us")? as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_report_is_read_and_failures_are_not_ignored() {
        let said = |failed: u64| {
            format!(
                "done {{\"calls\":500,\"failed\":{failed},\"failures\":[],\"elapsed_ms\":2000,\
                 \"p50_us\":40,\"p99_us\":90}}\n"
            )
        };
        let wanted = Load { requests: 500, rate: 250.0, p50_us: 40.0, p99_us: 90.0 };
        assert_eq!(report(&said(0)).ok(), Some(wanted));
        assert!(report(&said(1)).is_err());
        assert!(report("nothing").is_err());
    }
}
