//! The receiver that the agent exports to, in a process of its own.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};

use crate::build_agent::cargo;
use crate::process::{self, ChildGuard};
use crate::workspace;

/// A running `otlp-counter`.
pub(super) struct Counter {
    _guard: ChildGuard,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    port: u16,
}

impl Counter {
    /// Builds the receiver.
    ///
    /// # Errors
    ///
    /// If it does not compile.
    pub(super) fn build() -> Result<()> {
        process::run(
            cargo("build")
                .args(["--release", "--package", "xtask", "--bin", "otlp-counter"])
                .args(["--features", "otlp-counter"]),
        )
    }

    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub(super) fn start() -> Result<Self> {
        let mut command = Command::new(workspace::target_dir().join("release/otlp-counter"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guard = ChildGuard::spawn(&mut command, "the span counter")?;
        let ask = guard.child().stdin.take().context("the span counter has no standard input")?;
        let out = guard.child().stdout.take().context("the span counter has no standard output")?;
        let mut answers = BufReader::new(out);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let port = line.trim().parse().context("the span counter named no port")?;
        Ok(Self { _guard: guard, ask, answers, port })
    }

    /// Where the agent sends to.
    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The spans received since the start.
    ///
    /// # Errors
    ///
    /// If the receiver is gone.
    pub(super) fn spans(&mut self) -> Result<u64> {
        self.ask.write_all(b"\n").context("the span counter is gone")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        line.split(' ')
            .next()
            .and_then(|spans| spans.parse().ok())
            .with_context(|| format!("the span counter gave no number but {line:?}"))
    }
}
