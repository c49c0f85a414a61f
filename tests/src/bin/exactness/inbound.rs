//! A request that a client works on while it sends: what it passes on came with that.

use std::io::{Error, Read, Result, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};

use crate::oracle::RECEIVED;

const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// A connection over which a worker is asked for something, by a thread that does nothing else.
pub(crate) struct Inbound {
    stream: TcpStream,
    caller: Sender<()>,
}

impl Inbound {
    /// Of the thread that calls it. It should not work on anything, or who asks would do so for that.
    pub(crate) fn new() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let to = listener.local_addr()?;
        let (caller, calls) = channel();
        std::thread::spawn(move || {
            let called = ask(to, calls.into_iter());
            called.unwrap_or_else(|error| eprintln!("exactness: asking a client: {error}"));
        });
        let (stream, _) = listener.accept()?;
        Ok(Self { stream, caller })
    }

    /// Has a request come, with [`RECEIVED`].
    pub(crate) fn receive(&mut self) -> Result<()> {
        self.caller.send(()).map_err(Error::other)?;
        let expected = request();
        let mut received = vec![0; expected.len()];
        self.stream.read_exact(&mut received)?;
        if received == expected {
            return Ok(());
        }
        // Nobody called who asks: its context is its own.
        let words = received.escape_ascii();
        Err(Error::other(format!("a request that nobody should have changed came as {words}")))
    }

    /// Answers it.
    pub(crate) fn answer(&mut self) -> Result<()> {
        self.stream.write_all(ANSWER)
    }
}

fn ask(to: SocketAddr, calls: impl Iterator<Item = ()>) -> Result<()> {
    let mut stream = TcpStream::connect(to)?;
    for () in calls {
        stream.write_all(&request())?;
        stream.read_exact(&mut [0; ANSWER.len()])?;
    }
    Ok(())
}

fn request() -> Vec<u8> {
    format!("GET /inbound HTTP/1.1\r\nHost: a\r\ntraceparent: {RECEIVED}\r\n\r\n").into_bytes()
}
