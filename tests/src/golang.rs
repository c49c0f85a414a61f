//! Go programs, built here.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::needs::{Package, lacks};
use crate::world::World;

/// Where Debian keeps the sources of its packages for Go.
pub const GO_PATH: &str = "/usr/share/gocode";

/// Builds a program of `services`, with more arguments. `None` where there is no Go, if that may be.
///
/// # Panics
///
/// If it does not compile, and as [`lacks`].
pub fn built(world: &World, source: &str, arguments: &[&str]) -> Option<PathBuf> {
    if lacks(&[Package::Go]) {
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("services").join(source);
    let program = world.scratch().join("go-service");
    let status = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .args(arguments)
        .arg(source)
        .env("GO111MODULE", "off")
        .env("GOPATH", GO_PATH)
        .env("GOCACHE", std::env::temp_dir().join("tracewire-go-cache"))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "go build failed");
    Some(program)
}
