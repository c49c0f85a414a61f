//! Builds the agent from its parts, runs it, and takes it down again.

use std::io::stdout;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::assemble::{Assembler, OpenLimits};
use crate::cli::LogFormat;
use crate::config::{Output, RunConfig};
use crate::export::{Console, ConsoleConfig, OtlpExporter, QueueLimits, SpanSource, queue};
use crate::kernel::{Kernel, Scope};
use crate::metrics::Metrics;
use crate::reading::{Reader, Requests};
use crate::resolve::{Host, ProcFs, ProcessTable};
use crate::{heap, privileges};

/// What waits for the exporter, at most: with the text, some 25 MiB.
const QUEUED: QueueLimits = QueueLimits { spans: 32_768, text: 16 << 20 };

/// Where finished spans end.
enum Exporting {
    Console(Console<std::io::Stdout>),
    Otlp(OtlpExporter),
}

impl Exporting {
    fn new(output: Output, metrics: &Arc<Metrics>) -> Result<Self> {
        Ok(match output {
            Output::Console { colour } => Self::Console(Console::new(
                ConsoleConfig::new(colour),
                stdout(),
                Arc::clone(metrics),
            )),
            Output::Otlp(config) => Self::Otlp(OtlpExporter::new(config, Arc::clone(metrics))?),
        })
    }

    async fn run(self, source: SpanSource) {
        match self {
            Self::Console(console) => console.run(source).await,
            Self::Otlp(exporter) => exporter.run(source).await,
        }
    }
}

/// Runs the agent until it is told to stop.
///
/// # Errors
///
/// If it cannot start; nothing stays attached then.
pub(crate) fn run(config: RunConfig, log_format: LogFormat) -> Result<()> {
    let metrics = Arc::new(Metrics::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the agent's runtime")?;
    // Made inside the runtime: a lazily connected channel wants to know it.
    let exporting = {
        let _inside = runtime.enter();
        Exporting::new(config.output, &metrics)?
    };
    let mut stop = runtime.block_on(async { Stop::new() })?;

    let scope = Scope::claim(config.cgroup.as_deref())?;
    let losses = privileges::losses();
    let (mut kernel, mut records) = Kernel::load(scope, &config.kernel)?;
    heap::give_back();
    let executables = config.executables;
    if executables.are_listed() {
        for pid in kernel.scope().processes() {
            let path = crate::reading::executable_of(pid);
            kernel.set_verdict(pid, executables.include(path.as_deref()));
        }
    }
    kernel.look_at_runtimes(crate::reading::is_excluded(&executables));
    kernel.attach()?;
    // Not before: on a busy host the verifier's second of work would take a minute, and what comes
    // meanwhile has no spans.
    stand_back(config.nice);
    // From here on there are threads, which inherit what is left.
    let kept = privileges::drop_unneeded(kernel.needs_capability())?;
    for loss in losses {
        tracing::warn!("{loss}");
    }
    let (sink, source) = queue(QUEUED, Arc::clone(&metrics));
    let filter = executables.clone();
    let processes = ProcessTable::new(
        ProcFs::at("/proc"),
        Host::detect(),
        Box::new(move |path| filter.include(path)),
        Arc::clone(&metrics),
    );
    let mut assembler =
        Assembler::new(processes, sink, OpenLimits::default(), Arc::clone(&metrics));

    // Of those that have started since, too, and of what else can be read in them.
    crate::reading::sweep(&mut kernel, &executables);
    let requests =
        Arc::new(Requests { stop: AtomicBool::new(false), report: AtomicBool::new(false) });
    let adopted = crate::reading::adopt(
        &mut kernel,
        &executables,
        &mut records,
        &mut assembler,
        &metrics,
        &requests.stop,
    );
    tracing::info!(
        cgroup = %kernel.scope().path.display(),
        adopted = adopted.connections,
        enrolled = adopted.enrolled,
        refused = adopted.refused,
        postponed = adopted.postponed,
        capabilities = kept.join(","),
        "ready"
    );

    let reader = Reader::new(
        kernel,
        records,
        assembler,
        executables,
        log_format,
        adopted.postponed,
        Arc::clone(&metrics),
    );
    let reading = {
        let requests = Arc::clone(&requests);
        std::thread::Builder::new()
            .name("read".to_owned())
            .spawn(move || reader.run(&requests))
            .context("cannot start the thread that reads records")?
    };
    runtime.block_on(async {
        let export = exporting.run(source);
        let told = stop.wait(&requests);
        tokio::pin!(export);
        tokio::select! {
            // The exporter ends only when the reader does; a reader that ended by itself
            // panicked, and its join says so.
            () = &mut export => {}
            () = told => {
                requests.stop.store(true, Ordering::Relaxed);
                // The reader detaches, empties the ring buffer and ends the queue; then
                // the exporter flushes, within its own deadline.
                export.await;
            }
        }
    });
    let (counters, runs) =
        reading.join().map_err(|_| anyhow::anyhow!("the thread that reads records panicked"))?;
    crate::reading::report("stopped", log_format, &counters, &runs, &metrics);
    Ok(())
}

/// Lets the workload go first. A busy host then loses spans, counted, before it loses speed.
fn stand_back(nice: i32) {
    // SAFETY: plain integers; threads made later inherit it.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } != 0 {
        tracing::warn!(nice, error = %std::io::Error::last_os_error(), "cannot set the priority");
    }
}

/// Signals that the agent heeds.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    report: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            report: listen(SignalKind::user_defined1())?,
        })
    }

    /// Ends when the agent is told to stop. SIGUSR1 asks for the counters meanwhile.
    async fn wait(&mut self, requests: &Requests) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                _ = self.report.recv() => requests.report.store(true, Ordering::Relaxed),
            }
        }
    }
}
