//! Processes of Go programs: the kernel half is told how to find their goroutines, and when
//! these call the HTTP client.

use std::collections::{HashMap as StdHashMap, HashSet};
use std::os::fd::OwnedFd;
use std::time::Instant;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use tracewire_common::golang::GoProcess;

use super::executable;
use super::load::Shared;
use super::uprobes::{Maps, Place, Uprobe};
use crate::golang::{self, GoBinary, Unknown};
use crate::tls::mapped::Identity;

/// The programs that see calls of the client, and births of goroutines.
pub(super) const CALL: &str = "note_go_call";
pub(super) const BIRTH: &str = "note_go_birth";

/// Births a second from which a process is left alone with them. At this rate the probe takes some
/// percent of a processor, more where traps are dear.
const MOST_BIRTHS: u64 = 20_000;

/// Executables whose inspection is remembered. When there are more all are forgotten, and
/// inspected again.
const REMEMBERED: usize = 4096;

/// `BPF_EXIST`: what the kernel half has removed is not put back.
const EXIST: u64 = 2;

/// What an executable is: `None` if no Go program.
type Inspected = Option<Result<GoBinary, Unknown>>;

/// The Go processes in scope.
pub(super) struct Goroutines {
    processes: HashMap<MapData, u32, Shared<GoProcess>>,
    /// `None` if this kernel has no such probes.
    programs: Option<Programs>,
    remembered: StdHashMap<Identity, Inspected>,
    running: StdHashMap<u32, Running>,
    /// Processes that the last sweep has seen.
    seen: HashSet<u32>,
    /// When births were last counted.
    counted: Instant,
}

/// A Go process. Probes go with this. They are in this process alone: in others that run the
/// same file they would cost, and a file may be written over when no process runs it.
struct Running {
    executable: Identity,
    _call: Option<OwnedFd>,
    birth: Option<OwnedFd>,
    /// Births that were counted.
    births: u64,
}

/// The programs.
pub(super) struct Programs {
    call: Uprobe,
    /// `None` if births are not of interest.
    birth: Option<Uprobe>,
}

impl Programs {
    /// Loads them. `births` says whether it is of interest who made a goroutine.
    ///
    /// # Errors
    ///
    /// If the kernel has no such probes.
    pub(super) fn load(maps: &Maps, object: &[u8], births: bool) -> Result<Self> {
        let load =
            |name| Uprobe::load(maps, object, name).with_context(|| format!("program {name}"));
        Ok(Self { call: load(CALL)?, birth: births.then(|| load(BIRTH)).transpose()? })
    }

    /// Each, by name.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, &Uprobe)> {
        let birth = self.birth.iter().map(|birth| (BIRTH, birth));
        std::iter::once((CALL, &self.call)).chain(birth)
    }
}

impl Goroutines {
    /// No process yet. Without programs it is known all the same which processes have goroutines.
    pub(super) fn new(ebpf: &mut Ebpf, programs: Option<Programs>) -> Result<Self> {
        let map = ebpf.take_map("GO_PROCESSES").context("the object has no map GO_PROCESSES")?;
        Ok(Self {
            processes: HashMap::try_from(map)?,
            programs,
            remembered: StdHashMap::new(),
            running: StdHashMap::new(),
            seen: HashSet::new(),
            counted: Instant::now(),
        })
    }

    /// The programs that this kernel has taken.
    pub(super) fn programs(&self) -> impl Iterator<Item = (&'static str, &Uprobe)> {
        self.programs.iter().flat_map(Programs::each)
    }

    /// A process runs a new program.
    pub(super) fn started(&mut self, pid: u32) {
        self.running.remove(&pid);
        self.look_at(pid);
    }

    /// A process is gone. The kernel half knows that already.
    pub(super) fn ended(&mut self, pid: u32) {
        self.running.remove(&pid);
        self.seen.remove(&pid);
    }

    /// Looks at processes that were not seen to start, as those that are older than the agent or
    /// came into the cgroup later, and forgets those that were not seen to end.
    pub(super) fn sweep(&mut self, now: &HashSet<u32>, is_excluded: impl Fn(u32) -> bool) {
        let gone: Vec<u32> =
            self.running.keys().filter(|pid| !now.contains(pid)).copied().collect();
        for pid in gone {
            self.running.remove(&pid);
            let _forgotten_already = self.processes.remove(&pid);
        }
        for &pid in now {
            if !self.seen.contains(&pid) && !is_excluded(pid) {
                self.look_at(pid);
            }
        }
        self.seen.clone_from(now);
    }

    /// Leaves those processes alone with births of goroutines that have very many. To be called
    /// about once a second.
    pub(super) fn count_births(&mut self) {
        let elapsed = self.counted.elapsed();
        self.counted = Instant::now();
        let most = MOST_BIRTHS * elapsed.as_millis().max(1) as u64 / 1000;
        for (&pid, running) in self.running.iter_mut().filter(|(_, one)| one.birth.is_some()) {
            let Ok(Shared(mut process)) = self.processes.get(&pid, 0) else { continue };
            let births = process.births.wrapping_sub(running.births);
            running.births = process.births;
            if births <= most {
                continue;
            }
            tracing::warn!(
                pid,
                births,
                ms = elapsed.as_millis(),
                "this process makes so many goroutines that seeing each would slow it down: calls of goroutines that a handler makes get no parents"
            );
            // The kernel half first: what it knows of births is old when it misses one.
            process.off_curg = 0;
            if self.processes.insert(pid, Shared(process), EXIST).is_ok() {
                running.birth = None;
            }
        }
    }

    fn look_at(&mut self, pid: u32) {
        let Some((file, executable)) = executable::open(pid) else { return };
        if self.running.get(&pid).is_some_and(|running| running.executable == executable) {
            return;
        }
        if self.remembered.len() >= REMEMBERED {
            self.remembered.clear();
        }
        let is_new = !self.remembered.contains_key(&executable);
        let inspected =
            self.remembered.entry(executable).or_insert_with(|| golang::inspect(&file)).clone();
        let mut binary = match inspected {
            None => return,
            Some(Ok(binary)) => binary,
            Some(Err(why)) => {
                if is_new {
                    tracing::warn!(
                        executable = crate::reading::executable_of(pid),
                        "requests that this Go program sends get no parents: {why}"
                    );
                }
                GoBinary::default()
            }
        };
        let put = |program: Option<&Uprobe>, places: &[Place]| {
            let program = program.filter(|_| !places.is_empty())?;
            program
                .attach(&file, places, pid)
                .inspect_err(|error| {
                    if is_new {
                        tracing::warn!(
                            executable = crate::reading::executable_of(pid),
                            %error,
                            "requests that this Go program sends may lack parents: it cannot be probed"
                        );
                    }
                })
                .ok()
        };
        // The probe first: births that are missed leave what is known of them wrong.
        let place = |(offset, cookie)| Place { offset, cookie };
        let births: Vec<_> = binary.birth.map(|offset| place((offset, 0))).into_iter().collect();
        let programs = self.programs.as_ref();
        let birth = put(programs.and_then(|programs| programs.birth.as_ref()), &births);
        if birth.is_none() {
            binary.process.off_curg = 0;
        }
        if let Err(error) = self.processes.insert(pid, Shared(binary.process), 0) {
            tracing::debug!(pid, %error, "cannot tell the kernel half about a Go process");
            return;
        }
        let calls = binary.calls.iter().map(|&(offset, at)| place((offset, at as u64)));
        let call = put(programs.map(|programs| &programs.call), &calls.collect::<Vec<_>>());
        // It may run another program by now, which was not told of.
        if executable::open(pid).is_none_or(|(_, now)| now != executable) {
            let _forgotten_already = self.processes.remove(&pid);
            return;
        }
        self.running.insert(pid, Running { executable, _call: call, birth, births: 0 });
    }
}
