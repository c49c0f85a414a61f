//! Alternating rounds: each case without agent, with one that reads, with one that writes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::counter::Counter;
use super::kernel_time::{self, Timing};
use super::load::Load;
use super::row::{self, AgentUse, Round, Row};
use super::usage;
use crate::agent::Agent;
use crate::cgroup::Cgroup;
use crate::packages::{self, Need};
use crate::process::ChildGuard;
use crate::progress::say;
use crate::scratch::ScratchDir;
use crate::{build_agent, network, signals, toolchain};

/// What every bench takes.
#[derive(clap::Args)]
pub(super) struct Options {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Rounds; each runs every mode of every case once
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of load in each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Only these modes, besides `off`
    #[arg(long, value_enum, value_delimiter = ',')]
    modes: Vec<Mode>,
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

/// What is put under load.
pub(super) trait Case: Copy {
    /// Its name in rows.
    fn name(self) -> &'static str;

    /// Spans that one request makes.
    fn spans_per_request(self) -> u64;

    /// Starts its servers.
    ///
    /// # Errors
    ///
    /// If one does not start.
    fn servers(self, place: &Place) -> Result<Servers>;

    /// Puts them under load.
    ///
    /// # Errors
    ///
    /// If a request fails.
    fn load(self, place: &Place, port: u16, span: Duration) -> Result<Load>;
}

/// Where servers and load generators run.
pub(super) struct Place {
    // Before the scratch directory: fields go in this order, and servers write there.
    /// Where the agent is attached.
    pub(super) cgroup: Cgroup,
    /// For configurations and logs.
    pub(super) scratch: ScratchDir,
}

/// Running servers.
pub(super) struct Servers {
    /// Where they are asked.
    pub(super) port: u16,
    /// What is to be ended.
    pub(super) _running: Vec<ChildGuard>,
}

/// Load before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// Measures the cases and prints.
///
/// # Errors
///
/// If something cannot be had, started or measured.
pub(super) fn run<C: Case>(
    options: &Options,
    cases: &[C],
    needs: &[Need],
    source: toolchain::Source,
) -> Result<()> {
    packages::require_root("the bench")?;
    packages::ensure(needs, "the bench")?;
    build_agent::build(source)?;
    Counter::build()?;
    let scratch = ScratchDir::create("bench")?;
    let cgroup = Cgroup::create("bench")?;
    let place = Place { cgroup, scratch };
    let bench = Bench { place, span: Duration::from_secs(options.seconds) };
    let rows = bench.rows(options, cases)?;
    if options.json {
        println!("{}", row::json(&rows));
    } else {
        print!("{}", row::table(&rows));
    }
    Ok(())
}

struct Bench {
    place: Place,
    span: Duration,
}

impl Bench {
    fn rows<C: Case>(&self, options: &Options, cases: &[C]) -> Result<Vec<Row>> {
        let modes: Vec<Mode> = Mode::ALL
            .into_iter()
            .filter(|mode| {
                *mode == Mode::Off || options.modes.is_empty() || options.modes.contains(mode)
            })
            .collect();
        let mut rows = Vec::new();
        for &case in cases {
            let mut of_case: Vec<Row> = modes.iter().map(|&mode| empty_row(case, mode)).collect();
            for number in 1..=options.rounds {
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
    fn measure<C: Case>(&self, case: C, mode: Mode) -> Result<(Load, u64, Option<AgentUse>)> {
        let Some(options) = agent_options(mode) else {
            let servers = case.servers(&self.place)?;
            let (load, requests) = self.warmed_load(case, servers.port)?;
            return Ok((load, requests, None));
        };
        let mut counter = Counter::start()?;
        let mut agent = self.start_agent(&options, &counter)?;
        let before = usage::cpu_time(agent.pid())?;
        // After the agent, so that every connection is of one kind: seen from its start.
        let servers = case.servers(&self.place)?;
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
    fn kernel_time<C: Case>(&self, case: C, mode: Mode) -> Result<(f64, f64)> {
        let options = agent_options(mode).context("without agent there are no programs")?;
        let counter = Counter::start()?;
        let agent = self.start_agent(&options, &counter)?;
        let servers = case.servers(&self.place)?;
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
        Agent::start(self.place.cgroup.path(), &arguments, false)
    }

    fn warmed_load<C: Case>(&self, case: C, port: u16) -> Result<(Load, u64)> {
        let warm_up = self.load(case, port, WARM_UP)?;
        let load = self.load(case, port, self.span)?;
        Ok((load, warm_up.requests + load.requests))
    }

    fn load<C: Case>(&self, case: C, port: u16, span: Duration) -> Result<Load> {
        case.load(&self.place, port, span)
    }
}

fn agent_options(mode: Mode) -> Option<[&'static str; 2]> {
    match mode {
        Mode::Off => None,
        Mode::Capture => Some(["--propagate", "off"]),
        Mode::Inject => Some(["--propagate", "always"]),
    }
}

fn empty_row(case: impl Case, mode: Mode) -> Row {
    Row {
        case: case.name(),
        mode: mode.name(),
        spans_per_request: case.spans_per_request(),
        rounds: Vec::new(),
        kernel: None,
    }
}

/// Starts a program in the cgroup, without input and output, and waits until it listens.
///
/// # Errors
///
/// If it does not.
pub(super) fn start(
    place: &Place,
    program: &Path,
    what: &str,
    port: u16,
    prepare: impl FnOnce(&mut Command),
) -> Result<ChildGuard> {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    prepare(&mut command);
    place.cgroup.join(&mut command);
    let mut guard = ChildGuard::spawn(&mut command, what)?;
    network::wait_listening(&mut guard, what, port)?;
    Ok(guard)
}
