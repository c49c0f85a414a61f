//! A cgroup of a test's own: the agent is attached there and nowhere else.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::cleanup::{self, Made};
use crate::process::patient;

/// How long removal waits for killed members to be gone.
const REMOVAL_LIMIT: Duration = Duration::from_secs(5);

/// A new cgroup below the cgroup v2 mount; removed with all its processes when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    // Opened before any fork: a child between fork and exec may only make
    // async-signal-safe calls, and `write` is one.
    members: Arc<File>,
}

impl Cgroup {
    /// Makes an empty cgroup named after this process.
    ///
    /// # Panics
    ///
    /// If there is no cgroup v2 mount, or it may not be written to (the tests need root).
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = mount().join(format!("tracewire-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap_or_else(|error| {
            panic!("cannot make the cgroup {}: {error}; run the tests as root", path.display())
        });
        cleanup::list(Made::Cgroup(path.clone()));
        let members = path.join("cgroup.procs");
        let members = OpenOptions::new()
            .write(true)
            .open(&members)
            .unwrap_or_else(|error| panic!("cannot open {}: {error}", members.display()));
        Self { path, members: Arc::new(members) }
    }

    /// The cgroup's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `command` start inside this cgroup.
    pub fn place(&self, command: &mut Command) {
        let members = Arc::clone(&self.members);
        // SAFETY: between fork and exec the closure only calls `write` on a file
        // that is already open; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(move || {
                use std::io::Write;
                // "0" stands for the writing process (cgroups v2 documentation, "Processes").
                (&*members).write_all(b"0")
            });
        }
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
        cleanup::unlist(&Made::Cgroup(self.path.clone()));
    }
}

/// Where cgroup v2 is mounted, from `/proc/mounts`.
///
/// # Panics
///
/// If it is not mounted.
pub fn mount() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find_map(|fields| match fields.as_slice() {
            [_, path, "cgroup2", ..] => Some(PathBuf::from(path)),
            _ => None,
        })
        .unwrap_or_else(|| panic!("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup"))
}

/// Kills the members of one of our cgroups and removes it.
pub(crate) fn remove(path: &Path) {
    let deadline = Instant::now() + patient(REMOVAL_LIMIT);
    loop {
        // `cgroup.kill` came with Linux 5.14.
        if std::fs::write(path.join("cgroup.kill"), "1").is_err() {
            let members = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            for pid in members.lines().filter_map(|line| line.parse().ok()) {
                crate::process::kill(pid, libc::SIGKILL);
            }
        }
        match std::fs::remove_dir(path) {
            Ok(()) => return,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) if Instant::now() > deadline => {
                eprintln!("cannot remove the cgroup {}: {error}", path.display());
                return;
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
