//! Sockets in the socket map wake their readers as other sockets do: each message once,
//! and all that a reader asks about it is answered the same.
//!
//! Where the kernel needs a verdict program on the map (README, "Kernels"), received bytes
//! lie in a queue of that program's, and some calls do not know it. What the README names
//! is left out there, or shown to be as it says.

use std::process::Command;
use std::time::Duration;

use tracewire_tests::peer;
use tracewire_tests::swarm::{Ask, Swarm, Work};
use tracewire_tests::world::World;

const CONNECTIONS: u64 = 4;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
struct Counts {
    messages: u64,
    woken: u64,
    empty: u64,
    short: u64,
    stalls: u64,
}

/// Runs the counting client, and its server, in the world's cgroup.
fn count(world: &World, mode: &str, messages: u64) -> Counts {
    let mut command = Command::new(peer::program().with_file_name("exactness"));
    command.args(["wake", "--mode", mode, "--messages", &messages.to_string()]);
    command.args(["--connections", &CONNECTIONS.to_string()]);
    let output = world.start(command).succeed();
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{mode}: {error}: {output}"))
}

/// All messages wake, each once, and each read gives what it must.
fn each_message_wakes_once(modes: &[&str]) {
    each_message_wakes_once_in(&World::traced(), modes);
}

fn each_message_wakes_once_in(world: &World, modes: &[&str]) {
    const MESSAGES: u64 = 1_500;
    for mode in modes {
        let counts = count(world, mode, MESSAGES);
        let all = MESSAGES * CONNECTIONS;
        let exact = Counts { messages: all, woken: all, empty: 0, short: 0, stalls: 0 };
        assert_eq!(counts, exact, "{mode}");
    }
}

#[test]
fn each_message_wakes_epoll_once_at_a_level_and_at_an_edge() {
    each_message_wakes_once(&["epoll-level", "epoll-edge"]);
}

#[test]
fn each_message_wakes_poll_and_select_once() {
    each_message_wakes_once(&["poll", "select"]);
}

#[test]
fn beside_requests_without_a_pause_each_message_wakes_once() {
    let mut world = World::alone();
    world.start_agent(&[]);
    let server = Swarm::start(&world, &Work::Serve);
    let mut load = Swarm::start(
        &world,
        &Work::Ask(Ask {
            to: server.addresses(1),
            connections: 32,
            at_once: 32,
            requests: usize::MAX,
            limit_ms: 600_000,
            ..Ask::default()
        }),
    );
    each_message_wakes_once_in(&world, &["epoll-level", "epoll-edge", "poll", "select"]);
    load.go_on();
    let asked = load.asked(Duration::from_secs(60));
    assert!(asked.failed == 0 && asked.requests > 10_000, "{asked:?}");
    assert_eq!(server.served().violated, 0);
}

#[test]
fn fionread_says_how_long_each_message_is() {
    each_message_wakes_once(&["fionread"]);
}

#[test]
fn a_peek_shows_each_message_as_it_is_read() {
    each_message_wakes_once(&["peek"]);
}

#[test]
fn a_blocking_read_loses_no_message() {
    let mut world = World::new();
    let verdict = world.needs_verdict();
    world.start_agent(&[]);
    let counts = count(&world, "recv", 1_500);
    assert_eq!((counts.messages, counts.stalls), (1_500 * CONNECTIONS, 0));
    // With a verdict program a read that waits can give EAGAIN when something comes.
    assert!(counts.empty == 0 || verdict, "{} reads gave EAGAIN", counts.empty);
}

#[test]
fn promises_about_lengths_are_kept_where_there_is_no_verdict_program() {
    let mut world = World::new();
    let verdict = world.needs_verdict();
    world.start_agent(&[]);
    for mode in ["wait-all", "low-water", "peek-off", "splice"] {
        let counts = count(&world, mode, 200);
        assert_eq!((counts.messages, counts.stalls), (200 * CONNECTIONS, 0), "{mode}");
        // Where it is otherwise the README has to say so, and where not it must not.
        assert_eq!(counts.short > 0, verdict, "{mode}: {counts:?}");
    }
}
