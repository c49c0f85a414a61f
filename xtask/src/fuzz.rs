//! `cargo xtask fuzz`: every fuzz target for some minutes.
//!
//! What a run learns stays in the target directory and is where the next one begins; the
//! committed corpora are only read. What breaks a target is kept beside them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::progress::{duration, say};
use crate::{packages, process, signals, toolchain, workspace};

/// The version that is built where there is none.
const CARGO_FUZZ: &str = "0.13.2";

/// The longest input, in bytes: more than the window, and than a captured head.
const LONGEST_INPUT: u32 = 8192;

/// The longest that one input may take, in seconds. Most take microseconds.
const SLOWEST_INPUT: u32 = 10;

/// What `cargo xtask fuzz` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long each target runs, in minutes
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    minutes: f64,
    /// Run only these targets (may be given several times)
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 24.0 * 60.0 => Ok(value),
        _ => Err("it must be above 0 and at most 1440".to_owned()),
    }
}

/// Runs the targets, one after the other; all of them, also after one has failed.
///
/// # Errors
///
/// If something that is needed cannot be had, or a target failed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let directory = workspace::root().join("tests/fuzz");
    let known = targets(&directory)?;
    if let Some(unknown) = arguments.target.iter().find(|name| !known.contains(name)) {
        bail!("there is no fuzz target {unknown}; there are {}", known.join(", "));
    }
    let wanted = |name: &&String| arguments.target.is_empty() || arguments.target.contains(name);
    let fuzzer = Fuzzer::provide(&directory)?;
    process::run(&mut fuzzer.command("build")).context("cannot build the fuzz targets")?;
    signals::check()?;
    let mut failed = Vec::new();
    for name in known.iter().filter(wanted) {
        let start = Instant::now();
        let result = fuzzer.run(name, Duration::from_secs_f64(arguments.minutes * 60.0));
        signals::check()?;
        let took = duration(start.elapsed());
        match result {
            Ok(()) => say(format!("{name}: nothing found in {took}")),
            Err(error) => {
                say(format!("{name}: FAILED after {took}: {error:#}"));
                failed.push(name.as_str());
            }
        }
    }
    if !failed.is_empty() {
        bail!(
            "failed: {}; what failed them is in tests/fuzz/artifacts: put it into tests/fuzz/corpus/TARGET, where ordinary tests replay it, and mend what it found",
            failed.join(", ")
        );
    }
    Ok(())
}

/// The names of the targets.
fn targets(directory: &Path) -> Result<Vec<String>> {
    let sources = directory.join("fuzz_targets");
    let entries = std::fs::read_dir(&sources)
        .with_context(|| format!("cannot read {}", sources.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    names.sort();
    if names.is_empty() {
        bail!("{} holds no fuzz targets", sources.display());
    }
    Ok(names)
}

/// `cargo-fuzz`, and a compiler that takes the flags of its sanitizer.
struct Fuzzer {
    program: PathBuf,
    directory: PathBuf,
    /// The toolchain of rustup's that is nightly, if there is one.
    nightly: bool,
}

impl Fuzzer {
    fn provide(directory: &Path) -> Result<Self> {
        let program = match packages::find_program("cargo-fuzz") {
            Some(program) => program,
            None => install()?,
        };
        let nightly = process::output(Command::new("rustup").args(["toolchain", "list"]))
            .is_ok_and(|list| list.lines().any(|line| line.starts_with("nightly-")));
        say(format!(
            "fuzzing with {} and {}",
            program.display(),
            if nightly {
                "rustup's nightly"
            } else {
                "the stable compiler, told to take its flags"
            }
        ));
        Ok(Self { program, directory: directory.to_owned(), nightly })
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.program);
        toolchain::clean_environment(&mut command);
        if self.nightly {
            command.env("RUSTUP_TOOLCHAIN", "nightly");
        } else {
            // The sanitizer's flags are unstable; its run-time library comes with stable.
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
            .current_dir(&self.directory)
            .args(["fuzz", subcommand])
            .args(["--fuzz-dir", ".", "--target-dir"])
            .arg(workspace::target_dir().join("fuzz"));
        command
    }

    fn run(&self, name: &str, time: Duration) -> Result<()> {
        let learnt = workspace::target_dir().join("fuzz-corpus").join(name);
        std::fs::create_dir_all(&learnt)
            .with_context(|| format!("cannot make {}", learnt.display()))?;
        process::run(
            self.command("run")
                .arg(name)
                .arg(&learnt)
                .arg(self.directory.join("corpus").join(name))
                .arg("--")
                .arg(format!("-max_total_time={}", time.as_secs().max(1)))
                .arg(format!("-max_len={LONGEST_INPUT}"))
                .arg(format!("-timeout={SLOWEST_INPUT}"))
                .args(["-print_final_stats=1", "-verbosity=0"]),
        )
    }
}

/// Builds cargo-fuzz into the target directory, once.
fn install() -> Result<PathBuf> {
    let root = workspace::tools_dir().join("cargo-fuzz");
    let program = root.join("bin/cargo-fuzz");
    if packages::is_executable(&program) {
        return Ok(program);
    }
    say(format!("building cargo-fuzz {CARGO_FUZZ} into {}", root.display()));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    toolchain::clean_environment(&mut command);
    command
        .args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked", "--root"])
        .arg(&root)
        .arg("--target-dir")
        .arg(workspace::target_dir().join("tools-build"));
    process::run(&mut command).context("cannot build cargo-fuzz")?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_declared_and_has_a_corpus() {
        let directory = workspace::root().join("tests/fuzz");
        let manifest = std::fs::read_to_string(directory.join("Cargo.toml")).expect("it is there");
        for name in targets(&directory).expect("they are there") {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not declared");
            assert!(directory.join("corpus").join(&name).is_dir(), "{name} has no corpus");
        }
    }

    #[test]
    fn times_that_make_no_sense_are_refused() {
        assert_eq!(minutes("0.5"), Ok(0.5));
        for text in ["0", "-1", "NaN", "1e9", "soon"] {
            assert!(minutes(text).is_err(), "{text}");
        }
    }
}
