//! What Node's event loop sends is for what it received last, but for what its timers send.

// The same backend as that of `cargo xtask causality`.
#[expect(dead_code, reason = "the suite's services ask its datastore as well")]
#[path = "../src/bin/causality/backend.rs"]
mod backend;

use backend::Backend;
use tracewire_tests::agent::command;
use tracewire_tests::needs::probes;
use tracewire_tests::parents::parents;
use tracewire_tests::probes::await_probed;
use tracewire_tests::process::Process;
use tracewire_tests::services::timers;
use tracewire_tests::world::{World, is_control};

#[test]
fn what_timers_send_is_for_no_request_and_makes_no_other_call_doubtful() {
    if !probes() {
        return;
    }
    let mut world = World::traced();
    let service = timers(&world, Backend::start().http);
    if !is_control() {
        await_probed(service.id(), "/node");
    }
    let said = Process::start(command(&["check", "--pid", &service.id().to_string()])).succeed();
    let wanted = "a Node that is seen to run timers";
    let line = said.lines().find(|line| line.contains(wanted)).unwrap_or_else(|| panic!("{said}"));
    assert!(is_control() || line.ends_with("all are probed now"), "{line}");
    // Until its loop is known to go on at once.
    service.ask(&world, "calls-before", 16, 1000);
    service.ask(&world, "calls", 16, 2000);
    if let Some(outcome) = world.stop_agent() {
        let (right, none, wrong) = parents(&outcome.spans, "calls");
        assert_eq!((right + none + wrong, wrong), (6000, 0), "{right} right, {none} without");
        // All of them, but on a busy machine for those that come while the loop has to earn trust again.
        assert!(right > 4800, "{right} right, {none} without");
        let (_, none, wrong) = parents(&outcome.spans, "job");
        assert!(wrong == 0 && none > 50, "{wrong} jobs have a parent, {none} have none");
    }
}
