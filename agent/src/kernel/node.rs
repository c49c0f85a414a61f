//! Processes of Node.js: the kernel half sees when one runs timers.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};

use super::inspected::Found;
use super::probed::Probed;
use super::seccomp;
use super::tls::raise_open_files;
use super::uprobes::{Maps, Place, Uprobe};
use crate::node::{self, NodeBinary};
use crate::tls::mapped::Mapped;

/// The programs.
pub(super) const ENTRY: &str = "note_node_entry";
pub(super) const RETURN: &str = "note_node_return";

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

    fn attach(&self, found: &Found<NodeBinary>, pid: u32) -> io::Result<Vec<OwnedFd>> {
        let place = [Place { offset: found.what.run_timers, cookie: 0 }];
        // What began before it was seen to is not taken for running when it has ended.
        let back = self.back.attach_returns(&found.file, &place, pid)?;
        Ok(vec![back, self.entry.attach(&found.file, &place, pid)?])
    }
}

/// The processes of Node in scope.
pub(super) struct NodeProcesses {
    programs: Programs,
    probed: Probed<NodeBinary>,
}

impl NodeProcesses {
    /// No process yet.
    pub(super) fn new(programs: Programs) -> Self {
        let lost = "what it sends may lack parents, where it has timers";
        Self { programs, probed: Probed::new("Node", lost) }
    }

    /// The programs that this kernel has taken.
    pub(super) fn programs(&self) -> impl Iterator<Item = (&'static str, &Uprobe)> {
        self.programs.each()
    }

    /// Whether the process is one of Node.
    pub(super) fn is_probed(&self, pid: u32) -> bool {
        self.probed.is_in(pid)
    }

    /// A process is gone, or runs a new program.
    pub(super) fn forget(&mut self, pid: u32) {
        self.probed.forget(pid);
    }

    /// Forgets processes that were not seen to end.
    pub(super) fn keep_only(&mut self, now: &HashSet<u32>) {
        self.probed.keep_only(now);
    }

    /// Probes what the process has mapped of Node and was not seen in it yet.
    pub(super) fn look_at(&mut self, pid: u32, maps: &[Mapped<'_>]) {
        for mapped in maps {
            let attach = |found: &Found<NodeBinary>| self.programs.attach(found, pid);
            self.probed.look_at(pid, mapped, node::inspect, attach);
        }
    }
}
