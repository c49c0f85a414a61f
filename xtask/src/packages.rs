//! System packages: what is missing is installed, what is there is left alone.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::progress::say;

/// How to tell that a package's content is there.
#[derive(Clone, Debug)]
pub(crate) enum Sign {
    /// A program on `PATH` or in the system's own directories.
    Program(&'static str),
    /// The package itself, for libraries and the like.
    Package,
}

/// Something the machine has to have.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    /// The Debian package that brings it.
    pub(crate) package: String,
    /// How to tell that it is there.
    pub(crate) sign: Sign,
}

impl Need {
    /// A program, from a package of the given name.
    pub(crate) fn program(program: &'static str, package: &str) -> Self {
        Self { package: package.to_owned(), sign: Sign::Program(program) }
    }

    /// A package.
    pub(crate) fn package(package: impl Into<String>) -> Self {
        Self { package: package.into(), sign: Sign::Package }
    }

    fn is_met(&self) -> bool {
        match self.sign {
            Sign::Program(program) => find_program(program).is_some(),
            Sign::Package => is_installed(&self.package),
        }
    }
}

/// Installs those of `needs` that are missing; `purpose` says what they are for.
///
/// # Errors
///
/// Without root or apt, with the command that a person has to run; or if apt fails.
pub(crate) fn ensure(needs: &[Need], purpose: &str) -> Result<()> {
    let missing: Vec<&str> =
        needs.iter().filter(|need| !need.is_met()).map(|need| need.package.as_str()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if find_program("apt-get").is_none() {
        bail!(
            "{purpose} needs what Debian calls {list}; install it with this system's package manager"
        );
    }
    if !is_root() {
        bail!("{purpose} needs packages that are missing; run `sudo apt-get install {list}`");
    }
    say(format!("installing {list}: {purpose} needs it"));
    update()?;
    let _policy = ServicePolicy::forbid_starts()?;
    process::run(
        apt()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(["-o", "Dpkg::Options::=--force-confold"])
            .args(&missing),
    )
    .with_context(|| format!("cannot install {list}"))
}

/// Whether apt could install a package of this name.
pub(crate) fn is_available(package: &str) -> bool {
    if find_program("apt-cache").is_none() {
        return false;
    }
    let look = || {
        process::output(Command::new("apt-cache").args(["policy", package])).is_ok_and(|text| {
            text.lines().any(|line| {
                line.trim().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)")
            })
        })
    };
    // A fresh image has no package lists at all.
    look() || (is_root() && update().is_ok() && look())
}

/// Whether xtask runs as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Fails if xtask does not run as root.
///
/// # Errors
///
/// With what to do.
pub(crate) fn require_root(purpose: &str) -> Result<()> {
    if !is_root() {
        bail!("{purpose} loads eBPF programs and makes a cgroup, which takes root; run it as root");
    }
    Ok(())
}

/// A program on `PATH`, or in the directories of system programs that `PATH` may lack.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

/// Whether there is a file that may be executed.
pub(crate) fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn is_installed(package: &str) -> bool {
    let query = ["--show", "--showformat=${db:Status-Status}", package];
    process::output(Command::new("dpkg-query").args(query))
        .is_ok_and(|status| status == "installed")
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-qq",
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Dpkg::Use-Pty=0",
    ]);
    command
}

/// Refreshes the package lists, once in a run.
fn update() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        say("refreshing the package lists");
        result = process::run(apt().arg("update")).context("cannot refresh the package lists");
    });
    result
}

/// The file that Debian's packages ask before they start a service (`invoke-rc.d(8)`).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// While it lives, a freshly installed server does not start. A policy that the
/// machine has already is left alone: it is the administrator's word.
struct ServicePolicy {
    ours: bool,
}

impl ServicePolicy {
    fn forbid_starts() -> Result<Self> {
        use std::io::Write;
        let opened =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        match opened {
            Ok(mut file) => {
                let guard = Self { ours: true };
                // 101: the action is forbidden by policy (invoke-rc.d(8)).
                file.write_all(b"#!/bin/sh\nexit 101\n")
                    .and_then(|()| file.set_permissions(PermissionsExt::from_mode(0o755)))
                    .with_context(|| format!("cannot write {POLICY}"))?;
                Ok(guard)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Ok(Self { ours: false })
            }
            Err(error) => Err(error).with_context(|| {
                format!("cannot write {POLICY}, which keeps new servers from starting")
            }),
        }
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = std::fs::remove_file(POLICY)
        {
            say(format!("cannot remove {POLICY}: {error}; remove it by hand"));
        }
    }
}
