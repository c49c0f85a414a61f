//! The file that a process runs.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use crate::tls::mapped::Identity;

/// Opens it, and says which it is; `None` if the process is gone or may not be looked at.
pub(super) fn open(pid: u32) -> Option<(File, Identity)> {
    let file = File::open(format!("/proc/{pid}/exe")).ok()?;
    let metadata = file.metadata().ok()?;
    let changed = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    Some((file, (metadata.dev(), metadata.ino(), changed)))
}
