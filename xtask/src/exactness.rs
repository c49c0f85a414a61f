//! `cargo xtask exactness`: the generator that judges whether traffic is changed.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::build_agent::{self, cargo};
use crate::{packages, process, toolchain, workspace};

/// What `cargo xtask exactness` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long connections are made with the agent, after a sixth of that without it
    #[arg(long, default_value_t = 2)]
    minutes: u64,
    /// What all connections are derived from; a new one each time if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Only this protocol, as `http1` or `redis`; several times for several
    #[arg(long, value_name = "PROTOCOL")]
    only: Vec<String>,
    /// Only this connection, over and over
    #[arg(long, value_name = "NUMBER")]
    connection: Option<u64>,
    /// Connections at once; by itself the generator makes a dozen
    #[arg(long, value_name = "NUMBER")]
    workers: Option<u64>,
    /// What the agent is told to propagate: `http1` also where the kernel harms connections
    /// for it, `off`
    #[arg(long, default_value = "auto")]
    propagate: String,
}

/// Builds the agent, unless TRACEWIRE_BIN names one, and has it judged.
///
/// # Errors
///
/// If a difference is found, or something cannot be built or run.
pub(crate) fn run(arguments: &Arguments, source: toolchain::Source) -> Result<()> {
    packages::require_root("the exactness generator")?;
    let agent = std::env::var_os("TRACEWIRE_BIN");
    if agent.is_none() {
        build_agent::build(source)?;
    }
    let seconds = arguments.minutes.saturating_mul(60).max(1);
    judge(arguments, seconds, agent.unwrap_or_else(|| workspace::agent_binary().into()).as_ref())
}

/// Some minutes of all protocols, with a seed that was not tried before: as the agent is by
/// itself, then with headers whatever the kernel. Then HTTP/2 by one thread at a time: only then it is
/// known for which request a stream is, and so whose context is passed on.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn short() -> Result<()> {
    let all = |propagate: &str| Arguments {
        minutes: 1,
        seed: None,
        only: Vec::new(),
        connection: None,
        workers: None,
        propagate: propagate.to_owned(),
    };
    let alone = Arguments { only: vec!["http2".to_owned()], workers: Some(1), ..all("always") };
    for (arguments, seconds) in [(all("auto"), 60), (all("always"), 60), (alone, 30)] {
        judge(&arguments, seconds, &workspace::agent_binary())?;
    }
    Ok(())
}

fn judge(arguments: &Arguments, seconds: u64, agent: &std::path::Path) -> Result<()> {
    // Released: both ends do more than the kernel between them.
    process::run(cargo("build").args([
        "--release",
        "--package",
        "tracewire-tests",
        "--bin",
        "exactness",
    ]))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = arguments.seed.unwrap_or(now.as_secs() % 1_000_000);
    let program = workspace::target_dir().join("release").join("exactness");
    let mut command = std::process::Command::new(program);
    command.arg("judge").args(["--seed", &seed.to_string()]);
    command.args(["--seconds", &seconds.to_string()]);
    command.args(["--control-seconds", &(seconds / 6).min(300).to_string()]);
    command.args(["--propagate", &arguments.propagate]);
    for only in &arguments.only {
        command.args(["--only", only]);
    }
    if let Some(number) = arguments.connection {
        command.args(["--connection", &number.to_string()]);
    }
    if let Some(workers) = arguments.workers {
        command.args(["--workers", &workers.to_string()]);
    }
    process::run(command.env("TRACEWIRE_BIN", agent))
}
