//! Processes of Ruby: the kernel half sees which thread takes up which request.

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};

use super::inspected::Found;
use super::probed::Probed;
use super::seccomp;
use super::tls::raise_open_files;
use super::uprobes::{Maps, Place, Uprobe};
use crate::ruby::{self, SocketOptions};
use crate::tls::mapped::Mapped;

/// The program.
pub(super) const ENTRY: &str = "note_ruby_entry";

/// The program, as the kernel has taken it.
pub(super) struct Programs {
    entry: Uprobe,
}

impl Programs {
    /// Loads it.
    ///
    /// # Errors
    ///
    /// If the kernel has no such probes.
    pub(super) fn load(maps: &Maps, object: &[u8]) -> Result<Self> {
        seccomp::require_all_threads()?;
        raise_open_files();
        let entry =
            Uprobe::load(maps, object, ENTRY).with_context(|| format!("program {ENTRY}"))?;
        Ok(Self { entry })
    }

    /// Each, by name.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, &Uprobe)> {
        [(ENTRY, &self.entry)].into_iter()
    }
}

/// The processes of Ruby in scope.
pub(super) struct RubyProcesses {
    programs: Programs,
    probed: Probed<SocketOptions>,
}

impl RubyProcesses {
    /// No process yet.
    pub(super) fn new(programs: Programs) -> Self {
        let lost = "what threads of it send may lack parents, where others receive for them";
        Self { programs, probed: Probed::new("Ruby", lost) }
    }

    /// The programs that this kernel has taken.
    pub(super) fn programs(&self) -> impl Iterator<Item = (&'static str, &Uprobe)> {
        self.programs.each()
    }

    /// Whether the process is one of Ruby.
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

    /// Probes the C library of the process, if that runs Ruby.
    pub(super) fn look_at(&mut self, pid: u32, maps: &[Mapped<'_>]) {
        let Some(mapped) = ruby::c_library(maps) else { return };
        let entry = &self.programs.entry;
        let attach = |found: &Found<SocketOptions>| -> std::io::Result<Vec<OwnedFd>> {
            let place = [Place { offset: found.what.getsockopt, cookie: 0 }];
            Ok(vec![entry.attach(&found.file, &place, pid)?])
        };
        self.probed.look_at(pid, mapped, ruby::inspect, attach);
    }
}
