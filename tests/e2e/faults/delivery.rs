//! Collectors that are gone, slow, refusing, silent, or that break their connections.

use std::time::{Duration, Instant};

use tonic::Code;
use tracewire_tests::services::free_port;
use tracewire_tests::swarm::Ask;
use tracewire_tests::world::is_control;

use crate::accounting::Accounts;
use crate::collector::{Breaker, Collector, Mood};
use crate::scene::{Scene, say};

/// The longest that stopping may take: four seconds for the last export, and some.
const STOP_LIMIT: Duration = Duration::from_secs(7);

/// Requests under a collector in a mood, which it keeps until after the agent's stop.
fn with_collector(mood: Mood) -> Option<Accounts> {
    let mut scene = Scene::new();
    scene.collector.becomes(mood);
    scene.start_agent(&[]);
    let load = scene.load(3);
    scene.finish_swiftly("kept connections", load);
    scene.check_memory("with a full queue");
    let stopping = Instant::now();
    let accounts = scene.stop_agent();
    say(&format!("{mood:?}: stopping took {:?}", stopping.elapsed()));
    assert!(stopping.elapsed() < STOP_LIMIT);
    if let Some(accounts) = &accounts {
        accounts.saw_all(scene.requests());
        // What was on its way when the agent gave up may still arrive.
        let exported = accounts.get("spans_exported");
        assert!(scene.collector.spans() >= exported, "{} arrived", scene.collector.spans());
    }
    scene.end();
    accounts
}

#[test]
fn what_a_refusing_collector_refuses_is_counted() {
    let Some(accounts) = with_collector(Mood::Refusing(Code::ResourceExhausted)) else { return };
    assert!(accounts.get("drop_export_failed") > 0);
    assert_eq!(accounts.get("spans_exported"), 0);
}

#[test]
fn what_an_unavailable_collector_does_not_take_is_counted() {
    let Some(accounts) = with_collector(Mood::Refusing(Code::Unavailable)) else { return };
    assert!(accounts.get("drop_shutdown") > 0);
    assert_eq!(accounts.get("spans_exported"), 0);
}

#[test]
fn what_a_silent_collector_does_not_take_is_counted() {
    let Some(accounts) = with_collector(Mood::Silent) else { return };
    assert!(accounts.get("drop_shutdown") > 0);
    assert_eq!(accounts.get("spans_exported"), 0);
}

#[test]
fn what_a_slow_collector_does_not_take_in_time_is_counted() {
    let Some(accounts) = with_collector(Mood::Slow(Duration::from_millis(500))) else { return };
    // How many it does not take depends on how many there are: the accounts have them all.
    assert!(accounts.get("spans_exported") > 0);
}

/// Little enough to wait for a collector.
fn few_requests(scene: &mut Scene) {
    let swarm = scene.ask(Ask {
        connections: 10,
        at_once: 10,
        requests: 100,
        pause_us: 10_000,
        ..Ask::default()
    });
    scene.finish_swiftly("few requests", swarm);
}

#[test]
fn a_collector_that_comes_late_gets_every_span() {
    let mut scene = Scene::new();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    scene.start_agent_to(&format!("http://{address}"), &[]);
    few_requests(&mut scene);
    scene.collector = Collector::start_at(address, Mood::Taking);
    wait_for_spans(&scene);
    if let Some(accounts) = scene.end_complete() {
        accounts.lost_nothing();
    }
}

#[test]
fn a_collector_that_becomes_available_gets_every_span() {
    let mut scene = Scene::new();
    scene.collector.becomes(Mood::Refusing(Code::Unavailable));
    scene.start_agent(&[]);
    few_requests(&mut scene);
    scene.collector.becomes(Mood::Taking);
    wait_for_spans(&scene);
    if let Some(accounts) = scene.end_complete() {
        accounts.lost_nothing();
    }
}

#[test]
fn a_collector_whose_connections_break_gets_every_span() {
    let mut scene = Scene::new();
    let breaker = Breaker::start(scene.collector.address());
    scene.start_agent_to(&breaker.endpoint(), &[]);
    // In the middle of requests to it.
    scene.collector.becomes(Mood::Slow(Breaker::LIFE));
    few_requests(&mut scene);
    breaker.relents();
    scene.collector.becomes(Mood::Taking);
    wait_for_spans(&scene);
    if let Some(accounts) = scene.end_complete() {
        accounts.lost_nothing();
        assert!(accounts.get("export_retries") > 0, "no connection broke");
    }
}

/// Waits for both spans of each request.
fn wait_for_spans(scene: &Scene) {
    let limit = Duration::from_secs(if is_control() { 0 } else { 40 });
    let deadline = Instant::now() + limit;
    while scene.collector.spans() < 2 * scene.requests() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
}
