//! The `swarm` program: more connections, and more threads, than a peer with steps can have.
//!
//! A serving swarm checks each request to the byte, but for one `traceparent`; an asking
//! one checks each answer. Both are single processes, to be started inside a test's cgroup.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::process::Process;
use crate::world::World;

/// The longest that a swarm may take to open or to close all that it has.
const OPENING_LIMIT: Duration = Duration::from_secs(300);

/// The work of one `swarm` process: its only argument, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Work {
    /// Answer, on every address of the host, until a line comes on standard input.
    ///
    /// Prints `listening ADDRESS`, and `done` with a [`Served`] at the end.
    Serve,
    /// Ask. Prints `held` where it waits, and `done` with an [`Asked`] at the end.
    Ask(Ask),
}

/// Requests, on many connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// Servers, taken in turn: each has local ports of its own.
    pub to: Vec<SocketAddr>,
    /// Connections in all.
    pub connections: usize,
    /// Connections on which something is going on at once.
    pub at_once: usize,
    /// Requests on each connection.
    pub requests: usize,
    /// Pause after each request, in microseconds.
    pub pause_us: u64,
    /// Stop asking after so many milliseconds, or when a line comes on standard input.
    pub limit_ms: u64,
    /// Keep all connections open, wait for that line, and ask once more.
    pub hold: bool,
    /// A thread for each connection, alive until the end, which all threads wait for.
    pub threads: bool,
}

impl Default for Ask {
    /// One request on one connection, for at most five minutes.
    fn default() -> Self {
        Self {
            to: Vec::new(),
            connections: 1,
            at_once: 1,
            requests: 1,
            pause_us: 0,
            limit_ms: 300_000,
            hold: false,
            threads: false,
        }
    }
}

/// What an asking swarm saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Connections on which all went well.
    pub connections: u64,
    /// Requests that were answered as they have to be.
    pub requests: u64,
    /// What went wrong: how often.
    pub failed: u64,
    /// What went wrong, the first ten.
    pub failures: Vec<String>,
    /// The longest time from a request to its whole answer, in milliseconds.
    pub longest_ms: u64,
    /// For how long the machine did not let the swarm run, at most, in milliseconds.
    pub machine_ms: u64,
    /// The time from the first connection to the last close, in milliseconds. What was
    /// waited for at the gate is not in it.
    pub elapsed_ms: u64,
}

impl Asked {
    /// Requests a second.
    pub fn rate(&self) -> u64 {
        self.requests * 1000 / self.elapsed_ms.max(1)
    }
}

/// What a serving swarm saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Requests that came as they have to.
    pub requests: u64,
    /// Of these, requests with a `traceparent`.
    pub with_header: u64,
    /// Requests that differ from what was sent by more than that: how many.
    pub violated: u64,
    /// The first ten of these.
    pub violations: Vec<String>,
    /// For how long the machine did not let the swarm run, at most, in milliseconds.
    pub machine_ms: u64,
}

/// The head of a request up to the empty line; what the asking end sends.
pub fn head(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: swarm\r\n")
}

/// The answer to a request.
pub fn answer(path: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}\n", path.len() + 1)
}

/// A running swarm.
#[derive(Debug)]
pub struct Swarm {
    process: Process,
}

impl Swarm {
    /// Starts a swarm inside the world's cgroup.
    ///
    /// # Panics
    ///
    /// If it was not built or cannot be started.
    pub fn start(world: &World, work: &Work) -> Self {
        let program = crate::peer::program().with_file_name("swarm");
        assert!(program.exists(), "{} is missing", program.display());
        let json = serde_json::to_string(work).unwrap_or_else(|error| panic!("work: {error}"));
        let mut command = Command::new(program);
        command.arg(json);
        Self { process: world.start(command) }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Addresses at which a serving swarm listens, so many of them.
    ///
    /// # Panics
    ///
    /// If it does not say its port in time.
    pub fn addresses(&self, count: u8) -> Vec<SocketAddr> {
        let line = self.process.wait_line("listening");
        let port = line.parse::<SocketAddr>().map(|address| address.port());
        let port = port.unwrap_or_else(|error| panic!("swarm listens on {line:?}: {error}"));
        (1..=count).map(|last| (Ipv4Addr::new(127, 0, 1, last), port).into()).collect()
    }

    /// Waits until all connections are open and were used.
    ///
    /// # Panics
    ///
    /// If they are not within [`OPENING_LIMIT`].
    pub fn wait_held(&self) {
        self.process.wait_line_for("held", OPENING_LIMIT);
    }

    /// Lets it go on where it is held, or else stop.
    ///
    /// # Panics
    ///
    /// If it is gone.
    pub fn go_on(&mut self) {
        self.process.tell("go");
    }

    /// What an asking swarm saw, when it is done.
    ///
    /// # Panics
    ///
    /// If it does not end within `limit`.
    pub fn asked(self, limit: Duration) -> Asked {
        self.report(limit)
    }

    /// Stops a serving swarm; gives what it saw.
    ///
    /// # Panics
    ///
    /// If it does not end in time.
    pub fn served(mut self) -> Served {
        self.go_on();
        self.report(OPENING_LIMIT)
    }

    fn report<T: serde::de::DeserializeOwned>(self, limit: Duration) -> T {
        let line = self.process.wait_line_for("done", limit);
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("swarm says {line:?}: {error}"))
    }
}
