//! Formatting and lints, both halves.

use std::process::Command;

use anyhow::{Result, bail};

use crate::build_agent::cargo;
use crate::progress::say;
use crate::toolchain::Toolchain;
use crate::{process, signals, workspace};

/// The crates that are built for the host.
const HOST: [&str; 4] = ["tracewire", "tracewire-common", "tracewire-tests", "xtask"];

/// Checks everything; the eBPF object has to be built before.
///
/// # Errors
///
/// If anything has complaints; all of them are shown first.
pub(crate) fn run(toolchain: &Toolchain) -> Result<()> {
    let mut failed = Vec::new();
    let mut check = |name: &'static str, command: &mut Command| {
        say(name);
        if let Err(error) = process::run(command) {
            say(format!("{error:#}"));
            failed.push(name);
        }
        signals::check()
    };
    check("rustfmt", cargo("fmt").args(["--all", "--", "--check"]))?;
    check(
        "clippy, host crates",
        cargo("clippy")
            .args(HOST.iter().flat_map(|name| ["--package", *name]))
            .args(["--all-targets", "--features", "xtask/otlp-counter"])
            .args(["--", "--deny", "warnings"]),
    )?;
    // A workspace of their own, made of sources of the others: it breaks when those move.
    let fuzz = workspace::root().join("tests/fuzz/Cargo.toml");
    check(
        "rustfmt, fuzz targets",
        cargo("fmt").arg("--manifest-path").arg(&fuzz).args(["--", "--check"]),
    )?;
    check(
        "clippy, fuzz targets",
        cargo("clippy")
            .arg("--manifest-path")
            .arg(&fuzz)
            .arg("--target-dir")
            .arg(workspace::target_dir().join("fuzz-check"))
            .args(["--lib", "--bins", "--", "--deny", "warnings"])
            // Nothing is linked, so the fuzzer's own library need not be built.
            .env("CUSTOM_LIBFUZZER_PATH", "/nowhere/libnone.a"),
    )?;
    toolchain.provide_clippy()?;
    match toolchain.clippy() {
        Some(mut command) => {
            check("clippy, eBPF half", command.args(["--", "--deny", "warnings"]))?;
        }
        None => say("clippy, eBPF half: left out, its compiler comes without clippy"),
    }
    if !failed.is_empty() {
        bail!("complaints of {}", failed.join("; "));
    }
    Ok(())
}
