//! A request that a client works on while it sends: what it passes on came with that.

use std::io::{BufRead, Error, Read, Result, Write, stdin};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};

use crate::oracle::RECEIVED;

const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// What `call` is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Settings {
    /// Whom it calls
    #[arg(long)]
    to: SocketAddr,
}

/// A connection over which a worker is asked for something, by a process that does nothing else: one that
/// was shown a context itself would pass it on.
pub(crate) struct Inbound {
    stream: TcpStream,
    caller: Child,
}

impl Inbound {
    /// Of the thread that calls it. It should not work on anything, or who asks would do so for that.
    pub(crate) fn new() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["call", "--to", &listener.local_addr()?.to_string()]);
        // It ends with this process, whose end of the pipe is closed then.
        let caller = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let (stream, _) = listener.accept()?;
        Ok(Self { stream, caller })
    }

    /// Has a request come, with [`RECEIVED`].
    pub(crate) fn receive(&mut self) -> Result<()> {
        let calls = self.caller.stdin.as_mut().ok_or_else(|| Error::other("no caller"))?;
        calls.write_all(b"\n")?;
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

/// Calls a worker, each time that a line comes.
pub(crate) fn run(settings: &Settings) -> ExitCode {
    let called = TcpStream::connect(settings.to).and_then(|mut stream| {
        for line in stdin().lock().lines() {
            line?;
            stream.write_all(&request())?;
            stream.read_exact(&mut [0; ANSWER.len()])?;
        }
        Ok(())
    });
    // The worker is gone, too, when this cannot be said to it.
    if let Err(error) = called {
        eprintln!("exactness: calling a client: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn request() -> Vec<u8> {
    format!("GET /inbound HTTP/1.1\r\nHost: a\r\ntraceparent: {RECEIVED}\r\n\r\n").into_bytes()
}
