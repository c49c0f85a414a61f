//! Compilers that can build `core` for the kernel.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use super::{Source, clean_environment, llvm_major};
use crate::packages::{self, Need};
use crate::process;
use crate::progress::say;

/// Packages of Debian's whole, newer Rust toolchain: compiler, cargo, sources of `core`.
const SYSTEM_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// What the distribution's compiler is called in messages.
const SYSTEM_NAME: &str = "the system's compiler";

/// The oldest minor release of Rust 1 that builds the eBPF crates.
const OLDEST_MINOR: u32 = 88;

/// A compiler with the sources of `core`.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    /// What to call it in messages.
    name: String,
    /// `bin` and `lib/rustlib` are below it.
    sysroot: PathBuf,
    /// The major version of its LLVM; the linker's has to be the same.
    pub(super) llvm: u32,
    /// Whether it takes unstable options only on demand.
    stable: bool,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (LLVM {})", self.name, self.llvm)
    }
}

impl Compiler {
    /// The directory of its programs.
    pub(super) fn bin_dir(&self) -> PathBuf {
        self.sysroot.join("bin")
    }

    /// Whether it is the distribution's.
    pub(super) fn is_system(&self) -> bool {
        self.sysroot == Path::new("/usr")
    }

    /// The compiler, in an environment of its own.
    pub(super) fn rustc(&self) -> Command {
        self.own(Command::new(self.bin_dir().join("rustc")))
    }

    /// Its cargo.
    pub(super) fn cargo(&self) -> Command {
        self.own(Command::new(self.bin_dir().join("cargo")))
    }

    /// Its `cargo-clippy`, which takes `clippy` as its first argument; if there is one.
    pub(super) fn clippy(&self) -> Option<Command> {
        let program = self.bin_dir().join("cargo-clippy");
        packages::is_executable(&program).then(|| {
            let mut command = self.own(Command::new(program));
            // cargo-clippy starts the cargo that this names.
            command.env("CARGO", self.bin_dir().join("cargo"));
            command
        })
    }

    fn own(&self, mut command: Command) -> Command {
        clean_environment(&mut command);
        command.env("RUSTC", self.bin_dir().join("rustc"));
        if self.stable {
            // `-Zbuild-std` is unstable; this is how a stable compiler is told to take it.
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    /// The compiler of a sysroot, if it and the sources of `core` are there.
    fn in_sysroot(name: &str, sysroot: PathBuf) -> Option<Self> {
        let bin = sysroot.join("bin");
        let sources = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
        if !sources.exists() || !packages::is_executable(&bin.join("cargo")) {
            return None;
        }
        let mut command = Command::new(bin.join("rustc"));
        clean_environment(&mut command);
        let version = process::output(command.arg("-vV")).ok()?;
        let release = version.lines().find_map(|line| line.strip_prefix("release: "))?;
        let minor: u32 = release.strip_prefix("1.")?.split('.').next()?.parse().ok()?;
        if minor < OLDEST_MINOR {
            return None;
        }
        Some(Self {
            name: format!("{name}, rustc {release}"),
            llvm: llvm_major(&version)?,
            stable: !release.contains("nightly") && !release.contains("dev"),
            sysroot,
        })
    }
}

/// The compilers that are there, best first.
pub(super) fn find(source: Source) -> Vec<Compiler> {
    let mut found = Vec::new();
    if source != Source::System {
        found.extend(rustup_toolchains().into_iter().filter_map(|name| {
            let sysroot = rustup_sysroot(&name)?;
            Compiler::in_sysroot(&format!("rustup's {name}"), sysroot)
        }));
    }
    if source != Source::Rustup {
        found.extend(Compiler::in_sysroot("the system's compiler", PathBuf::from("/usr")));
    }
    found
}

/// Installs a compiler: the distribution's if it has one, since that is tested with the
/// distribution's LLVM and changes nothing of the user's; else with rustup. `unusable`
/// are the compilers that are there, and why they do not do.
///
/// # Errors
///
/// If there is nothing to install, or it fails; the message says what to run.
pub(super) fn install(source: Source, unusable: &[(Compiler, String)]) -> Result<Compiler> {
    let has = |system| unusable.iter().any(|(compiler, _)| compiler.is_system() == system);
    let rustup =
        source != Source::System && packages::find_program("rustup").is_some() && !has(false);
    let system =
        source != Source::Rustup && !has(true) && packages::is_available(SYSTEM_PACKAGES[0]);
    if system && (packages::is_root() || !rustup) {
        let purpose = "building eBPF with the sources of `core`";
        packages::ensure(&SYSTEM_PACKAGES.map(Need::package), purpose)?;
        return Compiler::in_sysroot(SYSTEM_NAME, PathBuf::from("/usr")).ok_or_else(|| {
            anyhow!(
                "the packages {} are installed, but brought no Rust 1.{OLDEST_MINOR} or newer; \
                 add the distribution's security updates to apt's sources",
                SYSTEM_PACKAGES.join(" ")
            )
        });
    }
    if rustup {
        say(
            "installing rustup's nightly with rust-src: no compiler here has the sources of `core`",
        );
        let mut command = Command::new("rustup");
        clean_environment(&mut command);
        let arguments = ["toolchain", "install", "nightly", "--profile", "minimal"];
        process::run(command.args(arguments).args(["--component", "rust-src,clippy"]))
            .context("rustup cannot install nightly with rust-src")?;
        let sysroot = rustup_sysroot("nightly").context("rustup's nightly has no sysroot")?;
        return Compiler::in_sysroot("rustup's nightly", sysroot).context(
            "rustup's nightly is incomplete; run \
             `rustup component add rust-src --toolchain nightly`",
        );
    }
    match unusable.first() {
        Some((compiler, obstacle)) => bail!("no eBPF toolchain: {compiler}: {obstacle}"),
        None => bail!(
            "no Rust compiler with the sources of `core`; run `rustup toolchain install nightly \
             --component rust-src` or, on Debian, `sudo apt-get install {}`, then this again",
            SYSTEM_PACKAGES.join(" ")
        ),
    }
}

/// rustup's toolchains, nightlies first: they take unstable options of themselves.
fn rustup_toolchains() -> Vec<String> {
    if packages::find_program("rustup").is_none() {
        return Vec::new();
    }
    let mut command = Command::new("rustup");
    clean_environment(&mut command);
    let list = process::output(command.args(["toolchain", "list"])).unwrap_or_default();
    let mut names: Vec<String> =
        list.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    names.sort_by_key(|name| !name.starts_with("nightly"));
    names
}

fn rustup_sysroot(toolchain: &str) -> Option<PathBuf> {
    let mut command = Command::new("rustup");
    clean_environment(&mut command);
    let sysroot =
        process::output(command.args(["run", toolchain, "rustc", "--print", "sysroot"])).ok()?;
    Some(PathBuf::from(sysroot.trim()))
}
