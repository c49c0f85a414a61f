//! The programs loaded, set up and attached, and what can be asked of them while they run.

use std::collections::{HashMap as StdHashMap, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray, RingBuf, SkStorage, SockHash};
use aya::programs::SkMsg;
use aya::{Ebpf, Pod};
use tracewire_common::config::{KernelConfig, PROCESS_ALLOWED, PROCESS_EXCLUDED};
use tracewire_common::connection::Connection;
use tracewire_common::golang::GoProcess;
use tracewire_common::python::PyProcess;
use tracewire_common::tls::{Session, SessionKey};
use tracewire_common::tokio::TokioProcess;

use super::adopt;
use super::counts::read_counters;
use super::enrolment::{self, Readability};
use super::messages::Messages;
use super::ports::{self, PortRules};
use super::programs;
use super::quiet::Quiet;
use super::reader::Records;
use super::requirements::requirements;
use super::runtimes::{self, Runtimes};
use super::scope::Scope;
use super::settings::{KernelSettings, Propagation, activity_slots, kernel_config};
use super::stats::{self, ProgramRuns, Timing};
use super::takeover::{self, Pinned};
use super::uprobes::Maps;
use crate::{heap, privileges};

/// Why the programs do not run.
#[derive(Debug)]
pub(crate) struct LoadError(pub(crate) String);

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LoadError {}

/// A shared struct, for aya.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Shared<T>(pub(super) T);

// SAFETY: `repr(C)`, integers only, explicit padding (agent-common/src/config.rs).
unsafe impl Pod for Shared<KernelConfig> {}
// SAFETY: as above (agent-common/src/golang.rs).
unsafe impl Pod for Shared<GoProcess> {}
// SAFETY: as above (agent-common/src/python.rs).
unsafe impl Pod for Shared<PyProcess> {}
// SAFETY: as above (agent-common/src/tokio.rs).
unsafe impl Pod for Shared<TokioProcess> {}
// SAFETY: as above (agent-common/src/connection.rs).
unsafe impl Pod for Shared<Connection> {}
// SAFETY: as above (agent-common/src/tls.rs).
unsafe impl Pod for Shared<SessionKey> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Session> {}

/// The kernel half. It is detached when this is dropped.
pub(crate) struct Kernel {
    ebpf: Ebpf,
    scope: Scope,
    /// The program that learns who receives, of two.
    receive: &'static str,
    /// Whether contexts are carried in a TCP option.
    tcp_option: bool,
    processes: HashMap<MapData, u32, u8>,
    enrolled: SockHash<MapData, u64>,
    counts: PerCpuArray<MapData, u64>,
    connections: SkStorage<MapData, Shared<Connection>>,
    ports: PortRules,
    propagating: bool,
    /// Whether a socket may be taken out of the map: not where received bytes wait
    /// behind a verdict program, for the kernel throws those away.
    sockets_may_leave: bool,
    /// The cookies of sockets older than this agent that are in the map.
    inherited: HashSet<u64>,
    runtimes: Runtimes,
    messages: Messages,
    /// Held open: the kernel empties it when it is closed, and rewriting ends.
    stages: ProgramArray<MapData>,
    /// Likewise: without it HTTP/2 is not read.
    _http2: Vec<ProgramArray<MapData>>,
    _timing: Option<Timing>,
}

impl Kernel {
    /// Loads everything. From now on it is seen which processes begin, run another program, and end;
    /// traffic is not looked at yet.
    ///
    /// # Errors
    ///
    /// If the machine lacks something; the message says what, and what to do.
    pub(crate) fn load(scope: Scope, settings: &KernelSettings) -> Result<(Self, Records)> {
        if let Some(message) = requirements().into_iter().find_map(|r| r.state.err()) {
            return Err(LoadError(message).into());
        }
        let predecessor = takeover::is_possible()
            .then(|| takeover::find(&adopt::sockets_in_scope(&scope)))
            .flatten();
        let pinned = predecessor.as_ref().and_then(|predecessor| {
            Pinned::new(predecessor)
                .inspect_err(|error| {
                    tracing::warn!(
                        sockets = predecessor.sockets.len(),
                        error = format!("{error:#}"),
                        "connections that an earlier agent enrolled are read, but get no headers"
                    );
                })
                .ok()
        });
        let mut loader = programs::loader();
        if let Some(pinned) = &pinned {
            loader
                .map_pin_path("ENROLLED", pinned.enrolled())
                .map_pin_path("STAGES", pinned.stages());
        }
        if !settings.tcp_option {
            // Nobody writes to them.
            loader.map_max_entries("CONTEXTS_RECEIVED", 1).map_max_entries("CONTEXTS_TO_SEND", 1);
        }
        let mut ebpf = loader
            .map_max_entries("RECORDS", settings.ring_bytes)
            .map_max_entries("ENROLLED", settings.max_connections)
            .map_max_entries("ACTIVITIES", activity_slots(settings))
            .map_max_entries("TASKS", settings.max_activities)
            .load(programs::object())
            .context("the kernel refused the agent's maps; smaller --ring-bytes, --max-connections or --max-activities may help")?;
        // It holds the kernel's types, some 20 MiB.
        drop(loader);
        heap::give_back();

        ports::tell(&mut ebpf, settings)?;

        let quiet = Quiet::new();
        // Before any map is taken from the object, for they name them all; and beside the others, for
        // the verifier takes its time.
        let maps = Maps::of(&ebpf);
        let propagates = settings.propagation != Propagation::Never;
        let (receive, probes) = std::thread::scope(|scope| {
            let probes =
                scope.spawn(|| runtimes::Programs::load(&maps, programs::object(), settings));
            let receive = programs::load_all(&mut ebpf, propagates, settings.tcp_option);
            let probes = probes.join().unwrap_or_default();
            receive.map(|receive| (receive, probes))
        })?;
        let runtimes = Runtimes::new(&mut ebpf, probes)?;
        let tcp_option = settings.tcp_option && runtimes.reads_tls();
        if settings.tcp_option && !tcp_option {
            tracing::warn!(
                "--propagate tcp-option has nothing to send or to take: no plaintext of TLS can be read on this kernel (tracewire check says why)"
            );
        }
        drop(quiet);
        let http2 = programs::place_http2(&mut ebpf, settings.propagation != Propagation::Never)?;
        let mut enrolled = enrolment::sockets(&mut ebpf)?;
        let stages = ProgramArray::try_from(
            ebpf.take_map("STAGES").context("the object has no map STAGES")?,
        )?;
        let readability = match settings.propagation {
            Propagation::Never => None,
            Propagation::WhereHarmless => {
                Some(enrolment::prepare(&mut ebpf, &mut enrolled, false)?)
            }
            Propagation::Always => Some(enrolment::prepare(&mut ebpf, &mut enrolled, true)?),
        };
        match readability {
            None | Some(Readability::Right) => {}
            Some(Readability::Broken) => tracing::warn!(
                "no request is given a header: on this kernel that would break ioctl(FIONREAD) for its socket, and what mends that harms connections; requests between services on this host are joined all the same, those to other hosts begin new traces; update the kernel, or accept the harm with --propagate always (README, Kernels)"
            ),
            Some(Readability::Restored) => tracing::warn!(
                "on this kernel client sockets that are given headers need a verdict program for FIONREAD, and this kernel's code for that has faults: a blocking recv() on them can return EAGAIN, splice() finds nothing, and rarely bytes come twice; update the kernel, or run with --propagate auto, which leaves sockets alone here (README, Kernels)"
            ),
            Some(Readability::Wrong) => {
                return Err(LoadError(
                    "this kernel answers FIONREAD wrongly for sockets in a socket map, with and without a verdict program, and programs that rely on it would stall: run without --propagate always, or on a kernel with the fix".to_owned(),
                )
                .into());
            }
        }
        let propagating = matches!(readability, Some(Readability::Right | Readability::Restored));
        let sockets_may_leave = readability == Some(Readability::Right);
        let config = kernel_config(&scope, settings, propagating, sockets_may_leave)?;
        let mut settings_map: Array<_, Shared<KernelConfig>> =
            Array::try_from(ebpf.take_map("CONFIG").context("the object has no map CONFIG")?)?;
        settings_map.set(0, Shared(config), 0)?;
        let processes = HashMap::try_from(
            ebpf.take_map("PROCESSES").context("the object has no map PROCESSES")?,
        )?;
        let counts = PerCpuArray::try_from(
            ebpf.take_map("COUNTS").context("the object has no map COUNTS")?,
        )?;
        let connections = SkStorage::try_from(
            ebpf.take_map("CONNECTIONS").context("the object has no map CONNECTIONS")?,
        )?;
        let records = Records::new(RingBuf::try_from(
            ebpf.take_map("RECORDS").context("the object has no map RECORDS")?,
        )?);
        let messages = Messages::new(&mut ebpf)?;
        let timing = settings.program_times.then(Timing::start).transpose()?;
        // Before anybody looks at what processes run: else one that runs another program meanwhile would
        // be taken for what it was.
        programs::attach_to_processes(&mut ebpf)?;
        let kernel = Self {
            ebpf,
            scope,
            receive,
            tcp_option,
            processes,
            enrolled,
            counts,
            connections,
            ports: PortRules::new(settings),
            propagating,
            sockets_may_leave,
            inherited: pinned.and(predecessor).map(|p| p.sockets).unwrap_or_default(),
            runtimes,
            messages,
            stages,
            _http2: http2,
            _timing: timing,
        };
        Ok((kernel, records))
    }

    /// Attaches everything else. Connections that exist are read from now on, and enrolled by
    /// [`Kernel::adopt`].
    ///
    /// # Errors
    ///
    /// If the kernel refuses it.
    pub(crate) fn attach(&mut self) -> Result<()> {
        programs::attach_all(&mut self.ebpf, &self.scope, self.receive, self.tcp_option)?;
        if self.propagating {
            let stage: &SkMsg = self
                .ebpf
                .program("rewrite_stage")
                .context("the object has no program rewrite_stage")?
                .try_into()?;
            self.stages
                .set(0, stage.fd()?, 0)
                .context("cannot put the rewriting program in place")?;
        }
        Ok(())
    }

    /// The cgroup that is looked at.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Takes over connections that are older than the agent. To be called again while
    /// some are postponed. `between` is called while it takes its time, and may break it off.
    pub(crate) fn adopt(
        &mut self,
        agent: u32,
        is_excluded: impl Fn(u32) -> bool,
        between: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> adopt::Adopted {
        adopt::adopt(
            &self.scope,
            &mut self.connections,
            self.propagating.then_some(adopt::Enrolment {
                map: &mut self.enrolled,
                inherited: &mut self.inherited,
                delicate: !self.sockets_may_leave,
            }),
            |pid| pid == agent || is_excluded(pid),
            |port| self.ports.leave_alone(port),
            between,
        )
    }

    /// Says whether the requests of a process may be touched.
    pub(crate) fn set_verdict(&mut self, pid: u32, allowed: bool) {
        let verdict = if allowed { PROCESS_ALLOWED } else { PROCESS_EXCLUDED };
        if let Err(error) = self.processes.insert(pid, verdict, 0) {
            tracing::debug!(pid, %error, "cannot tell the kernel half about a process");
        }
    }

    /// The runtimes and libraries of processes in scope.
    pub(crate) fn runtimes(&mut self) -> &mut Runtimes {
        &mut self.runtimes
    }

    /// Looks at the runtimes of processes in scope. To be called before traffic is looked at: what
    /// their threads receive would else be taken for what they work on, until it is known that they
    /// have goroutines or tasks for that.
    pub(crate) fn look_at_runtimes(&mut self, is_excluded: impl Fn(u32) -> bool) {
        self.runtimes.look_at_all(&self.processes_in_scope(), is_excluded);
    }

    /// Looks for processes in scope that were not seen to start or to end, and for what others have
    /// loaded since they were looked at.
    pub(crate) fn sweep_processes(&mut self, is_excluded: impl Fn(u32) -> bool) {
        self.runtimes.sweep(&self.processes_in_scope(), is_excluded);
    }

    fn processes_in_scope(&self) -> HashSet<u32> {
        self.scope.processes().into_iter().collect()
    }

    /// Logs what the kernel half has to say.
    pub(crate) fn log_messages(&mut self) {
        self.messages.log();
    }

    /// A connection turned out not to be HTTP/1.x, and its sends need no program any more; or it comes to
    /// harm in the socket map.
    pub(crate) fn release(&mut self, cookie: u64) {
        if self.sockets_may_leave {
            // It may never have been enrolled, or be closed by now.
            let _gone = self.enrolled.remove(&cookie);
        }
    }

    /// The kernel half's counters that are not zero, by name.
    pub(crate) fn counters(&self) -> StdHashMap<&'static str, u64> {
        read_counters(&self.counts)
    }

    /// What the programs did, if that is counted.
    pub(crate) fn program_runs(&self) -> Vec<ProgramRuns> {
        let mut runs = stats::runs(&self.ebpf, programs::names());
        let probes = self.runtimes.programs();
        runs.extend(probes.filter_map(|(name, program)| stats::runs_of(name, program)));
        runs
    }

    /// Whether this kernel lets nobody ask for a map's entries without `CAP_BPF`: those
    /// before 5.19 do not, where `kernel.unprivileged_bpf_disabled` is set.
    pub(crate) fn needs_capability(&self) -> bool {
        let asked = privileges::without_any(|| self.counts.get(&0, 0).is_ok());
        asked != Some(true)
    }

    /// Detaches every program, at once; traffic goes on without them. Answers the last
    /// counters and runs: nothing is counted, and no record written, after them.
    pub(crate) fn detach(self) -> (StdHashMap<&'static str, u64>, Vec<ProgramRuns>) {
        let runs = self.program_runs();
        let Self { ebpf, counts, mut enrolled, mut stages, runtimes, .. } = self;
        if self.propagating
            && let Err(error) = stages.clear_index(&0)
        {
            tracing::debug!(%error, "the rewriting program goes with its map");
        }
        if self.sockets_may_leave {
            let sockets: Vec<u64> = enrolled.keys().flatten().collect();
            for cookie in sockets {
                // It may be closed by now.
                let _gone = enrolled.remove(&cookie);
            }
        }
        drop((stages, enrolled, runtimes, ebpf));
        await_running_programs();
        (read_counters(&counts), runs)
    }
}

/// How long programs are given where the kernel cannot be asked about them.
const SETTLING: Duration = Duration::from_millis(20);

/// Waits for programs that were at work when they were detached. They run inside RCU
/// read-side critical sections, and `MEMBARRIER_CMD_GLOBAL` waits for all of these
/// (`synchronize_rcu`, kernel/sched/membarrier.c).
fn await_running_programs() {
    // SAFETY: plain integers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // Not built in, or refused beside CPUs without a tick.
        std::thread::sleep(SETTLING);
    }
}
