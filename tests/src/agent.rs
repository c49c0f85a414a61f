//! The agent under test: started, watched until it is ready, and stopped.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use crate::process::{Process, patient};

/// How long attaching may take: the verifier runs in it, for long on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How long stopping may take: five seconds for the last export, some to detach, and as much
/// again for a machine on which many others wait too.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// What the agent counted, as it said when it stopped.
pub type Counters = BTreeMap<String, u64>;

/// A running agent; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Process,
}

/// The path of the agent to test.
///
/// # Panics
///
/// If it was not built.
pub fn program() -> PathBuf {
    let path = std::env::var_os("TRACEWIRE_BIN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/tracewire"),
        PathBuf::from,
    );
    assert!(
        path.exists(),
        "there is no agent at {}: run `cargo xtask build`, or set TRACEWIRE_BIN",
        path.display()
    );
    path
}

/// `tracewire` with settings from flags alone: nothing of the caller's environment. Unless a
/// flag says otherwise it writes headers, also on kernels where it would not by itself.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    for (key, _) in std::env::vars_os() {
        let key = key.to_string_lossy();
        if key.starts_with("OTEL_") || key.starts_with("TRACEWIRE_") {
            command.env_remove(&*key);
        }
    }
    command.args(arguments).env("TRACEWIRE_PROPAGATE", "always");
    command
}

impl Agent {
    /// Starts `tracewire run` and waits until it is attached.
    ///
    /// # Panics
    ///
    /// If it ends or does not say that it is ready.
    pub fn start(command: Command) -> Self {
        let mut process = Process::start(command);
        let ready = process.wait_stderr(patient(READY_LIMIT), |line| {
            line.split(|c: char| !c.is_alphanumeric()).any(|word| word == "ready")
        });
        if ready.is_none() {
            let status = process.wait_exit(Duration::ZERO);
            panic!("the agent did not become ready ({status:?})\n{}", process.output());
        }
        Self { process }
    }

    /// Waits until so many TLS libraries were probed, each in one process; asks for
    /// `--log-level debug`.
    ///
    /// # Panics
    ///
    /// If they are not.
    pub fn wait_probed(&self, libraries: usize) {
        let probed = Cell::new(0);
        let found = self.process.wait_stderr(patient(READY_LIMIT), |line| {
            probed.set(probed.get() + usize::from(line.contains("TLS library")));
            probed.get() == libraries
        });
        assert!(found.is_some(), "not {libraries} libraries\n{}", self.process.output());
    }

    /// Waits until it has said that in its log.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn wait_said(&self, text: &str) {
        let said = self.process.wait_stderr(patient(READY_LIMIT), |line| line.contains(text));
        assert!(said.is_some(), "{text:?} was not said\n{}", self.process.output());
    }

    /// Stops the agent in good order; gives its counters.
    ///
    /// # Panics
    ///
    /// If it does not end with success in time, or does not say what it counted.
    pub fn stop(self) -> Counters {
        self.stop_with_log().0
    }

    /// As [`Agent::stop`]; gives the whole log too.
    ///
    /// # Panics
    ///
    /// As [`Agent::stop`].
    pub fn stop_with_log(mut self) -> (Counters, String) {
        let started = Instant::now();
        self.process.signal(libc::SIGTERM);
        match self.process.wait_exit(patient(STOP_LIMIT)) {
            Some(status) if status.success() => {}
            Some(status) => panic!("agent: {status}\n{}", self.process.output()),
            None => panic!(
                "agent did not stop within {:?}\n{}",
                started.elapsed(),
                self.process.output()
            ),
        }
        let stderr = self.process.stderr();
        let line = stderr.lines().rev().find(|line| line.contains("stopped"));
        let line = line.unwrap_or_else(|| panic!("agent did not say that it stopped\n{stderr}"));
        let value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("agent log is no JSON ({error}): {line}"));
        let mut counters = Counters::new();
        collect_numbers(&value, &mut counters);
        (counters, stderr)
    }

    /// Stops the agent in good order; gives all that it wrote.
    ///
    /// # Panics
    ///
    /// If it does not end with success in time.
    pub fn stop_with_output(mut self) -> String {
        self.process.signal(libc::SIGTERM);
        let status = self.process.wait_exit(STOP_LIMIT);
        let output = self.process.output();
        assert!(status.is_some_and(|status| status.success()), "agent: {status:?}\n{output}");
        output
    }

    /// Kills the agent as nothing can be caught.
    pub fn kill9(mut self) -> Option<ExitStatus> {
        self.process.signal(libc::SIGKILL);
        self.process.wait_exit(patient(STOP_LIMIT))
    }

    /// The agent's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The agent's log so far.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Whether the agent is still running.
    pub fn is_running(&mut self) -> bool {
        self.process.wait_exit(Duration::ZERO).is_none()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the agent's log\n{}", self.process.stderr());
        }
    }
}

/// All numbers in a log line, by the last part of their name.
fn collect_numbers(value: &serde_json::Value, into: &mut Counters) {
    let serde_json::Value::Object(fields) = value else {
        return;
    };
    for (key, value) in fields {
        match value.as_u64() {
            Some(number) => drop(into.insert(key.clone(), number)),
            None => collect_numbers(value, into),
        }
    }
}
