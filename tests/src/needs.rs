//! What a test needs and the machine may lack: programs of Debian's packages, and what only newer kernels have.

use std::io::Write;
use std::path::Path;

use crate::golang::GO_PATH;
use crate::php;
use crate::probes::can_probe;

/// How a line starts that says why a test, or the rest of one, did not run. `cargo xtask vm` counts them.
pub const SKIPPED: &str = "skipped: ";

/// How it goes on if it is for want of a package, and not for the kernel's sake.
pub const NOT_INSTALLED: &str = "not installed: ";

/// The variable with which missing packages are no failure.
const MAY_SKIP: &str = "TRACEWIRE_TEST_MAY_SKIP";

/// Says that the test, or the rest of it, does not run. Not by `eprintln!`: of that the harness shows
/// nothing unless the test fails.
pub fn skip(why: &str) {
    // Where standard error takes no more, the harness has failed before.
    drop(writeln!(std::io::stderr(), "{SKIPPED}{why}"));
}

/// As [`can_probe`]; where it cannot, it says that what needs it is skipped.
///
/// # Panics
///
/// As there.
pub fn probes() -> bool {
    let can = can_probe();
    if !can {
        skip("this kernel has no probes for who lacks CAP_SYS_ADMIN (6.6)");
    }
    can
}

/// A package of Debian's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    /// `strip`.
    Binutils,
    /// Go's compiler.
    Go,
    /// grpc-go, in source.
    GoGrpc,
    /// What of HTTP/2 is not in Go's own library, in source.
    GoNet,
    /// gevent.
    Gevent,
    /// PHP-FPM.
    PhpFpm,
    /// grpcio.
    PythonGrpc,
    /// wget, which uses GnuTLS.
    Wget,
}

impl Package {
    fn name(self) -> &'static str {
        match self {
            Self::Binutils => "binutils",
            Self::Go => "golang-go",
            Self::GoGrpc => "golang-google-grpc-dev",
            Self::GoNet => "golang-golang-x-net-dev",
            Self::Gevent => "python3-gevent",
            Self::PhpFpm => "php-fpm",
            Self::PythonGrpc => "python3-grpcio",
            Self::Wget => "wget",
        }
    }

    fn is_installed(self) -> bool {
        match self {
            Self::Binutils => is_program("strip"),
            Self::Go => is_program("go"),
            Self::GoGrpc => Path::new(GO_PATH).join("src/google.golang.org/grpc").exists(),
            Self::GoNet => Path::new(GO_PATH).join("src/golang.org/x/net").exists(),
            Self::Gevent => Path::new("/usr/lib/python3/dist-packages/gevent").exists(),
            Self::PhpFpm => php::program().is_some(),
            Self::PythonGrpc => Path::new("/usr/lib/python3/dist-packages/grpc").exists(),
            // busybox has one too, and that speaks no TLS of its own.
            Self::Wget => Path::new("/usr/bin/wget").exists(),
        }
    }
}

fn is_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).exists())
}

/// Whether packages are missing, and what needs them is to be left out; it says so then.
///
/// # Panics
///
/// If some are missing, unless `TRACEWIRE_TEST_MAY_SKIP` is set.
pub fn lacks(packages: &[Package]) -> bool {
    let missing: Vec<&str> = packages
        .iter()
        .filter(|package| !package.is_installed())
        .map(|package| package.name())
        .collect();
    match settle(&missing, std::env::var_os(MAY_SKIP).is_some()) {
        Ok(None) => false,
        Ok(Some(why)) => {
            skip(&why);
            true
        }
        Err(why) => panic!("{why}"),
    }
}

/// Why a test is skipped for want of packages, if it is; or why it fails.
fn settle(missing: &[&str], may_skip: bool) -> Result<Option<String>, String> {
    let names = missing.join(" ");
    match (missing.is_empty(), may_skip) {
        (true, _) => Ok(None),
        (_, true) => Ok(Some(format!("{NOT_INSTALLED}{names}"))),
        (_, false) => Err(format!(
            "{NOT_INSTALLED}{names}: run `apt-get install {names}`, or set {MAY_SKIP} to go without"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_package_fails_a_test_unless_it_may_be_skipped() {
        for may_skip in [true, false] {
            assert_eq!(settle(&[], may_skip), Ok(None));
        }
        let missing = ["golang-go", "php-fpm"];
        let why = settle(&missing, false).expect_err("nothing allows to skip");
        assert!(why.contains("apt-get install golang-go php-fpm"), "{why}");
        assert!(why.contains("TRACEWIRE_TEST_MAY_SKIP"), "{why}");
        let skipped = Ok(Some("not installed: golang-go php-fpm".to_owned()));
        assert_eq!(settle(&missing, true), skipped);
    }

    #[test]
    fn programs_are_looked_for_where_they_are_started_from() {
        assert!(is_program("sh") && !is_program("no such program"));
    }
}
