//! PHP-FPM, and how nginx asks it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::services::{Service, free_port, start};
use crate::world::World;

/// Processes of the pool: each serves one request at a time.
const PROCESSES: usize = 160;

/// PHP-FPM's program, which bears its version in its name on Debian.
pub fn program() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = ["/usr/sbin", "/usr/local/sbin"]
        .iter()
        .filter_map(|directory| std::fs::read_dir(directory).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm"))
        })
        .collect();
    found.sort();
    found.pop()
}

/// PHP-FPM with one pool, which listens for FastCGI.
///
/// # Panics
///
/// If it is not there, or its configuration cannot be written.
pub fn command(directory: &Path, listen: &str) -> Command {
    let at = directory.display();
    let config = format!(
        "[global]\nerror_log = /dev/stderr\nlog_level = warning\npid = {at}/pid\ndaemonize = no\n\
         [www]\nuser = root\ngroup = root\nlisten = {listen}\nlisten.backlog = 512\nclear_env = no\n\
         pm = static\npm.max_children = {PROCESSES}\n"
    );
    let file = directory.join("php-fpm.conf");
    std::fs::write(&file, config).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut command = Command::new(program().expect("asked before whether it is there"));
    // The tests run as root, and so do the processes, which read this checkout.
    command.arg("--allow-to-run-as-root").arg("--nodaemonize").arg("--fpm-config").arg(file);
    command
}

/// Starts PHP-FPM, whose scripts have `environment`.
///
/// # Panics
///
/// If it is not there or does not start.
pub fn fpm(world: &World, environment: &[(&str, String)]) -> Service {
    let port = free_port();
    let mut command = command(&world.scratch(), &format!("127.0.0.1:{port}"));
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    start(world, command, port, world.scratch().join("seen"))
}

/// The part of nginx's `server` block that asks PHP-FPM for a script.
pub fn location(listen: &str, script: &Path) -> String {
    format!(
        "location / {{ fastcgi_pass {listen}; fastcgi_param SCRIPT_FILENAME {}; \
         fastcgi_param REQUEST_URI $request_uri; fastcgi_param REQUEST_METHOD $request_method; \
         fastcgi_param CONTENT_LENGTH $content_length; fastcgi_param CONTENT_TYPE $content_type; \
         fastcgi_param REQUEST_SCHEME $scheme; }}",
        script.display()
    )
}
