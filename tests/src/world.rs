//! All that one test has to itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::agent::{self, Agent, Counters};
use crate::cgroup::Cgroup;
use crate::cleanup::{self, Made};
use crate::netns::Netns;
use crate::otlp::{Sink, Span};
use crate::peer::{self, Peer};
use crate::process::Process;
use crate::script::{Chain, ChainHeaders, Load, LoadReport, Script, Send, Serve, Step};

static SHARED: RwLock<()> = RwLock::new(());

/// Whether a test may run beside others.
#[derive(Debug)]
enum Turn {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

/// A cgroup, a directory, an OTLP receiver and maybe an agent.
#[derive(Debug)]
pub struct World {
    // Dropped in this order: the agent before the cgroup that it is attached to.
    agent: Option<Agent>,
    /// The cgroup in scope.
    pub cgroup: Cgroup,
    /// Where the spans arrive.
    pub sink: Sink,
    directory: PathBuf,
    scratch: AtomicU32,
    // What a stopped agent said, to be shown if the test fails after all.
    last_words: String,
    /// Where the services are, if that is not the machine's own namespace.
    netns: Option<Netns>,
    _turn: Turn,
}

/// Whether this is a control run, without any agent.
pub fn is_control() -> bool {
    std::env::var_os("TRACEWIRE_TEST_CONTROL").is_some()
}

/// What is known when a test's agent has stopped.
#[derive(Debug)]
pub struct Outcome {
    /// All spans that were received.
    pub spans: Vec<Span>,
    /// What the agent counted.
    pub counters: Counters,
}

impl World {
    /// Everything but an agent.
    ///
    /// # Panics
    ///
    /// If something cannot be made; the tests need root.
    pub fn new() -> Self {
        let guard = SHARED.read().unwrap_or_else(PoisonError::into_inner);
        Self::with(Turn::Shared { _guard: guard })
    }

    /// As [`World::new`], and no other test of the same file runs meanwhile.
    ///
    /// # Panics
    ///
    /// As [`World::new`].
    pub fn alone() -> Self {
        let guard = SHARED.write().unwrap_or_else(PoisonError::into_inner);
        Self::with(Turn::Alone { _guard: guard })
    }

    fn with(turn: Turn) -> Self {
        let directory = tempfile::Builder::new().prefix("tracewire-test-").tempdir();
        let directory =
            directory.unwrap_or_else(|error| panic!("no scratch directory: {error}")).keep();
        cleanup::list(Made::Directory(directory.clone()));
        Self {
            agent: None,
            cgroup: Cgroup::new(),
            sink: Sink::start(),
            directory,
            scratch: AtomicU32::new(0),
            last_words: String::new(),
            netns: None,
            _turn: turn,
        }
    }

    /// A world with a running agent.
    ///
    /// # Panics
    ///
    /// If the agent does not become ready.
    pub fn traced() -> Self {
        Self::traced_with(&[])
    }

    /// A world with a running agent that has more flags.
    ///
    /// # Panics
    ///
    /// If the agent does not become ready.
    pub fn traced_with(flags: &[&str]) -> Self {
        let mut world = Self::new();
        world.start_agent(flags);
        world
    }

    /// The agent's command line in this world.
    pub fn agent_command(&self, flags: &[&str]) -> Command {
        self.agent_command_to(&self.sink.endpoint(), flags)
    }

    /// As [`World::agent_command`], with another collector.
    pub fn agent_command_to(&self, endpoint: &str, flags: &[&str]) -> Command {
        let cgroup = self.cgroup.path().to_string_lossy().into_owned();
        let mut command = agent::command(&["run", "--cgroup", &cgroup, "--exporter", "otlp"]);
        command.args(["--otlp-endpoint", endpoint]);
        command.args(["--log-format", "json", "--nice", "0"]).args(flags);
        command
    }

    /// Starts an agent outside the cgroup, unless this is a control run.
    ///
    /// # Panics
    ///
    /// If it does not become ready.
    pub fn start_agent(&mut self, flags: &[&str]) {
        if !is_control() {
            self.start_agent_by(self.agent_command(flags));
        }
    }

    /// Starts an agent by a command of the test's own.
    ///
    /// # Panics
    ///
    /// If it does not become ready.
    pub fn start_agent_by(&mut self, command: Command) {
        self.agent = Some(Agent::start(command));
    }

    /// The running agent.
    pub fn agent(&mut self) -> Option<&mut Agent> {
        self.agent.as_mut()
    }

    /// Hands the running agent over.
    pub fn take_agent(&mut self) -> Option<Agent> {
        self.agent.take()
    }

    /// Kills the agent.
    pub fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill9();
        }
    }

    /// Stops the agent; gives all spans. `None` in a control run.
    ///
    /// # Panics
    ///
    /// If the agent does not stop well or lost something that it should not.
    pub fn stop_agent(&mut self) -> Option<Outcome> {
        let (counters, last_words) = self.agent.take()?.stop_with_log();
        self.last_words = last_words;
        let lost: Vec<_> = counters
            .iter()
            .filter(|(name, count)| name.starts_with("drop_") && **count > 0)
            .collect();
        assert!(lost.is_empty(), "the agent dropped something: {lost:?}, all: {counters:?}");
        Some(Outcome { spans: self.sink.spans(), counters })
    }

    /// Whether headers take a verdict program on this kernel, by which connections come to
    /// harm: asked of the agent's own check, so before one runs in this world.
    ///
    /// # Panics
    ///
    /// If the check cannot be started.
    pub fn needs_verdict(&self) -> bool {
        if is_control() {
            return false;
        }
        let cgroup = self.cgroup.path().to_string_lossy().into_owned();
        let output = agent::command(&["check", "--cgroup", &cgroup]).output();
        let output = output.unwrap_or_else(|error| panic!("tracewire check: {error}"));
        String::from_utf8_lossy(&output.stdout).contains("a verdict program restores it")
    }

    /// A new directory for scratch files.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    pub fn scratch(&self) -> PathBuf {
        let number = self.scratch.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(number.to_string());
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Two worlds that reach each other as two hosts do: what is started in them is in a network
    /// namespace of its own.
    ///
    /// # Panics
    ///
    /// As [`World::new`], and if the namespaces cannot be made.
    pub fn two_hosts() -> (Self, Self) {
        let (left, right) = Netns::pair();
        let mut worlds = (Self::new(), Self::new());
        (worlds.0.netns, worlds.1.netns) = (Some(left), Some(right));
        worlds
    }

    /// The address at which services of this world listen.
    pub fn host(&self) -> IpAddr {
        self.netns.as_ref().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), Netns::address)
    }

    /// Starts a program inside the cgroup. It is told as `HOST` where to listen, and as `NEXT_HOST`
    /// where others do, unless that is told it already.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(&self, mut command: Command) -> Process {
        let host = self.host().to_string();
        if command.get_envs().all(|(name, _)| name != "NEXT_HOST") {
            command.env("NEXT_HOST", &host);
        }
        command.env("HOST", host);
        self.cgroup.place(&mut command);
        if let Some(netns) = &self.netns {
            netns.place(&mut command);
        }
        Process::start(command)
    }

    /// Starts a peer inside the cgroup.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn peer(&self, make: impl FnOnce(&Path) -> Script) -> Peer {
        self.peer_by(&peer::program(), make, |_| {})
    }

    /// Starts a peer inside the cgroup, by its own program and with more to prepare.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn peer_by(
        &self,
        program: &Path,
        make: impl FnOnce(&Path) -> Script,
        prepare: impl FnOnce(&mut Command),
    ) -> Peer {
        let directory = self.scratch();
        Peer::start(program, &directory, &make(&directory), |command| {
            self.cgroup.place(command);
            prepare(command);
        })
    }

    /// Starts a peer outside the cgroup: a machine elsewhere, as far as the agent can tell.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn stranger(&self, make: impl FnOnce(&Path) -> Script) -> Peer {
        let directory = self.scratch();
        Peer::start(&peer::program(), &directory, &make(&directory), |_| {})
    }

    /// A server inside the cgroup, with the same steps for each connection.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn server(&self, steps: Vec<Step>) -> Peer {
        self.peer(|directory| serve(directory, vec![steps]))
    }

    /// Runs a client inside the cgroup to its end; gives what its connections received.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn client(&self, connections: usize, steps: Vec<(usize, Step)>) -> Vec<Vec<u8>> {
        self.peer(|directory| send(directory, steps)).finish(connections)
    }

    /// Runs a load client inside the cgroup to its end.
    ///
    /// # Panics
    ///
    /// If it cannot be started or does not report.
    pub fn load(&self, load: Load) -> LoadReport {
        self.peer(|_| Script::Load(load)).report()
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.last_words.is_empty() {
            eprintln!("--- the stopped agent's log\n{}", self.last_words);
        }
        drop(self.agent.take());
        drop(std::fs::remove_dir_all(&self.directory));
        cleanup::unlist(&Made::Directory(self.directory.clone()));
    }
}

/// The loopback address with a free port.
pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A serving script on the loopback address.
pub fn serve(directory: &Path, connections: Vec<Vec<Step>>) -> Script {
    Script::Serve(Serve {
        listen: any_port(),
        defer_accept: false,
        record: directory.to_owned(),
        connections,
    })
}

/// A sending script.
pub fn send(directory: &Path, steps: Vec<(usize, Step)>) -> Script {
    Script::Send(Send { record: directory.to_owned(), steps })
}

/// A chain server on the loopback address.
pub fn chain(directory: &Path, next: Option<SocketAddr>, headers: ChainHeaders) -> Script {
    Script::Chain(Chain { listen: any_port(), next, headers, record: directory.join("heads") })
}
