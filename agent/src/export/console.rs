//! Finished traces on standard output, for people.
//!
//! Spans of one trace come one by one, the root's last in general. A trace is
//! finished when its root is there and nothing new has come for a second; one
//! whose root is elsewhere, when nothing has come for a few.

use super::queue::SpanSource;
use super::waterfall::render;
use crate::metrics::{Metric, Metrics};
use crate::span::Span;
use rustc_hash::FxHashMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// How long writing may go on after the queue has ended.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How the console gathers and draws.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConsoleConfig {
    /// Draw in colours.
    pub(crate) colour: bool,
    /// How long a trace with its root waits for more spans.
    pub(crate) quiet: Duration,
    /// How long a trace without its root does.
    pub(crate) quiet_without_root: Duration,
    /// Traces kept at once.
    pub(crate) max_traces: usize,
    /// Spans kept at once; also spans that may wait to be written.
    pub(crate) max_spans: usize,
}

impl ConsoleConfig {
    /// The defaults.
    pub(crate) fn new(colour: bool) -> Self {
        Self {
            colour,
            quiet: Duration::from_secs(1),
            quiet_without_root: Duration::from_secs(3),
            max_traces: 2_000,
            max_spans: 10_000,
        }
    }
}

/// A trace that may still grow.
#[derive(Debug)]
struct OpenTrace {
    spans: Vec<Span>,
    /// Number of the trace's first span among all: its age.
    order: u64,
    last_span: Instant,
    has_root: bool,
}

/// Prints traces.
#[derive(Debug)]
pub(crate) struct Console<W> {
    traces: Traces,
    out: W,
    metrics: Arc<Metrics>,
}

impl<W: Write + Send + 'static> Console<W> {
    /// A console that writes to `out`.
    pub(crate) fn new(config: ConsoleConfig, out: W, metrics: Arc<Metrics>) -> Self {
        Self { traces: Traces::new(config, Arc::clone(&metrics)), out, metrics }
    }

    /// Prints what comes out of the queue until it ends, then all that is left.
    pub(crate) async fn run(self, mut source: SpanSource) {
        let Self { mut traces, out, metrics } = self;
        let config = traces.config;
        let mut printer = Printer::start(out, config, metrics);
        let mut ticks = interval(config.quiet / 4);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                spans = source.recv() => match spans {
                    Some(spans) => {
                        let now = Instant::now();
                        for span in spans {
                            traces.add(span, now);
                        }
                    }
                    None => break,
                },
                _ = ticks.tick(), if !traces.open.is_empty() => traces.finish(Instant::now()),
            }
            printer.print(&mut traces.drawn);
        }
        traces.finish_all();
        printer.print(&mut traces.drawn);
        printer.stop().await;
    }
}

/// A drawn trace.
#[derive(Debug)]
struct Drawing {
    text: String,
    spans: u64,
}

/// A thread that writes, so that a reader who pauses a pipe or a terminal does not
/// stop the runtime, and the signals with it.
struct Printer {
    queue: Option<SyncSender<Drawing>>,
    thread: Option<JoinHandle<()>>,
    /// Spans given to the thread.
    handed: u64,
    /// Spans that the thread is done with.
    done: Arc<AtomicU64>,
    max_spans: u64,
    metrics: Arc<Metrics>,
}

impl Printer {
    fn start(
        mut out: impl Write + Send + 'static,
        config: ConsoleConfig,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (queue, drawings) = sync_channel::<Drawing>(config.max_traces);
        let done = Arc::new(AtomicU64::new(0));
        let write = {
            let (metrics, done) = (Arc::clone(&metrics), Arc::clone(&done));
            move || {
                for Drawing { text, spans } in drawings {
                    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                    let metric =
                        if written.is_ok() { Metric::SpansExported } else { Metric::DropConsole };
                    metrics.add(metric, spans);
                    done.fetch_add(spans, Ordering::Relaxed);
                }
            }
        };
        // Without the thread the queue has no other end, and every drawing is counted
        // as one that could not be written.
        let thread = std::thread::Builder::new().name("print".to_owned()).spawn(write);
        if let Err(error) = &thread {
            tracing::error!(%error, "cannot start the thread that prints traces");
        }
        let max_spans = config.max_spans as u64;
        Self { queue: Some(queue), thread: thread.ok(), handed: 0, done, max_spans, metrics }
    }

    /// Hands on drawings; those for which there is no room are dropped and counted.
    fn print(&mut self, drawings: &mut Vec<Drawing>) {
        for drawing in drawings.drain(..) {
            let spans = drawing.spans;
            let waiting = self.handed - self.done.load(Ordering::Relaxed);
            // One alone may be larger than all that may wait.
            if waiting > 0 && waiting + spans > self.max_spans {
                self.metrics.add(Metric::DropConsole, spans);
                continue;
            }
            match self.queue.as_ref().map(|queue| queue.try_send(drawing)) {
                Some(Ok(())) => self.handed += spans,
                Some(Err(_)) | None => self.metrics.add(Metric::DropConsole, spans),
            }
        }
    }

    /// Waits until all is written, for as long as is decent at a shutdown.
    async fn stop(mut self) {
        self.queue = None;
        let give_up = Instant::now() + FLUSH_TIMEOUT;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() >= give_up {
                let unwritten = self.handed - self.done.load(Ordering::Relaxed);
                self.metrics.add(Metric::DropShutdown, unwritten);
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Traces that may still grow, and those that are drawn and not yet handed on.
#[derive(Debug)]
struct Traces {
    config: ConsoleConfig,
    open: FxHashMap<[u8; 16], OpenTrace>,
    drawn: Vec<Drawing>,
    spans: usize,
    next_order: u64,
    metrics: Arc<Metrics>,
}

impl Traces {
    fn new(config: ConsoleConfig, metrics: Arc<Metrics>) -> Self {
        let open = FxHashMap::default();
        Self { config, open, drawn: Vec::new(), spans: 0, next_order: 0, metrics }
    }

    fn add(&mut self, span: Span, now: Instant) {
        let is_new = !self.open.contains_key(&span.trace_id);
        if self.spans >= self.config.max_spans
            || (is_new && self.open.len() >= self.config.max_traces)
        {
            self.metrics.increment(Metric::TracesCutShort);
            self.finish_oldest();
        }
        let order = self.next_order;
        self.next_order += 1;
        let trace = self.open.entry(span.trace_id).or_insert_with(|| OpenTrace {
            spans: Vec::new(),
            order,
            last_span: now,
            has_root: false,
        });
        trace.last_span = now;
        trace.has_root |= span.parent_span_id == 0;
        trace.spans.push(span);
        self.spans += 1;
    }

    fn finish(&mut self, now: Instant) {
        let config = self.config;
        self.draw_where(|trace| {
            let quiet = if trace.has_root { config.quiet } else { config.quiet_without_root };
            now.duration_since(trace.last_span) >= quiet
        });
    }

    fn finish_all(&mut self) {
        self.draw_where(|_| true);
    }

    fn finish_oldest(&mut self) {
        let oldest = self.open.values().map(|trace| trace.order).min();
        self.draw_where(|trace| Some(trace.order) == oldest);
    }

    /// Draws the traces that are ready, the oldest first.
    fn draw_where(&mut self, is_ready: impl Fn(&OpenTrace) -> bool) {
        let mut ready: Vec<OpenTrace> =
            self.open.extract_if(|_, trace| is_ready(trace)).map(|(_, trace)| trace).collect();
        ready.sort_by_key(|trace| trace.order);
        for trace in ready {
            self.spans -= trace.spans.len();
            let text = render(&trace.spans, self.config.colour);
            self.drawn.push(Drawing { text, spans: trace.spans.len() as u64 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::Resource;
    use crate::span::tests::example;

    fn traces(config: ConsoleConfig) -> Traces {
        Traces::new(config, Arc::default())
    }

    fn span(trace: u8, id: u64, parent: u64) -> Span {
        Span {
            trace_id: [trace; 16],
            span_id: id,
            parent_span_id: parent,
            ..example(Arc::new(Resource::unknown()))
        }
    }

    /// The first byte of the id of each drawn trace.
    fn drawn(traces: &Traces) -> Vec<&str> {
        traces.drawn.iter().filter_map(|drawing| drawing.text.get(6..8)).collect()
    }

    #[test]
    fn a_trace_waits_until_its_root_is_there_and_it_is_quiet() {
        let config = ConsoleConfig::new(false);
        let mut traces = traces(config);
        let start = Instant::now();
        traces.add(span(1, 2, 1), start);
        traces.finish(start + config.quiet);
        assert!(drawn(&traces).is_empty());
        traces.add(span(1, 1, 0), start + config.quiet);
        traces.finish(start + config.quiet + config.quiet / 2);
        assert!(drawn(&traces).is_empty());
        traces.finish(start + config.quiet * 2);
        assert_eq!(drawn(&traces), ["01"]);
        assert_eq!(traces.spans, 0);
        assert_eq!(traces.drawn[0].spans, 2);
    }

    #[test]
    fn a_trace_whose_root_is_elsewhere_is_printed_after_a_longer_wait() {
        let config = ConsoleConfig::new(false);
        let mut traces = traces(config);
        let start = Instant::now();
        traces.add(span(1, 2, 1), start);
        traces.finish(start + config.quiet_without_root);
        assert_eq!(drawn(&traces), ["01"]);
    }

    #[test]
    fn too_many_traces_push_out_the_oldest() {
        let mut traces = traces(ConsoleConfig { max_traces: 2, ..ConsoleConfig::new(false) });
        for trace in 1..=3 {
            traces.add(span(trace, 1, 0), Instant::now());
        }
        assert_eq!(drawn(&traces), ["01"]);
        assert_eq!(traces.metrics.get(Metric::TracesCutShort), 1);
        traces.finish_all();
        assert_eq!(drawn(&traces), ["01", "02", "03"]);
    }

    #[test]
    fn too_many_spans_push_out_the_oldest_trace() {
        let mut traces = traces(ConsoleConfig { max_spans: 3, ..ConsoleConfig::new(false) });
        for id in 1..=10 {
            traces.add(span(1, id, 0), Instant::now());
        }
        assert!(traces.spans <= 3);
        assert!(!drawn(&traces).is_empty());
    }

    /// Runs a console over one span until its queue has ended.
    async fn print_one(out: impl Write + Send + 'static) -> Arc<Metrics> {
        let metrics = Arc::new(Metrics::default());
        let (sink, source) = crate::export::queue(
            crate::export::queue::tests::spans_alone(10),
            Arc::clone(&metrics),
        );
        sink.push(vec![span(1, 1, 0)]);
        drop(sink);
        let console = Console::new(ConsoleConfig::new(false), out, Arc::clone(&metrics));
        console.run(source).await;
        metrics
    }

    #[tokio::test]
    async fn the_end_of_the_queue_prints_what_is_left() {
        assert_eq!(print_one(Vec::new()).await.get(Metric::SpansExported), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_counted() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(print_one(Closed).await.get(Metric::DropConsole), 1);
    }

    #[test]
    fn drawings_wait_only_up_to_their_spans() {
        struct Slow;
        impl Write for Slow {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                std::thread::sleep(Duration::from_millis(200));
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let metrics = Arc::new(Metrics::default());
        let config = ConsoleConfig { max_spans: 10, ..ConsoleConfig::new(false) };
        let mut printer = Printer::start(Slow, config, Arc::clone(&metrics));
        let drawing = |spans| Drawing { text: "x".to_owned(), spans };
        printer.print(&mut vec![drawing(30), drawing(4), drawing(4)]);
        assert_eq!(metrics.get(Metric::DropConsole), 8);
    }

    #[tokio::test]
    async fn a_reader_who_does_not_read_does_not_hold_up_the_shutdown() {
        struct Stuck;
        impl Write for Stuck {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                loop {
                    std::thread::park();
                }
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let before = Instant::now();
        assert_eq!(print_one(Stuck).await.get(Metric::DropShutdown), 1);
        assert!(before.elapsed() < FLUSH_TIMEOUT * 2);
    }
}
