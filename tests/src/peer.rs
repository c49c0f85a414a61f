//! Starting the `peer` program and reading back what it recorded.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Process, patience};
use crate::script::{LoadReport, Script};

/// A running `peer`.
#[derive(Debug)]
pub struct Peer {
    process: Process,
    record: PathBuf,
}

/// The path of the `peer` program, which cargo builds beside the tests.
///
/// # Panics
///
/// If it was not built.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let path = test.ancestors().nth(2).unwrap_or(Path::new("")).join("peer");
    assert!(path.exists(), "{} is missing: cargo build -p tracewire-tests", path.display());
    path
}

impl Peer {
    /// Starts a peer. `place` puts the command where it belongs (cgroup, namespace).
    ///
    /// # Panics
    ///
    /// If its files cannot be written or it cannot be started.
    pub fn start(
        program: &Path,
        directory: &Path,
        script: &Script,
        place: impl FnOnce(&mut Command),
    ) -> Self {
        let record = match script {
            Script::Serve(serve) => serve.record.clone(),
            Script::Send(send) => send.record.clone(),
            Script::Chain(chain) => chain.record.clone(),
            Script::Load(_) => directory.to_owned(),
        };
        let file = directory.join("script.json");
        let json = serde_json::to_vec(script).unwrap_or_else(|error| panic!("script: {error}"));
        std::fs::write(&file, json).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut command = Command::new(program);
        command.arg(&file);
        place(&mut command);
        Self { process: Process::start(command), record }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The address that a serving peer listens on.
    ///
    /// # Panics
    ///
    /// If it does not say so in time.
    pub fn address(&self) -> SocketAddr {
        let line = self.process.wait_line("listening");
        line.parse().unwrap_or_else(|error| panic!("peer listens on {line:?}: {error}"))
    }

    /// Waits until a sending peer is at its next gate.
    ///
    /// # Panics
    ///
    /// If it does not get there in time.
    pub fn wait_gate(&self, number: usize) {
        self.process.wait_line(&format!("gate{number}"));
    }

    /// Opens the gate.
    ///
    /// # Panics
    ///
    /// If the peer is gone.
    pub fn open_gate(&mut self) {
        self.process.tell("go");
    }

    /// Waits until a serving peer is done with connection `number`; gives all that it received.
    ///
    /// # Panics
    ///
    /// If it is not done in time, or a step failed.
    pub fn received(&self, number: usize) -> Vec<u8> {
        let failure = self.process.wait_line(&format!("closed{number}"));
        assert!(failure.is_empty(), "serving peer, connection {number}: {failure}");
        self.recorded(number)
    }

    /// Waits until a sending peer has ended well; gives what its connections received.
    ///
    /// # Panics
    ///
    /// If it fails or does not end in time.
    pub fn finish(self, connections: usize) -> Vec<Vec<u8>> {
        let Self { process, record } = self;
        process.succeed();
        (0..connections).map(|number| read(&record.join(number.to_string()))).collect()
    }

    /// Waits for the report of a load peer.
    ///
    /// # Panics
    ///
    /// If there is none, or it is not JSON.
    pub fn report(self) -> LoadReport {
        let line = self.process.wait_line("done");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("load report {line:?}: {error}"))
    }

    /// The bytes recorded for one connection, so far.
    ///
    /// # Panics
    ///
    /// If there is no such record.
    pub fn recorded(&self, number: usize) -> Vec<u8> {
        read(&self.record.join(number.to_string()))
    }

    /// The heads that a chain peer has received so far.
    ///
    /// # Panics
    ///
    /// If there is no record.
    pub fn heads(&self) -> Vec<Vec<u8>> {
        let all = read(&self.record);
        let mut heads = Vec::new();
        let mut rest = all.as_slice();
        while let Some(at) = crate::http1::find(rest, b"\r\n\r\n") {
            let (head, more) = rest.split_at(at + 4);
            heads.push(head.to_vec());
            rest = more;
        }
        heads
    }

    /// Panics with the peer's own words if it has failed.
    ///
    /// # Panics
    ///
    /// If the peer ended with an error.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.process.wait_exit(std::time::Duration::ZERO) {
            assert!(status.success(), "peer: {status}\n{}", self.process.output());
        }
    }

    /// Waits for the peer to end, whatever the result.
    pub fn wait(&mut self) -> bool {
        self.process.wait_exit(patience()).is_some_and(|status| status.success())
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("no record {}: {error}", path.display()))
}
