//! Processes with TLS libraries: the libraries are found, and probed in those processes alone.

use std::collections::{BTreeSet, HashMap as StdHashMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use tracewire_common::tls::{Session, SessionKey};

use super::load::Shared;
use super::scope::Scope;
use super::seccomp;
use super::uprobes::{Place, Uprobe};
use crate::tls::{self, TlsLibrary};

/// The programs that follow sessions, and read what goes into and comes out of libraries.
pub(super) const MADE: &str = "note_tls_session";
pub(super) const OVER: &str = "forget_tls_session";
pub(super) const ENTRY: &str = "read_tls_entry";
pub(super) const RETURN: &str = "read_tls_return";

/// When after its start a process is looked at: the loader maps libraries within the first
/// milliseconds, interpreters load theirs when they come to it, and nothing tells when.
const LOOKS: [Duration; 10] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(1000),
    Duration::from_millis(3000),
];
/// Looks at once; others wait until there is time again.
const MOST_LOOKS: usize = 64;
/// Files whose inspection is remembered. When there are more all are forgotten.
const REMEMBERED: usize = 4096;

/// A file as it is now: device, inode, and the time of its last change in ns.
type Identity = (u64, u64, i128);

/// The processes in scope that use TLS libraries.
pub(super) struct TlsProcesses {
    programs: Programs,
    processes: HashMap<MapData, u32, u8>,
    sessions: HashMap<MapData, Shared<SessionKey>, Shared<Session>>,
    remembered: StdHashMap<Identity, Option<Arc<TlsLibrary>>>,
    running: StdHashMap<u32, Process>,
    /// Looks that are due: when, at whom, and the how manieth it is.
    due: BTreeSet<(Instant, u32, usize)>,
}

/// The programs, as the kernel has taken them.
pub(super) struct Programs {
    made: Uprobe,
    over: Uprobe,
    entry: Uprobe,
    back: Uprobe,
}

/// A process. The probes in it go with this.
#[derive(Default)]
struct Process {
    /// Files that were looked at: device and inode, as the process's map of memory has them.
    seen: HashSet<(String, u64)>,
    probes: Vec<OwnedFd>,
}

impl TlsProcesses {
    /// No process yet.
    ///
    /// # Errors
    ///
    /// If the object lacks a map.
    pub(super) fn new(ebpf: &mut Ebpf, programs: Programs) -> Result<Self> {
        let mut map =
            |name| ebpf.take_map(name).with_context(|| format!("the object has no map {name}"));
        Ok(Self {
            programs,
            processes: HashMap::try_from(map("TLS_PROCESSES")?)?,
            sessions: HashMap::try_from(map("TLS_SESSIONS")?)?,
            remembered: StdHashMap::new(),
            running: StdHashMap::new(),
            due: BTreeSet::new(),
        })
    }

    /// The programs that this kernel has taken.
    pub(super) fn programs(&self) -> impl Iterator<Item = (&'static str, &Uprobe)> {
        let Programs { made, over, entry, back } = &self.programs;
        [(MADE, made), (OVER, over), (ENTRY, entry), (RETURN, back)].into_iter()
    }

    /// A process runs a new program, or was made by one that uses TLS.
    pub(super) fn started(&mut self, pid: u32) {
        self.forget(pid);
        self.look_from(pid, 0);
    }

    /// A process was made by another, and runs the same program.
    pub(super) fn forked(&mut self, pid: u32, parent: u32) {
        if self.running.get(&parent).is_some_and(|process| !process.probes.is_empty()) {
            self.look_from(pid, 0);
        }
    }

    /// A process is gone.
    pub(super) fn ended(&mut self, pid: u32) {
        self.forget(pid);
    }

    /// A process was seen to use TLS on a socket.
    pub(super) fn seen_on_socket(&mut self, pid: u32) {
        if self.running.get(&pid).is_none_or(|process| process.probes.is_empty()) {
            self.look_from(pid, 0);
        }
    }

    /// How long until a process is to be looked at.
    pub(super) fn until_next_look(&self) -> Option<Duration> {
        let &(due, ..) = self.due.first()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Looks at processes whose time has come.
    pub(super) fn look_at_due(&mut self) {
        for _ in 0..MOST_LOOKS {
            let now = Instant::now();
            match self.due.first() {
                Some(&(due, pid, number)) if due <= now => {
                    self.due.pop_first();
                    self.look_from(pid, number);
                }
                _ => break,
            }
        }
    }

    /// Looks at processes that were not seen to start or to load a library, and forgets those that
    /// were not seen to end.
    pub(super) fn sweep(&mut self, scope: &Scope, is_excluded: impl Fn(u32) -> bool) {
        let now: HashSet<u32> = scope.processes().into_iter().collect();
        let gone: Vec<u32> =
            self.running.keys().filter(|pid| !now.contains(pid)).copied().collect();
        for pid in gone {
            self.forget(pid);
        }
        for &pid in now.iter().filter(|&&pid| !is_excluded(pid)) {
            self.look_at(pid);
        }
    }

    /// Looks at a process now, and later again.
    fn look_from(&mut self, pid: u32, number: usize) {
        if !self.look_at(pid) {
            return;
        }
        let (Some(done), Some(next)) = (LOOKS.get(number), LOOKS.get(number + 1)) else { return };
        self.due.insert((Instant::now() + (*next - *done), pid, number + 1));
    }

    fn forget(&mut self, pid: u32) {
        let Some(process) = self.running.remove(&pid) else { return };
        if process.probes.is_empty() {
            return;
        }
        let _gone_already = self.processes.remove(&pid);
        let of_process = |key: &Shared<SessionKey>| key.0.tgid == u64::from(pid);
        let left: Vec<_> = self.sessions.keys().flatten().filter(of_process).collect();
        for key in left {
            let _gone_already = self.sessions.remove(&key);
        }
    }

    /// Probes libraries that the process has and that were not seen in it yet. Answers whether the
    /// process is there.
    fn look_at(&mut self, pid: u32) -> bool {
        let Ok(maps) = std::fs::read_to_string(format!("/proc/{pid}/maps")) else { return false };
        for mapped in maps.lines().filter_map(Mapped::parse) {
            let process = self.running.entry(pid).or_default();
            if process.seen.insert((mapped.device.to_owned(), mapped.inode)) {
                self.look_into(pid, &mapped);
            }
        }
        true
    }

    fn look_into(&mut self, pid: u32, mapped: &Mapped<'_>) {
        let Some((file, identity)) = open(pid, mapped) else { return };
        if self.remembered.len() >= REMEMBERED {
            self.remembered.clear();
        }
        let is_new = !self.remembered.contains_key(&identity);
        let library =
            self.remembered.entry(identity).or_insert_with(|| tls::inspect(&file).map(Arc::new));
        let Some(library) = library.clone() else { return };
        let path = mapped.path;
        match self.programs.attach(&file, &library, pid) {
            Ok(probes) => {
                if let Err(error) = self.processes.insert(pid, 1, 0) {
                    tracing::debug!(pid, %error, "cannot tell the kernel half about a process");
                    return;
                }
                self.running.entry(pid).or_default().probes.extend(probes);
                if is_new {
                    tracing::info!(path, pid, "TLS library found: its plaintext is read");
                } else {
                    tracing::debug!(path, pid, "TLS library probed");
                }
            }
            Err(error) if is_new => {
                tracing::warn!(path, pid, %error, "a TLS library cannot be probed: its plaintext is not read");
            }
            Err(error) => tracing::debug!(path, pid, %error, "a TLS library cannot be probed"),
        }
    }
}

impl Programs {
    /// Loads them; `None`, and a warning, where the kernel has no such probes.
    pub(super) fn load(ebpf: &Ebpf, object: &[u8]) -> Option<Self> {
        let load =
            |name| Uprobe::load(ebpf, object, name).with_context(|| format!("program {name}"));
        let programs = load(MADE).and_then(|made| {
            match seccomp::is_safe_from(&made) {
                Ok(true) => {}
                Ok(false) => bail!("this kernel ends processes that filter their system calls when the end of a function is probed: it has to be updated (6.11 to 6.13 are concerned)"),
                Err(error) => bail!("it cannot be tried whether probes harm processes: {error}"),
            }
            Ok(Self { made, over: load(OVER)?, entry: load(ENTRY)?, back: load(RETURN)? })
        });
        programs
            .inspect_err(|error| {
                let error = format!("{error:#}");
                tracing::warn!(error, "requests over TLS are not read");
            })
            .ok()
    }

    fn attach(&self, file: &File, library: &TlsLibrary, pid: u32) -> std::io::Result<Vec<OwnedFd>> {
        let place = |(offset, cookie)| Place { offset, cookie };
        let made: Vec<Place> = library.made.iter().map(|&offset| place((offset, 0))).collect();
        let over: Vec<Place> = library.over.iter().copied().map(place).collect();
        let calls: Vec<Place> =
            library.calls.iter().map(|&(offset, call)| place((offset, call as u64))).collect();
        // What ends calls comes first: one that is seen to begin is then seen to end.
        let mut probes = vec![self.back.attach_returns(file, &calls, pid)?];
        if !over.is_empty() {
            probes.push(self.over.attach(file, &over, pid)?);
        }
        if !made.is_empty() {
            probes.push(self.made.attach_returns(file, &made, pid)?);
        }
        probes.push(self.entry.attach(file, &calls, pid)?);
        Ok(probes)
    }
}

/// A file that a process has mapped to run it.
struct Mapped<'a> {
    device: &'a str,
    inode: u64,
    path: &'a str,
}

impl<'a> Mapped<'a> {
    /// A line of `/proc/PID/maps`: addresses, permissions, offset, device, inode, path
    /// (`proc_pid_maps(5)`).
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (_, permissions, _) = (fields.next()?, fields.next()?, fields.next()?);
        let (device, inode) = (fields.next()?, fields.next()?.parse().ok()?);
        let path = fields.next()?.trim_start();
        let is_file = inode != 0 && path.starts_with('/') && !path.ends_with(" (deleted)");
        (is_file && permissions.contains('x')).then_some(Self { device, inode, path })
    }
}

/// Opens a file as the process has it, if its name still means that.
fn open(pid: u32, mapped: &Mapped<'_>) -> Option<(File, Identity)> {
    let file = File::open(format!("/proc/{pid}/root{}", mapped.path)).ok()?;
    let metadata = file.metadata().ok()?;
    if metadata.ino() != mapped.inode || !metadata.is_file() {
        return None;
    }
    let changed = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
    Some((file, (metadata.dev(), metadata.ino(), changed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_run_are_of_interest() {
        let of = |line| Mapped::parse(line).map(|mapped| (mapped.inode, mapped.path));
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
