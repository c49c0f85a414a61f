//! Processes of CPython: the kernel half is told how to find the contexts at work in them, and sees
//! when one is copied, and when a job goes through a queue.

use std::collections::{HashMap as StdHashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData};
use tracewire_common::python::{NO_SLOT, PY_PROCESS_THREADS_HAVE_CONTEXTS, PyPlace, PyProcess};

use super::inspected::{Found, Inspected};
use super::load::Shared;
use super::seccomp;
use super::tls::raise_open_files;
use super::uprobes::{Closer, Maps, Place, Uprobe};
use crate::clock::monotonic_ns;
use crate::python::{self, Interpreter, PyBinary};
use crate::tls::mapped::{FileNumber, Mapped};

/// The programs.
pub(super) const ENTRY: &str = "note_python_entry";
pub(super) const RETURN: &str = "note_python_return";

/// What the probes may cost in a second; a process in which they cost more is left alone. A unit is some
/// 0.9 us in a virtual machine, where traps are dear, so this is a sixth of a processor.
const MOST_COST: u64 = 180_000;

/// The processes of Python in scope.
pub(super) struct PythonProcesses {
    programs: Programs,
    processes: HashMap<MapData, u32, Shared<PyProcess>>,
    /// How many these are, for the kernel half.
    count: Array<MapData, u32>,
    inspected: Inspected<PyBinary>,
    running: StdHashMap<u32, Process>,
    /// Processes that were seen to start.
    young: HashSet<u32>,
    closer: Closer,
    /// When runs were last counted.
    counted: Instant,
}

/// The programs, as the kernel has taken them.
pub(super) struct Programs {
    entry: Uprobe,
    back: Uprobe,
    /// Whether jobs in queues are of interest.
    queues: bool,
}

/// A process. The probes in it go with this.
#[derive(Default)]
struct Process {
    /// Files of Python that were found in it.
    files: Vec<FileNumber>,
    /// Whether the kernel half knows it.
    is_known: bool,
    probes: Vec<OwnedFd>,
    /// The interpreter, and where it enters contexts, until that is of interest.
    enters: Option<(File, Vec<Place>)>,
    /// Whether that is.
    has_loop: bool,
    /// The interpreter, and where its function that copies contexts is in memory.
    interpreter: Option<(Interpreter, u64)>,
    /// Whether it has greenlets, which exchange parts of the stack: nothing is probed then.
    has_greenlets: bool,
    /// What the probes had cost when that was last looked at.
    cost: u64,
    /// Whether it came to them too often, or for nothing.
    is_left_alone: bool,
}

impl Programs {
    /// Loads them.
    ///
    /// # Errors
    ///
    /// If the kernel has no such probes, or they would harm processes.
    pub(super) fn load(maps: &Maps, object: &[u8], queues: bool) -> Result<Self> {
        raise_open_files();
        let load =
            |name| Uprobe::load(maps, object, name).with_context(|| format!("program {name}"));
        let back = load(RETURN)?;
        seccomp::require_probes_of_runtimes(&back)?;
        Ok(Self { entry: load(ENTRY)?, back, queues })
    }

    /// Each, by name.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, &Uprobe)> {
        [(ENTRY, &self.entry), (RETURN, &self.back)].into_iter()
    }

    fn attach(&self, file: &File, binary: &PyBinary, pid: u32) -> io::Result<Vec<OwnedFd>> {
        let places = |functions: &[(u64, PyPlace)]| -> Vec<Place> {
            functions
                .iter()
                .filter(|(_, place)| self.queues || !matches!(place, PyPlace::Put | PyPlace::Taken))
                .map(|&(offset, place)| Place { offset, cookie: place as u64 })
                .collect()
        };
        let mut probes = Vec::new();
        // What is taken out of a queue before it was seen to be put in is for nobody.
        let (returns, entries) = (places(&binary.returns), places(&binary.entries));
        if !returns.is_empty() {
            probes.push(self.back.attach_returns(file, &returns, pid)?);
        }
        if !entries.is_empty() {
            probes.push(self.entry.attach(file, &entries, pid)?);
        }
        Ok(probes)
    }
}

impl PythonProcesses {
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
            processes: HashMap::try_from(map("PY_PROCESSES")?)?,
            count: Array::try_from(map("PY_COUNT")?)?,
            inspected: Inspected::new(),
            running: StdHashMap::new(),
            young: HashSet::new(),
            closer: Closer::default(),
            counted: Instant::now(),
        })
    }

    /// The programs that this kernel has taken.
    pub(super) fn programs(&self) -> impl Iterator<Item = (&'static str, &Uprobe)> {
        self.programs.each()
    }

    /// Whether the process is one of Python.
    pub(super) fn is_probed(&self, pid: u32) -> bool {
        self.running.get(&pid).is_some_and(|process| !process.probes.is_empty())
    }

    /// A process has begun to run a program, or was made by one that does.
    pub(super) fn started(&mut self, pid: u32) {
        self.young.insert(pid);
    }

    /// A process is gone, or runs a new program.
    pub(super) fn forget(&mut self, pid: u32) {
        self.young.remove(&pid);
        let Some(process) = self.running.remove(&pid) else { return };
        if process.is_known {
            let _gone_already = self.processes.remove(&pid);
            self.tell_count();
        }
        if !process.probes.is_empty() {
            self.closer.close(process.probes);
        }
    }

    /// Forgets processes that were not seen to end.
    pub(super) fn keep_only(&mut self, now: &HashSet<u32>) {
        let gone: Vec<u32> =
            self.running.keys().filter(|pid| !now.contains(pid)).copied().collect();
        self.young.retain(|pid| now.contains(pid));
        for pid in gone {
            self.forget(pid);
        }
        self.inspected.forget_old();
    }

    /// Leaves those processes alone that come to the probes very often, or for nothing. To be called
    /// about once a second.
    pub(super) fn count_cost(&mut self) {
        let elapsed = self.counted.elapsed();
        self.counted = Instant::now();
        let most = MOST_COST * elapsed.as_millis().max(1) as u64 / 1000;
        let mut left_alone = Vec::new();
        for (&pid, process) in self.running.iter_mut().filter(|(_, one)| !one.probes.is_empty()) {
            let Ok(Shared(known)) = self.processes.get(&pid, 0) else { continue };
            let cost = known.cost.wrapping_sub(process.cost);
            process.cost = known.cost;
            if cost > most {
                tracing::warn!(
                    pid,
                    cost,
                    ms = elapsed.as_millis(),
                    "this process of Python makes so many tasks, callbacks and jobs that seeing each would slow it down: what they send may lack parents"
                );
            } else if known.state_slot == NO_SLOT {
                tracing::warn!(
                    pid,
                    "this process of Python has a C library that is not known (as musl), or keeps its threads' state where it is not looked for: what its tasks send may lack parents"
                );
            } else {
                continue;
            }
            left_alone.push(pid);
        }
        for pid in left_alone {
            self.leave_alone(pid);
        }
    }

    fn leave_alone(&mut self, pid: u32) {
        let Some(process) = self.running.get_mut(&pid) else { return };
        process.is_left_alone = true;
        process.is_known = false;
        process.enters = None;
        let probes = std::mem::take(&mut process.probes);
        // The kernel half first: what it knows of contexts is old when it misses one.
        let _gone_already = self.processes.remove(&pid);
        self.closer.close(probes);
        self.tell_count();
    }

    /// Probes what the process has mapped of Python and was not seen in it yet.
    pub(super) fn look_at(&mut self, pid: u32, maps: &[Mapped<'_>]) {
        for mapped in maps {
            if !self.inspected.is_plain(mapped.number) {
                self.look_into(pid, mapped, maps);
            }
        }
    }

    fn look_into(&mut self, pid: u32, mapped: &Mapped<'_>, maps: &[Mapped<'_>]) {
        let number = mapped.number;
        let is_done = |process: &Process| process.is_left_alone || process.files.contains(&number);
        if self.running.get(&pid).is_some_and(is_done) {
            return;
        }
        let Some(found) = self.inspected.look_into(pid, mapped, python::inspect) else { return };
        let Found { file, what: binary, is_new } = found;
        let path = mapped.path;
        self.running.entry(pid).or_default().files.push(number);
        if binary.switches_stacks {
            return self.tell_greenlets_apart(pid);
        }
        if let Some(Err(why)) = &binary.interpreter {
            if is_new {
                tracing::warn!(path, pid, %why, "requests that tasks and pools of threads of this Python send may lack parents");
            }
            return;
        }
        if let Some(Ok(interpreter)) = &binary.interpreter {
            let mut here = maps.iter().filter(|one| one.number == number);
            let copy = here.find_map(|one| one.address_of(interpreter.copy));
            let process = self.running.entry(pid).or_default();
            process.interpreter = copy.map(|copy| (*interpreter, copy));
        }
        if self.running.get(&pid).is_some_and(|process| process.has_greenlets) {
            return self.tell_greenlets_apart(pid);
        }
        match self.programs.attach(&file, &binary, pid) {
            Ok(probes) => {
                // Not before: what is known of contexts is true as long as all that are made are seen.
                if binary.interpreter.is_some() && !self.tell(pid) {
                    return self.closer.close(probes);
                }
                tracing::debug!(path, pid, "Python probed");
                let process = self.running.entry(pid).or_default();
                process.probes.extend(probes);
                if !binary.enters.is_empty() {
                    let cookie = PyPlace::Enters as u64;
                    let place = |&offset| Place { offset, cookie };
                    process.enters = Some((file, binary.enters.iter().map(place).collect()));
                }
                process.has_loop |= binary.enters_contexts;
                self.follow_loop(pid);
            }
            Err(error) if is_new => {
                tracing::warn!(path, pid, %error, "Python cannot be probed: requests of its tasks and pools of threads may lack parents");
            }
            Err(error) => tracing::debug!(path, pid, %error, "Python cannot be probed"),
        }
    }

    /// A loop that is no Python receives before it enters the context for which it does: that is seen
    /// too, in processes that have one.
    fn follow_loop(&mut self, pid: u32) {
        let Some(process) = self.running.get_mut(&pid).filter(|process| process.has_loop) else {
            return;
        };
        let Some((file, places)) = process.enters.take() else { return };
        match self.programs.entry.attach(&file, &places, pid) {
            Ok(probe) => {
                process.probes.push(probe);
                tracing::debug!(pid, "the event loop of this process is followed");
            }
            Err(error) => tracing::debug!(pid, %error, "Python cannot be probed"),
        }
    }

    /// The process has greenlets: these are told apart, and not contexts. Nothing is probed, since what
    /// returns may not be what was called.
    fn tell_greenlets_apart(&mut self, pid: u32) {
        let process = self.running.entry(pid).or_default();
        process.has_greenlets = true;
        process.enters = None;
        let interpreter = process.interpreter;
        let probes = std::mem::take(&mut process.probes);
        self.closer.close(probes);
        match interpreter {
            Some((interpreter, _)) if interpreter.layout.stack == 0 => {
                tracing::info!(
                    pid,
                    "this process of Python uses gevent: before CPython 3.11 its greenlets are not told apart"
                );
                self.leave_alone(pid);
            }
            Some(_) if self.tell(pid) => {
                tracing::debug!(pid, "greenlets of Python are told apart");
            }
            // Its file comes later.
            _ => {}
        }
    }

    /// Tells the kernel half of the process's interpreter. Answers whether it knows it.
    fn tell(&mut self, pid: u32) -> bool {
        let known = self.running.get(&pid);
        let Some((interpreter, copy)) = known.and_then(|process| process.interpreter) else {
            return false;
        };
        let has_greenlets = known.is_some_and(|process| process.has_greenlets);
        // Of one that has run for some time, what serves all connections is there.
        let first_ns = if self.young.contains(&pid) { 0 } else { monotonic_ns() };
        let process = PyProcess {
            off_stack: if has_greenlets { interpreter.layout.stack } else { 0 },
            context_type: copy.wrapping_add(interpreter.type_from_copy),
            off_thread_id: interpreter.layout.thread_id,
            off_context: interpreter.layout.context,
            first_ns,
            flags: if interpreter.threads_have_contexts {
                PY_PROCESS_THREADS_HAVE_CONTEXTS
            } else {
                0
            },
            ..PyProcess::default()
        };
        if let Err(error) = self.processes.insert(pid, Shared(process), 0) {
            tracing::debug!(pid, %error, "cannot tell the kernel half about a process of Python");
            return false;
        }
        self.running.entry(pid).or_default().is_known = true;
        self.tell_count();
        true
    }

    fn tell_count(&mut self) {
        let count = self.running.values().filter(|process| process.is_known).count();
        if let Err(error) = self.count.set(0, u32::try_from(count).unwrap_or(u32::MAX), 0) {
            tracing::debug!(%error, "cannot tell the kernel half how many processes of Python there are");
        }
    }
}

impl Drop for PythonProcesses {
    fn drop(&mut self) {
        self.closer.close(self.running.drain().flat_map(|(_, process)| process.probes).collect());
    }
}
