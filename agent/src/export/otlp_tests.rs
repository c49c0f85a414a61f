use super::*;
use crate::export::parse_headers;
use crate::export::queue::tests::spans_alone;
use crate::export::{SpanSink, queue};
use crate::resolve::Resource;
use crate::span::tests::example;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest,
};
use std::collections::VecDeque;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Response};

type Answer = Result<ExportTraceServiceResponse, Status>;

/// A collector that gives prepared answers, then accepts.
#[derive(Clone, Default)]
struct Collector {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requests: Arc<Mutex<Vec<Request<ExportTraceServiceRequest>>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.requests.lock().expect("no test panics with it").push(request);
        let answer = self.answers.lock().expect("no test panics with it").pop_front();
        answer.unwrap_or_else(|| Ok(ExportTraceServiceResponse::default())).map(Response::new)
    }
}

impl Collector {
    fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        let collector = Self::default();
        collector.answers.lock().expect("nobody else has it").extend(answers);
        collector
    }

    /// Serves on a port of the system's choice; returns the endpoint.
    fn serve(&self) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .and_then(tokio::net::TcpListener::from_std)
            .expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(server);
        format!("http://127.0.0.1:{port}")
    }

    /// Spans of each request.
    fn received(&self) -> Vec<usize> {
        let requests = self.requests.lock().expect("no test panics with it");
        let spans = |request: &Request<ExportTraceServiceRequest>| {
            let groups = &request.get_ref().resource_spans;
            groups.iter().flat_map(|group| &group.scope_spans).map(|scope| scope.spans.len()).sum()
        };
        requests.iter().map(spans).collect()
    }
}

struct Running {
    sink: SpanSink,
    metrics: Arc<Metrics>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(config: OtlpConfig) -> Self {
        let metrics = Arc::new(Metrics::default());
        let (sink, source) = queue(spans_alone(1_000), Arc::clone(&metrics));
        let exporter =
            OtlpExporter::new(config, Arc::clone(&metrics)).expect("a good configuration");
        Self { sink, metrics, task: tokio::spawn(exporter.run(source)) }
    }

    fn push(&self, count: usize) {
        self.sink.push(vec![example(Arc::new(Resource::unknown())); count]);
    }

    /// Ends the queue and waits for the exporter.
    async fn finish(self) -> Arc<Metrics> {
        drop(self.sink);
        self.task.await.expect("the exporter does not panic");
        self.metrics
    }
}

fn config(endpoint: String) -> OtlpConfig {
    OtlpConfig { linger: Duration::from_millis(50), ..OtlpConfig::new(endpoint) }
}

#[tokio::test]
async fn spans_arrive_with_the_configured_headers() {
    let collector = Collector::default();
    let headers = vec![("x-token".to_owned(), "hush".to_owned())];
    let exporter = Running::start(OtlpConfig { headers, ..config(collector.serve()) });
    exporter.push(3);
    let metrics = exporter.finish().await;
    assert_eq!(collector.received(), [3]);
    assert_eq!(metrics.get(Metric::SpansExported), 3);
    let requests = collector.requests.lock().expect("the server is idle");
    assert_eq!(requests[0].metadata().get("x-token").map(|v| v.as_bytes()), Some(&b"hush"[..]));
}

#[tokio::test]
async fn spans_do_not_wait_longer_than_the_linger() {
    let collector = Collector::default();
    let exporter = Running::start(config(collector.serve()));
    exporter.push(1);
    for _ in 0..100 {
        sleep(Duration::from_millis(20)).await;
        if collector.received() == [1] {
            return;
        }
    }
    panic!("nothing came: {:?}", exporter.metrics.snapshot());
}

#[tokio::test]
async fn requests_keep_to_their_limits() {
    let collector = Collector::default();
    let limits = BatchLimits { spans: 100, bytes: usize::MAX };
    let exporter = Running::start(OtlpConfig { limits, ..config(collector.serve()) });
    exporter.push(250);
    assert_eq!(exporter.finish().await.get(Metric::SpansExported), 250);
    let mut received = collector.received();
    received.sort_unstable();
    assert_eq!(received, [50, 100, 100]);
}

#[tokio::test]
async fn a_passing_failure_is_tried_again() {
    let collector = Collector::answering([Err(Status::new(Code::Unavailable, "busy"))]);
    let exporter = Running::start(config(collector.serve()));
    exporter.push(2);
    let metrics = exporter.finish().await;
    assert_eq!(collector.received(), [2, 2]);
    assert_eq!(metrics.get(Metric::SpansExported), 2);
    assert_eq!(metrics.get(Metric::ExportRetries), 1);
}

/// In front of a collector: breaks each of the first connections when something has come,
/// by a reset or a close in turn, and passes the later ones on.
async fn behind_breaks(endpoint: String, breaks: usize) -> String {
    use tokio::io::{AsyncReadExt as _, copy_bidirectional};
    use tokio::net::{TcpListener, TcpStream};
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    let collector = endpoint.strip_prefix("http://").expect("as made by `serve`").to_owned();
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            if number < breaks {
                let mut some = [0; 8192];
                let _read = stream.read(&mut some).await;
                if number % 2 == 0 {
                    stream.set_zero_linger().expect("an open socket has the option");
                }
                continue;
            }
            let collector = collector.clone();
            tokio::spawn(async move {
                let mut onward = TcpStream::connect(collector).await.expect("it listens");
                let _until_closed = copy_bidirectional(&mut stream, &mut onward).await;
            });
        }
    });
    format!("http://127.0.0.1:{port}")
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_again_and_nothing_is_lost() {
    let collector = Collector::default();
    let exporter = Running::start(config(behind_breaks(collector.serve(), 2).await));
    exporter.push(2);
    let metrics = exporter.finish().await;
    assert_eq!(metrics.get(Metric::SpansExported), 2, "{:?}", metrics.snapshot());
}

/// A collector with a thread of its own.
fn collector_beside() -> (Collector, String) {
    let collector = Collector::default();
    let (tell, endpoint) = std::sync::mpsc::channel();
    let beside = collector.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime needs nothing but threads").block_on(async {
            tell.send(beside.serve()).expect("the test waits for it");
            std::future::pending::<()>().await;
        });
    });
    (collector, endpoint.recv().expect("the collector listens"))
}

#[tokio::test]
async fn a_request_in_whose_middle_the_agent_was_stopped_is_brought_to_its_end() {
    let (collector, endpoint) = collector_beside();
    let config = OtlpConfig { timeout: Duration::from_millis(300), ..config(endpoint) };
    let exporter = Running::start(config);
    // Larger than what HTTP/2 sends without being asked for more.
    exporter.push(1000);
    while exporter.metrics.get(Metric::ExportRequests) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    // Nothing of the exporter runs while this thread sleeps.
    std::thread::sleep(Duration::from_millis(500));
    let metrics = exporter.finish().await;
    assert_eq!(metrics.get(Metric::ExportRetries), 0);
    assert_eq!(metrics.get(Metric::SpansExported), 1000, "{:?}", metrics.snapshot());
    assert_eq!(collector.received(), [1000]);
}

#[tokio::test]
async fn a_request_is_tried_again_once_however_long_the_first_try_took() {
    let collector = Collector::answering([Err(Status::new(Code::Unavailable, "busy"))]);
    let config = OtlpConfig { max_retry_time: Duration::ZERO, ..config(collector.serve()) };
    let exporter = Running::start(config);
    exporter.push(2);
    assert_eq!(exporter.finish().await.get(Metric::SpansExported), 2);
}

#[tokio::test]
async fn a_refusal_is_not_tried_again_and_counted() {
    let collector = Collector::answering([Err(Status::new(Code::InvalidArgument, "no"))]);
    let exporter = Running::start(config(collector.serve()));
    exporter.push(2);
    let metrics = exporter.finish().await;
    assert_eq!(collector.received(), [2]);
    assert_eq!(metrics.get(Metric::DropExportFailed), 2);
}

#[tokio::test]
async fn a_partial_success_counts_what_was_rejected_and_is_not_tried_again() {
    let partial_success =
        Some(ExportTracePartialSuccess { rejected_spans: 2, error_message: "too old".to_owned() });
    let collector = Collector::answering([Ok(ExportTraceServiceResponse { partial_success })]);
    let exporter = Running::start(config(collector.serve()));
    exporter.push(5);
    let metrics = exporter.finish().await;
    assert_eq!(collector.received(), [5]);
    assert_eq!(metrics.get(Metric::SpansExported), 3);
    assert_eq!(metrics.get(Metric::DropRejected), 2);
}

#[tokio::test]
async fn an_unreachable_collector_fills_a_bounded_queue_and_every_span_is_counted() {
    // Port 1 of loopback: nobody listens.
    let config = OtlpConfig {
        flush_timeout: Duration::from_millis(300),
        limits: BatchLimits { spans: 100, bytes: usize::MAX },
        ..config("http://127.0.0.1:1".to_owned())
    };
    let exporter = Running::start(config);
    for _ in 0..50 {
        exporter.push(100);
        tokio::task::yield_now().await;
    }
    let before = Instant::now();
    let metrics = exporter.finish().await;
    assert!(before.elapsed() < Duration::from_secs(2));
    assert_eq!(metrics.get(Metric::SpansExported), 0);
    let (full, shutdown) = (metrics.get(Metric::DropQueueFull), metrics.get(Metric::DropShutdown));
    assert_eq!(full + shutdown, 5_000, "{:?}", metrics.snapshot());
    assert!(full >= 3_000, "{full}");
}

#[tokio::test]
async fn retrying_ends() {
    let config =
        OtlpConfig { max_retry_time: Duration::ZERO, ..config("http://127.0.0.1:1".to_owned()) };
    let exporter = Running::start(config);
    exporter.push(4);
    assert_eq!(exporter.finish().await.get(Metric::DropRetriesExhausted), 4);
}

#[tokio::test]
async fn bad_endpoints_and_headers_are_refused_with_a_sentence() {
    for endpoint in ["", "localhost:4317", "ftp://a:1", "http://", "http://a b", "/x"] {
        let result = OtlpExporter::new(OtlpConfig::new(endpoint), Arc::default());
        let error = result.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("give it as http://HOST:PORT"), "{endpoint}: {error}");
    }
    let mut config = OtlpConfig::new("http://localhost:4317");
    config.headers = vec![("bad name".to_owned(), "hush".to_owned())];
    let error = OtlpExporter::new(config, Arc::default()).err().map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.contains("bad name") && !error.contains("hush")));
}

#[tokio::test]
async fn an_https_endpoint_is_accepted() {
    let config = OtlpConfig::new("https://collector.test:4317");
    assert!(OtlpExporter::new(config, Arc::default()).is_ok());
}

#[test]
fn headers_are_split_and_decoded() {
    let headers = parse_headers(" Api-Key = a%20b%3D ,, x=1=2 ").expect("well-formed");
    let expected = [("api-key", "a b="), ("x", "1=2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(headers, expected);
    assert!(parse_headers("").is_ok_and(|headers| headers.is_empty()));
}

#[test]
fn malformed_headers_are_named_without_their_value() {
    for (text, named) in [("a=1,hush", "number 2"), ("=hush", "number 1"), ("k=hush%2", "\"k\"")] {
        let error = parse_headers(text).map_err(|error| error.to_string());
        let error = error.expect_err("malformed");
        assert!(error.contains(named) && !error.contains("hush"), "{error}");
    }
}

#[test]
fn credentials_of_an_endpoint_are_not_repeated() {
    assert_eq!(without_credentials("http://u:p@h:1"), "http://REDACTED@h:1");
    assert_eq!(without_credentials("http://h:1"), "http://h:1");
}
