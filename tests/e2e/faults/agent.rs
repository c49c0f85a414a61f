//! The agent killed, stopped for a while, and started and stopped again and again.

use std::time::Duration;

use tracewire_tests::process::kill;
use tracewire_tests::swarm::Ask;
use tracewire_tests::world::is_control;

use crate::scene::{Scene, by_length, say};

fn pause_ms(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

#[test]
fn without_a_fault_nothing_is_lost() {
    let mut scene = Scene::traced(&["--ring-bytes", "67108864"]);
    let kept = scene.gentle_load(3);
    let ask = Ask { connections: 5_000, at_once: 4, pause_us: 2_000, ..Ask::default() };
    let short = scene.ask(ask);
    scene.finish_swiftly("kept connections", kept);
    scene.finish_swiftly("short connections", short);
    scene.collector.wait_quiet();
    if let Some(accounts) = scene.end_complete() {
        accounts.lost_nothing();
    }
}

#[test]
fn a_killed_agent_harms_no_request() {
    let mut scene = Scene::new();
    scene.measure_rates();
    scene.start_agent(&[]);
    let (mut kept, mut short) = (scene.load(600), scene.short_load(600));
    for _ in 0..by_length(2, 20) {
        pause_ms(500);
        scene.world.kill_agent();
        pause_ms(300);
        scene.start_agent(&[]);
    }
    pause_ms(500);
    let last = scene.stop_agent();
    kept.go_on();
    short.go_on();
    scene.finish_at_their_rate(kept, short);
    assert!(last.is_none_or(|last| last.get("exchanges_opened") > 0), "the last one saw nothing");
    scene.end();
}

#[test]
fn a_stopped_agent_harms_no_request_and_counts_what_it_could_not_take() {
    let stopped = by_length(3, 60);
    let mut scene = Scene::new();
    scene.measure_rates();
    scene.start_agent(&[]);
    let (mut kept, mut short) = (scene.load(600), scene.short_load(600));
    pause_ms(1000);
    let agent = scene.agent_id();
    agent.into_iter().for_each(|agent| kill(agent, libc::SIGSTOP));
    pause_ms(stopped * 1000);
    agent.into_iter().for_each(|agent| kill(agent, libc::SIGCONT));
    pause_ms(2000);
    kept.go_on();
    short.go_on();
    scene.finish_at_their_rate(kept, short);
    scene.check_memory("after the stop");
    let accounts = scene.end_complete();
    // The ring buffer holds less than a second of this.
    assert!(accounts.is_none_or(|accounts| accounts.get("drop_ring_full_closed") > 0));
}

#[test]
fn agents_that_come_and_go_harm_no_request() {
    let times = by_length(3, 100);
    let mut scene = Scene::new();
    scene.measure_rates();
    // Until they are told to stop: starting takes as long as the verifier does.
    let (mut kept, mut short) = (scene.load(3600), scene.short_load(3600));
    let mut opened = 0;
    for _ in 0..times {
        scene.start_agent(&[]);
        pause_ms(200);
        opened += scene.stop_agent().map_or(0, |accounts| accounts.get("exchanges_opened"));
    }
    kept.go_on();
    short.go_on();
    scene.finish_at_their_rate(kept, short);
    say(&format!("{times} agents opened {opened} exchanges"));
    assert!(is_control() || opened > 0, "no agent saw anything");
    scene.end();
}
