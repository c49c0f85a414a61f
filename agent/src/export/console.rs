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
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

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
    /// Spans kept at once.
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
    config: ConsoleConfig,
    out: W,
    traces: FxHashMap<[u8; 16], OpenTrace>,
    spans: usize,
    next_order: u64,
    metrics: Arc<Metrics>,
}

impl<W: Write> Console<W> {
    /// A console that writes to `out`.
    pub(crate) fn new(config: ConsoleConfig, out: W, metrics: Arc<Metrics>) -> Self {
        Self {
            config,
            out,
            traces: FxHashMap::default(),
            spans: 0,
            next_order: 0,
            metrics,
        }
    }

    /// Prints what comes out of the queue until it ends, then all that is left.
    pub(crate) async fn run(mut self, mut source: SpanSource) {
        let mut ticks = interval(self.config.quiet / 4);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                spans = source.recv() => match spans {
                    Some(spans) => {
                        let now = Instant::now();
                        for span in spans {
                            self.add(span, now);
                        }
                    }
                    None => break,
                },
                _ = ticks.tick(), if !self.traces.is_empty() => self.print_finished(Instant::now()),
            }
        }
        self.print_all();
    }

    fn add(&mut self, span: Span, now: Instant) {
        let is_new = !self.traces.contains_key(&span.trace_id);
        if self.spans >= self.config.max_spans
            || (is_new && self.traces.len() >= self.config.max_traces)
        {
            self.metrics.increment(Metric::TracesCutShort);
            self.print_oldest();
        }
        let order = self.next_order;
        self.next_order += 1;
        let trace = self
            .traces
            .entry(span.trace_id)
            .or_insert_with(|| OpenTrace {
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

    fn print_finished(&mut self, now: Instant) {
        let config = self.config;
        self.print_where(|trace| {
            let quiet = if trace.has_root {
                config.quiet
            } else {
                config.quiet_without_root
            };
            now.duration_since(trace.last_span) >= quiet
        });
    }

    fn print_all(&mut self) {
        self.print_where(|_| true);
    }

    fn print_oldest(&mut self) {
        let oldest = self.traces.values().map(|trace| trace.order).min();
        self.print_where(|trace| Some(trace.order) == oldest);
    }

    /// Prints the traces that are ready, the oldest first.
    fn print_where(&mut self, is_ready: impl Fn(&OpenTrace) -> bool) {
        let mut ready: Vec<OpenTrace> = self
            .traces
            .extract_if(|_, trace| is_ready(trace))
            .map(|(_, trace)| trace)
            .collect();
        ready.sort_by_key(|trace| trace.order);
        for trace in ready {
            let count = trace.spans.len();
            self.spans -= count;
            let written = self
                .out
                .write_all(render(&trace.spans, self.config.colour).as_bytes());
            let metric = if written.is_ok() {
                Metric::SpansExported
            } else {
                Metric::DropConsole
            };
            self.metrics.add(metric, count as u64);
        }
        // An error shows at the next write, where it is counted.
        let _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::Resource;
    use crate::span::tests::example;

    fn console(config: ConsoleConfig) -> Console<Vec<u8>> {
        Console::new(config, Vec::new(), Arc::default())
    }

    fn span(trace: u8, id: u64, parent: u64) -> Span {
        Span {
            trace_id: [trace; 16],
            span_id: id,
            parent_span_id: parent,
            ..example(Arc::new(Resource::unknown()))
        }
    }

    fn printed(console: &Console<Vec<u8>>) -> Vec<String> {
        String::from_utf8_lossy(&console.out)
            .lines()
            .filter_map(|line| line.strip_prefix("trace "))
            .map(|rest| rest.chars().take(2).collect())
            .collect()
    }

    #[test]
    fn a_trace_waits_until_its_root_is_there_and_it_is_quiet() {
        let config = ConsoleConfig::new(false);
        let mut console = console(config);
        let start = Instant::now();
        console.add(span(1, 2, 1), start);
        console.print_finished(start + config.quiet);
        assert!(printed(&console).is_empty());
        console.add(span(1, 1, 0), start + config.quiet);
        console.print_finished(start + config.quiet + config.quiet / 2);
        assert!(printed(&console).is_empty());
        console.print_finished(start + config.quiet * 2);
        assert_eq!(printed(&console), ["01"]);
        assert_eq!(console.spans, 0);
        assert_eq!(console.metrics.get(Metric::SpansExported), 2);
    }

    #[test]
    fn a_trace_whose_root_is_elsewhere_is_printed_after_a_longer_wait() {
        let config = ConsoleConfig::new(false);
        let mut console = console(config);
        let start = Instant::now();
        console.add(span(1, 2, 1), start);
        console.print_finished(start + config.quiet_without_root);
        assert_eq!(printed(&console), ["01"]);
    }

    #[test]
    fn too_many_traces_push_out_the_oldest() {
        let mut console = console(ConsoleConfig {
            max_traces: 2,
            ..ConsoleConfig::new(false)
        });
        for trace in 1..=3 {
            console.add(span(trace, 1, 0), Instant::now());
        }
        assert_eq!(printed(&console), ["01"]);
        assert_eq!(console.metrics.get(Metric::TracesCutShort), 1);
        console.print_all();
        assert_eq!(printed(&console), ["01", "02", "03"]);
    }

    #[test]
    fn too_many_spans_push_out_the_oldest_trace() {
        let mut console = console(ConsoleConfig {
            max_spans: 3,
            ..ConsoleConfig::new(false)
        });
        for id in 1..=10 {
            console.add(span(1, id, 0), Instant::now());
        }
        assert!(console.spans <= 3);
        assert!(!printed(&console).is_empty());
    }

    #[tokio::test]
    async fn the_end_of_the_queue_prints_what_is_left() {
        let metrics = Arc::new(Metrics::default());
        let (sink, source) = super::super::queue(10, Arc::clone(&metrics));
        sink.push(vec![span(1, 1, 0)]);
        drop(sink);
        let console = Console::new(ConsoleConfig::new(false), Vec::new(), Arc::clone(&metrics));
        console.run(source).await;
        assert_eq!(metrics.get(Metric::SpansExported), 1);
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut console = Console::new(ConsoleConfig::new(false), Closed, Arc::default());
        console.add(span(1, 1, 0), Instant::now());
        console.print_all();
        assert_eq!(console.metrics.get(Metric::DropConsole), 1);
    }
}
