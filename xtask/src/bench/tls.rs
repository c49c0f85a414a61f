//! HTTP/1.1 over TLS: wrk on nginx, both ends captured.

use std::time::Duration;

use anyhow::Result;

use super::load::{self, Load};
use super::rounds::{self, Options, Place, Servers};
use crate::packages::Need;
use crate::{network, nginx, toolchain, workspace};

/// What `cargo xtask bench tls` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: Options,
}

/// Connections of the load generator.
const CONNECTIONS: u32 = 40;

/// Measures and prints.
///
/// # Errors
///
/// If something cannot be had, started or measured.
pub(super) fn run(arguments: &Arguments, source: toolchain::Source) -> Result<()> {
    let needs = [nginx::need(), Need::program("wrk", "wrk")];
    rounds::run(&arguments.options, &[Hello], &needs, source)
}

/// nginx, hello world, over kept-alive connections.
#[derive(Clone, Copy)]
struct Hello;

impl rounds::Case for Hello {
    fn name(self) -> &'static str {
        "https"
    }

    /// The client's and the server's.
    fn spans_per_request(self) -> u64 {
        2
    }

    fn servers(self, place: &Place) -> Result<Servers> {
        let [port] = network::free_ports()?;
        let keys = workspace::root().join("tests/services/tls");
        let keys = keys.display();
        let http = format!(
            "  keepalive_requests 100000000;\n  server {{ listen 127.0.0.1:{port} ssl; \
             ssl_certificate {keys}/certificate.pem; ssl_certificate_key {keys}/key.pem; \
             location / {{ default_type text/plain; return 200 \"hello world\\n\"; }} }}\n"
        );
        let running = nginx::start("https", &http, port, &place.cgroup, &place.scratch)?;
        Ok(Servers { port, _running: vec![running] })
    }

    fn load(self, place: &Place, port: u16, span: Duration) -> Result<Load> {
        load::saturate("https", port, CONNECTIONS, span, Some(&place.cgroup))
    }
}
