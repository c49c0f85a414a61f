//! What the services ask: it takes its time, as a database does.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use tracewire_tests::http1::Reader;

/// An answer takes so many milliseconds and up to [`SPREAD_MS`] more, by its path.
const LEAST_MS: u64 = 2;
const SPREAD_MS: u64 = 8;

/// A running backend: a thread for each connection, until the process ends.
pub(crate) struct Backend {
    port: u16,
}

impl Backend {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = listener.unwrap_or_else(|error| panic!("the backend: {error}"));
        let port = listener.local_addr().map_or(0, |address| address.port());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { port }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

/// Answers until the peer closes, or breaks off.
fn serve(mut stream: TcpStream) {
    let Ok(requests) = stream.try_clone() else { return };
    let _as_it_comes = stream.set_nodelay(true);
    let mut requests = Reader::new(requests);
    while let Ok(Some(request)) = requests.next(false) {
        let path = request.start(1);
        let number = path.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
        std::thread::sleep(Duration::from_millis(LEAST_MS + number % SPREAD_MS));
        let is_first_try = path.starts_with("/retry/") && path.ends_with("/0");
        let status = if is_first_try { "503 Service Unavailable" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
