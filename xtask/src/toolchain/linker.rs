//! `bpf-linker`: reads the compiler's LLVM bitcode, so it has to be of the same LLVM.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::compiler::Compiler;
use crate::packages::{self, Need};
use crate::process;
use crate::progress::say;
use crate::scratch::ScratchDir;
use crate::workspace;

/// The version to install; it knows LLVM 21 to 23.
const VERSION: &str = "0.13.0";

/// LLVM majors that [`VERSION`] can be built with.
const LLVM_KNOWN: std::ops::RangeInclusive<u32> = 21..=23;

/// A linker that fits the compiler: the project's own, else one on `PATH`.
pub(super) fn find(compiler: &Compiler) -> Option<PathBuf> {
    let candidates = [Some(own(compiler)), packages::find_program("bpf-linker")];
    candidates
        .into_iter()
        .flatten()
        .filter(|linker| packages::is_executable(linker))
        .find(|linker| fits(linker, compiler).unwrap_or(false))
}

/// Where the project's own linker for this compiler's LLVM is.
fn own(compiler: &Compiler) -> PathBuf {
    root(compiler).join("bin").join("bpf-linker")
}

/// A directory for each LLVM: two compilers do not undo each other's linker.
fn root(compiler: &Compiler) -> PathBuf {
    workspace::tools_dir().join(format!("llvm-{}", compiler.llvm))
}

/// Whether the linker can read what the compiler writes. It does not say which LLVM it
/// has, so it is given a function to link.
fn fits(linker: &Path, compiler: &Compiler) -> Result<bool> {
    let scratch = ScratchDir::create("linker-trial")?;
    let source = scratch.write(
        "trial.rs",
        "#![no_std]\n#[unsafe(no_mangle)] pub extern \"C\" fn trial(x: u64) -> u64 { x ^ 1 }\n",
    )?;
    let (bitcode, object) = (scratch.path().join("trial.bc"), scratch.path().join("trial.o"));
    process::output(
        compiler
            .rustc()
            .args(["--edition", "2024", "--crate-type", "lib", "--emit", "llvm-bc"])
            .args(["-Cpanic=abort", "-o"])
            .args([&bitcode, &source]),
    )?;
    let mut link = Command::new(linker);
    link.args(["--target", "bpfel", "--export", "trial", "-o"]).args([&object, &bitcode]);
    // A linker that cannot read the bitcode fails, an older one may crash.
    Ok(process::output(&mut link).is_ok())
}

/// Why no linker can be built for the compiler here, if so.
pub(super) fn obstacle(compiler: &Compiler) -> Option<String> {
    let major = compiler.llvm;
    if !LLVM_KNOWN.contains(&major) {
        return Some(format!("bpf-linker {VERSION} cannot be built with LLVM {major}"));
    }
    if prefix(major).join("include/llvm-c/Core.h").exists()
        || packages::is_available(&format!("llvm-{major}-dev"))
    {
        return None;
    }
    Some(format!(
        "there is no bpf-linker for LLVM {major} on PATH, and no LLVM {major} to build one; take \
         a prebuilt one (`cargo binstall bpf-linker`) or install llvm-{major}-dev"
    ))
}

/// Where Debian's packages of LLVM are.
fn prefix(major: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{major}"))
}

/// Builds a linker for the compiler's LLVM into the target directory.
///
/// # Errors
///
/// If the LLVM libraries are missing and cannot be installed, or if the build fails.
pub(super) fn install(compiler: &Compiler) -> Result<PathBuf> {
    let major = compiler.llvm;
    let prefix = prefix(major);
    let libraries = [
        format!("llvm-{major}-dev"),
        format!("libpolly-{major}-dev"),
        "zlib1g-dev".to_owned(),
        "libzstd-dev".to_owned(),
        "libxml2-dev".to_owned(),
    ];
    let mut needs = vec![Need::program("cc", "gcc"), Need::program("c++", "g++")];
    // Where LLVM came another way than by packages, it brought what it needs.
    if packages::find_program("dpkg-query").is_some() {
        needs.extend(libraries.map(Need::package));
    }
    packages::ensure(&needs, "building bpf-linker")?;
    let root = root(compiler);
    say(format!("building bpf-linker {VERSION} with LLVM {major} into {}", root.display()));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    super::clean_environment(&mut command);
    if let Some(toolchain) = std::env::var_os("RUSTUP_TOOLCHAIN") {
        command.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    command
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{major}"), "--root"])
        .arg(&root)
        .arg("--target-dir")
        .arg(workspace::target_dir().join("tools-build"))
        // bpf-linker's build reads the first, llvm-sys (version MAJOR + "1") the second.
        .env("LLVM_PREFIX", &prefix)
        .env(format!("LLVM_SYS_{major}1_PREFIX"), &prefix);
    process::run(&mut command).context("cannot build bpf-linker")?;
    let linker = own(compiler);
    if !fits(&linker, compiler)? {
        bail!("bpf-linker was built with LLVM {major}, but cannot read what {compiler} writes");
    }
    Ok(linker)
}
