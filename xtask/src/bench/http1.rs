//! HTTP/1.1 through nginx, in three cases and three modes.
//!
//! `hello`: wrk on nginx, both ends captured. `proxy`: wrk, not captured, on nginx in
//! front of nginx over kept-alive connections. `rate20k`: as hello, at a rate that
//! must not lose a span.

use std::time::Duration;

use anyhow::{Context, Result};

use super::counter::Counter;
use super::kernel_time::{self, Timing};
use super::load::{self, Load};
use super::row::{self, AgentUse, Round, Row};
use super::usage;
use crate::agent::Agent;
use crate::cgroup::Cgroup;
use crate::packages::{self, Need};
use crate::process::ChildGuard;
use crate::progress::say;
use crate::scratch::ScratchDir;
use crate::{build_agent, network, nginx, signals, toolchain};

/// What `cargo xtask bench http1` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Rounds; each runs every mode of every case once
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of load in each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Only these cases
    #[arg(long, value_enum, value_delimiter = ',')]
    cases: Vec<Case>,
    /// Only these modes, besides `off`
    #[arg(long, value_enum, value_delimiter = ',')]
    modes: Vec<Mode>,
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

/// What the agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// No agent
    Off,
    /// Read, but write nothing
    Capture,
    /// Read, and write the header
    Inject,
}

impl Case {
    const ALL: [Self; 3] = [Self::Hello, Self::Proxy, Self::Rate20k];

    const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Proxy => "proxy",
            Self::Rate20k => "rate20k",
        }
    }

    /// hello: the client's and the server's. proxy: the proxy's two and the upstream's.
    const fn spans_per_request(self) -> u64 {
        match self {
            Self::Hello | Self::Rate20k => 2,
            Self::Proxy => 3,
        }
    }
}

impl Mode {
    const ALL: [Self; 3] = [Self::Off, Self::Capture, Self::Inject];

    const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Capture => "capture",
            Self::Inject => "inject",
        }
    }
}

/// Connections of the load generators.
const CONNECTIONS: u32 = 40;

/// The fixed rate, in requests a second.
const RATE: u32 = 20_000;

/// Load before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// Measures and prints.
///
/// # Errors
///
/// If something cannot be had, started or measured.
pub(super) fn run(arguments: &Arguments, source: toolchain::Source) -> Result<()> {
    packages::require_root("the bench")?;
    let needs =
        [nginx::need(), Need::program("wrk", "wrk"), Need::program("h2load", "nghttp2-client")];
    packages::ensure(&needs, "the bench")?;
    build_agent::build(source)?;
    Counter::build()?;
    let scratch = ScratchDir::create("bench")?;
    let cgroup = Cgroup::create("bench")?;
    let bench = Run { cgroup, scratch, span: Duration::from_secs(arguments.seconds) };
    let rows = bench.rows(arguments)?;
    if arguments.json {
        println!("{}", row::json(&rows));
    } else {
        print!("{}", row::table(&rows));
    }
    Ok(())
}

struct Run {
    // Before the scratch directory: fields go in this order, and nginx writes there.
    cgroup: Cgroup,
    scratch: ScratchDir,
    span: Duration,
}

impl Run {
    fn rows(&self, arguments: &Arguments) -> Result<Vec<Row>> {
        let wanted = |case: &Case| arguments.cases.is_empty() || arguments.cases.contains(case);
        let modes: Vec<Mode> = Mode::ALL
            .into_iter()
            .filter(|mode| {
                *mode == Mode::Off || arguments.modes.is_empty() || arguments.modes.contains(mode)
            })
            .collect();
        let mut rows = Vec::new();
        for case in Case::ALL.into_iter().filter(wanted) {
            let mut of_case: Vec<Row> = modes.iter().map(|&mode| empty_row(case, mode)).collect();
            for number in 1..=arguments.rounds {
                let mut off = None;
                for (mode, row) in modes.iter().zip(&mut of_case) {
                    let (load, requests, agent) = self.measure(case, *mode)?;
                    let off = *off.get_or_insert(load);
                    say(format!(
                        "{} round {number}, {}: {:.0} req/s ({:.3} of off)",
                        case.name(),
                        mode.name(),
                        load.rate,
                        load.rate / off.rate
                    ));
                    row.rounds.push(Round { load, off, requests, agent });
                }
            }
            for (mode, row) in
                modes.iter().zip(&mut of_case).filter(|(mode, _)| **mode != Mode::Off)
            {
                match self.kernel_time(case, *mode) {
                    Ok(time) => row.kernel = Some(time),
                    Err(error) => {
                        signals::check()?;
                        say(format!("no time in the kernel: {error:#}"));
                    }
                }
            }
            rows.extend(of_case);
        }
        Ok(rows)
    }

    /// One round of one mode: its load, all requests made, and what the agent used.
    fn measure(&self, case: Case, mode: Mode) -> Result<(Load, u64, Option<AgentUse>)> {
        let Some(options) = agent_options(mode) else {
            let servers = self.servers(case)?;
            let (load, requests) = self.warmed_load(case, servers.port)?;
            return Ok((load, requests, None));
        };
        let mut counter = Counter::start()?;
        let mut agent = self.start_agent(&options, &counter)?;
        let before = usage::cpu_time(agent.pid())?;
        // After the agent, so that every connection is of one kind: seen from its start.
        let servers = self.servers(case)?;
        let (load, requests) = self.warmed_load(case, servers.port)?;
        drop(servers);
        agent.check_alive()?;
        let rss_mib = usage::peak_rss_mib(agent.pid())?;
        let mut after = Err(anyhow::anyhow!("the agent's time was not read"));
        let stopped = agent.stop(|pid| after = usage::cpu_time(pid))?;
        if let Some(line) = stopped.log.iter().rev().find(|line| line.contains("stopped")) {
            say(line);
        }
        let cpu_us = after?.saturating_sub(before).as_secs_f64() * 1e6;
        Ok((load, requests, Some(AgentUse { cpu_us, rss_mib, spans: counter.spans()? })))
    }

    /// Nanoseconds in the agent's programs and their runs, for one request.
    fn kernel_time(&self, case: Case, mode: Mode) -> Result<(f64, f64)> {
        let options = agent_options(mode).context("without agent there are no programs")?;
        let counter = Counter::start()?;
        let agent = self.start_agent(&options, &counter)?;
        let servers = self.servers(case)?;
        self.load(case, servers.port, WARM_UP)?;
        let timing = Timing::enable()?;
        let before = kernel_time::of_process(agent.pid())?;
        let load = self.load(case, servers.port, Duration::from_secs(2))?;
        let after = kernel_time::of_process(agent.pid())?;
        drop(timing);
        drop(servers);
        agent.stop(drop)?;
        let requests = load.requests.max(1) as f64;
        Ok((
            after.nanoseconds.saturating_sub(before.nanoseconds) as f64 / requests,
            after.runs.saturating_sub(before.runs) as f64 / requests,
        ))
    }

    fn start_agent(&self, options: &[&str], counter: &Counter) -> Result<Agent> {
        let endpoint = counter.endpoint();
        let arguments: Vec<String> = ["--exporter", "otlp", "--otlp-endpoint", &endpoint]
            .iter()
            .chain(options)
            .map(|&option| option.to_owned())
            .collect();
        Agent::start(self.cgroup.path(), &arguments, false)
    }

    fn warmed_load(&self, case: Case, port: u16) -> Result<(Load, u64)> {
        let warm_up = self.load(case, port, WARM_UP)?;
        let load = self.load(case, port, self.span)?;
        Ok((load, warm_up.requests + load.requests))
    }

    fn load(&self, case: Case, port: u16, span: Duration) -> Result<Load> {
        match case {
            Case::Hello => load::saturate(port, CONNECTIONS, span, Some(&self.cgroup)),
            Case::Proxy => load::saturate(port, CONNECTIONS, span, None),
            Case::Rate20k => {
                let log = self.scratch.path().join("h2load.log");
                load::at_rate(port, RATE, CONNECTIONS, span, &self.cgroup, &log)
            }
        }
    }

    fn servers(&self, case: Case) -> Result<Servers> {
        let [port, upstream_port] = network::free_ports()?;
        let hello = |port: u16| {
            format!(
                "  keepalive_requests 100000000;\n  server {{ listen 127.0.0.1:{port}; \
                 location / {{ default_type text/plain; return 200 \"hello world\\n\"; }} }}\n"
            )
        };
        let start = |name: &str, http: &str, port| {
            nginx::start(name, http, port, &self.cgroup, &self.scratch)
        };
        let running = match case {
            Case::Hello | Case::Rate20k => vec![start("hello", &hello(port), port)?],
            Case::Proxy => {
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
}

/// nginx, one or two.
struct Servers {
    port: u16,
    _running: Vec<ChildGuard>,
}

fn agent_options(mode: Mode) -> Option<[&'static str; 2]> {
    match mode {
        Mode::Off => None,
        Mode::Capture => Some(["--propagate", "off"]),
        Mode::Inject => Some(["--propagate", "always"]),
    }
}

fn empty_row(case: Case, mode: Mode) -> Row {
    Row {
        case: case.name(),
        mode: mode.name(),
        spans_per_request: case.spans_per_request(),
        rounds: Vec::new(),
        kernel: None,
    }
}
