//! From kernel records to finished spans.
//!
//! An exchange comes as [`Record::ExchangeOpened`] (before it, for a long head,
//! [`Record::HeadFragment`]s) and [`Record::ExchangeClosed`]. The two are paired
//! by connection and number, and become one span. Runs on the thread that reads
//! the ring buffer, so nothing here waits for anything.

mod head;
mod open;
mod redact;

pub(crate) use head::parse_head;
pub(crate) use open::OpenLimits;
pub(crate) use redact::REDACTED;

use crate::clock::{Clock, monotonic_ns};
use crate::export::SpanSink;
use crate::metrics::{Metric, Metrics};
use crate::resolve::ProcessTable;
use crate::span::{Span, SpanKind};
use open::{ExchangeKey, OpenExchange, OpenExchanges};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tracewire_common::context::TraceContext;
use tracewire_common::outcome::{Correlation, EndReason, Outcome, Role};
use tracewire_common::records::{CLOSED_OWN_TRACING, ExchangeClosed, ExchangeOpened, Record};

/// Spans handed on at once. Enough to make waking the exporter cheap.
const BATCH: usize = 256;

/// Pairs records and builds spans.
pub(crate) struct Assembler {
    open: OpenExchanges,
    clock: Clock,
    processes: ProcessTable,
    sink: SpanSink,
    batch: Vec<Span>,
    metrics: Arc<Metrics>,
    /// The time of the last tick; close enough for ages.
    now_ns: u64,
}

impl Assembler {
    /// An assembler that names processes by `processes` and hands spans to `sink`.
    pub(crate) fn new(
        processes: ProcessTable,
        sink: SpanSink,
        limits: OpenLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            open: OpenExchanges::new(limits),
            clock: Clock::new(),
            processes,
            sink,
            batch: Vec::new(),
            metrics,
            now_ns: monotonic_ns(),
        }
    }

    /// Takes one record. Never blocks.
    pub(crate) fn on_record(&mut self, record: Record<'_>) {
        match record {
            Record::HeadFragment(fragment, data) => {
                self.open.add_fragment(&fragment, data, self.now_ns, &self.metrics);
            }
            Record::ExchangeOpened(opened, data) => self.on_opened(opened, data),
            Record::ExchangeCandidates(record) => self.open.add_candidates(&record, &self.metrics),
            Record::ExchangeClosed(closed) => self.on_closed(&closed),
            Record::ProcessExec(exec, args, environ) => {
                self.processes.on_exec(&exec, args, environ);
            }
            Record::ProcessFork(event) => self.processes.on_fork(&event),
            Record::ProcessExit(event) => self.processes.on_exit(&event),
            // Concerns the socket map, not the spans.
            Record::ConnectionOpaque(_) => {}
        }
    }

    /// Hands on finished spans and forgets what is too old. To be called after
    /// each drain of the ring buffer, and at least every 200 ms.
    pub(crate) fn tick(&mut self) {
        self.now_ns = monotonic_ns();
        self.clock.refresh(self.now_ns);
        self.open.sweep(self.now_ns, &self.metrics);
        self.processes.sweep(self.now_ns);
        self.flush();
    }

    /// Hands on the last spans, and counts the exchanges that will make none. To be called
    /// when no record will come any more.
    pub(crate) fn finish(mut self) {
        self.flush();
        self.metrics.add(Metric::Unfinished, self.open.len() as u64);
    }

    fn on_opened(&mut self, opened: ExchangeOpened, data: &[u8]) {
        let key = ExchangeKey { connection: opened.connection, sequence: opened.sequence };
        let bytes = self.open.take_head(key, opened.head_offset, data);
        let cut = bytes.len() < opened.head_len as usize;
        if cut {
            self.metrics.increment(Metric::HeadsCut);
        }
        let request = parse_head(&bytes, cut);
        if !head::is_parsed(&request) {
            self.metrics.increment(Metric::HeadsUnparsed);
        }
        let exchange = OpenExchange { opened, request, candidates: Box::default() };
        self.open.insert(key, exchange, self.now_ns, &self.metrics);
    }

    fn on_closed(&mut self, closed: &ExchangeClosed) {
        let key = ExchangeKey { connection: closed.connection, sequence: closed.sequence };
        let Some(exchange) = self.open.take(key, closed.span_id) else {
            return self.metrics.increment(Metric::DropUnpaired);
        };
        if closed.flags & CLOSED_OWN_TRACING != 0 {
            return self.metrics.increment(Metric::OwnTracing);
        }
        let OpenExchange { opened, request, candidates } = exchange;
        let kind = match opened.role() {
            Some(Role::Server) => SpanKind::Server,
            Some(Role::Client) => SpanKind::Client,
            Some(Role::Unknown) | None => {
                return self.metrics.increment(Metric::DropRoleUnknown);
            }
        };
        // A server's process is often known only after it has read the request.
        let tgid = if closed.tgid != 0 { closed.tgid } else { opened.tgid };
        let cgroup_id = if closed.cgroup_id != 0 { closed.cgroup_id } else { opened.cgroup_id };
        let Some(resource) = self.processes.resource(tgid, cgroup_id, self.now_ns) else {
            return self.metrics.increment(Metric::ProcessExcluded);
        };
        let context = TraceContext {
            trace_id_hi: opened.trace_id_hi,
            trace_id_lo: opened.trace_id_lo,
            ..TraceContext::default()
        };
        let (start_unix_ns, end_unix_ns) = self.clock.interval(opened.started_ns, closed.ended_ns);
        self.batch.push(Span {
            trace_id: context.trace_id(),
            span_id: opened.span_id,
            parent_span_id: opened.parent_span_id,
            kind,
            candidates,
            correlation: opened.correlation().unwrap_or(Correlation::None),
            outcome: opened.outcome().unwrap_or(Outcome::NotApplicable),
            end: closed.reason().unwrap_or(EndReason::Lost),
            status: closed.status,
            start_unix_ns,
            end_unix_ns,
            request_body_bytes: closed.request_body_bytes,
            response_body_bytes: closed.response_body_bytes,
            local: socket_addr(opened.ip_version, opened.local_addr, opened.local_port),
            peer: socket_addr(opened.ip_version, opened.remote_addr, opened.remote_port),
            request,
            resource,
        });
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        self.metrics.add(Metric::SpansFinished, self.batch.len() as u64);
        // The next batch will likely be as long as this one.
        let next = Vec::with_capacity(self.batch.len());
        self.sink.push(std::mem::replace(&mut self.batch, next));
    }
}

impl Drop for Assembler {
    fn drop(&mut self) {
        self.flush();
    }
}

fn socket_addr(ip_version: u8, bytes: [u8; 16], port: u16) -> SocketAddr {
    let ip = if ip_version == 4 {
        let [a, b, c, d, ..] = bytes;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        // A dual-stack socket names IPv4 peers as ::ffff:a.b.c.d.
        IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
    };
    SocketAddr::new(ip, port)
}

#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
