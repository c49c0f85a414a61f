//! What processes in scope run that their threads alone do not tell of: Go, Python, Node, Ruby,
//! tokio, and libraries of TLS.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Result;
use aya::Ebpf;
use tracewire_common::outcome::Correlation;

use super::goroutines::{self, Goroutines};
use super::looks::{Look, Looks, MOST_LOOKS};
use super::node::{self, NodeProcesses};
use super::programs::ProgramReport;
use super::python::{self, PythonProcesses};
use super::ruby::{self, RubyProcesses};
use super::settings::KernelSettings;
use super::stats;
use super::tls::{self, TlsProcesses};
use super::tokio_tasks::{self, TokioProcesses};
use super::uprobes::{Maps, Uprobe};
use crate::tls::mapped::{self, Mapped};

/// The programs, as far as they are wanted and the kernel has taken them.
#[derive(Default)]
pub(super) struct Programs {
    /// `None` within if the kernel has not.
    goroutines: Option<Option<goroutines::Programs>>,
    tls: Option<tls::Programs>,
    python: Option<python::Programs>,
    node: Option<node::Programs>,
    ruby: Option<ruby::Programs>,
    tokio: Option<tokio_tasks::Programs>,
}

impl Programs {
    /// Loads those that the settings want. Of those that the kernel does not take it is said what is
    /// lost.
    pub(super) fn load(maps: &Maps, object: &[u8], settings: &KernelSettings) -> Self {
        let is_on = |rule| !settings.rules_off.contains(&rule);
        Self {
            goroutines: is_on(Correlation::Goroutine).then(|| {
                let loaded = goroutines::Programs::load(maps, object, is_on(Correlation::Birth));
                taken(loaded, "requests that Go programs send with net/http may lack parents")
            }),
            tls: (settings.tls.then(|| tls::Programs::load(maps, object)))
                .and_then(|loaded| taken(loaded, "requests over TLS are not read")),
            python: is_on(Correlation::PythonContext)
                .then(|| python::Programs::load(maps, object, is_on(Correlation::Queue)))
                .and_then(|loaded| taken(loaded, "requests that tasks of asyncio and pools of threads of Python send may lack parents")),
            node: (is_on(Correlation::Turn).then(|| node::Programs::load(maps, object))).and_then(
                |loaded| {
                    taken(loaded, "requests that Node sends may lack parents, where it has timers")
                },
            ),
            ruby: is_on(Correlation::TakenUp)
                .then(|| ruby::Programs::load(maps, object))
                .and_then(|loaded| {
                    taken(loaded, "requests that Ruby sends may lack parents, where one thread receives for others")
                }),
            tokio: is_on(Correlation::TokioTask)
                .then(|| tokio_tasks::Programs::load(maps, object))
                .and_then(|loaded| {
                    taken(loaded, "requests that programs on tokio send may lack parents")
                }),
        }
    }
}

fn taken<T>(loaded: Result<T>, lost: &str) -> Option<T> {
    loaded
        .inspect_err(|error| {
            let error = format!("{error:#}");
            tracing::warn!(error, "{lost}");
        })
        .ok()
}

/// Tries to load the programs, with all rules on, and says how that went.
pub(super) fn try_all(maps: &Maps, object: &[u8]) -> Vec<ProgramReport> {
    fn report<'a, P: Iterator<Item = (&'static str, &'a Uprobe)>>(
        name: &'static str,
        purpose: &'static str,
        loaded: Result<P, &anyhow::Error>,
    ) -> ProgramReport {
        let error = loaded.as_ref().err().map(|error| format!("{error:#}"));
        let walked = |(_, program)| stats::verified_instructions(program);
        let verified =
            loaded.ok().and_then(|mut each| each.try_fold(0, |sum, one| Some(sum + walked(one)?)));
        ProgramReport { name, purpose, error, optional: true, verified }
    }
    let tls = tls::Programs::load(maps, object);
    let goroutines = goroutines::Programs::load(maps, object, true);
    let python = python::Programs::load(maps, object, true);
    let node = node::Programs::load(maps, object);
    let ruby = ruby::Programs::load(maps, object);
    let tokio = tokio_tasks::Programs::load(maps, object);
    vec![
        report(
            "probes of TLS libraries",
            "read requests over TLS",
            tls.as_ref().map(tls::Programs::each),
        ),
        report(
            "probes of Go",
            "tell for which request a goroutine makes a call",
            goroutines.as_ref().map(goroutines::Programs::each),
        ),
        report(
            "probes of Python",
            "tell for which request a task or a thread of a pool makes a call",
            python.as_ref().map(python::Programs::each),
        ),
        report(
            "probes of Node",
            "tell what timers send from what requests do",
            node.as_ref().map(node::Programs::each),
        ),
        report(
            "probes of Ruby",
            "tell which thread takes up which request",
            ruby.as_ref().map(ruby::Programs::each),
        ),
        report(
            "probes of tokio",
            "tell for which request a task makes a call",
            tokio.as_ref().map(tokio_tasks::Programs::each),
        ),
    ]
}

/// The runtimes and libraries of the processes in scope. The probes in them go with this.
pub(crate) struct Runtimes {
    /// `None` if goroutines are not looked at.
    goroutines: Option<Goroutines>,
    /// `None` if TLS is not read.
    tls: Option<TlsProcesses>,
    /// `None` if Python is looked at by its threads.
    python: Option<PythonProcesses>,
    /// `None` if it is of no interest when Node runs timers.
    node: Option<NodeProcesses>,
    /// `None` if it is of no interest who takes up requests in Ruby.
    ruby: Option<RubyProcesses>,
    /// `None` if programs on tokio are looked at by their threads.
    tokio: Option<TokioProcesses>,
    looks: Looks,
}

impl Runtimes {
    /// No process yet.
    ///
    /// # Errors
    ///
    /// If the object lacks a map.
    pub(super) fn new(ebpf: &mut Ebpf, programs: Programs) -> Result<Self> {
        let Programs { goroutines, tls, python, node, ruby, tokio } = programs;
        let goroutines = goroutines.map(|loaded| Goroutines::new(ebpf, loaded)).transpose()?;
        let reads_go = goroutines.is_some();
        Ok(Self {
            goroutines,
            tls: tls.map(|loaded| TlsProcesses::new(ebpf, loaded, reads_go)).transpose()?,
            python: python.map(|loaded| PythonProcesses::new(ebpf, loaded)).transpose()?,
            node: node.map(NodeProcesses::new),
            ruby: ruby.map(RubyProcesses::new),
            tokio: tokio.map(|loaded| TokioProcesses::new(ebpf, loaded)).transpose()?,
            looks: Looks::default(),
        })
    }

    /// Whether the plaintext of TLS is read.
    pub(super) fn reads_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The programs that this kernel has taken.
    pub(super) fn programs(&self) -> impl Iterator<Item = (&'static str, &Uprobe)> {
        let probes = self.goroutines.iter().flat_map(Goroutines::programs);
        let probes = probes.chain(self.tls.iter().flat_map(TlsProcesses::programs));
        let probes = probes.chain(self.python.iter().flat_map(PythonProcesses::programs));
        let probes = probes.chain(self.node.iter().flat_map(NodeProcesses::programs));
        let probes = probes.chain(self.ruby.iter().flat_map(RubyProcesses::programs));
        probes.chain(self.tokio.iter().flat_map(TokioProcesses::programs))
    }

    /// A process runs a new program.
    pub(crate) fn process_started(&mut self, pid: u32) {
        if let Some(goroutines) = &mut self.goroutines {
            goroutines.started(pid);
        }
        if let Some(tokio) = &mut self.tokio {
            tokio.started(pid);
        }
        self.forget_libraries(pid);
        if let Some(python) = &mut self.python {
            python.started(pid);
        }
        self.look_at(Looks::first(pid));
    }

    /// A process was made by another, and runs the same program.
    pub(crate) fn process_forked(&mut self, pid: u32, parent: u32) {
        if self.tls.as_ref().is_some_and(|tls| tls.is_probed(parent))
            || self.python.as_ref().is_some_and(|python| python.is_probed(parent))
            || self.node.as_ref().is_some_and(|node| node.is_probed(parent))
            || self.ruby.as_ref().is_some_and(|ruby| ruby.is_probed(parent))
            || self.tokio.as_ref().is_some_and(|tokio| tokio.is_probed(parent))
        {
            if let Some(python) = &mut self.python {
                python.started(pid);
            }
            // A little later: most run another program at once, and until then may share memory.
            self.looks.done(Looks::first(pid));
        }
    }

    /// A process was seen to use TLS on a socket.
    pub(crate) fn process_uses_tls(&mut self, pid: u32) {
        if self.tls.as_ref().is_none_or(|tls| tls.is_probed(pid)) {
            return;
        }
        self.look_at(Looks::first(pid));
        if let Some(tls) = &mut self.tls {
            tls.tell_if_unread(pid);
        }
    }

    /// A process is gone.
    pub(crate) fn process_ended(&mut self, pid: u32) {
        if let Some(goroutines) = &mut self.goroutines {
            goroutines.ended(pid);
        }
        if let Some(tokio) = &mut self.tokio {
            tokio.ended(pid);
        }
        self.forget_libraries(pid);
    }

    /// How long until a process is to be looked at that has started lately.
    pub(crate) fn until_next_look(&self) -> Option<Duration> {
        self.looks.until_next()
    }

    /// Looks at processes that have started lately. To be called some hundred times a second.
    pub(crate) fn look_at_new_processes(&mut self) {
        for _ in 0..MOST_LOOKS {
            let Some(look) = self.looks.take_due() else { break };
            self.look_at(look);
        }
    }

    /// Looks at what of `processes` has to be known before their traffic is looked at.
    pub(super) fn look_at_all(
        &mut self,
        processes: &HashSet<u32>,
        is_excluded: impl Fn(u32) -> bool,
    ) {
        self.sweep_executables(processes, &is_excluded);
        let Some(python) = &mut self.python else { return };
        for &pid in processes.iter().filter(|&&pid| !is_excluded(pid)) {
            if let Some(maps) = mapped::of(pid) {
                python.look_at(pid, &parsed(&maps));
            }
        }
    }

    /// Looks at those of `processes` that were not seen to start, and at what others have loaded since
    /// they were looked at, and forgets all that are not among them.
    pub(super) fn sweep(&mut self, processes: &HashSet<u32>, is_excluded: impl Fn(u32) -> bool) {
        self.sweep_executables(processes, &is_excluded);
        if let Some(tls) = &mut self.tls {
            tls.keep_only(processes);
        }
        if let Some(python) = &mut self.python {
            python.keep_only(processes);
        }
        if let Some(node) = &mut self.node {
            node.keep_only(processes);
        }
        if let Some(ruby) = &mut self.ruby {
            ruby.keep_only(processes);
        }
        if !self.reads_maps() {
            return;
        }
        for &pid in processes.iter().filter(|&&pid| !is_excluded(pid)) {
            self.look_into(pid);
        }
    }

    /// What is told by the executable alone.
    fn sweep_executables(&mut self, now: &HashSet<u32>, is_excluded: impl Fn(u32) -> bool) {
        if let Some(goroutines) = &mut self.goroutines {
            goroutines.sweep(now, &is_excluded);
        }
        if let Some(tokio) = &mut self.tokio {
            tokio.sweep(now, &is_excluded);
        }
    }

    /// Whether it is of interest what processes have mapped.
    fn reads_maps(&self) -> bool {
        self.tls.is_some()
            || self.python.is_some()
            || self.node.is_some()
            || self.ruby.is_some()
            || self.tokio.is_some()
    }

    /// Looks at what a process has mapped to run it, and plans the next look.
    fn look_at(&mut self, look: Look) {
        if self.reads_maps() && self.look_into(look.pid) {
            self.looks.done(look);
        }
    }

    /// Answers whether the process is there.
    fn look_into(&mut self, pid: u32) -> bool {
        let Some(maps) = mapped::of(pid) else { return false };
        let maps = parsed(&maps);
        if let Some(tls) = &mut self.tls {
            tls.look_at(pid, &maps);
        }
        if let Some(python) = &mut self.python {
            python.look_at(pid, &maps);
        }
        if let Some(node) = &mut self.node {
            node.look_at(pid, &maps);
        }
        if let Some(ruby) = &mut self.ruby {
            ruby.look_at(pid, &maps);
        }
        if let Some(tokio) = &mut self.tokio {
            tokio.look_at_unseen(pid);
        }
        true
    }

    fn forget_libraries(&mut self, pid: u32) {
        if let Some(tls) = &mut self.tls {
            tls.forget(pid);
        }
        if let Some(python) = &mut self.python {
            python.forget(pid);
        }
        if let Some(node) = &mut self.node {
            node.forget(pid);
        }
        if let Some(ruby) = &mut self.ruby {
            ruby.forget(pid);
        }
    }

    /// Takes probes out of processes that come to them too often. To be called about once a second.
    pub(crate) fn count_probes(&mut self) {
        if let Some(goroutines) = &mut self.goroutines {
            goroutines.count_births();
        }
        if let Some(tls) = &mut self.tls {
            tls.count_calls();
        }
        if let Some(python) = &mut self.python {
            python.count_cost();
        }
        if let Some(tokio) = &mut self.tokio {
            tokio.count_cost();
        }
    }
}

/// The lines of a `/proc/PID/maps` that name files.
fn parsed(maps: &str) -> Vec<Mapped<'_>> {
    maps.lines().filter_map(Mapped::parse).collect()
}
