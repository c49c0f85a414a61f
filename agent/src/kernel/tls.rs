//! Processes with TLS libraries: the libraries are found, and probed in those processes alone.

use std::collections::{HashMap as StdHashMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData};
use rustix::process::{Resource, getrlimit, setrlimit};
use tracewire_common::tls::{Call, Session, SessionKey};

use super::inspected::{Found, Inspected};
use super::load::Shared;
use super::seccomp;
use super::uprobes::{Closer, Maps, Place, Uprobe};
use crate::golang::Unknown;
use crate::tls::mapped::{FileNumber, Mapped};
use crate::tls::{self, TlsLibrary};

/// The programs that read what goes into and comes out of libraries.
pub(super) const ENTRY: &str = "read_tls_entry";
pub(super) const RETURN: &str = "read_tls_return";
/// Those that they call where it is HTTP/2.
pub(super) const HTTP2_WRITTEN: &str = "read_tls_http2_written";
pub(super) const HTTP2_READ: &str = "read_tls_http2_read";

/// Calls of a library in a second from which a process is left alone. At this rate the probes take some
/// percent of a processor, or in a virtual machine, where traps are dear, half of one.
const MOST_CALLS: u64 = 30_000;
/// The processes in scope that use TLS libraries.
pub(super) struct TlsProcesses {
    programs: Programs,
    /// Whether goroutines are told apart, without which Go's library cannot be read.
    knows_goroutines: bool,
    /// Where programs find those for HTTP/2: emptied when it is closed.
    _http2: [Map; 2],
    processes: HashMap<MapData, u32, u64>,
    sessions: HashMap<MapData, Shared<SessionKey>, Shared<Session>>,
    inspected: Inspected<TlsLibrary>,
    running: StdHashMap<u32, Process>,
    closer: Closer,
    /// When calls were last counted.
    counted: Instant,
}

/// The programs, as the kernel has taken them.
pub(super) struct Programs {
    entry: Uprobe,
    back: Uprobe,
    http2_written: Uprobe,
    http2_read: Uprobe,
}

/// A process. The probes in it go with this.
#[derive(Default)]
struct Process {
    /// Libraries that were found in it.
    libraries: Vec<FileNumber>,
    probes: Vec<OwnedFd>,
    /// Calls that were counted.
    calls: u64,
    /// Whether it was said that nothing of it is read.
    is_told_of: bool,
}

impl TlsProcesses {
    /// No process yet.
    ///
    /// # Errors
    ///
    /// If the object lacks a map, or a program cannot be put in place.
    pub(super) fn new(ebpf: &mut Ebpf, programs: Programs, knows_goroutines: bool) -> Result<Self> {
        let mut map =
            |name| ebpf.take_map(name).with_context(|| format!("the object has no map {name}"));
        let mut place = |name, program: &Uprobe| {
            let array = map(name)?;
            program.place(&array).with_context(|| format!("cannot put a program in {name}"))?;
            anyhow::Ok(array)
        };
        let http2 = [
            place("TLS_HTTP2_WRITTEN", &programs.http2_written)?,
            place("TLS_HTTP2_READ", &programs.http2_read)?,
        ];
        Ok(Self {
            programs,
            knows_goroutines,
            _http2: http2,
            processes: HashMap::try_from(map("TLS_PROCESSES")?)?,
            sessions: HashMap::try_from(map("TLS_SESSIONS")?)?,
            inspected: Inspected::new(),
            running: StdHashMap::new(),
            closer: Closer::default(),
            counted: Instant::now(),
        })
    }

    /// The programs that this kernel has taken.
    pub(super) fn programs(&self) -> impl Iterator<Item = (&'static str, &Uprobe)> {
        self.programs.each()
    }

    /// A process was seen to use TLS on a socket, and was looked at: if nothing of it is read, that is said.
    pub(super) fn tell_if_unread(&mut self, pid: u32) {
        if !self.is_probed(pid)
            && let Some(process) = self.running.get_mut(&pid)
            && !std::mem::replace(&mut process.is_told_of, true)
        {
            let found =
                if process.libraries.is_empty() { "none" } else { "one, without a probe in it" };
            tracing::info!(
                pid,
                found,
                "this process speaks TLS, and not by a library that is read: what it says has no spans (`tracewire check --pid` says what is known of it)"
            );
        }
    }

    /// Whether a library of the process is read.
    pub(super) fn is_probed(&self, pid: u32) -> bool {
        self.running.get(&pid).is_some_and(|process| !process.probes.is_empty())
    }

    /// Forgets processes that were not seen to end.
    pub(super) fn keep_only(&mut self, now: &HashSet<u32>) {
        let gone: Vec<u32> =
            self.running.keys().filter(|pid| !now.contains(pid)).copied().collect();
        for pid in gone {
            self.forget(pid);
        }
        self.inspected.forget_old();
    }

    /// Leaves those processes alone that call their library very often. To be called about once a
    /// second.
    pub(super) fn count_calls(&mut self) {
        let elapsed = self.counted.elapsed();
        self.counted = Instant::now();
        let most = MOST_CALLS * elapsed.as_millis().max(1) as u64 / 1000;
        let mut busy = Vec::new();
        for (&pid, process) in self.running.iter_mut().filter(|(_, one)| !one.probes.is_empty()) {
            let Ok(calls) = self.processes.get(&pid, 0) else { continue };
            let new = calls.wrapping_sub(process.calls);
            process.calls = calls;
            if new > most {
                tracing::warn!(
                    pid,
                    calls = new,
                    ms = elapsed.as_millis(),
                    "this process calls its TLS library so often that reading would slow it down: its requests over TLS are not read any more"
                );
                busy.push((pid, std::mem::take(&mut process.probes)));
            }
        }
        for (pid, probes) in busy {
            self.withdraw(pid, probes);
        }
    }

    /// A process is gone, or runs a new program.
    pub(super) fn forget(&mut self, pid: u32) {
        let Some(process) = self.running.remove(&pid) else { return };
        if !process.probes.is_empty() {
            self.withdraw(pid, process.probes);
        }
    }

    /// Takes the probes out of a process, or of what it was; what is known of its sessions goes.
    fn withdraw(&mut self, pid: u32, probes: Vec<OwnedFd>) {
        self.closer.close(probes);
        let _gone_already = self.processes.remove(&pid);
        let of_process = |key: &Shared<SessionKey>| key.0.tgid == u64::from(pid);
        let left: Vec<_> = self.sessions.keys().flatten().filter(of_process).collect();
        for key in left {
            let _gone_already = self.sessions.remove(&key);
        }
    }

    /// Probes libraries that the process has mapped and that were not seen in it yet.
    pub(super) fn look_at(&mut self, pid: u32, maps: &[Mapped<'_>]) {
        let process = self.running.entry(pid).or_default();
        let news: Vec<&Mapped<'_>> = maps
            .iter()
            .filter(|mapped| !self.inspected.is_plain(mapped.number))
            .filter(|mapped| !process.libraries.contains(&mapped.number))
            .collect();
        for mapped in news {
            self.look_into(pid, mapped);
        }
    }

    fn look_into(&mut self, pid: u32, mapped: &Mapped<'_>) {
        let knows_goroutines = self.knows_goroutines;
        let found = self.inspected.look_into(pid, mapped, |file| {
            let library = tls::inspect(file)?;
            let skipped = |why: &Unknown| {
                let path = mapped.path;
                tracing::info!(path, pid, %why, "requests over TLS of a Go program are not read");
            };
            let library = library.inspect_err(skipped).ok();
            library.filter(|library| knows_goroutines || !library.is_go())
        });
        let Some(Found { file, what: library, is_new }) = found else { return };
        let path = mapped.path;
        let process = self.running.entry(pid).or_default();
        // Several parts of a file may be mapped to run.
        if process.libraries.contains(&mapped.number) {
            return;
        }
        process.libraries.push(mapped.number);
        match self.programs.attach(&file, &library, pid) {
            Ok(probes) => {
                if let Err(error) = self.processes.insert(pid, process.calls, 0) {
                    tracing::debug!(pid, %error, "cannot tell the kernel half about a process");
                    return;
                }
                self.running.entry(pid).or_default().probes.extend(probes);
                if is_new {
                    let kind = library.kind;
                    tracing::info!(path, pid, kind, "TLS library found: its plaintext is read");
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

impl Drop for TlsProcesses {
    fn drop(&mut self) {
        self.closer.close(self.running.drain().flat_map(|(_, process)| process.probes).collect());
    }
}

impl Programs {
    /// Loads them.
    ///
    /// # Errors
    ///
    /// If the kernel has no such probes, or they would harm processes.
    pub(super) fn load(maps: &Maps, object: &[u8]) -> Result<Self> {
        raise_open_files();
        let load =
            |name| Uprobe::load(maps, object, name).with_context(|| format!("program {name}"));
        let back = load(RETURN)?;
        seccomp::require_probes(&back)?;
        Ok(Self {
            entry: load(ENTRY)?,
            back,
            http2_written: load(HTTP2_WRITTEN)?,
            http2_read: load(HTTP2_READ)?,
        })
    }

    /// Each, by name.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, &Uprobe)> {
        let http2 = [(HTTP2_WRITTEN, &self.http2_written), (HTTP2_READ, &self.http2_read)];
        [(ENTRY, &self.entry), (RETURN, &self.back)].into_iter().chain(http2)
    }

    fn attach(&self, file: &File, library: &TlsLibrary, pid: u32) -> std::io::Result<Vec<OwnedFd>> {
        let places = |functions: &[(u64, Call)]| -> Vec<Place> {
            functions.iter().map(|&(offset, call)| Place { offset, cookie: call as u64 }).collect()
        };
        // What ends calls comes first: one that is seen to begin is then seen to end.
        let mut probes = Vec::new();
        if !library.returns.is_empty() {
            probes.push(self.back.attach_returns(file, &places(&library.returns), pid)?);
        }
        if !library.ends.is_empty() {
            probes.push(self.back.attach(file, &places(&library.ends), pid)?);
        }
        probes.push(self.entry.attach(file, &places(&library.entries), pid)?);
        Ok(probes)
    }
}

/// Lets the agent have as many files open as it may: each process takes two for its probes.
pub(super) fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
}
