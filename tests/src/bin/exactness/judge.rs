//! Makes connections without the agent, then with it, and compares what both ends say.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tracewire_tests::agent::Agent;
use tracewire_tests::cleanup::{self, Made};
use tracewire_tests::world::World;

use crate::Choice;
use crate::plan::{Plan, Side};
use crate::report::Report;
use crate::summary::{Oddity, Summary};

/// Failures after which there is no need to go on.
const ENOUGH: usize = 40;

/// What `judge` is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Settings {
    #[command(flatten)]
    choice: Choice,
    /// How long the connections with the agent go on
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How long those without it do, before
    #[arg(long, default_value_t = 10)]
    control_seconds: u64,
    /// Only without the agent
    #[arg(long)]
    without_agent: bool,
    /// What the agent is told to propagate: `auto`, `always`, `off`
    #[arg(long, default_value = "auto")]
    propagate: String,
}

/// Both ends, running.
struct Ends {
    children: Vec<Child>,
    reports: Receiver<(Side, Result<Report, String>)>,
}

/// A connection on which nothing happened for a while.
struct Stall {
    number: u64,
    seconds: u32,
    /// What both ends waited in.
    calls: String,
}

/// What a phase found.
#[derive(Default)]
struct Findings {
    summary: Summary,
    failures: Vec<String>,
    stalls: Vec<Stall>,
    /// Heads that should have been given a header.
    missed: Vec<String>,
    /// Connections whose client was given other bytes by the kernel's verdict path.
    harmed: u64,
}

/// Runs both phases and says what they found.
pub(crate) fn run(settings: &Settings) -> ExitCode {
    let mut world = World::new();
    let mut settings = settings.clone();
    let mut is_written = settings.propagate != "off";
    if settings.choice.spare_verdict.is_none() && !settings.without_agent {
        let needs = world.needs_verdict();
        // By itself the agent does without.
        let has = needs && settings.propagate == "always";
        let writes = settings.propagate != "off" && (has || !needs);
        eprintln!(
            "exactness: a verdict program on client sockets: {has}; headers are written: {writes}"
        );
        settings.choice.spare_verdict = Some(has);
        is_written = writes;
    }
    let settings = &settings;
    let mut failures = Vec::new();
    let mut control = Findings::default();
    let control_time =
        if settings.without_agent { settings.seconds } else { settings.control_seconds };
    if control_time > 0 {
        eprintln!("exactness: {control_time} s without the agent, seed {}", settings.choice.seed);
        control = phase(&world, settings, control_time, false);
        eprintln!("{}", control.summary.tables());
        failures.extend(control.failures.iter().map(|failure| format!("without agent: {failure}")));
    }
    if !settings.without_agent && failures.is_empty() {
        let seconds = settings.seconds;
        eprintln!("exactness: {seconds} s with the agent, seed {}", settings.choice.seed);
        start_agent(&mut world, settings);
        let traced = phase(&world, settings, seconds, true);
        eprintln!("{}", traced.summary.tables());
        failures.extend(traced.failures);
        if traced.harmed > 0 {
            let all = traced.summary.connections();
            let words = format!(
                "{} of {all} clients were given other bytes than were sent by the kernel's verdict program path",
                traced.harmed
            );
            eprintln!("{words} (README, Kernels)");
            if traced.harmed > 2 + all / 2_000 {
                failures.push(format!("{words}: more than is known of it"));
            }
        }
        let most_that_wait_once = match settings.choice.spare_verdict {
            _ if !is_written => 0,
            Some(true) => u64::MAX,
            _ => traced.summary.connections() / 10,
        };
        // Two processors at one stream: who comes second leaves it alone. That is rare.
        let allowed = usize::try_from(1 + traced.summary.changed() / 1000).unwrap_or(usize::MAX);
        if !is_written && traced.summary.changed() > 0 {
            failures.push(format!("{} headers, unasked for", traced.summary.changed()));
        }
        if is_written && traced.missed.len() > allowed {
            let few = &traced.missed[..allowed.min(5)];
            let all = traced.missed.len();
            failures.push(format!("{all} heads were not given a header, as {few:?}"));
        }
        let few = &traced.missed[..traced.missed.len().min(5)];
        eprintln!(
            "heads not given a header for no reason of theirs: {}, as {few:?}",
            traced.missed.len()
        );
        if is_written && settings.choice.connection.is_none() && seconds >= 30 {
            let never = traced.summary.never_injected(settings.choice.workers);
            if !never.is_empty() {
                failures.push(format!("no head was given a header: {}", never.join(", ")));
            }
        }
        if let Some(agent) = world.take_agent() {
            let counters = agent.stop();
            let told: Vec<_> = counters
                .iter()
                .filter(|(name, _)| name.starts_with("propagation") || name.starts_with("stream"))
                .collect();
            eprintln!("the agent counted {told:?}");
        }
        for (what, oddity) in &traced.summary.oddities {
            let count = oddity.count;
            if control.summary.oddities.contains_key(what)
                || is_known(what, count, most_that_wait_once)
                || is_of_urgent_bytes(&settings.choice, what, oddity)
            {
                continue;
            }
            let by_agent = |number: &&u64| !is_odd_anyway(&world, settings, **number, what);
            if let Some(first) = oddity.connections.iter().find(by_agent) {
                let again = again(&settings.choice, &settings.propagate, *first);
                failures
                    .push(format!("only with the agent, {count} times: {what}\n  again: {again}"));
            }
        }
        let few = 2 + traced.summary.connections() / 2_000;
        let (often, once) = stalled_by_agent(&mut world, settings, &traced.stalls);
        let known = if settings.choice.spare_verdict == Some(true) { few } else { 0 };
        let mut tell = |stalled: Vec<String>, most: u64, why: &str| {
            if stalled.len() as u64 > most {
                failures.extend(stalled);
            } else {
                for stall in stalled {
                    eprintln!("{stall}\n  ({why})");
                }
            }
        };
        let anyway = expected(&control, traced.summary.connections());
        tell(often, known + anyway, "README, Kernels, or as often without the agent");
        tell(once, few + 2 * anyway, "not again, over and over with the agent");
    }
    for failure in &failures {
        eprintln!("FAILED: {failure}");
    }
    if failures.is_empty() {
        eprintln!("exactness: no difference");
        ExitCode::SUCCESS
    } else {
        eprintln!("exactness: {} failures, seed {}", failures.len(), settings.choice.seed);
        ExitCode::FAILURE
    }
}

/// The connections on which nothing happened for a while with the agent alone: those on which that
/// happens again with it, and those on which it happened once, on a machine that does much else.
fn stalled_by_agent(
    world: &mut World,
    settings: &Settings,
    stalls: &[Stall],
) -> (Vec<String>, Vec<String>) {
    let anyway = |stall: &&Stall| stalls_alone(world, settings, stall);
    let with_agent: Vec<&Stall> =
        stalls.iter().take(ENOUGH).filter(|stall| !anyway(stall)).collect();
    let tell = |Stall { number, seconds, calls }: &Stall| {
        format!(
            "connection {number}: only with the agent nothing happened for {seconds} s; \
             {calls}\n  again: {}",
            again(&settings.choice, &settings.propagate, *number)
        )
    };
    if with_agent.is_empty() {
        return Default::default();
    }
    start_agent(world, settings);
    let (often, once): (Vec<&Stall>, Vec<&Stall>) =
        with_agent.into_iter().partition(|stall| stalls_alone(world, settings, stall));
    drop(world.take_agent().map(Agent::stop));
    (often.into_iter().map(tell).collect(), once.into_iter().map(tell).collect())
}

/// How many connections would wait for seconds with the agent, if as many did as without.
fn expected(control: &Findings, connections: u64) -> u64 {
    let before = control.stalls.len() as u64 * connections;
    before / control.summary.connections().max(1)
}

/// Starts the agent. Few spans: the receiver keeps them all.
fn start_agent(world: &mut World, settings: &Settings) {
    let flags = ["--sample-ratio", "0.01", "--propagate", &settings.propagate];
    world.start_agent_by(world.agent_command(&flags));
}

/// Whether a connection stalls also over and over, with or without the agent as it is now: timers of
/// TCP can be that slow.
fn stalls_alone(world: &World, settings: &Settings, stall: &Stall) -> bool {
    let mut settings = settings.clone();
    settings.choice.connection = Some(stall.number);
    // Other connections are part of why something is slow.
    let findings = phase(world, &settings, 15, false);
    findings.stalls.iter().any(|again| again.seconds + 1 >= stall.seconds)
}

/// Whether calls on a connection do so without the agent too. What is rare was not seen in the short time
/// before there was one.
fn is_odd_anyway(world: &World, settings: &Settings, number: u64, what: &str) -> bool {
    let mut settings = settings.clone();
    settings.choice.connection = Some(number);
    let is_odd = phase(world, &settings, 5, false).summary.oddities.contains_key(what);
    if is_odd {
        eprintln!("connection {number}, without the agent too: {what}");
    }
    is_odd
}

/// Whether the README says so. `most_that_wait_once`: how many reads of sockets in the map may do so.
fn is_known(oddity: &str, count: u64, most_that_wait_once: u64) -> bool {
    const ALWAYS: &[&str] = &[
        "IORING_OP_SEND_ZC is not supported",
        "a send with MSG_ZEROCOPY reported twice",
        // Seen without the agent too: reports wait in the receive buffer, and are dropped
        // where that is full (`sock_queue_err_skb`).
        "a send with MSG_ZEROCOPY without its report",
        // Likewise, where the buffer has no room for so much.
        "SO_RCVLOWAT gave less than its mark",
        // A segment that overtakes the one with the urgent byte, and starts less than its own header behind that, has
        // a byte of its header taken for it (`tcp_urg`, net/ipv4/tcp_input.c); seen with two segments sent by hand.
        "an urgent byte was not the one that was sent, where segments overtook others",
    ];
    // Of clients that block while they send what does not fit, some leave the map too late.
    let waits_once = oddity == "a blocking read gave EAGAIN at once";
    ALWAYS.contains(&oddity) || waits_once && count <= most_that_wait_once
}

/// Whether a socket was readable for an urgent byte that is not read in line. `tcp_poll` (net/ipv4/tcp.c) says so of one that
/// is alone in the receive buffer, without the agent too; whether it is depends on how it was cut into segments.
fn is_of_urgent_bytes(choice: &Choice, what: &str, oddity: &Oddity) -> bool {
    let spare = choice.spare_verdict.unwrap_or(false);
    let has_one = |number: &u64| {
        let plan = Plan::new(choice.seed, *number, &choice.only, spare);
        let is_out_of_line = |side| plan.urgent(side).is_some_and(|(_, inline)| !inline);
        is_out_of_line(Side::Client) || is_out_of_line(Side::Server)
    };
    what.ends_with(", but nothing to read") && oddity.connections.iter().all(has_one)
}

/// Connections for so long.
fn phase(world: &World, settings: &Settings, seconds: u64, is_traced: bool) -> Findings {
    let mut ends = Ends::start(world, &settings.choice);
    let mut findings = Findings::default();
    let mut waiting: [BTreeMap<u64, Report>; 2] = Default::default();
    let mut times = 0;
    let start = Instant::now();
    let mut said = start;
    let mut now = start;
    let mut longest_gap = Duration::ZERO;
    while start.elapsed() < Duration::from_secs(seconds) && findings.failures.len() < ENOUGH {
        if said.elapsed() > Duration::from_secs(60) {
            said = Instant::now();
            eprintln!(
                "exactness: {} s, {} connections",
                start.elapsed().as_secs(),
                findings.summary.connections()
            );
        }
        let before = now;
        let received = ends.reports.recv_timeout(Duration::from_millis(250));
        now = Instant::now();
        longest_gap = longest_gap.max(now - before);
        let (side, report) = match received {
            Ok((side, Ok(report))) => (side, report),
            Ok((side, Err(error))) => {
                findings.failures.push(format!("{side:?} ended: {error}"));
                break;
            }
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        // One connection over and over has one number: its ends come in pairs all the same.
        let key = if settings.choice.connection.is_some() { times } else { report.number };
        let Some(other) = waiting[side.peer() as usize].remove(&key) else {
            waiting[side as usize].insert(key, report);
            continue;
        };
        times += 1;
        let (client, server) = match side {
            Side::Client => (report, other),
            Side::Server => (other, report),
        };
        judge(settings, &mut findings, &client, &server, is_traced, &mut longest_gap);
    }
    ends.stop();
    findings
}

/// Compares what the two ends of a connection say.
fn judge(
    settings: &Settings,
    findings: &mut Findings,
    client: &Report,
    server: &Report,
    is_traced: bool,
    longest_gap: &mut Duration,
) {
    let number = client.number;
    let choice = &settings.choice;
    // The kernel's own fault in what it does for a verdict program: the README says so. The
    // other end then sees the connection end early.
    let is_harmed = |failure: &String| failure.contains("differs at byte");
    if is_traced
        && choice.spare_verdict == Some(true)
        && client.failure.as_ref().is_some_and(is_harmed)
        && !server.failure.as_ref().is_some_and(is_harmed)
    {
        eprintln!("exactness: connection {number}, harmed by the verdict program: {client:?}");
        findings.harmed += 1;
        return;
    }
    let mut wrong = Vec::new();
    wrong.extend(client.failure.clone());
    wrong.extend(server.failure.clone());
    if wrong.is_empty() {
        for (what, sent, received) in [
            ("client to server", client.sent, server.received),
            ("server to client", server.sent, client.received),
        ] {
            if sent != received {
                wrong.push(format!("{what}: sent {sent:?}, received {received:?} (bytes, digest)"));
            }
        }
    }
    if is_traced {
        let missed = server.missed.iter().map(|head| format!("connection {number}, {head}"));
        findings.missed.extend(missed);
    }
    let idle = client.idle.max(server.idle);
    // Whoever stops this machine for a while stops the judge too.
    if idle >= 2 && *longest_gap < Duration::from_secs(1) {
        let calls = format!("client in {:?}, server in {:?}", client.idle_in, server.idle_in);
        findings.stalls.push(Stall { number, seconds: idle, calls });
    }
    if idle >= 2 {
        *longest_gap = Duration::ZERO;
    }
    let protocol = Plan::protocol_of(number, &choice.only);
    findings.summary.add(protocol, client, server);
    if !wrong.is_empty() {
        findings.failures.push(format!(
            "connection {number} ({protocol:?}): {}\n  again: {}",
            wrong.join("\n  "),
            again(choice, &settings.propagate, number)
        ));
    }
}

/// The command that makes a connection again.
fn again(choice: &Choice, propagate: &str, number: u64) -> String {
    use clap::ValueEnum;
    let only = choice.only.iter().filter_map(ValueEnum::to_possible_value);
    let only: String = only.map(|only| format!(" --only {}", only.get_name())).collect();
    let Choice { seed, workers, .. } = choice;
    // The plan depends on whether there is a verdict program, and that on this.
    format!(
        "cargo xtask exactness --propagate {propagate} --seed {seed}{only} --workers {workers} --connection {number}"
    )
}

impl Ends {
    fn start(world: &World, choice: &Choice) -> Self {
        let (sender, reports) = channel();
        let directory = world.scratch();
        let mut children = Vec::new();
        let mut start = |side: &str, ports: &str| {
            let program = std::env::current_exe();
            let program = program.unwrap_or_else(|error| panic!("where is this program? {error}"));
            let mut command = Command::new(program);
            command.args(["end", "--side", side, "--seed", &choice.seed.to_string()]);
            command.args(["--workers", &choice.workers.to_string()]);
            command.arg("--directory").arg(&directory);
            if !ports.is_empty() {
                command.args(["--ports", ports]);
            }
            if let Some(number) = choice.connection {
                command.args(["--connection", &number.to_string()]);
            }
            if choice.spare_verdict == Some(true) {
                command.args(["--spare-verdict", "true"]);
            }
            for only in &choice.only {
                let name = clap::ValueEnum::to_possible_value(only);
                command.args(name.map(|name| format!("--only={}", name.get_name())));
            }
            world.cgroup.place(&mut command);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let child = command.spawn().unwrap_or_else(|error| panic!("cannot start: {error}"));
            cleanup::list(Made::Process(child.id()));
            children.push(child);
            let stdout = children.last_mut().and_then(|child| child.stdout.take());
            BufReader::new(stdout.unwrap_or_else(|| panic!("no standard output")))
        };
        let mut server = start("server", "");
        let mut line = String::new();
        server.read_line(&mut line).unwrap_or_else(|error| panic!("no ports: {error}"));
        let Some(ports) = line.trim().strip_prefix("listening ") else {
            panic!("the server does not listen but say {line:?}")
        };
        let client = start("client", ports);
        read_reports(Side::Server, server, sender.clone());
        read_reports(Side::Client, client, sender);
        Self { children, reports }
    }

    fn stop(&mut self) {
        for child in &mut self.children {
            // In the middle of a connection: what it would still say is not waited for.
            drop(child.kill());
            drop(child.wait());
            cleanup::unlist(&Made::Process(child.id()));
        }
        self.children.clear();
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read_reports(
    side: Side,
    lines: impl BufRead + Send + 'static,
    to: Sender<(Side, Result<Report, String>)>,
) {
    std::thread::spawn(move || {
        for line in lines.lines() {
            let report = line.map_err(|error| error.to_string()).and_then(|line| {
                serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))
            });
            if to.send((side, report)).is_err() {
                return;
            }
        }
        // Nobody listens any more if the phase is over.
        let _ = to.send((side, Err("it says nothing more".into())));
    });
}
