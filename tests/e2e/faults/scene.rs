//! A server, an agent, a collector, and what all of them say at the end.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use tracewire_tests::swarm::{Ask, Asked, Served, Swarm, Work};
use tracewire_tests::world::{World, is_control};

use crate::accounting::Accounts;
use crate::collector::{Collector, Mood};

/// A request that takes longer than this, and what the machine explains, was stalled.
const STALL_MS: u64 = 1000;
/// What traffic gets done at least beside an agent that is broken or starts, of what it does beside one
/// that works. What that costs is for the bench to say; this is that nothing waits for the other.
const LEAST_SHARE: f64 = 0.5;
/// What the agent may hold, in KiB of resident memory, with default flags, however much
/// comes (README, "Memory").
const BOUND_KIB: u64 = 160 * 1024;
/// Addresses of the server: each has 28,000 local ports for its connections.
const ADDRESSES: u8 = 8;

/// Whether the long forms run (`TRACEWIRE_TEST_LONG`).
pub(crate) fn is_long() -> bool {
    std::env::var_os("TRACEWIRE_TEST_LONG").is_some()
}

/// A figure of a test, by the length of the run.
pub(crate) fn by_length<T>(ordinary: T, long: T) -> T {
    if is_long() { long } else { ordinary }
}

/// Says a line that is seen also when the test passes.
pub(crate) fn say(line: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let length = by_length("ordinary", "long");
    // Not by `eprintln`, which the test harness keeps to itself.
    drop(writeln!(std::io::stderr(), "[{test}, {length}] {line}"));
}

/// All that a test has.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) collector: Collector,
    servers: Vec<Swarm>,
    asked: Vec<Asked>,
    /// The longest request that may not have been stalled, less what held its swarm up,
    /// in milliseconds.
    longest_ms: u64,
    /// What kept and short connections get done without a fault, in requests a second.
    rates: [u64; 2],
    /// Requests that the agents before had to see, and spans that they exported.
    before: (u64, u64),
}

impl Scene {
    /// A server and a collector, no agent.
    pub(crate) fn new() -> Self {
        let world = World::alone();
        let collector = Collector::start(Mood::Taking);
        let mut scene = Self {
            world,
            collector,
            servers: Vec::new(),
            asked: Vec::new(),
            longest_ms: 0,
            rates: [0; 2],
            before: (0, 0),
        };
        scene.serve_also(1);
        scene
    }

    /// Starts more servers: one has no descriptors for a hundred thousand connections.
    pub(crate) fn serve_also(&mut self, more: usize) {
        self.servers.extend((0..more).map(|_| Swarm::start(&self.world, &Work::Serve)));
        // Now: a server that is not there yet cannot be asked.
        self.servers.iter().for_each(|server| drop(server.addresses(1)));
    }

    /// The same with an agent that has more flags.
    pub(crate) fn traced(flags: &[&str]) -> Self {
        let mut scene = Self::new();
        scene.start_agent(flags);
        scene
    }

    /// Starts an agent that exports to the collector.
    pub(crate) fn start_agent(&mut self, flags: &[&str]) {
        self.start_agent_to(&self.collector.endpoint(), flags);
    }

    /// Starts an agent that exports to somewhere else.
    pub(crate) fn start_agent_to(&mut self, endpoint: &str, flags: &[&str]) {
        if !is_control() {
            self.world.start_agent_by(self.world.agent_command_to(endpoint, flags));
        }
    }

    /// Starts to ask.
    pub(crate) fn ask(&self, ask: Ask) -> Swarm {
        self.ask_of(0, ask)
    }

    /// Starts to ask one of several servers.
    pub(crate) fn ask_of(&self, server: usize, ask: Ask) -> Swarm {
        let to = self.servers[server].addresses(ADDRESSES);
        Swarm::start(&self.world, &Work::Ask(Ask { to, ..ask }))
    }

    /// Starts kept connections that ask for so long, as fast as the machine can.
    pub(crate) fn load(&self, seconds: u64) -> Swarm {
        self.ask(Ask {
            connections: 32,
            at_once: 32,
            requests: usize::MAX,
            limit_ms: seconds * 1000,
            ..Ask::default()
        })
    }

    /// As [`Scene::load`], but with pauses: so much that nothing of it has to be lost.
    pub(crate) fn gentle_load(&self, seconds: u64) -> Swarm {
        self.ask(Ask {
            connections: 32,
            at_once: 32,
            requests: usize::MAX,
            pause_us: 10_000,
            limit_ms: seconds * 1000,
            ..Ask::default()
        })
    }

    /// Starts connections of one request each for so long.
    pub(crate) fn short_load(&self, seconds: u64) -> Swarm {
        self.ask(Ask {
            connections: usize::MAX,
            at_once: 8,
            limit_ms: seconds * 1000,
            ..Ask::default()
        })
    }

    /// Waits until a swarm is done, which nothing may have befallen.
    pub(crate) fn finish(&mut self, what: &str, swarm: Swarm) -> Asked {
        let asked = swarm.asked(Duration::from_secs(590));
        say(&format!(
            "{what}: {} connections, {} requests, {} a second, the longest took {} ms (machine {} ms)",
            asked.connections,
            asked.requests,
            asked.rate(),
            asked.longest_ms,
            asked.machine_ms
        ));
        assert_eq!((asked.failed, &asked.failures[..]), (0, &[][..]), "{what}: {asked:?}");
        self.asked.push(asked.clone());
        asked
    }

    /// As [`Scene::finish`], and no request may have stalled: that is known when the servers
    /// have said for how long they were held up themselves.
    pub(crate) fn finish_swiftly(&mut self, what: &str, swarm: Swarm) -> Asked {
        let asked = self.finish(what, swarm);
        self.longest_ms = self.longest_ms.max(asked.longest_ms.saturating_sub(asked.machine_ms));
        asked
    }

    /// The agent's process id; nothing in a control run.
    pub(crate) fn agent_id(&mut self) -> Option<u32> {
        self.world.agent().map(|agent| agent.id())
    }

    /// Says what the agent holds, and checks that it is within its bound.
    pub(crate) fn check_memory(&mut self, when: &str) {
        let Some(agent) = self.agent_id() else { return };
        let (now, most) = (status_kib(agent, "VmRSS"), status_kib(agent, "VmHWM"));
        say(&format!("{when}: the agent holds {now} KiB, at most it held {most} KiB"));
        assert!(most < BOUND_KIB, "the agent held {most} KiB, {when}");
    }

    /// Finds out how much kept and short connections get done beside one another, with an agent that
    /// works.
    pub(crate) fn measure_rates(&mut self) {
        self.start_agent(&[]);
        let (kept, short) = (self.load(2), self.short_load(2));
        let kept = self.finish("kept connections, no fault", kept).rate();
        self.rates = [kept, self.finish("short connections, no fault", short).rate()];
        self.stop_agent();
        self.before = (self.requests(), self.collector.spans());
    }

    /// Waits until both are done, as [`Scene::finish_swiftly`]. They have to get done about what they
    /// do beside an agent that works.
    pub(crate) fn finish_at_their_rate(&mut self, kept: Swarm, short: Swarm) {
        let kept = self.finish_swiftly("kept connections", kept).rate();
        let rates = [kept, self.finish_swiftly("short connections", short).rate()];
        for (rate, usual) in rates.into_iter().zip(self.rates) {
            let share = rate as f64 / usual.max(1) as f64;
            say(&format!("{share:.2} of what they do without a fault"));
            assert!(share > LEAST_SHARE, "{rate} a second, {usual} without a fault");
        }
    }

    /// Stops the agent in good order; checks its accounts. `None` in a control run.
    pub(crate) fn stop_agent(&mut self) -> Option<Accounts> {
        let (counters, log) = self.world.take_agent()?.stop_with_log();
        let panicked = log.lines().find(|line| line.contains("panicked"));
        assert_eq!(panicked, None, "{log}");
        let accounts = Accounts::of(counters);
        say(&format!(
            "{} opened, {} closed, {} exported; {}",
            accounts.get("exchanges_opened"),
            accounts.get("exchanges_closed"),
            accounts.get("spans_exported"),
            accounts.losses()
        ));
        Some(accounts)
    }

    /// Requests that were answered so far, as the asking ends say.
    pub(crate) fn requests(&self) -> u64 {
        self.asked.iter().map(|asked| asked.requests).sum()
    }

    /// Stops the servers, which must have received each byte as it was sent.
    pub(crate) fn end(self) {
        let (requests, longest_ms) = (self.requests(), self.longest_ms);
        let served: Vec<Served> = self.servers.into_iter().map(Swarm::served).collect();
        for served in &served {
            assert_eq!((served.violated, &served.violations[..]), (0, &[][..]), "{served:?}");
        }
        let machine_ms = served.iter().map(|served| served.machine_ms).max().unwrap_or(0);
        say(&format!("the servers were held up for {machine_ms} ms at most"));
        assert!(
            longest_ms.saturating_sub(machine_ms) < STALL_MS,
            "a request stalled: {longest_ms} ms, of which the machine explains {machine_ms} ms"
        );
        let received: u64 = served.iter().map(|served| served.requests).sum();
        assert_eq!(received, requests, "requests that the servers received");
        let with_header: u64 = served.iter().map(|served| served.with_header).sum();
        say(&format!("{with_header} of {requests} requests came with a header"));
        if is_control() {
            assert_eq!(with_header, 0, "headers without an agent");
        }
    }

    /// Stops an agent that was there all the time since rates were measured, if they were, and checks
    /// that it accounts for every request, and the collector for every span.
    pub(crate) fn end_complete(mut self) -> Option<Accounts> {
        let accounts = self.stop_agent();
        if let Some(accounts) = &accounts {
            let (requests, spans) = self.before;
            accounts.saw_all(self.requests() - requests);
            let exported = accounts.get("spans_exported");
            assert_eq!(self.collector.spans() - spans, exported, "spans at the collector");
        }
        self.end();
        accounts
    }
}

/// A line of a process's status, in KiB.
fn status_kib(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("no {name} of process {pid}"))
}
