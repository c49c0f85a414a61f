//! Processes of Node.js: the kernel half sees when one runs timers.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};

use super::inspected::{Found, Inspected};
use super::seccomp;
use super::tls::raise_open_files;
use super::uprobes::{Closer, Maps, Place, Uprobe};
use crate::node::{self, NodeBinary};
use crate::tls::mapped::{FileNumber, Mapped};

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

    fn attach(&self, found: &Found<NodeBinary>, pid: u32) -> io::Result<[OwnedFd; 2]> {
        let place = [Place { offset: found.what.run_timers, cookie: 0 }];
        // What began before it was seen to is not taken for running when it has ended.
        let back = self.back.attach_returns(&found.file, &place, pid)?;
        Ok([back, self.entry.attach(&found.file, &place, pid)?])
    }
}

/// The processes of Node in scope.
pub(super) struct NodeProcesses {
    programs: Programs,
    inspected: Inspected<NodeBinary>,
    /// Files of Node that were found in a process, and the probes in it, which go with this.
    running: HashMap<u32, (Vec<FileNumber>, Vec<OwnedFd>)>,
    closer: Closer,
}

impl NodeProcesses {
    /// No process yet.
    pub(super) fn new(programs: Programs) -> Self {
        Self {
            programs,
            inspected: Inspected::new(),
            running: HashMap::new(),
            closer: Closer::default(),
        }
    }

    /// The programs that this kernel has taken.
    pub(super) fn programs(&self) -> impl Iterator<Item = (&'static str, &Uprobe)> {
        self.programs.each()
    }

    /// Whether the process is one of Node.
    pub(super) fn is_probed(&self, pid: u32) -> bool {
        self.running.get(&pid).is_some_and(|(_, probes)| !probes.is_empty())
    }

    /// A process is gone, or runs a new program.
    pub(super) fn forget(&mut self, pid: u32) {
        if let Some((_, probes)) = self.running.remove(&pid) {
            self.closer.close(probes);
        }
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

    /// Probes what the process has mapped of Node and was not seen in it yet.
    pub(super) fn look_at(&mut self, pid: u32, maps: &[Mapped<'_>]) {
        for mapped in maps {
            let is_done = |(files, _): &(Vec<_>, _)| files.contains(&mapped.number);
            if self.inspected.is_plain(mapped.number) || self.running.get(&pid).is_some_and(is_done)
            {
                continue;
            }
            let Some(found) = self.inspected.look_into(pid, mapped, node::inspect) else {
                continue;
            };
            match self.programs.attach(&found, pid) {
                Ok(both) => {
                    tracing::debug!(path = mapped.path, pid, "Node probed");
                    let (files, probes) = self.running.entry(pid).or_default();
                    files.push(mapped.number);
                    probes.extend(both);
                }
                Err(error) if found.is_new => {
                    tracing::warn!(path = mapped.path, pid, %error, "Node cannot be probed: what it sends may lack parents, where it has timers");
                }
                Err(error) => {
                    tracing::debug!(path = mapped.path, pid, %error, "Node cannot be probed")
                }
            }
        }
    }
}

impl Drop for NodeProcesses {
    fn drop(&mut self) {
        self.closer.close(self.running.drain().flat_map(|(_, (_, probes))| probes).collect());
    }
}
