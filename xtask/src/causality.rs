//! `cargo xtask causality`: how often the right parent is found, runtime by runtime.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;

use crate::build_agent::{self, cargo};
use crate::packages::{self, Need};
use crate::{process, toolchain, workspace};

/// What `cargo xtask causality` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What the measuring program takes: `--runtime`, `--concurrency`, `--older`, `--full`,
    /// `--write`, `--json`, `--check`, and after another `--` flags for the agent; `-- --help`
    /// tells more
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds the agent, unless TRACEWIRE_BIN names one, installs the runtimes and measures.
///
/// # Errors
///
/// If something cannot be built, installed or run, or a `--check` fails.
pub(crate) fn run(arguments: &Arguments, source: toolchain::Source) -> Result<()> {
    packages::require_root("the causality suite")?;
    packages::ensure(&runtimes(), "the causality suite")?;
    let agent = std::env::var_os("TRACEWIRE_BIN");
    if agent.is_none() {
        build_agent::build(source)?;
    }
    measure(
        &arguments.arguments,
        agent.unwrap_or_else(|| workspace::agent_binary().into()).as_ref(),
    )
}

/// Requests of each pattern in the short form. Where at most one call in a thousand may have a
/// wrong parent, one of so few may.
const FEW: &str = "250";

/// All runtimes at 16 requests at once, with what has to hold for them; the agent has been built.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn short() -> Result<()> {
    packages::ensure(&runtimes(), "the causality suite")?;
    let arguments = ["--concurrency", "16", "--requests", FEW, "--check"];
    measure(&arguments.map(OsString::from), &workspace::agent_binary())
}

fn measure(arguments: &[OsString], agent: &Path) -> Result<()> {
    let mut command = cargo("run");
    command.args(["--quiet", "--package", "tracewire-tests", "--bin", "causality", "--"]);
    process::run(command.args(arguments).env("TRACEWIRE_BIN", agent))
}

/// What the services run in, as Debian has it.
fn runtimes() -> Vec<Need> {
    let mut needs = vec![
        crate::nginx::need(),
        Need::program("node", "nodejs"),
        Need::program("go", "golang-go"),
        Need::program("javac", "default-jdk-headless"),
        Need::program("gunicorn", "gunicorn"),
        Need::program("puma", "puma"),
    ];
    needs.extend(
        [
            "python3-requests",
            "python3-aiohttp",
            "python3-fastapi",
            "python3-uvicorn",
            "python3-uvloop",
            "python3-httpx",
            "python3-gevent",
            "ruby-rack",
            "node-express",
            "node-undici",
            "php-fpm",
            "php-curl",
        ]
        .map(Need::package),
    );
    needs
}
