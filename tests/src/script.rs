//! What the `peer` program is told to do: one JSON file, one of these values.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The work of one `peer` process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Script {
    /// Accept connections and run steps on each.
    Serve(Serve),
    /// Open connections and run steps on them.
    Send(Send),
    /// An HTTP server that asks another server for each request.
    Chain(Chain),
    /// Many requests from many threads.
    Load(Load),
}

/// Accepts connections, records what they send, answers by steps.
///
/// Prints `listening ADDRESS` first, and `closedN` when connection N is
/// over, followed by what failed on it, if anything did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Serve {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Ask the kernel for `TCP_DEFER_ACCEPT`.
    pub defer_accept: bool,
    /// Where the bytes received on connection N are written, as file `N`.
    pub record: PathBuf,
    /// The steps of connection N; later connections repeat the last.
    pub connections: Vec<Vec<Step>>,
}

/// Runs steps on connections of its own, in order.
///
/// Prints `gateN` at the Nth [`Step::Gate`], and `done` at the end. What was received
/// on connection N is written to file `N` of `record`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Send {
    /// Where received bytes are written.
    pub record: PathBuf,
    /// The connection that each step is for, and the step.
    pub steps: Vec<(usize, Step)>,
}

/// One step on one connection. Any step that takes 45 seconds fails the peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Open the connection (`TCP_NODELAY` is set: each send leaves at once).
    Connect(SocketAddr),
    /// One `send()` of these bytes; more only if the kernel took a part.
    Send(Bytes),
    /// One `send()` with `MSG_MORE`: the kernel may wait for what follows.
    SendMore(Bytes),
    /// One `writev()` of these pieces.
    SendVector(Vec<Bytes>),
    /// This many bytes by [`fill`], in sends of at most 64 KiB.
    SendFill {
        /// Bytes.
        len: usize,
        /// Do not block; wait with `poll` when the buffer is full.
        nonblocking: bool,
    },
    /// Read until the pattern was seen so often, counted from the last such step.
    Until {
        /// What to look for.
        pattern: Bytes,
        /// How often.
        times: usize,
    },
    /// Read at least this many bytes more.
    UntilMore(usize),
    /// Read slowly: pieces of 16 KiB with a pause of a millisecond, until this many bytes more.
    UntilMoreSlowly(usize),
    /// As [`Step::UntilMore`], reading exactly what `ioctl(FIONREAD)` says is there.
    UntilMoreByFionread(usize),
    /// Read until the peer closes or resets.
    UntilClosed,
    /// Send back what comes, until the peer closes.
    Echo,
    /// Do nothing for so many milliseconds.
    Pause(u64),
    /// Wait for a line on standard input.
    Gate,
    /// Close the sending direction.
    HalfClose,
    /// Close.
    Close,
    /// Close with a reset (`SO_LINGER` of zero).
    Reset,
    /// Set the size of the kernel's send buffer, in bytes.
    SendBuffer(i32),
}

impl Step {
    /// One send of these bytes.
    pub fn send(bytes: impl AsRef<[u8]>) -> Self {
        Self::Send(bytes.as_ref().into())
    }

    /// Read until `pattern` has come once more.
    pub fn until(pattern: &str) -> Self {
        Self::Until { pattern: pattern.into(), times: 1 }
    }

    /// Read until so many more empty lines, the ends of heads, have come.
    pub fn heads(times: usize) -> Self {
        Self::Until { pattern: "\r\n\r\n".into(), times }
    }
}

/// An HTTP/1.1 server that answers with the path and, if there is a next server, its answer.
///
/// One thread a connection; each has its own kept-alive connection to the next server.
/// Prints `listening ADDRESS`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The next server.
    pub next: Option<SocketAddr>,
    /// What of tracing the application does itself.
    pub headers: ChainHeaders,
    /// Where each received head is appended.
    pub record: PathBuf,
}

/// The trace headers that a [`Chain`] sends to the next server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ChainHeaders {
    /// None: the application knows nothing of tracing.
    None,
    /// What it received, unchanged, as a proxy does.
    Forward,
    /// One of its own, as an instrumented application does.
    Own(String),
}

/// Sends `GET {path}/{id}` on kept-alive connections and checks the answers.
///
/// Prints `done` and a [`LoadReport`] as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// The server.
    pub to: SocketAddr,
    /// The path before the id.
    pub path: String,
    /// Connections, one thread each.
    pub threads: usize,
    /// Requests in all, ids from 0. The last may be cut off by `limit_ms`.
    pub requests: usize,
    /// Stop after so many milliseconds.
    pub limit_ms: u64,
}

/// What a [`Load`] saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Requests sent.
    pub requests: usize,
    /// What went wrong, the first ten.
    pub failures: Vec<String>,
    /// The longest time from a request to its whole answer, in milliseconds.
    pub longest_ms: u64,
    /// A digest of all answers (status, headers but `Date`, content) by path.
    pub digest: u64,
}

/// Bytes, in JSON as hex digits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Bytes(pub Vec<u8>);

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        bytes.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for Bytes {
    type Error = String;

    fn try_from(hex: String) -> Result<Self, String> {
        let pairs = hex.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).map_err(|error| error.to_string())?;
            u8::from_str_radix(pair, 16).map_err(|error| format!("{pair:?}: {error}"))
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", crate::stream::show(&self.0))
    }
}

/// Bytes that a program which looks for requests would take for many of them.
pub fn fill(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 64);
    let mut number = 0u64;
    while bytes.len() < len {
        bytes.extend_from_slice(format!("GET /{number} HTTP/1.1\r\nhost: body\r\n\r\n").as_bytes());
        number += 1;
    }
    bytes.truncate(len);
    bytes
}
