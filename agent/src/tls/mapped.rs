//! Files that a process has mapped to run them.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

/// A file as it is now: device, inode, and the time of its last change in ns.
pub(crate) type Identity = (u64, u64, i128);

/// Device and inode, as a process's map of memory has them.
pub(crate) type FileNumber = (u64, u64);

/// What a process has mapped, as text; `None` if the process is gone or may not be looked at.
pub(crate) fn of(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/maps")).ok()
}

/// A piece of a file that a process has mapped to run it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapped<'a> {
    /// The file.
    pub(crate) number: FileNumber,
    /// Its path, as the process has it.
    pub(crate) path: &'a str,
    /// Where the piece is in memory, and where that ends: addresses.
    pub(crate) memory: (u64, u64),
    /// Where it is in the file, in bytes.
    pub(crate) at: u64,
}

impl<'a> Mapped<'a> {
    /// A line of `/proc/PID/maps`: addresses, permissions, offset, device, inode, path
    /// (`proc_pid_maps(5)`).
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        let number = |text| u64::from_str_radix(text, 16).ok();
        let mut fields = line.splitn(6, ' ');
        let (addresses, permissions, at) = (fields.next()?, fields.next()?, fields.next()?);
        let (start, end) = addresses.split_once('-')?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let device = number(major)? << 32 | number(minor)?;
        let inode = fields.next()?.parse().ok()?;
        let path = fields.next()?.trim_start();
        let is_file = inode != 0 && path.starts_with('/') && !path.ends_with(" (deleted)");
        (is_file && permissions.contains('x')).then_some(Self {
            number: (device, inode),
            path,
            memory: (number(start)?, number(end)?),
            at: number(at)?,
        })
    }

    /// Opens the file as the process has it, if its name still means that.
    pub(crate) fn open(&self, pid: u32) -> Option<(File, Identity)> {
        // The path is the one that the process has if it is in a mount namespace of its own, and the
        // agent's if it has only changed its root.
        let in_process = self.open_at(&format!("/proc/{pid}/root{}", self.path));
        in_process.or_else(|| self.open_at(self.path))
    }

    fn open_at(&self, path: &str) -> Option<(File, Identity)> {
        let file = File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        if metadata.ino() != self.number.1 || !metadata.is_file() {
            return None;
        }
        let changed =
            i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
        Some((file, (metadata.dev(), metadata.ino(), changed)))
    }

    /// The address of a place in the file, if that is in the piece.
    pub(crate) fn address_of(&self, place: u64) -> Option<u64> {
        let (start, end) = self.memory;
        let address = start.checked_add(place.checked_sub(self.at)?)?;
        (address < end).then_some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_run_are_of_interest() {
        let of = |line| Mapped::parse(line).map(|mapped| (mapped.number.1, mapped.path));
        let line = "7f5e0c021000-7f5e0c07d000 r-xp 0001e000 fe:01 1234    /usr/lib/libssl.so.3";
        assert_eq!(of(line), Some((1234, "/usr/lib/libssl.so.3")));
        let with_spaces = "7f5e0c021000-7f5e0c07d000 r-xp 0001e000 fe:01 12     /opt/a b/lib.so";
        assert_eq!(of(with_spaces), Some((12, "/opt/a b/lib.so")));
        for other in [
            "7f5e0c021000-7f5e0c07d000 r--p 00000000 fe:01 1234    /usr/lib/libssl.so.3",
            "7ffd3a5f2000-7ffd3a5f4000 r-xp 00000000 00:00 0       [vdso]",
            "7f5e0c021000-7f5e0c07d000 r-xp 00000000 00:00 0 ",
            "7f5e0c021000-7f5e0c07d000 r-xp 0001e000 fe:01 12      /lib/libssl.so.3 (deleted)",
            "nonsense",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
