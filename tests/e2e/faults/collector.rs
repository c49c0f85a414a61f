//! A collector with moods. It keeps of a span nothing but its id.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf as _;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Code, Request, Response, Status};

use crate::span_ids;

/// What a collector does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Takes it.
    Taking,
    /// Takes it after a while.
    Slow(Duration),
    /// Refuses it.
    Refusing(Code),
    /// Never answers.
    Silent,
}

#[derive(Debug)]
struct State {
    mood: Mutex<Mood>,
    /// The ids of the spans that were taken.
    taken: Mutex<HashSet<u64>>,
}

/// A running collector; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Collector {
    address: SocketAddr,
    state: Arc<State>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Collector {
    /// Starts a collector on a free port.
    pub(crate) fn start(mood: Mood) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), mood)
    }

    /// Starts a collector at an address.
    pub(crate) fn start_at(address: SocketAddr, mood: Mood) -> Self {
        let state = Arc::new(State { mood: Mutex::new(mood), taken: Mutex::default() });
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell, told) = mpsc::channel();
        let service = Export(Arc::clone(&state));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
            runtime.block_on(async {
                let listener = tonic::transport::server::TcpIncoming::bind(address)
                    .unwrap_or_else(|error| panic!("collector cannot listen: {error}"));
                drop(tell.send(listener.local_addr()));
                let server = tonic::transport::Server::builder().add_service(service);
                tokio::select! {
                    result = server.serve_with_incoming(listener) => {
                        if let Err(error) = result {
                            eprintln!("collector: {error}");
                        }
                    }
                    // At once: a silent one never ends its requests.
                    _ = stopped => {}
                }
            });
        });
        let address = told.recv().map_err(|error| error.to_string());
        let address = address.and_then(|address| address.map_err(|error| error.to_string()));
        let address = address.unwrap_or_else(|error| panic!("no collector: {error}"));
        Self { address, state, _stop: stop }
    }

    /// The endpoint to give to an agent.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does with the requests to come.
    pub(crate) fn becomes(&self, mood: Mood) {
        *self.state.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// How many spans were taken, each counted once however often it came.
    pub(crate) fn spans(&self) -> u64 {
        self.state.taken.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// Waits until no more spans come, at most a minute.
    pub(crate) fn wait_quiet(&self) {
        let mut before = self.spans();
        for _ in 0..60 {
            std::thread::sleep(Duration::from_secs(1));
            let now = self.spans();
            if now == before {
                return;
            }
            before = now;
        }
    }
}

/// The trace service, below the generated one: decoding whole spans would take more time
/// than all that is tested.
#[derive(Clone, Debug)]
struct Export(Arc<State>);

impl NamedService for Export {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl Service<http::Request<Body>> for Export {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(Grpc::new(Raw).unary(service, request).await) })
    }
}

impl UnaryService<Vec<u8>> for Export {
    type Response = ();
    type Future = BoxFuture<Response<()>, Status>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        let state = Arc::clone(&self.0);
        Box::pin(async move {
            let mood = *state.mood.lock().unwrap_or_else(PoisonError::into_inner);
            match mood {
                Mood::Taking => {}
                Mood::Slow(wait) => tokio::time::sleep(wait).await,
                Mood::Refusing(code) => return Err(Status::new(code, "not now")),
                Mood::Silent => std::future::pending().await,
            }
            let mut taken = state.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let mut take = |id| {
                taken.insert(id);
            };
            if span_ids::collect(request.get_ref(), &mut take).is_err() {
                return Err(Status::invalid_argument("no ExportTraceServiceRequest"));
            }
            Ok(Response::new(()))
        })
    }
}

/// Requests as bytes; answers without any.
#[derive(Clone, Copy, Debug)]
struct Raw;

impl Codec for Raw {
    type Encode = ();
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // An empty message is an answer that rejects nothing.
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut whole = vec![0; bytes.remaining()];
        bytes.copy_to_slice(&mut whole);
        Ok(Some(whole))
    }
}

/// In front of a collector: resets each connection a moment after it was made, as long as
/// it is told to; passes later ones on.
#[derive(Debug)]
pub(crate) struct Breaker {
    address: SocketAddr,
    breaking: Arc<AtomicBool>,
}

impl Breaker {
    /// How long a connection lives.
    pub(crate) const LIFE: Duration = Duration::from_millis(100);

    /// Starts in front of `collector`.
    pub(crate) fn start(collector: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0));
        let listener = listener.unwrap_or_else(|error| panic!("breaker: {error}"));
        let address = listener.local_addr().unwrap_or_else(|error| panic!("breaker: {error}"));
        let breaking = Arc::new(AtomicBool::new(true));
        let breaks = Arc::clone(&breaking);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let breaks = Arc::clone(&breaks);
                std::thread::spawn(move || pass_on(&stream, collector, &breaks));
            }
        });
        Self { address, breaking }
    }

    /// The endpoint to give to an agent.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets connections live from now on.
    pub(crate) fn relents(&self) {
        self.breaking.store(false, Ordering::Relaxed);
    }
}

fn pass_on(stream: &TcpStream, collector: SocketAddr, breaking: &AtomicBool) {
    let Ok(onward) = TcpStream::connect(collector) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(std::io::copy(&mut &*stream, &mut &onward));
            drop(onward.shutdown(std::net::Shutdown::Write));
        });
        scope.spawn(|| {
            drop(std::io::copy(&mut &onward, &mut &*stream));
            drop(stream.shutdown(std::net::Shutdown::Write));
        });
        if breaking.load(Ordering::Relaxed) {
            std::thread::sleep(Breaker::LIFE);
            reset(stream);
            reset(&onward);
        }
    });
}

/// Ends a connection by a reset though others hold its descriptor: `connect` to nowhere
/// (`AF_UNSPEC`) does that (connect(2), `tcp_disconnect` in net/ipv4/tcp.c).
fn reset(stream: &TcpStream) {
    use std::os::fd::AsRawFd;
    // SAFETY: a `sockaddr` is plain data, valid all zero, which is `AF_UNSPEC`; it
    // outlives the call.
    unsafe {
        let nowhere: libc::sockaddr = std::mem::zeroed();
        let length = size_of::<libc::sockaddr>() as libc::socklen_t;
        libc::connect(stream.as_raw_fd(), &raw const nowhere, length);
    }
}
