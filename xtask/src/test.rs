//! `cargo xtask test`: everything that has to hold, stage by stage.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::build_agent::{self, cargo};
use crate::packages::{self, Need};
use crate::process;
use crate::progress::{duration, say};
use crate::{causality, exactness, lint, nginx, signals, toolchain, vm, workspace};

/// What `cargo xtask test` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only this part (what it needs is built all the same)
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// The long forms of tests that have one: minutes where there are seconds
    #[arg(long)]
    long: bool,
}

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Formatting and lints
    Lint,
    /// Unit and property tests
    Unit,
    /// End to end, as root, against real programs
    E2e,
    /// Two minutes of the generator that judges whether traffic is changed, as root
    Exactness,
    /// Of these, the faults alone: agent, collector, memory and machine
    Faults,
    /// How often the right parent is found, in services of all runtimes, as root
    Causality,
    /// Loaded, attached and tried on other kernels, in virtual machines
    Vm,
}

/// Runs the stages; all of them, also after one has failed.
///
/// # Errors
///
/// If a stage fails.
pub(crate) fn run(arguments: &Arguments, source: toolchain::Source) -> Result<()> {
    let wanted = |part| arguments.only.is_none_or(|only| only == part);
    let mut stages = Stages::default();
    let end_to_end = wanted(Part::E2e) || wanted(Part::Faults);
    if end_to_end || wanted(Part::Exactness) || wanted(Part::Causality) {
        packages::require_root("the end-to-end test")?;
    }
    if wanted(Part::E2e) || wanted(Part::Causality) {
        stages.required("packages", || {
            packages::ensure(&end_to_end_needs(), "the end-to-end tests")
        })?;
    }
    if wanted(Part::Vm) {
        stages.required("packages for virtual machines", || {
            packages::ensure(&vm::needs(), "the kernel matrix")
        })?;
    }
    let mut built = None;
    stages.required("build", || {
        built = Some(build_agent::build(source)?);
        Ok(())
    })?;
    if let (true, Some(toolchain)) = (wanted(Part::Lint), &built) {
        stages.run("lint", || lint::run(toolchain))?;
    }
    if wanted(Part::Unit) {
        stages.run("unit tests", || {
            process::run(
                cargo("test")
                    .args(["--package", "tracewire-common", "--package", "tracewire"])
                    .args(["--package", "xtask", "--features", "xtask/otlp-counter"])
                    .arg("--no-fail-fast"),
            )
        })?;
    }
    if end_to_end {
        stages.run("end-to-end tests", || {
            let mut tests = cargo("test");
            tests.args(["--package", "tracewire-tests", "--no-fail-fast"]);
            if arguments.only == Some(Part::Faults) {
                tests.args(["--test", "faults"]);
            }
            if arguments.long {
                tests.env("TRACEWIRE_TEST_LONG", "1");
            }
            // Each test has processors, ports and an agent to itself.
            tests.args(["--", "--test-threads=1"]).env("TRACEWIRE_BIN", workspace::agent_binary());
            process::run(&mut tests)
        })?;
    }
    if wanted(Part::Exactness) {
        stages.run("exactness", exactness::short)?;
    }
    if wanted(Part::Causality) {
        stages.run("causality", causality::short)?;
    }
    if wanted(Part::Vm) {
        stages.run("other kernels", vm::smoke)?;
    }
    stages.conclude()
}

/// The real programs that the end-to-end tests talk through.
fn end_to_end_needs() -> [Need; 16] {
    [
        nginx::need(),
        Need::program("node", "nodejs"),
        Need::program("go", "golang-go"),
        Need::program("python3", "python3"),
        Need::program("curl", "curl"),
        Need::program("wget", "wget"),
        Need::program("wrk", "wrk"),
        Need::program("h2load", "nghttp2-client"),
        Need::program("nghttpd", "nghttp2-server"),
        Need::package("python3-grpcio"),
        Need::package("python3-gevent"),
        Need::package("golang-google-grpc-dev"),
        Need::package("golang-golang-x-net-dev"),
        Need::package("php-fpm"),
        Need::package("php-curl"),
        Need::program("ip", "iproute2"),
    ]
}

/// What ran, how long, and how it went.
#[derive(Default)]
struct Stages {
    done: Vec<(&'static str, std::time::Duration, bool)>,
}

impl Stages {
    /// Runs a stage and notes its failure; fails itself only if xtask is to end.
    fn run(&mut self, name: &'static str, stage: impl FnOnce() -> Result<()>) -> Result<()> {
        // A failure is said and noted; the other stages have their say too.
        let _ = self.required(name, stage);
        signals::check()
    }

    /// Runs a stage without which nothing else can run.
    fn required(&mut self, name: &'static str, stage: impl FnOnce() -> Result<()>) -> Result<()> {
        say(format!("== {name}"));
        let start = Instant::now();
        let result = stage();
        let took = start.elapsed();
        match &result {
            Ok(()) => say(format!("== {name}: passed in {}", duration(took))),
            Err(error) => say(format!("== {name}: FAILED after {}: {error:#}", duration(took))),
        }
        self.done.push((name, took, result.is_ok()));
        result
    }

    fn conclude(self) -> Result<()> {
        say("== summary");
        for (name, took, passed) in &self.done {
            let verdict = if *passed { "passed" } else { "FAILED" };
            say(format!("{name:<18} {verdict} {:>14}", duration(*took)));
        }
        let failed: Vec<&str> =
            self.done.iter().filter(|(_, _, passed)| !passed).map(|(name, ..)| *name).collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}
