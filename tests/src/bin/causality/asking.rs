//! Clients that know nothing of tracing, outside of the agent's scope.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tracewire_tests::http1::Reader;

use crate::truth::Pattern;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks the service for requests of a pattern, numbered from `first`, so many at once.
///
/// # Panics
///
/// If one is not answered as it should be.
pub(crate) fn ask(port: u16, pattern: &Pattern, first: usize, requests: usize, at_once: usize) {
    let next = AtomicUsize::new(first);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                if let Err(error) = client(port, pattern, &next, first + requests) {
                    panic!("{}: {error}", pattern.name);
                }
            });
        }
    });
}

fn client(port: u16, pattern: &Pattern, next: &AtomicUsize, end: usize) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut answers = Reader::new(stream.try_clone().map_err(failed)?);
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= end {
            return Ok(());
        }
        let path = format!("/{}/{number}", pattern.name);
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: service\r\n\r\n").as_bytes())
            .map_err(failed)?;
        let answer = answers.next(true).map_err(|error| format!("{path}: {error}"))?;
        let answer = answer.ok_or_else(|| format!("{path}: closed without an answer"))?;
        if answer.start(1) != "200" {
            return Err(format!("{path}: {}", answer.head.escape_ascii()));
        }
    }
}
