//! Clients that know nothing of tracing, outside of the agent's scope.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tracewire_tests::http1::Reader;
use tracewire_tests::process::patient;

use crate::load::Load;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Clients of a service, each with a connection that it keeps.
#[derive(Debug)]
pub(crate) struct Clients {
    port: u16,
    connections: Vec<Option<Connection>>,
}

impl Clients {
    /// So many clients of the service at a port; none connects yet.
    pub(crate) fn new(port: u16, count: usize) -> Self {
        Self { port, connections: (0..count).map(|_| None).collect() }
    }

    /// Makes the load's requests, so many at once.
    ///
    /// # Panics
    ///
    /// If one is not answered as it should be, or there are fewer clients than that.
    pub(crate) fn ask(&mut self, load: &Load, at_once: usize) {
        assert!(at_once <= self.connections.len(), "{at_once} requests at once");
        let next = AtomicUsize::new(load.numbers.start);
        let port = self.port;
        std::thread::scope(|scope| {
            for place in &mut self.connections[..at_once] {
                scope.spawn(|| {
                    if let Err(error) = client(port, place, load, &next) {
                        panic!("{}: {error}", load.name);
                    }
                });
            }
        });
    }
}

fn client(
    port: u16,
    place: &mut Option<Connection>,
    load: &Load,
    next: &AtomicUsize,
) -> Result<(), String> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= load.numbers.end {
            return Ok(());
        }
        // A service may close what was idle for long.
        if place.as_ref().is_none_or(Connection::is_over) {
            *place = Some(Connection::open(port).map_err(|error| error.to_string())?);
        }
        let path = format!("/{}/{number}", load.pattern(number).name);
        let connection = place.as_mut().ok_or("no connection")?;
        connection.ask(&path).map_err(|error| format!("{path}: {error}"))?;
    }
}

/// A connection to the service.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    answers: Reader<TcpStream>,
}

impl Connection {
    fn open(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patient(PATIENCE)))?;
        Ok(Self { answers: Reader::new(stream.try_clone()?), stream })
    }

    /// Whether the service has closed it; no answer is awaited.
    fn is_over(&self) -> bool {
        let looked =
            self.stream.set_nonblocking(true).and_then(|()| self.stream.peek(&mut [0])).map(drop);
        let waits = looked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).is_err() || !waits
    }

    fn ask(&mut self, path: &str) -> Result<(), String> {
        let failed = |error: std::io::Error| error.to_string();
        self.stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: service\r\n\r\n").as_bytes())
            .map_err(failed)?;
        let answer = self.answers.next(true).map_err(failed)?.ok_or("closed without an answer")?;
        if answer.start(1) == "200" {
            return Ok(());
        }
        Err(answer.head.escape_ascii().to_string())
    }
}
