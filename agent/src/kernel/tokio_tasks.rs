//! Processes of programs on tokio: the kernel half is told of them, and sees which task a thread runs,
//! who wakes one, and who makes one.

use std::collections::{HashMap as StdHashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData};
use tracewire_common::tokio::TokioProcess;

use super::executable;
use super::load::Shared;
use super::seccomp;
use super::tls::raise_open_files;
use super::uprobes::{Closer, Maps, Place, Uprobe};
use crate::heap;
use crate::tls::mapped::Identity;
use crate::tokio_tasks::{self, TokioBinary};

/// The programs.
pub(super) const ENTRY: &str = "note_tokio_entry";
pub(super) const RETURN: &str = "note_tokio_return";

/// The probes that a process may come to in a second; one that does more often, twice in a row, is left
/// alone for [`ALONE`]. Each is some 1.9 us in a virtual machine, where traps are dear, so this is a fifth of
/// a processor.
const MOST_COST: u64 = 110_000;
const ALONE: Duration = Duration::from_secs(60);

/// Executables whose inspection is remembered. When there are more all are forgotten, and
/// inspected again.
const REMEMBERED: usize = 4096;

/// The programs, as the kernel has taken them.
pub(super) struct Programs {
    entry: Uprobe,
    back: Uprobe,
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
        seccomp::require_probes_of_runtimes(&back)?;
        Ok(Self { entry: load(ENTRY)?, back })
    }

    /// Each, by name.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, &Uprobe)> {
        [(ENTRY, &self.entry), (RETURN, &self.back)].into_iter()
    }
}

/// The processes of programs on tokio in scope.
pub(super) struct TokioProcesses {
    programs: Programs,
    processes: HashMap<MapData, u32, Shared<TokioProcess>>,
    /// How many these are, for the kernel half.
    count: Array<MapData, u32>,
    remembered: StdHashMap<Identity, Option<Arc<TokioBinary>>>,
    running: StdHashMap<u32, Process>,
    closer: Closer,
    /// How many the kernel half was told that there are.
    told: usize,
    /// When the cost was last counted.
    counted: Instant,
}

/// A process, of whatever program. The probes in it go with this.
#[derive(Default)]
struct Process {
    /// None if it is not followed.
    probes: Vec<OwnedFd>,
    /// What the probes had cost when that was last looked at.
    cost: u64,
    /// Whether that was too much.
    is_costly: bool,
    /// Since when it is left alone.
    alone: Option<Instant>,
    /// Whether it was said that it is.
    was_told: bool,
}

impl TokioProcesses {
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
            processes: HashMap::try_from(map("TOKIO_PROCESSES")?)?,
            count: Array::try_from(map("TOKIO_COUNT")?)?,
            remembered: StdHashMap::new(),
            running: StdHashMap::new(),
            closer: Closer::default(),
            told: 0,
            counted: Instant::now(),
        })
    }

    /// The programs that this kernel has taken.
    pub(super) fn programs(&self) -> impl Iterator<Item = (&'static str, &Uprobe)> {
        self.programs.each()
    }

    /// A process runs a new program.
    pub(super) fn started(&mut self, pid: u32) {
        self.ended(pid);
        self.look_at(pid);
    }

    /// A process is gone, or runs a new program.
    pub(super) fn ended(&mut self, pid: u32) {
        let Some(process) = self.running.remove(&pid) else { return };
        if !process.probes.is_empty() {
            let _gone_already = self.processes.remove(&pid);
            self.closer.close(process.probes);
            self.tell_count();
        }
    }

    /// Looks at processes that were not seen to start, and forgets those that were not seen to end.
    pub(super) fn sweep(&mut self, now: &HashSet<u32>, is_excluded: impl Fn(u32) -> bool) {
        let gone: Vec<u32> =
            self.running.keys().filter(|pid| !now.contains(pid)).copied().collect();
        for pid in gone {
            self.ended(pid);
        }
        for &pid in now {
            if !self.running.contains_key(&pid) && !is_excluded(pid) {
                self.look_at(pid);
            }
        }
    }

    /// Leaves those processes alone, for a while, that come to the probes very often. To be called about once a
    /// second.
    pub(super) fn count_cost(&mut self) {
        let elapsed = self.counted.elapsed();
        self.counted = Instant::now();
        let most = MOST_COST * elapsed.as_millis().max(1) as u64 / 1000;
        let (mut costly, mut rested) = (Vec::new(), Vec::new());
        for (&pid, process) in &mut self.running {
            if process.alone.is_some_and(|since| since.elapsed() > ALONE) {
                rested.push(pid);
            }
            if process.probes.is_empty() {
                continue;
            }
            let Ok(Shared(known)) = self.processes.get(&pid, 0) else { continue };
            let cost = known.cost.wrapping_sub(process.cost);
            process.cost = known.cost;
            let was_costly = std::mem::replace(&mut process.is_costly, cost > most);
            if was_costly && process.is_costly {
                costly.push((pid, cost));
            }
        }
        for (pid, cost) in costly {
            self.leave_alone(pid, cost);
        }
        for pid in rested {
            self.look_at(pid);
        }
    }

    fn leave_alone(&mut self, pid: u32, cost: u64) {
        let Some(process) = self.running.get_mut(&pid) else { return };
        let probes = std::mem::take(&mut process.probes);
        process.alone = Some(Instant::now());
        if std::mem::replace(&mut process.was_told, true) {
            tracing::debug!(pid, cost, "tokio is left alone again");
        } else {
            tracing::warn!(
                pid,
                cost,
                "this process runs and wakes tasks of tokio so often that seeing each would slow it down: what they send may lack parents while it does"
            );
        }
        // The kernel half first: what it knows of tasks is old when it misses that one runs.
        let _gone_already = self.processes.remove(&pid);
        self.closer.close(probes);
        self.tell_count();
    }

    fn look_at(&mut self, pid: u32) {
        let Some((file, executable)) = executable::open(pid) else { return };
        if self.remembered.len() >= REMEMBERED {
            self.remembered.clear();
        }
        let is_new = !self.remembered.contains_key(&executable);
        let inspected = (self.remembered.entry(executable))
            .or_insert_with(|| tokio_tasks::inspect(&file).map(Arc::new))
            .clone();
        let was_told = self.running.get(&pid).is_some_and(|process| process.was_told);
        let mut process = Process { was_told, ..Process::default() };
        if let Some(binary) = inspected {
            let entries: Vec<_> =
                binary.entries().map(|(offset, cookie)| Place { offset, cookie }).collect();
            let returns: Vec<_> =
                binary.runs.iter().map(|&(offset, _)| Place { offset, cookie: 0 }).collect();
            if let Err(error) = self.probe(&file, &entries, &returns, pid, &mut process.probes) {
                // What was seen to return alone tells nothing.
                self.closer.close(std::mem::take(&mut process.probes));
                if is_new {
                    tracing::warn!(
                        executable = crate::reading::executable_of(pid),
                        %error,
                        "requests that this program on tokio sends may lack parents: it cannot be probed"
                    );
                }
            }
            // What it took to read the file.
            heap::give_back();
        }
        // It may run another program by now, which was not told of.
        if executable::open(pid).is_none_or(|(_, now)| now != executable) {
            return self.closer.close(process.probes);
        }
        if !process.probes.is_empty() {
            if let Err(error) = self.processes.insert(pid, Shared(TokioProcess::default()), 0) {
                tracing::debug!(pid, %error, "cannot tell the kernel half about a process on tokio");
                return self.closer.close(process.probes);
            }
            tracing::debug!(pid, "tokio probed");
        }
        self.running.insert(pid, process);
        self.tell_count();
    }

    /// Puts the probes in. Returns first: what was seen to begin has to be seen to end.
    fn probe(
        &self,
        file: &File,
        entries: &[Place],
        returns: &[Place],
        pid: u32,
        probes: &mut Vec<OwnedFd>,
    ) -> io::Result<()> {
        probes.push(self.programs.back.attach_returns(file, returns, pid)?);
        probes.push(self.programs.entry.attach(file, entries, pid)?);
        Ok(())
    }

    /// Whether the process is one on tokio.
    pub(super) fn is_probed(&self, pid: u32) -> bool {
        self.running.get(&pid).is_some_and(|process| !process.probes.is_empty())
    }

    /// Looks at a process that was made by another, and has run nothing else since.
    pub(super) fn look_at_unseen(&mut self, pid: u32) {
        if !self.running.contains_key(&pid) {
            self.look_at(pid);
        }
    }

    /// Never fewer than before: what is known of threads has to be forgotten as these end, whatever is followed then.
    fn tell_count(&mut self) {
        let now = self.running.values().filter(|process| !process.probes.is_empty()).count();
        let count = now.max(self.told);
        self.told = count;
        if let Err(error) = self.count.set(0, u32::try_from(count).unwrap_or(u32::MAX), 0) {
            tracing::debug!(%error, "cannot tell the kernel half how many processes on tokio there are");
        }
    }
}

impl Drop for TokioProcesses {
    fn drop(&mut self) {
        self.closer.close(self.running.drain().flat_map(|(_, process)| process.probes).collect());
    }
}
