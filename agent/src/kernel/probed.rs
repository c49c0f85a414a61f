//! Processes in which files are probed that they have mapped, and the probes in them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use super::inspected::{Found, Inspected};
use super::uprobes::Closer;
use crate::tls::mapped::{FileNumber, Mapped};

/// Files of one kind, of which `T` says where they are probed.
pub(super) struct Probed<T> {
    /// What they are of, as people call it.
    name: &'static str,
    /// What is lost where they cannot be probed.
    lost: &'static str,
    inspected: Inspected<T>,
    /// Those that were found in a process, and the probes in it, which go with this.
    running: HashMap<u32, (Vec<FileNumber>, Vec<OwnedFd>)>,
    closer: Closer,
}

impl<T> Probed<T> {
    /// No process yet.
    pub(super) fn new(name: &'static str, lost: &'static str) -> Self {
        Self {
            name,
            lost,
            inspected: Inspected::new(),
            running: HashMap::new(),
            closer: Closer::default(),
        }
    }

    /// Whether a file is probed in the process.
    pub(super) fn is_in(&self, pid: u32) -> bool {
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

    /// Probes what the process has mapped, if it is of this kind and was not seen in it yet.
    pub(super) fn look_at(
        &mut self,
        pid: u32,
        mapped: &Mapped<'_>,
        inspect: impl FnOnce(&File) -> Option<T>,
        attach: impl FnOnce(&Found<T>) -> io::Result<Vec<OwnedFd>>,
    ) {
        let is_done = |(files, _): &(Vec<_>, _)| files.contains(&mapped.number);
        if self.inspected.is_plain(mapped.number) || self.running.get(&pid).is_some_and(is_done) {
            return;
        }
        let Some(found) = self.inspected.look_into(pid, mapped, inspect) else { return };
        let (name, path) = (self.name, mapped.path);
        match attach(&found) {
            Ok(all) => {
                tracing::debug!(path, pid, "{name} probed");
                let (files, probes) = self.running.entry(pid).or_default();
                files.push(mapped.number);
                probes.extend(all);
            }
            Err(error) if found.is_new => {
                tracing::warn!(path, pid, %error, "{name} cannot be probed: {}", self.lost);
            }
            Err(error) => tracing::debug!(path, pid, %error, "{name} cannot be probed"),
        }
    }
}

impl<T> Drop for Probed<T> {
    fn drop(&mut self) {
        self.closer.close(self.running.drain().flat_map(|(_, (_, probes))| probes).collect());
    }
}
