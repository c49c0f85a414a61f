//! A cgroup of one's own, below the cgroup v2 mount, removed with everything in it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::leftovers;

/// A cgroup that was made for one run. Whatever is in it is ended when the guard goes.
pub(crate) struct Cgroup {
    path: PathBuf,
    procs: Arc<File>,
}

impl Cgroup {
    /// Makes the cgroup `tracewire-NAME-PID` below the cgroup v2 mount.
    ///
    /// # Errors
    ///
    /// Without root or without cgroup v2.
    pub(crate) fn create(name: &str) -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
        let mount = cgroup2_mount(&mounts).ok_or_else(|| {
            anyhow!(
                "no cgroup v2 is mounted; mount one (`mkdir -p /sys/fs/cgroup/unified && mount -t \
                 cgroup2 none /sys/fs/cgroup/unified`) and run again"
            )
        })?;
        for old in leftovers::of_dead_runs(&mount, name) {
            remove(&old)?;
        }
        let path = mount.join(format!("tracewire-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| {
            format!(
                "cannot make the cgroup {}; run as root, on a writable cgroup v2",
                path.display()
            )
        })?;
        match File::options().write(true).open(path.join("cgroup.procs")) {
            Ok(procs) => Ok(Self { path, procs: Arc::new(procs) }),
            Err(error) => {
                // Made a moment ago and empty; nothing else could be removed by this.
                let _ = std::fs::remove_dir(&path);
                Err(error)
                    .with_context(|| format!("cannot open cgroup.procs of {}", path.display()))
            }
        }
    }

    /// The cgroup's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Has `command` start inside the cgroup: it is in before its program begins.
    pub(crate) fn join(&self, command: &mut Command) {
        let procs = Arc::clone(&self.procs);
        // SAFETY: the closure makes one `write` of a constant to a descriptor that it
        // keeps open, which is async-signal-safe, and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                // "0" is the writer itself (cgroup-v2.rst, cgroup.procs).
                if libc::write(procs.as_raw_fd(), b"0".as_ptr().cast(), 1) == 1 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            crate::progress::say(format!("{error:#}"));
        }
    }
}

/// Ends what is in a cgroup that this or an earlier run made, and removes it.
fn remove(path: &Path) -> Result<()> {
    for attempt in 0..100 {
        let members = members(path);
        let signal = if attempt < 20 { libc::SIGTERM } else { libc::SIGKILL };
        for pid in &members {
            // SAFETY: plain system call. The pid was read from a cgroup that only
            // such runs put processes in.
            unsafe { libc::kill(*pid, signal) };
        }
        if members.is_empty() && std::fs::remove_dir(path).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("cannot remove the cgroup {}; remove it by hand with rmdir", path.display())
}

fn members(path: &Path) -> Vec<libc::pid_t> {
    std::fs::read_to_string(path.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        // 0 stands for a process of another pid namespace; as an argument
        // of kill() it would be xtask's own process group.
        .filter(|&pid| pid > 0)
        .collect()
}

/// The first cgroup v2 mount in the text of `/proc/mounts`.
fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        // Blanks in a path are written as octal escapes (proc_pid_mounts(5)).
        (kind == "cgroup2")
            .then(|| PathBuf::from(path.replace("\\040", " ").replace("\\134", "\\")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_among_version_one_hierarchies() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/uni\\040fied cgroup2 rw,relatime 0 0\n";
        assert_eq!(cgroup2_mount(mounts), Some(PathBuf::from("/sys/fs/cgroup/uni fied")));
        assert_eq!(cgroup2_mount("proc /proc proc rw 0 0\n"), None);
    }
}
