//! An OTLP/gRPC receiver that counts spans and keeps none: the bench's collector.
//!
//! It shares the processors with what is measured, so it does the least that is honest:
//! it walks the protobuf of every export request and counts the spans in it, but builds
//! no values. It writes `PORT` as its first line, and for every line that it reads, one
//! line `SPANS EXPORTS BYTES`. It ends when its standard input does.

mod spans;

use std::io::{BufRead, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};

/// The most that one connection may have sent and not yet counted, in bytes.
const WINDOW: u32 = 8 << 20;

/// What was received since the start.
#[derive(Default)]
struct Totals {
    spans: AtomicU64,
    exports: AtomicU64,
    bytes: AtomicU64,
}

fn main() -> Result<()> {
    stand_back();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let totals = Arc::new(Totals::default());
    let reported = Arc::clone(&totals);
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("cannot listen on 127.0.0.1")?;
    println!("{}", listener.local_addr()?.port());
    std::thread::spawn(move || {
        report(&reported);
        // Nobody asks any more; connections may be open, but no one waits for them.
        std::process::exit(0);
    });
    runtime.block_on(async {
        loop {
            let (stream, _) = listener.accept().await?;
            let totals = Arc::clone(&totals);
            tokio::spawn(async move {
                if let Err(error) = serve(stream, &totals).await {
                    eprintln!("otlp-counter: {error:#}");
                }
            });
        }
    })
}

/// Answers each line of standard input with the totals.
fn report(totals: &Totals) {
    for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
        let (spans, exports, bytes) = (
            totals.spans.load(Ordering::Relaxed),
            totals.exports.load(Ordering::Relaxed),
            totals.bytes.load(Ordering::Relaxed),
        );
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{spans} {exports} {bytes}").and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

async fn serve(stream: tokio::net::TcpStream, totals: &Arc<Totals>) -> Result<()> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(stream)
        .await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        let totals = Arc::clone(totals);
        tokio::spawn(async move {
            if let Err(error) = answer(request, respond, &totals).await {
                eprintln!("otlp-counter: {error:#}");
            }
        });
    }
    Ok(())
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    totals: &Totals,
) -> Result<()> {
    let known =
        request.uri().path() == "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let body = read(request.into_body()).await?;
    let response = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut stream = respond.send_response(response, false)?;
    // gRPC status codes: 12 unimplemented, 3 invalid argument, 0 OK.
    let status = if !known {
        "12"
    } else if let Some(spans) = message(&body).and_then(spans::count) {
        totals.spans.fetch_add(spans, Ordering::Relaxed);
        totals.exports.fetch_add(1, Ordering::Relaxed);
        totals.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        // An empty ExportTraceServiceResponse: not compressed, no bytes.
        stream.send_data(Bytes::from_static(&[0; 5]), false)?;
        "0"
    } else {
        "3"
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    stream.send_trailers(trailers)?;
    Ok(())
}

async fn read(mut body: RecvStream) -> Result<BytesMut> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

/// The one message of a unary call: a byte for compression (none offered, none taken), a
/// length of four bytes, the message (gRPC over HTTP/2, "Length-Prefixed-Message").
fn message(body: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix.get(1..)?.try_into().ok()?);
    (prefix.first() == Some(&0) && u32::try_from(rest.len()) == Ok(length)).then_some(rest)
}

/// A collector is on another host as a rule; here it must not take the processors from
/// what is measured.
fn stand_back() {
    // SAFETY: plain integers. Where it fails, the figures are only less kind.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}
