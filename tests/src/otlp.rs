//! A real OTLP/gRPC receiver, and the spans that it received in a shape that is easy to ask.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{self as wire, span::SpanKind};
use tonic::{Request, Response, Status};

use crate::process::patient;

/// Attributes by key, values as text.
pub type Attributes = BTreeMap<String, String>;

/// Which side of an exchange a span describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The process sent the request.
    Client,
    /// The process answered the request.
    Server,
    /// Anything else: the agent never makes such spans.
    Other,
}

/// A received span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Lower-case hex.
    pub trace_id: String,
    /// Lower-case hex.
    pub span_id: String,
    /// Lower-case hex; empty for a root.
    pub parent: String,
    /// The spans that it links to: trace id, span id, and `tracewire.link`.
    pub links: Vec<(String, String, String)>,
    /// The kind.
    pub kind: Kind,
    /// The span's name.
    pub name: String,
    /// The span's attributes.
    pub attributes: Attributes,
    /// The attributes of the span's resource.
    pub resource: Attributes,
    /// Whether the status is an error.
    pub is_error: bool,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
}

impl Span {
    /// An attribute, or the empty string.
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }

    /// The resource's `service.name`.
    pub fn service(&self) -> &str {
        self.resource.get("service.name").map_or("", String::as_str)
    }

    /// The path of the request: of `url.path` (servers) or `url.full` (clients).
    pub fn path(&self) -> &str {
        if let Some(path) = self.attributes.get("url.path") {
            return path;
        }
        let full = self.attribute("url.full");
        let rest = full.split_once("://").map_or(full, |(_, rest)| rest);
        let path = rest.find('/').map_or("", |at| &rest[at..]);
        path.split(['?', '#']).next().unwrap_or_default()
    }

    /// The status code of the response, as text; empty if there was none.
    pub fn status(&self) -> &str {
        self.attribute("http.response.status_code")
    }
}

/// Spans in few words, for messages.
pub fn describe(spans: &[Span]) -> String {
    const SHOWN: usize = 60;
    let mut text = format!("{} spans", spans.len());
    for span in spans.iter().take(SHOWN) {
        text.push_str(&format!(
            "\n  {} {} < {:16} {:?} {:?} {} {} {}",
            span.trace_id,
            span.span_id,
            span.parent,
            span.kind,
            span.service(),
            span.name,
            span.path(),
            span.attributes.iter().map(|(k, v)| format!("{k}={v} ")).collect::<String>(),
        ));
    }
    text
}

type Received = Arc<Mutex<Vec<Span>>>;

/// The receiver; it stops when dropped.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    received: Received,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Sink {
    /// Starts a receiver on a free port of the loopback interface.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    pub fn start() -> Self {
        let received = Received::default();
        let service = TraceServiceServer::new(Collector(Arc::clone(&received)));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
            runtime.block_on(async {
                let listener = tonic::transport::server::TcpIncoming::bind(SocketAddr::from((
                    [127, 0, 0, 1],
                    0,
                )))
                .unwrap_or_else(|error| panic!("OTLP receiver cannot listen: {error}"));
                drop(tell.send(listener.local_addr()));
                let server = tonic::transport::Server::builder().add_service(service);
                let end = async { drop(stopped.await) };
                if let Err(error) = server.serve_with_incoming_shutdown(listener, end).await {
                    eprintln!("OTLP receiver: {error}");
                }
            });
        });
        let address = told.recv().map_err(|error| error.to_string());
        let address = address.and_then(|address| address.map_err(|error| error.to_string()));
        let address = address.unwrap_or_else(|error| panic!("no OTLP receiver: {error}"));
        Self { address, received, _stop: stop }
    }

    /// The endpoint to give to an exporter.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The receiver's port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until no span has come for `quiet`, or `limit` is over.
    pub fn wait_quiet(&self, quiet: Duration, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (mut count, mut since) = (self.spans().len(), Instant::now());
        while since.elapsed() < quiet && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.spans().len();
            if now != count {
                (count, since) = (now, Instant::now());
            }
        }
    }

    /// Waits until `found` gives something.
    ///
    /// # Panics
    ///
    /// If it does not within `limit`, with the spans that came.
    pub fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        found: impl Fn(&[Span]) -> Option<T>,
    ) -> T {
        let limit = patient(limit);
        let deadline = Instant::now() + limit;
        loop {
            let spans = self.spans();
            if let Some(found) = found(&spans) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: not received within {limit:?}; {}",
                describe(&spans)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[derive(Debug)]
struct Collector(Received);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut received = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for group in request.into_inner().resource_spans {
            let resource = attributes(group.resource.map(|r| r.attributes).unwrap_or_default());
            let spans = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
            received.extend(spans.map(|span| convert(span, &resource)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn convert(span: wire::Span, resource: &Attributes) -> Span {
    let kind = match span.kind() {
        SpanKind::Client => Kind::Client,
        SpanKind::Server => Kind::Server,
        _ => Kind::Other,
    };
    let is_error =
        span.status.as_ref().is_some_and(|status| status.code() == wire::status::StatusCode::Error);
    let links = span.links.into_iter().map(|link| {
        let says = attributes(link.attributes).remove("tracewire.link").unwrap_or_default();
        (hex(&link.trace_id), hex(&link.span_id), says)
    });
    Span {
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        links: links.collect(),
        kind,
        name: span.name,
        attributes: attributes(span.attributes),
        resource: resource.clone(),
        is_error,
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(pairs: Vec<KeyValue>) -> Attributes {
    pairs.into_iter().map(|pair| (pair.key, pair.value.map(text).unwrap_or_default())).collect()
}

fn text(value: AnyValue) -> String {
    match value.value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        Some(any_value::Value::ArrayValue(list)) => {
            list.values.into_iter().map(text).collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
    use opentelemetry_proto::tonic::resource::v1::Resource;

    use super::*;

    fn pair(key: &str, value: any_value::Value) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        }
    }

    #[test]
    fn what_is_exported_is_received() {
        let sink = Sink::start();
        let span = wire::Span {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            name: "GET".into(),
            kind: SpanKind::Server.into(),
            attributes: vec![
                pair("url.path", any_value::Value::StringValue("/a".into())),
                pair("http.response.status_code", any_value::Value::IntValue(200)),
            ],
            ..wire::Span::default()
        };
        let name = pair("service.name", any_value::Value::StringValue("shop".into()));
        let request = ExportTraceServiceRequest {
            resource_spans: vec![wire::ResourceSpans {
                resource: Some(Resource { attributes: vec![name], ..Resource::default() }),
                scope_spans: vec![wire::ScopeSpans { spans: vec![span], ..Default::default() }],
                ..Default::default()
            }],
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let sent = runtime.expect("a runtime needs nothing but threads").block_on(async {
            let mut client = TraceServiceClient::connect(sink.endpoint()).await.ok()?;
            client.export(request).await.ok()
        });
        assert!(sent.is_some());
        let spans = sink.wait_for("one span", Duration::from_secs(1), |spans| {
            (!spans.is_empty()).then(|| spans.to_vec())
        });
        let [span] = spans.as_slice() else { panic!("{}", describe(&spans)) };
        assert_eq!((span.service(), span.path(), span.status()), ("shop", "/a", "200"));
        assert_eq!((span.trace_id.len(), span.parent.as_str()), (32, ""));
        assert_eq!(span.kind, Kind::Server);
    }
}
