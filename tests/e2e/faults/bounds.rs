//! Rings and maps that are too small for what comes, and what the agent holds meanwhile.

use std::time::Duration;

use tracewire_tests::process::kill;
use tracewire_tests::swarm::{Ask, Swarm};

use crate::scene::{Scene, by_length};

/// Connections of one swarm, which has fewer descriptors than this and some more.
const OF_ONE_SWARM: usize = 18_000;

#[test]
fn a_full_ring_buffer_harms_no_request_and_every_loss_is_counted() {
    let mut scene = Scene::traced(&["--ring-bytes", "262144"]);
    let mut kept = scene.load(600);
    for _ in 0..10 {
        let agent = scene.agent_id();
        agent.into_iter().for_each(|agent| kill(agent, libc::SIGSTOP));
        std::thread::sleep(Duration::from_millis(200));
        agent.into_iter().for_each(|agent| kill(agent, libc::SIGCONT));
        std::thread::sleep(Duration::from_millis(50));
    }
    kept.go_on();
    scene.finish_swiftly("kept connections", kept);
    let Some(accounts) = scene.end_complete() else { return };
    // Beginnings without ends, ends without beginnings, and neither.
    for name in ["drop_ring_full_opened", "drop_ring_full_closed", "drop_closed_unpaired"] {
        assert!(accounts.get(name) > 0, "{name} is 0");
    }
}

#[test]
fn full_maps_harm_no_request_and_no_span_is_missing() {
    let flags = ["--max-connections", "64", "--max-activities", "64"];
    let mut scene = Scene::traced(&[&flags[..], &["--ring-bytes", "67108864"]].concat());
    let mut swarm = scene.ask(Ask {
        connections: 2000,
        at_once: 400,
        requests: 10,
        hold: true,
        ..Ask::default()
    });
    swarm.wait_held();
    swarm.go_on();
    scene.finish_swiftly("two thousand connections", swarm);
    let Some(accounts) = scene.end_complete() else { return };
    for name in ["enrol_failed", "propagation_not_enrolled", "drop_activities_full"] {
        assert!(accounts.get(name) > 0, "{name} is 0");
    }
}

#[test]
fn a_hundred_thousand_connections_keep_the_agent_within_its_bounds() {
    let connections: usize = by_length(8_000, 100_000);
    let swarms = connections.div_ceil(OF_ONE_SWARM);
    let mut scene = Scene::traced(&[]);
    scene.serve_also(swarms - 1);
    scene.check_memory("before");
    let each = connections.div_ceil(swarms);
    let ask = Ask { connections: each, at_once: 64, hold: true, ..Ask::default() };
    let mut held: Vec<_> = (0..swarms).map(|server| scene.ask_of(server, ask.clone())).collect();
    held.iter().for_each(Swarm::wait_held);
    scene.check_memory("with all connections open");
    held.iter_mut().for_each(Swarm::go_on);
    for swarm in held {
        scene.finish_swiftly("held connections", swarm);
    }
    scene.check_memory("with all connections closed");
    scene.end_complete();
}

#[test]
fn a_million_short_connections_keep_the_agent_within_its_bounds() {
    let connections = by_length(20_000, 1_000_000);
    let mut scene = Scene::traced(&[]);
    scene.check_memory("before");
    let swarm = scene.ask(Ask { connections, at_once: 64, limit_ms: 1_800_000, ..Ask::default() });
    scene.finish_swiftly("short connections", swarm);
    scene.check_memory("after");
    scene.collector.wait_quiet();
    scene.end_complete();
}
