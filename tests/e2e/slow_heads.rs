//! Messages made to be slow to read cost what is stated, and no more.
//!
//! The bound is one of steps (docs/architecture.md). This is what the steps cost here, as
//! the kernel times the programs: a table on standard error, in ns a byte.

#[path = "../../agent-common/tests/parsers/slow.rs"]
#[expect(unreachable_pub, reason = "it is a module of two test programs")]
mod slow;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use slow::{Slow, messages, steps};
use tracewire_common::outcome::HeadKind;
use tracewire_tests::process::kill;
use tracewire_tests::script::Step;
use tracewire_tests::stream::{Part, compare};
use tracewire_tests::world::{World, is_control};

/// What a step may cost, in ns, on average over one message: some fifty times what it does.
/// A reader that goes over its bytes again and again costs more.
const STEP_LIMIT_NS: u64 = 2_000;

/// Programs that read messages. The kernel counts what `rewrite_stage` does as its caller's,
/// from which it is entered by a tail call.
const READERS: &[&str] = &["rewrite_request", "read_egress", "read_ingress"];

/// What a program did since it was loaded: runs, and ns.
type Runs = BTreeMap<String, u64>;

/// Asks the agent for its counters.
fn counters(world: &mut World) -> Runs {
    let Some(agent) = world.agent() else { return Runs::new() };
    let lines = |log: &str| log.lines().filter(|line| line.contains("\"counters\"")).count();
    let before = lines(&agent.log());
    kill(agent.id(), libc::SIGUSR1);
    let started = Instant::now();
    loop {
        let log = agent.log();
        if lines(&log) > before {
            let line = log.lines().rev().find(|line| line.contains("\"counters\""));
            let value: serde_json::Value =
                serde_json::from_str(line.unwrap_or_default()).unwrap_or_default();
            return serde_json::from_value(value["counters"].clone())
                .unwrap_or_else(|error| panic!("counters of {value}: {error}"));
        }
        assert!(started.elapsed() < Duration::from_secs(5), "no counters came: {log}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a message on a connection of its own; nobody is asked for an answer, so that
/// nothing but the message is read.
fn send(world: &World, slow: &Slow) {
    let takes = vec![Step::UntilClosed];
    let gives = vec![Step::send(&slow.bytes), Step::UntilClosed];
    let (serves, sends) = match slow.kind {
        HeadKind::Request => (takes, gives),
        // A server speaks in answer to a request.
        HeadKind::Response => {
            let request = "GET / HTTP/1.1\r\n\r\n";
            let answers = vec![Step::heads(1), Step::send(&slow.bytes), Step::UntilClosed];
            let asks = vec![Step::send(request), Step::UntilMore(slow.bytes.len()), Step::Close];
            (answers, asks)
        }
    };
    let server = world.server(serves);
    let mut steps = vec![Step::Connect(server.address())];
    steps.extend(sends.into_iter().filter(|step| *step != Step::UntilClosed));
    if slow.kind == HeadKind::Request {
        steps.extend([Step::HalfClose, Step::UntilClosed]);
    }
    let got = world.client(1, steps.into_iter().map(|step| (0, step)).collect());
    match slow.kind {
        HeadKind::Request => {
            // One header in a head is what may be added, wherever heads begin and end here.
            let received = server.received(0);
            let added = received.len().checked_sub(slow.bytes.len());
            assert!(added.is_some(), "{}: bytes were lost", slow.name);
            if added == Some(0) {
                compare(slow.name, &[Part::exact(&slow.bytes)], &received);
            }
        }
        HeadKind::Response => {
            compare(slow.name, &[Part::exact(&slow.bytes)], &got[0]);
        }
    }
}

#[test]
fn slow_messages_cost_what_their_steps_cost() {
    let mut world = World::new();
    world.start_agent(&["--program-times"]);
    eprintln!(
        "{:<10} {:<40} {:>8} {:>8} {:>12} {:>12} {:>12}",
        "", "ns a byte", "bytes", "steps", READERS[0], READERS[1], READERS[2]
    );
    for slow in messages(48 * 1024) {
        let before = counters(&mut world);
        send(&world, &slow);
        let after = counters(&mut world);
        if is_control() {
            continue;
        }
        let since = |name: &str| {
            let at = |runs: &Runs| runs.get(name).copied().unwrap_or(0);
            at(&after) - at(&before)
        };
        let times: Vec<u64> =
            READERS.iter().map(|program| since(&format!("program_{program}_ns"))).collect();
        let (steps, bytes) = steps(&slow);
        let each = |time: u64| time as f64 / bytes as f64;
        eprintln!(
            "{:<10} {:<40} {:>8} {:>8} {:>12.1} {:>12.1} {:>12.1}",
            format!("{:?}", slow.kind),
            slow.name,
            bytes,
            steps,
            each(times[0]),
            each(times[1]),
            each(times[2]),
        );
        // Each end of the connection reads it at most twice: as it is sent, and as it leaves
        // or arrives. Runs without a step cost something too.
        let runs: u64 = READERS.iter().map(|p| since(&format!("program_{p}_runs"))).sum();
        let allowed = STEP_LIMIT_NS * (3 * steps as u64 + 10 * runs);
        let total: u64 = times.iter().sum();
        assert!(total > 0, "{}: no program ran: {after:?}", slow.name);
        assert!(total < allowed, "{}: {total} ns, {allowed} allowed", slow.name);
    }
    if let Some(agent) = world.take_agent() {
        // What the bound cuts off is counted, not lost without a word.
        agent.stop();
    }
}
