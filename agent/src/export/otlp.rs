//! OTLP over gRPC.
//!
//! Spans are encoded as they come out of the queue, gathered into requests below
//! the size that collectors take, and sent a few at a time. A collector that
//! cannot be reached fills those few requests and then the queue, whose end drops
//! and counts: memory never grows, and the reader never waits.

use super::batch::{Batch, BatchLimits, SealedBatch};
use super::headers::HeaderError;
use super::queue::SpanSource;
use super::retry::{Backoff, Retry, classify};
use crate::metrics::{Metric, Metrics};
use bytes::{BufMut as _, Bytes};
use http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

/// The method of the trace service (`trace_service.proto`).
const EXPORT_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Requests on their way at once.
const MAX_IN_FLIGHT: usize = 3;
/// How often the same trouble is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// How long an answer is looked for when its time is over. If this process did not run
/// meanwhile (a stop, a frozen cgroup), the answer may have come long ago.
const GRACE: Duration = Duration::from_millis(200);
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where to and how spans are sent.
#[derive(Clone, Debug)]
pub(crate) struct OtlpConfig {
    /// `http://HOST:PORT`, or `https://` for TLS with the system's certificates.
    pub(crate) endpoint: String,
    /// Sent with every request. Values may be secrets and are never logged.
    pub(crate) headers: Vec<(String, String)>,
    /// The longest that one request may take.
    pub(crate) timeout: Duration,
    /// The longest that a span waits for others.
    pub(crate) linger: Duration,
    /// The bounds of a request.
    pub(crate) limits: BatchLimits,
    /// How long one request is tried again, after its first try; once at least.
    pub(crate) max_retry_time: Duration,
    /// How long sending may go on after the queue has ended.
    pub(crate) flush_timeout: Duration,
}

impl OtlpConfig {
    /// The defaults, for an endpoint.
    pub(crate) fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
            linger: Duration::from_millis(500),
            limits: BatchLimits::default(),
            max_retry_time: Duration::from_secs(60),
            flush_timeout: Duration::from_secs(4),
        }
    }
}

/// Why an exporter cannot be made of a configuration.
#[derive(Debug)]
pub(crate) enum OtlpConfigError {
    /// The endpoint is no URL of a kind that can be used.
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A header cannot be sent.
    Header(HeaderError),
}

impl fmt::Display for OtlpConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint { endpoint, reason } => write!(
                f,
                "OTLP endpoint {endpoint:?} cannot be used: {reason}; \
                 give it as http://HOST:PORT or https://HOST:PORT"
            ),
            Self::Header(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OtlpConfigError {}

/// Sends spans to a collector.
pub(crate) struct OtlpExporter {
    sender: Arc<Sender>,
    config: OtlpConfig,
}

impl OtlpExporter {
    /// An exporter. Nothing is connected until there is something to send. Must be
    /// called within the runtime that will run it.
    ///
    /// # Errors
    ///
    /// If the endpoint or a header cannot be used.
    pub(crate) fn new(config: OtlpConfig, metrics: Arc<Metrics>) -> Result<Self, OtlpConfigError> {
        let mut metadata = MetadataMap::with_capacity(config.headers.len());
        for (name, value) in &config.headers {
            let invalid = || OtlpConfigError::Header(HeaderError(format!("{name:?}")));
            let key = AsciiMetadataKey::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
            let mut value = AsciiMetadataValue::try_from(value).map_err(|_| invalid())?;
            value.set_sensitive(true);
            metadata.append(key, value);
        }
        let sender = Sender {
            channel: channel(&config)?,
            metadata,
            endpoint: config.endpoint.clone(),
            timeout: config.timeout,
            max_retry_time: config.max_retry_time,
            metrics,
            last_log: Mutex::new(None),
        };
        Ok(Self { sender: Arc::new(sender), config })
    }

    /// Sends what comes out of the queue until it ends, then what is left within
    /// the flush time-out. What is left even then is counted as dropped.
    pub(crate) async fn run(self, mut source: SpanSource) {
        let mut work = Work::new(self.sender, self.config.limits);
        let mut linger = Instant::now();
        // When all must be over, once the queue's entrance is gone. A collector
        // that cannot be reached keeps the queue from being emptied, so its end
        // alone would not be noticed.
        let mut deadline = None;
        let mut ended = pin!(source.ended());
        loop {
            work.start();
            tokio::select! {
                spans = source.recv(), if work.ready.is_empty() => match spans {
                    Some(spans) => {
                        if work.filling.is_empty() {
                            linger = Instant::now() + self.config.linger;
                        }
                        for span in &spans {
                            work.push(span);
                        }
                    }
                    None => break,
                },
                // A batch that cannot be sent yet may as well go on filling.
                () = sleep_until(linger),
                    if !work.filling.is_empty() && work.ready.is_empty() && work.has_room() =>
                {
                    work.seal();
                }
                Some(done) = work.in_flight.join_next() => work.came_back(done),
                () = &mut ended, if deadline.is_none() => {
                    deadline = Some(Instant::now() + self.config.flush_timeout);
                }
                () = sleep_until(deadline.unwrap_or(linger)), if deadline.is_some() => {
                    return work.give_up(&mut source);
                }
            }
        }
        work.seal();
        let deadline = deadline.unwrap_or_else(|| Instant::now() + self.config.flush_timeout);
        // In time or not: a task that panicked has not said what became of its spans.
        let _in_time = timeout_at(deadline, work.finish()).await;
        work.give_up(&mut source);
    }
}

/// Batches in their three states.
struct Work {
    sender: Arc<Sender>,
    filling: Batch,
    ready: std::collections::VecDeque<SealedBatch>,
    in_flight: JoinSet<u64>,
    /// Spans handed to tasks, less those that came back.
    handed: u64,
}

impl Work {
    fn new(sender: Arc<Sender>, limits: BatchLimits) -> Self {
        Self {
            sender,
            filling: Batch::new(limits),
            ready: std::collections::VecDeque::new(),
            in_flight: JoinSet::new(),
            handed: 0,
        }
    }

    fn push(&mut self, span: &crate::span::Span) {
        self.filling.push(span);
        if self.filling.is_full() {
            self.seal();
        }
    }

    fn seal(&mut self) {
        if !self.filling.is_empty() {
            self.ready.push_back(self.filling.seal());
        }
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < MAX_IN_FLIGHT
    }

    fn start(&mut self) {
        while self.has_room()
            && let Some(batch) = self.ready.pop_front()
        {
            self.handed += batch.spans;
            let sender = Arc::clone(&self.sender);
            self.in_flight.spawn(async move {
                sender.deliver(&batch).await;
                batch.spans
            });
        }
    }

    async fn finish(&mut self) {
        loop {
            self.start();
            match self.in_flight.join_next().await {
                Some(done) => self.came_back(done),
                None => return,
            }
        }
    }

    fn came_back(&mut self, done: Result<u64, JoinError>) {
        // A task that panicked or was cancelled counts as unsent for good.
        self.handed -= done.unwrap_or(0);
    }

    /// Counts all that is neither delivered nor given up, and stops.
    fn give_up(&mut self, source: &mut SpanSource) {
        // What came back in the same moment is counted already.
        while let Some(done) = self.in_flight.try_join_next() {
            self.came_back(done);
        }
        self.in_flight.abort_all();
        let ready: u64 = self.ready.iter().map(|batch| batch.spans).sum();
        let unsent = self.handed + ready + self.filling.len() as u64 + source.discard();
        self.sender.metrics.add(Metric::DropShutdown, unsent);
    }
}

/// One connection to a collector, shared by the requests on their way.
struct Sender {
    channel: Channel,
    metadata: MetadataMap,
    endpoint: String,
    timeout: Duration,
    max_retry_time: Duration,
    metrics: Arc<Metrics>,
    last_log: Mutex<Option<Instant>>,
}

impl Sender {
    /// Sends a batch, again if that is allowed, and counts what became of it.
    async fn deliver(&self, batch: &SealedBatch) {
        let give_up = Instant::now() + self.max_retry_time;
        let mut backoff = Backoff::new();
        let mut is_retry = false;
        loop {
            self.metrics.increment(Metric::ExportRequests);
            let status = match self.send(batch.body.clone()).await {
                Ok(response) => return self.count_delivered(batch, response),
                Err(status) => status,
            };
            let Retry::After(asked) = classify(&status) else {
                self.metrics.add(Metric::DropExportFailed, batch.spans);
                return self.log(&status, "the collector refused spans, which are dropped");
            };
            let wait = backoff.wait(asked);
            // Once it is tried again in any case: this process may not have run for long.
            if is_retry && Instant::now() + wait > give_up {
                self.metrics.add(Metric::DropRetriesExhausted, batch.spans);
                return self.log(&status, "gave up sending spans, which are dropped");
            }
            self.log(&status, "cannot send spans, trying again");
            self.metrics.increment(Metric::ExportRetries);
            is_retry = true;
            sleep(wait).await;
        }
    }

    async fn send(&self, body: Bytes) -> Result<ExportTraceServiceResponse, Status> {
        let mut request = Request::new(body);
        *request.metadata_mut() = self.metadata.clone();
        let call = async {
            let mut grpc = Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
            grpc.unary(request, PathAndQuery::from_static(EXPORT_PATH), EncodedRequests).await
        };
        let mut call = pin!(call);
        let mut result = timeout(self.timeout, &mut call).await;
        if result.is_err() {
            result = timeout(GRACE, &mut call).await;
        }
        match result {
            Ok(result) => Ok(result?.into_inner()),
            Err(_) => Err(Status::deadline_exceeded("the request timed out")),
        }
    }

    fn count_delivered(&self, batch: &SealedBatch, response: ExportTraceServiceResponse) {
        let Some(partial) = response.partial_success else {
            return self.metrics.add(Metric::SpansExported, batch.spans);
        };
        let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0).min(batch.spans);
        self.metrics.add(Metric::SpansExported, batch.spans - rejected);
        self.metrics.add(Metric::DropRejected, rejected);
        // No rejection, yet a message: a warning to pass on (specification, partial success).
        if (rejected != 0 || !partial.error_message.is_empty()) && self.may_log() {
            tracing::warn!(
                endpoint = self.endpoint,
                rejected,
                message = partial.error_message,
                "the collector took a request only in part"
            );
        }
    }

    fn log(&self, status: &Status, message: &'static str) {
        if self.may_log() {
            tracing::warn!(
                endpoint = self.endpoint,
                code = ?status.code(),
                reason = reason(status),
                dropped_queue_full = self.metrics.get(Metric::DropQueueFull),
                dropped_retries_exhausted = self.metrics.get(Metric::DropRetriesExhausted),
                "{message}"
            );
        }
    }

    /// Whether the last line is long enough ago.
    fn may_log(&self) -> bool {
        let mut last = self.last_log.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let may = last.is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL);
        if may {
            *last = Some(now);
        }
        may
    }
}

/// The innermost cause: what tonic says of a refused connection is "transport error".
fn reason(status: &Status) -> String {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

fn channel(config: &OtlpConfig) -> Result<Channel, OtlpConfigError> {
    let error = |reason: &dyn fmt::Display| OtlpConfigError::Endpoint {
        endpoint: without_credentials(&config.endpoint),
        reason: reason.to_string(),
    };
    let uri: http::Uri = config.endpoint.parse().map_err(|e| error(&e))?;
    if uri.host().is_none_or(str::is_empty) {
        return Err(error(&"it names no host"));
    }
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        Some(other) => return Err(error(&format_args!("{other} is not supported"))),
        None => return Err(error(&"it has no scheme")),
    };
    let mut endpoint = Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .user_agent(concat!("tracewire/", env!("CARGO_PKG_VERSION")))
        .map_err(|e| error(&e))?;
    if tls {
        endpoint = endpoint
            .tls_config(ClientTlsConfig::new().with_native_roots())
            .map_err(|e| error(&e))?;
    }
    Ok(endpoint.connect_lazy())
}

fn without_credentials(endpoint: &str) -> String {
    match (endpoint.split_once("://"), endpoint.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://REDACTED@{host}"),
        (None, Some((_, host))) => format!("REDACTED@{host}"),
        _ => endpoint.to_owned(),
    }
}

/// Sends requests that are encoded already.
#[derive(Clone, Copy, Debug)]
struct EncodedRequests;

impl Codec for EncodedRequests {
    type Encode = Bytes;
    type Decode = ExportTraceServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for EncodedRequests {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, body: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(body.len());
        out.put(body);
        Ok(())
    }
}

impl Decoder for EncodedRequests {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        ExportTraceServiceResponse::decode(bytes).map(Some).map_err(|error| {
            Status::internal(format!("the collector's answer is malformed: {error}"))
        })
    }
}

#[cfg(test)]
#[path = "otlp_tests.rs"]
mod tests;
