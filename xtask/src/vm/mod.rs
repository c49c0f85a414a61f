//! `cargo xtask vm`: the agent and its tests on other kernels, in virtual machines.

mod boot;
mod contents;
mod fetch;
mod image;
mod judge;
mod kernels;
mod table;
mod tests;
mod transcript;

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build_agent::{self, cargo};
use crate::packages::{self, Need};
use crate::progress::{duration, say};
use crate::scratch::ScratchDir;
use crate::{process, signals, toolchain, workspace};
use fetch::Kernel;
use kernels::Series;
pub(crate) use tests::Extent;
use tests::TestBinary;
use transcript::{Seen, Verdict};

/// What `cargo xtask vm` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A series of kernels, or `all`; may be given several times
    #[arg(long = "kernel", value_name = "SERIES", value_parser = parse_kernels, default_value = "all")]
    kernels: Vec<Kernels>,
    /// How much of the end-to-end tests is run
    #[arg(long, value_enum, default_value_t = Extent::All)]
    tests: Extent,
    /// Only tests with this in their names; may be given several times
    #[arg(long, value_name = "NAME")]
    test: Vec<String>,
    /// Also try for so long, with the generator of traffic, that no byte is changed
    #[arg(long, value_name = "SECONDS")]
    exactness: Option<u64>,
    /// What its `judge` is told besides, as `--connection=7`; may be given several times
    #[arg(long, value_name = "OPTION", requires = "exactness", allow_hyphen_values = true)]
    judge: Vec<String>,
    /// How many guests run at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,
    /// Try this agent instead of building one
    #[arg(long, value_name = "PATH")]
    agent: Option<PathBuf>,
    /// Write what was seen into the README's table, instead of comparing it
    #[arg(long)]
    write: bool,
}

/// What one `--kernel` stands for.
#[derive(Clone, Debug)]
struct Kernels(Vec<Series>);

fn parse_kernels(text: &str) -> Result<Kernels, String> {
    use clap::ValueEnum;
    if text == "all" {
        return Ok(Kernels(Series::ALL.to_vec()));
    }
    Series::from_str(text, false).map(|series| Kernels(vec![series])).map_err(|_| {
        let known: Vec<String> = Series::ALL.iter().map(ToString::to_string).collect();
        format!("known are {} and all", known.join(", "))
    })
}

/// Runs the matrix.
///
/// # Errors
///
/// If something does not hold on a kernel, or could not be tried.
pub(crate) fn run(arguments: &Arguments, source: toolchain::Source) -> Result<()> {
    packages::ensure(&needs(), "the kernel matrix")?;
    let agent = match &arguments.agent {
        Some(path) => path.clone(),
        None => {
            build_agent::build(source)?;
            workspace::agent_binary()
        }
    };
    let mut series: Vec<Series> =
        arguments.kernels.iter().flat_map(|kernels| kernels.0.clone()).collect();
    series.sort_unstable();
    series.dedup();
    let matrix = Matrix::prepare(
        agent,
        arguments.tests,
        &arguments.test,
        arguments.exactness.map(Duration::from_secs),
        arguments.judge.clone(),
    )?;
    let tried = matrix.run(&series, arguments.jobs)?;
    // A part of the tests says nothing about the row of the table.
    let whole = arguments.tests != Extent::None && arguments.test.is_empty();
    conclude(&tried, whole.then_some(arguments.write))
}

/// The load-and-smoke part, for `cargo xtask test`; the agent has been built.
///
/// # Errors
///
/// As [`run`].
pub(crate) fn smoke() -> Result<()> {
    let matrix = Matrix::prepare(workspace::agent_binary(), Extent::Smoke, &[], None, Vec::new())?;
    // A guest leaves a processor idle for much of its time.
    let tried = matrix.run(&Series::ALL, 2)?;
    conclude(&tried, Some(false))
}

/// What the machine needs.
pub(crate) fn needs() -> Vec<Need> {
    [boot::needs(), contents::needs(), fetch::needs()].concat()
}

/// A kernel that was tried, and what is wrong on it.
struct Tried {
    series: Series,
    seen: Seen,
    problems: Vec<String>,
    took: Duration,
}

/// What is tried on each kernel.
struct Matrix {
    agent: PathBuf,
    extent: Extent,
    /// Whether only tests of some names are run.
    filtered: bool,
    tests: Vec<TestBinary>,
    exactness: Option<Exactness>,
}

/// The generator of traffic.
#[derive(Debug)]
struct Exactness {
    program: PathBuf,
    /// For how long it runs with the agent.
    time: Duration,
    /// What it is told besides.
    options: Vec<String>,
}

impl Matrix {
    /// Builds what runs in the guests.
    fn prepare(
        agent: PathBuf,
        extent: Extent,
        only: &[String],
        exactness: Option<Duration>,
        options: Vec<String>,
    ) -> Result<Self> {
        say("building what runs in the guests");
        process::run(cargo("build").args(["--package", "xtask", "--bin", "vm-probe"]))?;
        let (tests, programs) = tests::build(extent, only)?;
        let exactness = exactness
            .map(|time| {
                let generator = programs.iter().find(|path| path.ends_with("exactness"));
                let generator = generator.context("the tests have no program `exactness`")?;
                anyhow::Ok(Exactness { program: generator.clone(), time, options })
            })
            .transpose()?;
        Ok(Self { agent, extent, filtered: !only.is_empty(), tests, exactness })
    }

    /// Tries the kernels, `jobs` at once; in the order of `series`.
    fn run(&self, series: &[Series], jobs: u8) -> Result<Vec<Tried>> {
        // One after the other: they share apt's files and what the mirror can give.
        let kernels = series.iter().map(|&of| fetch::kernel(of)).collect::<Result<Vec<_>>>()?;
        // The newest first: their verifiers take longest, and whoever is last runs alone.
        let waiting: Vec<(Series, &Kernel)> = series.iter().copied().zip(&kernels).collect();
        let waiting = Mutex::new(waiting);
        let tried = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    loop {
                        // In a statement of its own: the others would wait for as long as it is locked.
                        let next = lock(&waiting).pop();
                        let Some((series, kernel)) = next else { break };
                        let result =
                            signals::check().and_then(|()| self.try_kernel(series, kernel));
                        lock(&tried).push((series, result));
                    }
                });
            }
        });
        let mut tried = tried.into_inner().unwrap_or_else(PoisonError::into_inner);
        tried.sort_by_key(|(series, _)| *series);
        tried.into_iter().map(|(_, result)| result).collect()
    }

    fn try_kernel(&self, series: Series, kernel: &Kernel) -> Result<Tried> {
        let logs = fetch::directory().join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let ports = boot::Ports {
            console: logs.join(format!("{series}-console.txt")),
            transcript: logs.join(format!("{series}.txt")),
        };
        let (binary_limit, limit) = match self.extent {
            Extent::None => (Duration::ZERO, Duration::from_secs(600)),
            Extent::Smoke => (Duration::from_secs(360), Duration::from_secs(1200)),
            Extent::All => (Duration::from_secs(2400), Duration::from_secs(5400)),
        };
        let generator = self.exactness.as_ref().map_or(Duration::ZERO, |exactness| exactness.time);
        let probe = workspace::target_dir().join("debug").join("vm-probe");
        let plan = contents::Plan {
            agent: &self.agent,
            probe: &probe,
            tests: &self.tests,
            binary_limit,
            exactness: self.exactness.as_ref(),
        };
        let scratch = ScratchDir::create(&format!("vm-{series}"))?;
        let initramfs = contents::assemble(kernel, &plan, &scratch)?;
        let start = Instant::now();
        say(format!("{series}: booting; it says all in {}", ports.transcript.display()));
        let mut seen = Seen::default();
        let limit = limit + contents::with_control(generator);
        let image = kernel.image()?;
        let boot = |seen: &mut Seen| {
            boot::boot(&image, &initramfs, &ports, limit, |line| {
                if let Some(news) = seen.line(line) {
                    say(format!("{series}: {news}"));
                }
            })
        };
        let mut booted = boot(&mut seen);
        if booted.is_ok() && seen.release.is_empty() {
            // Seen once in some hundred boots: an oops in the first two seconds, at an `int3` that one
            // processor had put in the kernel's code for a moment and another ran into afterwards.
            say(format!("{series}: the kernel ended before the guest's first process; once more"));
            booted = boot(&mut seen);
        }
        signals::check()?;
        let mut problems = judge::problems(series, &seen, self.extent, self.filtered);
        let runs = matches!(seen.ready, Some((true, _)));
        let generated = seen.binaries.iter().any(|(name, _)| name == "exactness");
        if self.exactness.is_some() && runs && !generated {
            problems.push("the generator did not run to its end".to_owned());
        }
        if let Err(error) = booted {
            problems.insert(0, format!("{error:#}"));
        }
        let took = start.elapsed();
        say(format!(
            "{series}: {} tests, {} of them skipped, {} problems, {}",
            seen.tests.len(),
            seen.skipped(),
            problems.len(),
            duration(took)
        ));
        Ok(Tried { series, seen, problems, took })
    }
}

/// What is locked is whole also where a thread died that held it: each takes or adds one thing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says what was seen, and fails if there are problems. `table`: whether to write the
/// README's table, if it is to be looked at.
fn conclude(tried: &[Tried], table: Option<bool>) -> Result<()> {
    let mut wrong = Vec::new();
    for Tried { series, seen, problems, took } in tried {
        say(format!("== Linux {series} ({}), {}", seen.release, duration(*took)));
        println!("{}", table::row(*series, seen));
        for (binary, name, verdict) in &seen.tests {
            let why = match verdict {
                Verdict::Without => "for want of a package",
                Verdict::Skipped => "for what the kernel lacks",
                _ => continue,
            };
            say(format!("{series}: skipped {why}: {binary}: {name}"));
        }
        for problem in problems {
            say(format!("{series}: {problem}"));
        }
        if !problems.is_empty() {
            wrong.push(series.to_string());
        }
    }
    if let Some(write) = table {
        let rows: Vec<(Series, String)> = tried
            .iter()
            .map(|tried| (tried.series, table::row(tried.series, &tried.seen)))
            .collect();
        if let Err(error) = table::settle(&rows, write) {
            say(format!("{error:#}"));
            wrong.push("the README's table".to_owned());
        }
    }
    if !wrong.is_empty() {
        bail!("does not hold: {}", wrong.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod parsing {
    use super::*;

    #[test]
    fn kernels_are_named_by_their_series() {
        assert_eq!(parse_kernels("6.1").map(|kernels| kernels.0), Ok(vec![Series::V6_1]));
        assert_eq!(parse_kernels("all").map(|kernels| kernels.0.len()), Ok(4));
        assert!(parse_kernels("6").is_err_and(|error| error.contains("6.12")));
    }
}
