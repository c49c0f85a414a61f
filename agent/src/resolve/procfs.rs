//! What `/proc` says of a process.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

/// The most that is read of a file: environments can be megabytes long.
const MAX_READ: u64 = 256 * 1024;

/// A mounted proc file system.
#[derive(Clone, Debug)]
pub(crate) struct ProcFs {
    root: PathBuf,
}

impl ProcFs {
    /// The proc file system mounted at `root`.
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, tgid: u32, file: &str) -> PathBuf {
        let mut path = self.root.join(tgid.to_string());
        path.push(file);
        path
    }

    /// Reads a file of a process; `None` if it is gone or may not be read.
    pub(crate) fn read(&self, tgid: u32, file: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path(tgid, file)).ok()?.take(MAX_READ).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Reads a text file of a process.
    pub(crate) fn read_text(&self, tgid: u32, file: &str) -> Option<String> {
        String::from_utf8(self.read(tgid, file)?).ok()
    }

    /// The path of the program that a process runs, as seen in its mount namespace.
    pub(crate) fn executable(&self, tgid: u32) -> Option<String> {
        let path = fs::read_link(self.path(tgid, "exe")).ok()?;
        let path = path.to_string_lossy();
        // Added by the kernel when the file was replaced while it ran.
        Some(path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned())
    }

    /// When a process started, in clock ticks since boot: field 22 of `stat` (proc(5)).
    pub(crate) fn started(&self, tgid: u32) -> Option<u64> {
        start_of(&self.read_text(tgid, "stat").or_else(|| {
            // A command name need not be UTF-8.
            self.read(tgid, "stat").map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        })?)
    }
}

/// The start in the text of `stat`.
pub(crate) fn start_of(stat: &str) -> Option<u64> {
    // Field 2 is the name in parentheses, which may itself hold any of them.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let fields: Vec<String> = (3..30).map(|field| field.to_string()).collect();
        let stat = format!("77 (a) b (c) {}", fields.join(" "));
        assert_eq!(start_of(&stat), Some(22));
        assert_eq!(start_of("77 (cut"), None);
    }

    #[test]
    fn this_very_process_can_be_read() {
        let proc = ProcFs::at("/proc");
        let tgid = std::process::id();
        assert!(proc.executable(tgid).is_some());
        assert!(proc.started(tgid).is_some());
        assert!(proc.read(tgid, "cmdline").is_some_and(|bytes| !bytes.is_empty()));
    }
}
