//! From kernel records to finished spans.
//!
//! An exchange comes as [`Record::ExchangeOpened`] (before it, for a long head,
//! [`Record::HeadFragment`]s) and [`Record::ExchangeClosed`]. The two are paired
//! by connection and number, and become one span. A stream of HTTP/2 comes likewise, with the
//! header blocks of its response between. Runs on the thread that reads
//! the ring buffer, so nothing here waits for anything.

mod fastcgi;
mod head;
pub(crate) mod http2;
mod open;
mod redact;

pub(crate) use head::{head_of_fields, parse_head};
pub(crate) use open::OpenLimits;
pub(crate) use redact::REDACTED;

use crate::clock::{Clock, monotonic_ns};
use crate::export::SpanSink;
use crate::grpc::GrpcStatus;
use crate::metrics::{Metric, Metrics};
use crate::resolve::ProcessTable;
use crate::span::{GrpcCall, RequestHead, Span, SpanKind, Version};
use http2::fields::Fields;
use http2::{Http2Connections, Http2Limits, Part};
use open::{ExchangeKey, OpenExchange, OpenExchanges, Response};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tracewire_common::context::TraceContext;
use tracewire_common::outcome::{Correlation, EndReason, HeadKind, Outcome, Role};
use tracewire_common::records::{
    BLOCK_END, CLOSED_BY_CLIENT, CLOSED_OWN_TRACING, ExchangeClosed, ExchangeOpened, HeaderBlock,
    OPENED_TLS, Record,
};

/// Spans handed on at once. Enough to make waking the exporter cheap.
const BATCH: usize = 256;

/// The error code of a reset that is no error (RFC 9113 §7).
const NO_ERROR: u16 = 0;

/// Pairs records and builds spans.
pub(crate) struct Assembler {
    open: OpenExchanges,
    http2: Http2Connections,
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
            http2: Http2Connections::new(Http2Limits::default()),
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
            Record::ExchangeClosed(closed) => self.on_closed(&closed, false),
            Record::Http2Started(event) => self.http2.start(event.connection, &self.metrics),
            Record::HeaderBlock(part, data) => self.on_header_block(&part, data),
            Record::StreamOpened(opened, data) => self.on_stream_opened(opened, data),
            Record::StreamClosed(closed) => self.on_closed(&closed, true),
            // Its streams' ends came before.
            Record::Http2Ended(event) => self.http2.end(event.connection),
            Record::ProcessExec(exec, args, environ) => {
                self.processes.on_exec(&exec, args, environ);
            }
            Record::ProcessFork(event) => self.processes.on_fork(&event),
            Record::ProcessExit(event) => self.processes.on_exit(&event),
            // Concerns the socket map, not the spans.
            Record::ConnectionOpaque(_) | Record::SocketSpared(_) => {}
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
        let (connection, sequence) = (opened.connection, opened.sequence);
        let key = ExchangeKey { connection, sequence, is_stream: false };
        let bytes = self.open.take_head(key, opened.head_offset, data);
        let cut = bytes.len() < opened.head_len as usize;
        if cut {
            self.metrics.increment(Metric::HeadsCut);
        }
        let mut request = parse_head(&bytes, cut);
        if request.version == Some(Version::FastCgi) && opened.role == Role::Client as u8 {
            // It is the host that the server was asked for, not the application's.
            (request.authority, request.host, request.port) = (None, None, None);
        }
        self.insert(key, opened, request);
    }

    fn on_stream_opened(&mut self, opened: ExchangeOpened, data: &[u8]) {
        let part = Part {
            block: opened.block,
            offset: opened.head_offset,
            data,
            block_len: Some(opened.head_len),
        };
        let (connection, sequence) = (opened.connection, opened.sequence);
        let block = self.http2.on_part(connection, HeadKind::Request, &part, &self.metrics);
        if !block.as_ref().is_some_and(|block| block.is_whole) {
            self.metrics.increment(Metric::HeadsCut);
        }
        // Whatever is known of it, what was begun is accounted for.
        let request = match block {
            Some(block) => head_of_fields(block.fields),
            None => head_of_fields(&Fields::default()),
        };
        self.insert(ExchangeKey { connection, sequence, is_stream: true }, opened, request);
    }

    fn on_header_block(&mut self, part: &HeaderBlock, data: &[u8]) {
        let Ok(sender) = HeadKind::try_from(part.direction) else {
            return self.metrics.increment(Metric::RecordsInvalid);
        };
        let block_len = (part.flags & BLOCK_END != 0).then_some(part.block_len);
        let piece = Part { block: part.block, offset: part.offset, data, block_len };
        let block = self.http2.on_part(part.connection, sender, &piece, &self.metrics);
        // What a request says in a record of this kind is for the table alone: it is not sampled, or
        // these are its trailers.
        if let Some(block) = block
            && sender == HeadKind::Response
            && let Some(response) = self.open.response(part.connection, part.stream)
        {
            response.add(block.fields);
        }
    }

    fn insert(&mut self, key: ExchangeKey, opened: ExchangeOpened, mut request: RequestHead) {
        request.over_tls = opened.flags & OPENED_TLS != 0;
        if !request.has_method() {
            self.metrics.increment(Metric::HeadsUnparsed);
        }
        let (candidates, response) = (Box::default(), Response::default());
        let exchange = OpenExchange { opened, request, candidates, response };
        self.open.insert(key, exchange, self.now_ns, &self.metrics);
    }

    fn on_closed(&mut self, closed: &ExchangeClosed, is_stream: bool) {
        let (connection, sequence) = (closed.connection, closed.sequence);
        let key = ExchangeKey { connection, sequence, is_stream };
        let Some(exchange) = self.open.take(key, closed.span_id) else {
            return self.metrics.increment(Metric::DropUnpaired);
        };
        if closed.flags & CLOSED_OWN_TRACING != 0 {
            return self.metrics.increment(Metric::OwnTracing);
        }
        let OpenExchange { opened, request, candidates, response } = exchange;
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
        let (status, end, grpc) = if is_stream {
            stream_result(closed, &request, &response)
        } else {
            (closed.status, closed.reason().unwrap_or(EndReason::Lost), None)
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
            end,
            status,
            start_unix_ns,
            end_unix_ns,
            request_body_bytes: closed.request_body_bytes,
            response_body_bytes: closed.response_body_bytes,
            local: socket_addr(opened.ip_version, opened.local_addr, opened.local_port),
            peer: socket_addr(opened.ip_version, opened.remote_addr, opened.remote_port),
            request,
            grpc,
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

/// What became of a stream: the status code of HTTP, how it ended, and, of a call of gRPC, its
/// status there.
fn stream_result(
    closed: &ExchangeClosed,
    request: &RequestHead,
    response: &Response,
) -> (u16, EndReason, Option<GrpcCall>) {
    let end = closed.reason().unwrap_or(EndReason::Lost);
    let was_reset = end == EndReason::StreamReset;
    let is_grpc = match (request.is_grpc, response.is_grpc) {
        (Some(known), _) | (None, Some(known)) => known,
        (None, None) => response.grpc_status.is_some(),
    };
    let grpc = is_grpc.then(|| {
        let reset = || was_reset.then(|| GrpcStatus::of_reset(closed.status)).flatten();
        let of_http = || GrpcStatus::of_http(response.status);
        GrpcCall { status: response.grpc_status.or_else(reset).or_else(of_http) }
    });
    // A server that has answered, and wants no more of the request, says so by a reset without an
    // error (RFC 9113 §8.1).
    let by_client = closed.flags & CLOSED_BY_CLIENT != 0;
    let is_answered = was_reset && closed.status == NO_ERROR && !by_client && response.status != 0;
    let end = if is_answered { EndReason::Complete } else { end };
    (response.status, end, grpc)
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
#[path = "stream_tests.rs"]
mod stream_tests;
#[cfg(test)]
#[path = "assemble_tests.rs"]
mod tests;
