//! Services on tokio, whose tasks move between threads and have others write what they send.

// The same backend as that of `cargo xtask causality`.
#[expect(dead_code, reason = "the suite's services ask its datastore as well")]
#[path = "../src/bin/causality/backend.rs"]
mod backend;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use backend::Backend;
use tracewire_tests::needs::{Package, lacks, probes};
use tracewire_tests::parents::parents;
use tracewire_tests::peer;
use tracewire_tests::probes::await_probed;
use tracewire_tests::services::{Service, tasks};
use tracewire_tests::world::{World, is_control};

/// Starts a service, and waits until the agent has looked at it.
fn served(world: &World, program: Option<&Path>, name: &str) -> Service {
    let service = tasks(world, program, name, Backend::start().http);
    if !is_control() {
        await_probed(service.id(), "/tasks");
    }
    service
}

#[test]
fn what_a_runtime_does_between_its_tasks_is_for_none_of_their_requests() {
    if !probes() {
        return;
    }
    let mut world = World::traced();
    let service = served(&world, None, "own");
    service.ask(&world, "calls", 8, 2000);
    if let Some(outcome) = world.stop_agent() {
        let (right, none, wrong) = parents(&outcome.spans, "calls");
        assert_eq!((right + none + wrong, wrong), (2000, 0), "{right} right, {none} without");
        assert!(right > 1980, "{right} right, {none} without");
        let (_, none, wrong) = parents(&outcome.spans, "own");
        assert!(wrong == 0 && none > 100, "{wrong} of its own calls have a parent, {none} none");
    }
}

#[test]
fn a_task_that_was_made_for_one_request_and_works_for_others_gives_these_no_parent() {
    if !probes() {
        return;
    }
    let mut world = World::traced();
    let service = served(&world, None, "worker");
    std::thread::scope(|scope| {
        scope.spawn(|| service.ask(&world, "first", 1, 1));
        std::thread::sleep(Duration::from_millis(500));
        service.ask(&world, "jobs", 8, 1000);
    });
    if let Some(outcome) = world.stop_agent() {
        let (right, none, wrong) = parents(&outcome.spans, "jobs");
        assert_eq!((right + none + wrong, wrong), (1000, 0), "{right} right, {none} without");
    }
}

#[test]
fn a_task_that_serves_several_connections_gives_no_call_the_parent_that_it_received_last() {
    if !probes() {
        return;
    }
    let mut world = World::traced();
    let service = served(&world, None, "together");
    service.ask(&world, "calls", 2, 500);
    if let Some(outcome) = world.stop_agent() {
        let (right, none, wrong) = parents(&outcome.spans, "calls");
        assert_eq!((right + none + wrong, wrong), (500, 0), "{right} right, {none} without");
    }
}

#[test]
fn a_thread_that_waits_for_what_the_runtime_does_has_it_done_for_its_request() {
    if !probes() {
        return;
    }
    let mut world = World::traced();
    let service = served(&world, None, "threads");
    service.ask(&world, "calls", 8, 1000);
    if let Some(outcome) = world.stop_agent() {
        let (right, none, wrong) = parents(&outcome.spans, "calls");
        assert_eq!((right + none + wrong, wrong), (1000, 0), "{right} right, {none} without");
        assert!(right > 990, "{right} right, {none} without");
    }
}

#[test]
fn calls_of_a_program_without_symbols_have_their_parents() {
    if !probes() {
        return;
    }
    if lacks(&[Package::Binutils]) {
        return;
    }
    let mut world = World::traced();
    let stripped = world.scratch().join("tasks");
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&stripped).arg(peer::program().with_file_name("tasks"));
    assert!(strip.status().is_ok_and(|status| status.success()), "{strip:?}");
    let service = served(&world, Some(&stripped), "own");
    service.ask(&world, "calls", 8, 1000);
    if let Some(outcome) = world.stop_agent() {
        let (right, none, wrong) = parents(&outcome.spans, "calls");
        assert_eq!((right + none + wrong, wrong), (1000, 0), "{right} right, {none} without");
        assert!(right > 990, "{right} right, {none} without");
    }
}
