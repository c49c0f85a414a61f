//! HTTP/1.1 through nginx, in three cases and three modes.
//!
//! `hello`: wrk on nginx, both ends captured. `proxy`: wrk, not captured, on nginx in
//! front of nginx over kept-alive connections. `rate20k`: as hello, at a rate that
//! must not lose a span.

use std::time::Duration;

use anyhow::Result;

use super::load::{self, Load};
use super::rounds::{self, Options, Place, Servers};
use crate::packages::Need;
use crate::{network, nginx, toolchain};

/// What `cargo xtask bench http1` takes.
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
    /// nginx, hello world, both ends captured
    Hello,
    /// nginx as a proxy of nginx, the client not captured
    Proxy,
    /// As hello, at 20,000 requests a second
    Rate20k,
}

/// Connections of the load generators.
const CONNECTIONS: u32 = 40;

/// The fixed rate, in requests a second.
const RATE: u32 = 20_000;

/// Measures and prints.
///
/// # Errors
///
/// If something cannot be had, started or measured.
pub(super) fn run(arguments: &Arguments, source: toolchain::Source) -> Result<()> {
    let needs =
        [nginx::need(), Need::program("wrk", "wrk"), Need::program("h2load", "nghttp2-client")];
    let cases: Vec<Case> = [Case::Hello, Case::Proxy, Case::Rate20k]
        .into_iter()
        .filter(|case| arguments.cases.is_empty() || arguments.cases.contains(case))
        .collect();
    rounds::run(&arguments.options, &cases, &needs, source)
}

impl rounds::Case for Case {
    fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Proxy => "proxy",
            Self::Rate20k => "rate20k",
        }
    }

    /// hello: the client's and the server's. proxy: the proxy's two and the upstream's.
    fn spans_per_request(self) -> u64 {
        match self {
            Self::Hello | Self::Rate20k => 2,
            Self::Proxy => 3,
        }
    }

    fn servers(self, place: &Place) -> Result<Servers> {
        let [port, upstream_port] = network::free_ports()?;
        let hello = |port: u16| {
            format!(
                "  keepalive_requests 100000000;\n  server {{ listen 127.0.0.1:{port}; \
                 location / {{ default_type text/plain; return 200 \"hello world\\n\"; }} }}\n"
            )
        };
        let start = |name: &str, http: &str, port| {
            nginx::start(name, http, port, &place.cgroup, &place.scratch)
        };
        let running = match self {
            Self::Hello | Self::Rate20k => vec![start("hello", &hello(port), port)?],
            Self::Proxy => {
                let upstream = start("upstream", &hello(upstream_port), upstream_port)?;
                let http = format!(
                    "  keepalive_requests 100000000;\n  upstream next {{ server \
                     127.0.0.1:{upstream_port}; keepalive 64; keepalive_requests 100000000; }}\n  \
                     server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://next; \
                     proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}\n"
                );
                vec![start("proxy", &http, port)?, upstream]
            }
        };
        Ok(Servers { port, _running: running })
    }

    fn load(self, place: &Place, port: u16, span: Duration) -> Result<Load> {
        match self {
            Self::Hello => load::saturate("http", port, CONNECTIONS, span, Some(&place.cgroup)),
            Self::Proxy => load::saturate("http", port, CONNECTIONS, span, None),
            Self::Rate20k => {
                let log = place.scratch.path().join("h2load.log");
                load::at_rate(port, RATE, CONNECTIONS, span, &place.cgroup, &log)
            }
        }
    }
}
