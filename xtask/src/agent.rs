//! The agent, started on a cgroup and watched through its log.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process::ChildGuard;
use crate::{signals, workspace};

/// How long the agent may take to attach.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// A running agent.
pub(crate) struct Agent {
    guard: ChildGuard,
    log: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    output: Arc<Mutex<String>>,
}

/// What a stopped agent leaves.
pub(crate) struct Stopped {
    /// Everything it wrote to standard output.
    pub(crate) output: String,
    /// Its log.
    pub(crate) log: Vec<String>,
}

impl Agent {
    /// Starts `tracewire run` on a cgroup and waits until it says that it is ready. What it
    /// writes to standard output is kept, and passed on at once if `echo` is set.
    ///
    /// # Errors
    ///
    /// If it ends or is not ready in time; the message has the end of its log.
    pub(crate) fn start(cgroup: &Path, arguments: &[String], echo: bool) -> Result<Self> {
        let mut command = Command::new(workspace::agent_binary());
        // What the user set for an agent of their own is not meant for this one.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|n| n.starts_with("TRACEWIRE_") || n.starts_with("OTEL_"))
            {
                command.env_remove(name);
            }
        }
        command
            .arg("run")
            .arg("--cgroup")
            .arg(cgroup)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut guard = ChildGuard::spawn(&mut command, "the agent")?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let output = Arc::new(Mutex::new(String::new()));
        let mut readers = Vec::new();
        if let Some(pipe) = guard.child().stderr.take() {
            let log = Arc::clone(&log);
            readers.push(std::thread::spawn(move || keep_lines(pipe, &log)));
        }
        if let Some(pipe) = guard.child().stdout.take() {
            let output = Arc::clone(&output);
            readers.push(std::thread::spawn(move || keep_text(pipe, &output, echo)));
        }
        let mut agent = Self { guard, log, readers, output };
        agent.wait_ready()?;
        Ok(agent)
    }

    /// The agent's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.guard.pid()
    }

    /// What it wrote to standard output so far.
    pub(crate) fn output(&self) -> String {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fails if the agent has ended of itself.
    ///
    /// # Errors
    ///
    /// With the end of its log.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        if let Err(error) = self.guard.check_alive() {
            bail!("{error}{}", self.log_end());
        }
        Ok(())
    }

    /// Asks the agent to detach and flush; `at_end` runs when it has ended, but while
    /// `/proc` still knows it.
    ///
    /// # Errors
    ///
    /// If it takes too long or does not end well.
    pub(crate) fn stop(mut self, at_end: impl FnOnce(u32)) -> Result<Stopped> {
        self.guard.signal_unreaped(libc::SIGTERM);
        let end = Instant::now() + Duration::from_secs(10);
        while !self.guard.has_ended() {
            if Instant::now() > end {
                bail!("the agent does not end ten seconds after SIGTERM{}", self.log_end());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        at_end(self.pid());
        let status = self.guard.wait(Some(Duration::from_secs(1)))?;
        for reader in self.readers.drain(..) {
            // A reader that panicked has kept what it had read.
            let _ = reader.join();
        }
        if !status.success() {
            bail!("the agent ended with {status}{}", self.log_end());
        }
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Stopped { output: self.output(), log })
    }

    fn wait_ready(&mut self) -> Result<()> {
        let end = Instant::now() + READY_LIMIT;
        loop {
            let ready = {
                let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
                log.iter().any(|line| line.contains("ready"))
            };
            if ready {
                return Ok(());
            }
            self.check_alive()?;
            if Instant::now() > end {
                bail!("the agent is not ready after {} s{}", READY_LIMIT.as_secs(), self.log_end());
            }
            signals::sleep(Duration::from_millis(10))?;
        }
    }

    /// The last lines of the log, for messages.
    fn log_end(&self) -> String {
        // The reader may be a moment behind the agent's end.
        std::thread::sleep(Duration::from_millis(50));
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let end = log.len().saturating_sub(10);
        log.iter()
            .skip(end)
            .fold(String::from("; its log ends:"), |text, line| text + "\n  " + line)
    }
}

fn keep_lines(pipe: impl Read, lines: &Mutex<Vec<String>>) {
    for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

fn keep_text(pipe: impl Read, text: &Mutex<String>, echo: bool) {
    for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned() + "\n";
        if echo {
            // Nobody may be reading any more; the agent's pipe is emptied all the same.
            let _ = std::io::stdout().lock().write_all(line.as_bytes());
        }
        text.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
    }
}
