//! From a process id to the resource that its spans belong to.
//!
//! Processes are known from records (copied in the kernel at exec, so that the
//! shortest-lived keep their names), from their parents (a forked child is what
//! its parent was), and from `/proc` when they are older than the agent, read at
//! their first span. What is known is kept for a minute after they leave.

pub(crate) mod container;
mod host;
pub(crate) mod identity;
mod interpreters;
mod otel_env;
pub(crate) mod percent;
pub(crate) mod procfs;
mod resource;
mod service_name;

pub(crate) use host::Host;
pub(crate) use procfs::ProcFs;
pub(crate) use resource::{Resource, ResourceValue};

use crate::metrics::{Metric, Metrics};
use identity::Identity;
use resource::Instance;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use tracewire_common::records::{ProcessEvent, ProcessExec};

/// Decides by the path of its executable (its bare name where the path is not
/// known, `None` where nothing is) whether a process gets spans. Asked once for
/// each program that a process runs.
pub(crate) type ExecutableFilter = Box<dyn Fn(Option<&str>) -> bool + Send>;

/// Processes known at once.
pub(crate) const MAX_PROCESSES: usize = 16_384;
/// What is kept of them in all, in bytes. Most take a few hundred; one that is given many
/// attributes in its environment can take forty thousand.
const MAX_BYTES: usize = 16 << 20;
/// Cgroups whose container is remembered.
const MAX_CGROUPS: usize = 4_096;
/// How long a process is kept after it left: its last spans come late. In ns.
const KEEP_EXITED_NS: u64 = 60 * 1_000_000_000;
/// How often it is made sure that a process id still means the same process, in ns.
const VERIFY_NS: u64 = 10 * 1_000_000_000;
/// How often the table is swept, in ns.
const SWEEP_NS: u64 = 5 * 1_000_000_000;
/// How many unknown parents are asked for a name.
const MAX_ANCESTORS: usize = 8;

/// What is known of one process.
#[derive(Debug, Default)]
struct Process {
    identity: Option<Arc<Identity>>,
    /// The parent, if the birth was seen; 0 if not.
    parent_tgid: u32,
    cgroup_id: u64,
    /// Birth or exec, in ns of `CLOCK_MONOTONIC`; 0 if not seen.
    seen_ns: u64,
    /// Clock ticks from boot to the process's start; `None` if it could not be read.
    started: Option<u64>,
    /// The answer, once it was asked for.
    verdict: Option<Verdict>,
    /// When to make sure that the process is still the same.
    verify_ns: u64,
    exited_ns: Option<u64>,
}

impl Process {
    /// Bytes that are kept of it, about. What it shares with others counts for each.
    fn weight(&self) -> usize {
        let identity = self.identity.as_ref().map_or(0, |identity| identity.weight());
        let resource = match &self.verdict {
            Some(Verdict::Named(resource)) => resource.weight(),
            Some(Verdict::Excluded) | None => 0,
        };
        size_of::<Self>() + identity + resource
    }
}

#[derive(Clone, Debug)]
enum Verdict {
    Excluded,
    Named(Arc<Resource>),
}

impl Verdict {
    fn resource(&self) -> Option<Arc<Resource>> {
        match self {
            Self::Excluded => None,
            Self::Named(resource) => Some(Arc::clone(resource)),
        }
    }
}

/// The processes that spans may belong to.
pub(crate) struct ProcessTable {
    processes: FxHashMap<u32, Process>,
    containers: FxHashMap<u64, Option<Arc<str>>>,
    proc: ProcFs,
    host: Host,
    filter: ExecutableFilter,
    /// The answer for spans without a process.
    nobody: Verdict,
    max_processes: usize,
    max_bytes: usize,
    /// The weight of all in `processes`.
    bytes: usize,
    swept_ns: u64,
    metrics: Arc<Metrics>,
}

impl ProcessTable {
    /// An empty table over a mounted proc file system.
    pub(crate) fn new(
        proc: ProcFs,
        host: Host,
        filter: ExecutableFilter,
        metrics: Arc<Metrics>,
    ) -> Self {
        let nobody = if filter(None) {
            Verdict::Named(Arc::new(Resource::unknown_on(&host)))
        } else {
            Verdict::Excluded
        };
        Self {
            processes: FxHashMap::default(),
            containers: FxHashMap::default(),
            proc,
            host,
            filter,
            nobody,
            max_processes: MAX_PROCESSES,
            max_bytes: MAX_BYTES,
            bytes: 0,
            swept_ns: 0,
            metrics,
        }
    }

    /// A process runs a program: whatever it was before, it is that now.
    pub(crate) fn on_exec(&mut self, exec: &ProcessExec, args: &[u8], environ: &[u8]) {
        let comm = exec.comm.split(|&byte| byte == 0).next().unwrap_or_default();
        let comm = String::from_utf8_lossy(comm);
        // A copy that does not end in NUL is cut; a process that lives can be asked.
        let whole = match environ.last() {
            Some(0) => None,
            _ => self.proc.read(exec.tgid, "environ"),
        };
        let environ = whole.as_deref().unwrap_or(environ);
        let executable = self.proc.executable(exec.tgid).or_else(|| {
            // Gone already: the path that was executed, where it was an absolute one.
            exec.executable()
                .map(|path| String::from_utf8_lossy(path).into_owned())
                .filter(|path| path.starts_with('/'))
        });
        let identity = Identity::new(executable, &comm, args, environ);
        // Asked now, since it may soon be too late.
        self.container_id(exec.tgid, exec.cgroup_id);
        let parent_tgid = self.processes.get(&exec.tgid).map_or(0, |process| process.parent_tgid);
        self.insert(
            exec.tgid,
            Process {
                identity: Some(Arc::new(identity)),
                parent_tgid,
                cgroup_id: exec.cgroup_id,
                seen_ns: exec.time_ns,
                ..Process::default()
            },
            exec.time_ns,
        );
    }

    /// A process was born: it is what its parent is, until it runs a program itself.
    pub(crate) fn on_fork(&mut self, event: &ProcessEvent) {
        let parent = self.processes.get(&event.parent_tgid);
        let child = Process {
            identity: parent.and_then(|parent| parent.identity.clone()),
            parent_tgid: event.parent_tgid,
            cgroup_id: parent.map_or(0, |parent| parent.cgroup_id),
            seen_ns: event.time_ns,
            ..Process::default()
        };
        self.insert(event.tgid, child, event.time_ns);
    }

    /// A process left. It is remembered for a while.
    pub(crate) fn on_exit(&mut self, event: &ProcessEvent) {
        if let Some(process) = self.processes.get_mut(&event.tgid) {
            process.exited_ns = Some(event.time_ns);
        }
    }

    /// The resource of a process; `None` if the process is to have no spans.
    /// `tgid` and `cgroup_id` are 0 where they are not known.
    pub(crate) fn resource(
        &mut self,
        tgid: u32,
        cgroup_id: u64,
        now_ns: u64,
    ) -> Option<Arc<Resource>> {
        if let Some(process) = self.processes.get(&tgid)
            && let Some(verdict) = &process.verdict
            && (now_ns < process.verify_ns || process.exited_ns.is_some())
        {
            return verdict.resource();
        }
        if tgid == 0 {
            self.metrics.increment(Metric::ProcessesUnknown);
            return self.nobody.resource();
        }
        self.resolve(tgid, cgroup_id, now_ns).resource()
    }

    /// Forgets processes that left a while ago.
    pub(crate) fn sweep(&mut self, now_ns: u64) {
        if now_ns < self.swept_ns.saturating_add(SWEEP_NS) {
            return;
        }
        self.swept_ns = now_ns;
        self.forget_where(|process| {
            process.exited_ns.is_some_and(|exited| now_ns.saturating_sub(exited) >= KEEP_EXITED_NS)
        });
    }

    fn resolve(&mut self, tgid: u32, cgroup_id: u64, now_ns: u64) -> Verdict {
        let started = self.proc.started(tgid);
        let mut process = self.remove(tgid).unwrap_or_default();
        // A process id that means another process now: its exit was not seen.
        if let (Some(before), Some(now)) = (process.started, started)
            && before != now
        {
            process = Process::default();
        }
        process.started = process.started.or(started);
        process.verify_ns = now_ns + VERIFY_NS;
        if process.cgroup_id == 0 {
            process.cgroup_id = cgroup_id;
        }
        // A process that was not there to be read may be there now.
        if process.identity.is_none() {
            process.identity = self
                .identity_from_proc(tgid)
                .or_else(|| self.identity_of_ancestor(process.parent_tgid))
                .map(Arc::new);
            process.verdict = None;
        }
        let verdict = match process.verdict.take() {
            Some(verdict) => verdict,
            None => self.judge(tgid, &process),
        };
        process.verdict = Some(verdict.clone());
        self.insert(tgid, process, now_ns);
        verdict
    }

    fn judge(&mut self, tgid: u32, process: &Process) -> Verdict {
        let unknown = Identity::default();
        let identity = process.identity.as_deref().unwrap_or(&unknown);
        if process.identity.is_none() {
            self.metrics.increment(Metric::ProcessesUnknown);
        }
        let executable =
            identity.executable_path.as_deref().or(identity.executable_name.as_deref());
        if !(self.filter)(executable) {
            return Verdict::Excluded;
        }
        let instance = Instance { tgid, started: process.started.unwrap_or(process.seen_ns) };
        let container_id = self.container_id(tgid, process.cgroup_id);
        Verdict::Named(Arc::new(Resource::of_process(identity, instance, container_id, &self.host)))
    }

    fn identity_from_proc(&self, tgid: u32) -> Option<Identity> {
        let args = self.proc.read(tgid, "cmdline")?;
        let comm = self.proc.read(tgid, "comm").unwrap_or_default();
        // May be refused where cmdline is not (another user's process, no capability).
        let environ = self.proc.read(tgid, "environ").unwrap_or_default();
        let comm = String::from_utf8_lossy(comm.trim_ascii_end());
        Some(Identity::new(self.proc.executable(tgid), &comm, &args, &environ))
    }

    /// The identity of the nearest ancestor that has one: a child that forked
    /// without exec is what its parent is.
    fn identity_of_ancestor(&self, mut tgid: u32) -> Option<Identity> {
        for _ in 0..MAX_ANCESTORS {
            if tgid == 0 {
                return None;
            }
            let parent = self.processes.get(&tgid);
            if let Some(identity) = parent.and_then(|parent| parent.identity.as_deref()) {
                return Some(identity.clone());
            }
            if let Some(identity) = self.identity_from_proc(tgid) {
                return Some(identity);
            }
            tgid = parent.map_or(0, |parent| parent.parent_tgid);
        }
        None
    }

    /// The container of a process; remembered by cgroup, so that a process that is
    /// gone has the container that its cgroup is known for.
    fn container_id(&mut self, tgid: u32, cgroup_id: u64) -> Option<Arc<str>> {
        if let Some(known) = self.containers.get(&cgroup_id) {
            return known.clone();
        }
        let cgroup = self.proc.read_text(tgid, "cgroup")?;
        let mut id = container::from_cgroup(&cgroup).map(Arc::from);
        if id.is_none() && container::is_cgroup_opaque(&cgroup) {
            let mounts = self.proc.read_text(tgid, "mountinfo");
            id = mounts.as_deref().and_then(container::from_mountinfo).map(Arc::from);
        }
        if cgroup_id != 0 {
            if self.containers.len() >= MAX_CGROUPS {
                self.containers.clear();
            }
            self.containers.insert(cgroup_id, id.clone());
        }
        id
    }

    fn insert(&mut self, tgid: u32, process: Process, now_ns: u64) {
        self.remove(tgid);
        let weight = process.weight();
        if self.is_full(weight) {
            self.make_room(weight, now_ns);
        }
        self.bytes += weight;
        self.processes.insert(tgid, process);
    }

    fn remove(&mut self, tgid: u32) -> Option<Process> {
        let process = self.processes.remove(&tgid)?;
        self.bytes -= process.weight();
        Some(process)
    }

    fn forget_where(&mut self, is_over: impl Fn(&Process) -> bool) {
        for (_, process) in self.processes.extract_if(|_, process| is_over(process)) {
            self.bytes -= process.weight();
        }
    }

    /// Whether one more process of such a weight is too much.
    fn is_full(&self, weight: usize) -> bool {
        self.processes.len() >= self.max_processes || self.bytes + weight > self.max_bytes
    }

    /// Makes room in a full table: first of all who left, else of anybody, who is
    /// read again from `/proc` when needed.
    fn make_room(&mut self, weight: usize, now_ns: u64) {
        if now_ns >= self.swept_ns.saturating_add(SWEEP_NS) {
            self.swept_ns = now_ns;
            self.forget_where(|process| process.exited_ns.is_some());
        }
        while self.is_full(weight)
            && let Some(&victim) = self.processes.keys().next()
        {
            self.remove(victim);
            self.metrics.increment(Metric::ProcessesEvicted);
        }
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
