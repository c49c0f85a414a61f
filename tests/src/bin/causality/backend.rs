//! What the services ask: it takes its time, as what lies behind real services does.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use tracewire_tests::http1::Reader;

/// An answer takes so many milliseconds and up to [`SPREAD_MS`] more, by its path.
const LEAST_MS: u64 = 2;
const SPREAD_MS: u64 = 8;
/// A row takes so many milliseconds and up to [`ROW_SPREAD_MS`] more, by its key.
const ROW_LEAST_MS: u64 = 1;
const ROW_SPREAD_MS: u64 = 3;

/// A running backend: a thread for each connection, until the process ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    /// Where it answers requests.
    pub(crate) http: u16,
    /// Where it answers queries: not HTTP, but a line for a line.
    pub(crate) store: u16,
}

impl Backend {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    pub(crate) fn start() -> Self {
        Self { http: listen(serve), store: listen(answer_queries) }
    }
}

fn listen(serve: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listener = listener.unwrap_or_else(|error| panic!("the backend: {error}"));
    let port = listener.local_addr().map_or(0, |address| address.port());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _as_it_comes = stream.set_nodelay(true);
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// Waits as long as an answer to this takes: the same for the same text.
fn take_time(text: &str, least_ms: u64, spread_ms: u64) {
    let number = text.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    std::thread::sleep(Duration::from_millis(least_ms + number % spread_ms));
}

/// Answers requests until the peer closes, or breaks off.
fn serve(mut stream: TcpStream) {
    let Ok(requests) = stream.try_clone() else { return };
    let mut requests = Reader::new(requests);
    while let Ok(Some(request)) = requests.next(false) {
        let path = request.start(1);
        take_time(&path, LEAST_MS, SPREAD_MS);
        let is_first_try = path.starts_with("/retry/") && path.ends_with("/0");
        let status = if is_first_try { "503 Service Unavailable" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Answers queries, `query KEY` with `row KEY`, until the peer closes or breaks off.
fn answer_queries(mut stream: TcpStream) {
    let Ok(queries) = stream.try_clone() else { return };
    for query in BufReader::new(queries).lines().map_while(Result::ok) {
        let Some(key) = query.strip_prefix("query ") else { return };
        take_time(key, ROW_LEAST_MS, ROW_SPREAD_MS);
        if stream.write_all(format!("row {key}\n").as_bytes()).is_err() {
            return;
        }
    }
}
