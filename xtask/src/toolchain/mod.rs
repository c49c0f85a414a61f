//! The eBPF toolchain: a compiler with the sources of `core`, and a linker of the same LLVM.
//!
//! Two ways lead there, and the machine decides: rustup with `rust-src`, or the
//! distribution's compiler with its source package. What is complete already is
//! taken first, so that a second run installs nothing.

mod compiler;
mod linker;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::packages::{self, Need};
use crate::progress::say;
use crate::workspace;
use compiler::Compiler;

/// The target that the kernel half is built for.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Flags of every build of the kernel half, clippy's too, so that both see one program.
/// BTF and debug information are what BTF maps and `bpf_loop` callbacks are made of.
/// The instruction set is pinned: the atomic exchange needs v3, and what the verifier
/// makes of the programs must not change with a compiler's default.
/// With what the linker asks of LLVM by itself (`--bpf-expand-memcpy-in-order`) each zeroed
/// struct is a call of `memset`, which writes byte by byte: the verifier walks every byte on
/// every path, and the CPU does on every request. Without, it is a few stores of words.
const RUSTFLAGS: &[&str] = &[
    "-Clinker=bpf-linker",
    "-Clink-arg=--btf",
    "-Clink-arg=--disable-expand-memcpy-in-order",
    "-Cdebuginfo=2",
    "-Ctarget-cpu=v3",
];

/// Everything that building the kernel half takes.
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

/// Where the compiler may come from, as the user says with `--toolchain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Source {
    /// Whatever is complete; else what can be completed.
    #[default]
    Auto,
    /// Only toolchains of rustup.
    Rustup,
    /// Only the distribution's compiler.
    System,
}

/// Finds a toolchain, and installs what it lacks.
///
/// # Errors
///
/// If nothing can be completed; the message says what to run.
pub(crate) fn provide(source: Source) -> Result<Toolchain> {
    let candidates = compiler::find(source);
    for compiler in &candidates {
        if let Some(linker) = linker::find(compiler) {
            return Ok(Toolchain::new(compiler.clone(), linker));
        }
    }
    let mut obstacles = Vec::new();
    for compiler in candidates {
        match linker::obstacle(&compiler) {
            None => {
                let linker = linker::install(&compiler)?;
                return Ok(Toolchain::new(compiler, linker));
            }
            Some(obstacle) => {
                say(format!("not {compiler}: {obstacle}"));
                obstacles.push((compiler, obstacle));
            }
        }
    }
    let compiler = compiler::install(source, &obstacles)?;
    let linker = match (linker::find(&compiler), linker::obstacle(&compiler)) {
        (Some(linker), _) => linker,
        (None, None) => linker::install(&compiler)?,
        (None, Some(obstacle)) => bail!("{compiler} cannot be used: {obstacle}"),
    };
    Ok(Toolchain::new(compiler, linker))
}

impl Toolchain {
    fn new(compiler: Compiler, linker: PathBuf) -> Self {
        say(format!("eBPF toolchain: {compiler}, linked by {}", linker.display()));
        Self { compiler, linker }
    }

    /// `cargo SUBCOMMAND` for the kernel half, with its flags, target and profile.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = self.compiler.cargo();
        self.prepare(&mut command, subcommand);
        command
    }

    /// `cargo clippy` for the kernel half, if the toolchain has clippy.
    pub(crate) fn clippy(&self) -> Option<Command> {
        let mut command = self.compiler.clippy()?;
        self.prepare(&mut command, "clippy");
        Some(command)
    }

    /// Installs the compiler's clippy if the distribution has it as a package.
    ///
    /// # Errors
    ///
    /// If the installation fails.
    pub(crate) fn provide_clippy(&self) -> Result<()> {
        if self.compiler.clippy().is_none() && self.compiler.is_system() {
            let package = "rust-web-clippy";
            if packages::is_available(package) {
                packages::ensure(&[Need::package(package)], "linting the eBPF half")?;
            }
        }
        Ok(())
    }

    fn prepare(&self, command: &mut Command, subcommand: &str) {
        let linker_dir = self.linker.parent().map(PathBuf::from).unwrap_or_default();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs =
            [linker_dir, self.compiler.bin_dir()].into_iter().chain(std::env::split_paths(&path));
        command
            // Neither directory can hold a separator: the first was found by
            // splitting `PATH` or is ours, the second is a toolchain's.
            .env("PATH", std::env::join_paths(dirs).unwrap_or(path.clone()))
            .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
            .current_dir(workspace::root())
            .arg(subcommand)
            .args(["--package", "tracewire-ebpf", "--profile", "ebpf"])
            .args(["-Zbuild-std=core", "--target", TARGET, "--target-dir"])
            .arg(workspace::target_dir().join("ebpf"));
    }
}

/// Environment variables that a `cargo` started by this one must not inherit: they name
/// this one's toolchain, package and flags. Settings of network and registry stay.
fn is_foreign(name: &str) -> bool {
    const KEPT: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    const DROPPED: [&str; 5] =
        ["LD_LIBRARY_PATH", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUSTDOCFLAGS", "CLIPPY_ARGS"];
    (name.starts_with("CARGO") && !KEPT.iter().any(|prefix| name.starts_with(prefix)))
        || name == "RUSTC"
        || name.starts_with("RUSTC_")
        || DROPPED.contains(&name)
}

/// Takes this cargo's own variables out of another cargo's environment.
pub(crate) fn clean_environment(command: &mut Command) {
    let foreign: Vec<OsString> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_str().is_some_and(is_foreign))
        .collect();
    for name in foreign {
        command.env_remove(name);
    }
}

/// The LLVM major version in the text of `rustc -vV`.
fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_major_is_read_from_the_compilers_own_words() {
        assert_eq!(llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }

    #[test]
    fn an_inner_cargo_inherits_the_network_but_no_toolchain() {
        for name in ["CARGO", "CARGO_MANIFEST_DIR", "CARGO_TARGET_DIR", "RUSTC", "RUSTUP_TOOLCHAIN"]
        {
            assert!(is_foreign(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_CAINFO", "HOME", "RUSTUP_HOME"]
        {
            assert!(!is_foreign(name), "{name}");
        }
    }
}
