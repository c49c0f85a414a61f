//! Builds the agent: first its kernel half, then the binary that embeds it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::progress::say;
use crate::toolchain::{self, Source, TARGET, Toolchain};
use crate::workspace;

/// Builds everything; returns the toolchain, for lint.
///
/// # Errors
///
/// If the toolchain cannot be had or a build fails.
pub(crate) fn build(source: Source) -> Result<Toolchain> {
    let toolchain = toolchain::provide(source)?;
    build_object(&toolchain)?;
    say("building the agent");
    process::run(cargo("build").args(["--release", "--package", "tracewire"]))?;
    say(format!("built {}", workspace::agent_binary().display()));
    Ok(toolchain)
}

/// Builds the kernel half and puts its object where the agent's build finds it.
fn build_object(toolchain: &Toolchain) -> Result<()> {
    say("building the eBPF object");
    process::run(&mut toolchain.cargo("build"))?;
    let built = workspace::target_dir().join("ebpf").join(TARGET).join("ebpf/tracewire-ebpf");
    let wanted = workspace::ebpf_object();
    copy_if_changed(&built, &wanted)
        .with_context(|| format!("cannot copy {} to {}", built.display(), wanted.display()))
}

/// An untouched object keeps its time, so that the agent is not built again for nothing.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = std::fs::read(from)?;
    if std::fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(dir) = to.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(to, new)?;
    Ok(())
}

/// The cargo that runs xtask, for the host's half of the workspace.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        // Set by `cargo run` for xtask; they are not about what is built now.
        let own = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if name.to_str().is_some_and(|name| own.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command
        .current_dir(workspace::root())
        .env("TRACEWIRE_EBPF_OBJECT", workspace::ebpf_object())
        .arg(subcommand);
    command
}
