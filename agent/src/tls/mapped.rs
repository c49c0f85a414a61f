//! Files that a process has mapped to run them.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

/// A file as it is now: device, inode, and the time of its last change in ns.
pub(crate) type Identity = (u64, u64, i128);

/// Device and inode, as a process's map of memory has them.
pub(crate) type FileNumber = (u64, u64);

/// The most that is read of what a process has mapped, in bytes: some 40,000 pieces. A process may have more,
/// and give each a name of 4 KiB.
const LONGEST: u64 = 4 << 20;

/// What a process has mapped, as text, as far as [`LONGEST`]; `None` if the process is gone or may not be looked
/// at.
pub(crate) fn of(pid: u32) -> Option<String> {
    lines(File::open(format!("/proc/{pid}/maps")).ok()?)
}

/// Whole lines of it. A name that is no UTF-8 is not that of a file that could be opened by it, and hides no
/// others.
fn lines(maps: impl Read) -> Option<String> {
    let mut bytes = Vec::new();
    maps.take(LONGEST).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 == LONGEST {
        let whole = bytes.iter().rposition(|&byte| byte == b'\n')?;
        bytes.truncate(whole + 1);
    }
    Some(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
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
    fn what_is_mapped_is_read_up_to_a_bound_and_by_whole_lines() {
        let line = b"7f5e0c021000-7f5e0c07d000 r-xp 0001e000 fe:01 1234    /usr/lib/libssl.so.3\n";
        let bytes: &[u8] = &line.repeat(60_000);
        let text = lines(bytes).expect("text");
        assert_eq!(text.lines().count(), LONGEST as usize / line.len());
        assert!(text.lines().all(|line| Mapped::parse(line).is_some()));
        assert_eq!(lines(&line[..]).map(|text| text.len()), Some(line.len()));
    }

    #[test]
    fn a_name_that_is_no_text_hides_no_others() {
        let maps = b"1000-2000 r-xp 00000000 fe:01 7  /opt/\xe9t\xe9\n2000-3000 r-xp 00000000 fe:01 8  /a\n";
        let text = lines(&maps[..]).expect("text");
        let found: Vec<u64> =
            text.lines().filter_map(Mapped::parse).map(|one| one.number.1).collect();
        assert_eq!(found, [7, 8]);
    }

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
