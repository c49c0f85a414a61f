//! The thread that reads records from the kernel.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracewire_common::records::{EVENT_TLS, Record, decode};

use crate::assemble::Assembler;
use crate::cli::LogFormat;
use crate::executables::Executables;
use crate::kernel::{Adopted, Kernel, ProgramRuns, Records};
use crate::metrics::{Metric, Metrics};

/// How long records may wait. Short enough for a person at the console, long enough
/// to read many at once.
const PATIENCE: Duration = Duration::from_millis(10);
/// Records read before the clock is looked at again.
const BURST: usize = 4096;
/// How often drops are reported, if there were any.
const REPORT: Duration = Duration::from_secs(60);
/// How often connections are tried again that were in use when the agent started.
const ADOPTION: Duration = Duration::from_millis(500);
/// How much longer than trying took the next try is put off, at least.
const ADOPTION_REST: u32 = 10;
/// How many times: what is never idle in a minute stays without headers.
const ADOPTIONS: u32 = 120;
/// How often it is looked for processes that were not seen to start or to end.
const SWEEP: Duration = Duration::from_secs(10);
/// How often it is counted how often processes come to probes.
const COUNTING: Duration = Duration::from_secs(1);
/// What other threads ask of the reader.
#[derive(Debug)]
pub(crate) struct Requests {
    /// Stop.
    pub(crate) stop: AtomicBool,
    /// Log the counters.
    pub(crate) report: AtomicBool,
}

/// Reads, and does what records ask for.
pub(crate) struct Reader {
    kernel: Kernel,
    records: Records,
    assembler: Assembler,
    executables: Executables,
    log_format: LogFormat,
    postponed: usize,
    metrics: Arc<Metrics>,
    reported: HashMap<&'static str, u64>,
}

impl Reader {
    /// A reader over a running kernel half.
    pub(crate) fn new(
        kernel: Kernel,
        records: Records,
        assembler: Assembler,
        executables: Executables,
        log_format: LogFormat,
        postponed: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            postponed,
            kernel,
            records,
            assembler,
            executables,
            log_format,
            metrics,
            reported: HashMap::new(),
        }
    }

    /// Reads until it is told to stop, then detaches and reads what is left. Answers the
    /// kernel half's last counters, and what its programs did.
    pub(crate) fn run(
        mut self,
        requests: &Requests,
    ) -> (HashMap<&'static str, u64>, Vec<ProgramRuns>) {
        let mut next_report = Instant::now() + REPORT;
        let mut next_adoption = Instant::now() + ADOPTION;
        let mut next_sweep = Instant::now() + SWEEP;
        let mut next_counting = Instant::now() + COUNTING;
        let mut adoptions_left = ADOPTIONS;
        while !requests.stop.load(Ordering::Relaxed) {
            let patience =
                self.kernel.runtimes().until_next_look().unwrap_or(PATIENCE).min(PATIENCE);
            self.records.wait(patience);
            self.read();
            self.assembler.tick();
            self.kernel.runtimes().look_at_new_processes();
            self.kernel.log_messages();
            if requests.report.swap(false, Ordering::Relaxed) {
                report(
                    "counters",
                    self.log_format,
                    &self.kernel.counters(),
                    &self.kernel.program_runs(),
                    &self.metrics,
                );
            }
            if self.postponed > 0 && Instant::now() >= next_adoption {
                adoptions_left -= 1;
                let started = Instant::now();
                let adopted = self.adopt(&requests.stop);
                next_adoption = Instant::now() + ADOPTION.max(ADOPTION_REST * started.elapsed());
                self.postponed = if adoptions_left > 0 { adopted.postponed } else { 0 };
            }
            if Instant::now() >= next_counting {
                self.kernel.runtimes().count_probes();
                next_counting = Instant::now() + COUNTING;
            }
            if Instant::now() >= next_sweep {
                sweep(&mut self.kernel, &self.executables);
                next_sweep = Instant::now() + SWEEP;
            }
            if Instant::now() >= next_report {
                next_report += REPORT;
                self.report_drops();
            }
        }
        let Self { kernel, mut records, mut assembler, metrics, .. } = self;
        let last = kernel.detach();
        // Nobody writes any more, so this ends with what the ring buffer holds.
        records.drain(usize::MAX, |bytes| {
            // What it asks of the kernel half comes too late.
            let _wish = on_bytes(bytes, &mut assembler, &metrics);
        });
        assembler.finish();
        last
    }

    fn read(&mut self) {
        let mut wishes = Wishes::default();
        take(&mut self.records, &mut self.assembler, &self.metrics, &mut wishes);
        wishes.grant(&mut self.kernel, &self.executables);
    }

    fn adopt(&mut self, stop: &AtomicBool) -> Adopted {
        let Self { kernel, records, assembler, executables, metrics, .. } = self;
        adopt(kernel, executables, records, assembler, metrics, stop)
    }

    /// Says what was lost since the last time, if anything.
    fn report_drops(&mut self) {
        let mut now = self.kernel.counters();
        now.extend(self.metrics.snapshot());
        now.retain(|name, _| name.starts_with("drop_"));
        for (name, &value) in &now {
            let before = self.reported.get(name).copied().unwrap_or(0);
            if value > before {
                tracing::warn!(
                    reason = name,
                    lost = value - before,
                    total = value,
                    "spans were lost"
                );
            }
        }
        self.reported = now;
    }
}

/// What a record asks of the kernel half.
enum Wish {
    /// The connection's sends need no program any more, or may have none. It carries TLS if there is a
    /// process.
    Release(u64, Option<u32>),
    /// The process runs a new program.
    Judge(u32),
    /// The process was made by another, which comes second.
    Forked(u32, u32),
    /// The process uses TLS on a socket.
    UsesTls(u32),
    /// The process is gone.
    Forget(u32),
}

/// Wishes that are kept until the kernel half is free for them, of each kind. One that is
/// not granted costs some time for each send, or leaves a process untouched.
const MAX_WISHES: usize = 65_536;

/// What records ask of the kernel half.
#[derive(Default)]
struct Wishes {
    opaque: Vec<u64>,
    /// What is about processes, in the order of what happened to them.
    processes: Vec<Wish>,
}

impl Wishes {
    fn add(&mut self, wish: Wish) {
        match wish {
            Wish::Release(cookie, tls) => {
                if self.opaque.len() < MAX_WISHES {
                    self.opaque.push(cookie);
                }
                if let Some(pid) = tls {
                    self.add(Wish::UsesTls(pid));
                }
            }
            about_process if self.processes.len() < MAX_WISHES => {
                self.processes.push(about_process)
            }
            _ => {}
        }
    }

    fn grant(self, kernel: &mut Kernel, executables: &Executables) {
        for cookie in self.opaque {
            kernel.release(cookie);
        }
        for wish in self.processes {
            let pid = match wish {
                Wish::Judge(pid) => pid,
                Wish::Forget(pid) => {
                    kernel.runtimes().process_ended(pid);
                    continue;
                }
                Wish::Forked(pid, parent) => {
                    kernel.runtimes().process_forked(pid, parent);
                    continue;
                }
                Wish::UsesTls(pid) => {
                    if !is_excluded(executables)(pid) {
                        kernel.runtimes().process_uses_tls(pid);
                    }
                    continue;
                }
                Wish::Release(..) => continue,
            };
            if executables.are_listed() {
                // A process that is gone by now keeps no verdict: nothing of it is touched.
                let Some(path) = executable_of(pid) else { continue };
                let is_included = executables.include(Some(&path));
                kernel.set_verdict(pid, is_included);
                if !is_included {
                    continue;
                }
            }
            kernel.runtimes().process_started(pid);
        }
    }
}

/// Takes records out of the ring buffer, at most a burst of them.
fn take(records: &mut Records, assembler: &mut Assembler, metrics: &Metrics, wishes: &mut Wishes) {
    records.drain(BURST, |bytes| {
        if let Some(wish) = on_bytes(bytes, assembler, metrics) {
            wishes.add(wish);
        }
    });
}

fn on_bytes(bytes: &[u8], assembler: &mut Assembler, metrics: &Metrics) -> Option<Wish> {
    match decode(bytes) {
        Ok(record) => {
            assembler.on_record(record);
            match record {
                Record::ConnectionOpaque(event) => {
                    let uses_tls = event.flags & EVENT_TLS != 0 && event.tgid != 0;
                    Some(Wish::Release(event.connection, uses_tls.then_some(event.tgid)))
                }
                Record::SocketSpared(event) => Some(Wish::Release(event.connection, None)),
                Record::ProcessExec(exec, ..) => Some(Wish::Judge(exec.tgid)),
                Record::ProcessFork(event) => Some(Wish::Forked(event.tgid, event.parent_tgid)),
                Record::ProcessExit(event) => Some(Wish::Forget(event.tgid)),
                _ => None,
            }
        }
        Err(_) => {
            metrics.increment(Metric::RecordsInvalid);
            None
        }
    }
}

/// Takes over connections that are older than the agent, and reads records meanwhile:
/// where there are many, the ring buffer would not hold what comes. Breaks off when told to
/// stop: behind a busy workload this can take many seconds.
pub(crate) fn adopt(
    kernel: &mut Kernel,
    executables: &Executables,
    records: &mut Records,
    assembler: &mut Assembler,
    metrics: &Metrics,
    stop: &AtomicBool,
) -> Adopted {
    let mut wishes = Wishes::default();
    let adopted = kernel.adopt(std::process::id(), is_excluded(executables), &mut || {
        take(records, assembler, metrics, &mut wishes);
        assembler.tick();
        if stop.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    wishes.grant(kernel, executables);
    adopted
}

/// Looks for processes that were not seen to start or to end.
pub(crate) fn sweep(kernel: &mut Kernel, executables: &Executables) {
    kernel.sweep_processes(is_excluded(executables));
}

/// Whether a process is left alone.
pub(crate) fn is_excluded(executables: &Executables) -> impl Fn(u32) -> bool + '_ {
    |pid| executables.are_listed() && !executables.include(executable_of(pid).as_deref())
}

/// The path of a process's executable, if it is still there.
pub(crate) fn executable_of(pid: u32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(path.to_string_lossy().trim_end_matches(" (deleted)").to_owned())
}

/// Logs every counter that is not zero: as text, or as an object in a line of JSON,
/// which the logging library cannot make of names that are not known beforehand.
pub(crate) fn report(
    what: &str,
    format: LogFormat,
    kernel: &HashMap<&'static str, u64>,
    programs: &[ProgramRuns],
    metrics: &Metrics,
) {
    let counted = kernel.iter().map(|(&name, &value)| (name, value)).chain(metrics.snapshot());
    let mut all: BTreeMap<Cow<'static, str>, u64> =
        counted.map(|(name, value)| (name.into(), value)).collect();
    for program in programs {
        all.insert(format!("program_{}_runs", program.name).into(), program.runs);
        all.insert(format!("program_{}_ns", program.name).into(), program.nanoseconds);
    }
    match format {
        LogFormat::Json => {
            eprintln!("{}", serde_json::json!({"level": "INFO", "message": what, "counters": all}));
        }
        LogFormat::Text => {
            let text: Vec<_> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
            tracing::info!(counters = text.join(" "), "{what}");
        }
    }
}
