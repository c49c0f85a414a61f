//! nginx with a configuration of one's own, in the foreground.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::network;
use crate::packages::{self, Need};
use crate::process::ChildGuard;
use crate::scratch::ScratchDir;

/// What the machine needs for [`start`].
pub(crate) fn need() -> Need {
    Need::program("nginx", "nginx-light")
}

/// Starts nginx in `cgroup`, listening on `port` of 127.0.0.1. `http` is what goes into the
/// `http` block.
///
/// # Errors
///
/// If nginx is missing or refuses the configuration.
pub(crate) fn start(
    name: &str,
    http: &str,
    port: u16,
    cgroup: &Cgroup,
    scratch: &ScratchDir,
) -> Result<ChildGuard> {
    let dir = scratch.path().display();
    // `user root`: the scratch directory is nobody else's. The default paths would
    // be those of a system's own nginx.
    let text = format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {dir}/{name}.pid;\n\
         error_log {dir}/{name}.log warn;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n  client_body_temp_path {dir}/{name}-body;\n  \
         proxy_temp_path {dir}/{name}-proxy;\n  fastcgi_temp_path {dir}/{name}-fastcgi;\n  \
         uwsgi_temp_path {dir}/{name}-uwsgi;\n  scgi_temp_path {dir}/{name}-scgi;\n{http}}}\n"
    );
    let config = scratch.write(&format!("{name}.conf"), &text)?;
    let program = packages::find_program("nginx").context("nginx is not installed")?;
    let mut command = Command::new(program);
    command
        .arg("-p")
        .arg(scratch.path())
        .arg("-c")
        .arg(config)
        .args(["-e", &format!("{dir}/{name}.log")])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    cgroup.join(&mut command);
    let mut guard = ChildGuard::spawn(&mut command, format!("nginx ({name})"))?;
    network::wait_listening(&mut guard, "nginx", port)?;
    Ok(guard)
}
