//! What event loops send is for the right request, or for none.

use std::collections::HashMap;
use std::time::Duration;

use tracewire_tests::otlp::{Kind, Span};
use tracewire_tests::parents::parents;
use tracewire_tests::script::Step;
use tracewire_tests::services::{Wire, loops, nginx, node, streaming};
use tracewire_tests::world::World;

#[test]
fn parallel_calls_of_a_prompt_loop_find_their_requests() {
    let mut world = World::traced();
    let service = loops(&world, 1, 1);
    service.ask(&world, "calls", 16, 2000);
    if let Some(outcome) = world.stop_agent() {
        let (right, none, wrong) = parents(&outcome.spans, "calls");
        assert_eq!((right + none + wrong, wrong), (6000, 0), "{right} right, {none} without");
        assert!(right > 5400, "{right} right, {none} without");
    }
}

#[test]
fn a_proxy_that_waits_for_the_end_of_connections_is_prompt() {
    let mut world = World::alone();
    world.start_agent(&["--propagate", "off"]);
    let leaf = node(&world, &Wire::Plain);
    // By HTTP/1.0, as nginx does if it is not told otherwise: each answer ends with its connection.
    let proxy = "location / { proxy_pass http://next$uri/0; }";
    let front = nginx(&world, Some(leaf.address()), proxy);
    // Until its loop is known to go on at once.
    front.ask(&world, "before", 16, 1000);
    front.ask(&world, "calls", 16, 2000);
    if let Some(outcome) = world.stop_agent() {
        assert_eq!(parents(&outcome.spans, "calls"), (2000, 0, 0));
    }
}

#[test]
fn a_request_that_waits_for_a_timer_finds_no_other_parent() {
    let mut world = World::traced();
    let service = loops(&world, 1, 1);
    service.ask(&world, "calls-before", 16, 500);
    std::thread::scope(|scope| {
        scope.spawn(|| service.ask(&world, "calls", 4, 3000));
        scope.spawn(|| service.ask(&world, "timer", 8, 500));
    });
    if let Some(outcome) = world.stop_agent() {
        let (_, none, wrong) = parents(&outcome.spans, "timer");
        assert!(wrong <= 1, "{wrong} wrong, {none} without");
        let (_, none, wrong) = parents(&outcome.spans, "calls");
        assert!(wrong <= 10, "{wrong} wrong, {none} without");
    }
}

#[test]
fn a_burst_of_jobs_does_not_take_the_one_open_request_for_its_parent() {
    let mut world = World::traced();
    let service = loops(&world, 1, 100);
    // Two at once: an event loop. Then jobs, when nothing is open: they are nobody's.
    service.ask(&world, "calls-before", 2, 100);
    for number in 0..3 {
        service.ask(&world, &format!("jobs/{number}"), 1, 1);
        std::thread::sleep(Duration::from_millis(100));
    }
    service.ask(&world, "calls", 2, 100);
    service.ask(&world, "burst", 1, 1);
    if let Some(outcome) = world.stop_agent() {
        let (right, none, wrong) = parents(&outcome.spans, "job");
        assert_eq!(right + none + wrong, 400);
        assert!(wrong <= 1, "{wrong} jobs have a parent, {none} have none");
    }
}

#[test]
fn a_request_whose_answer_streams_through_the_loop_is_not_taken_to_wait() {
    let mut world = World::traced();
    let front = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf";
    let next = world.server(vec![
        Step::heads(1),
        Step::send(front),
        Step::Pause(200),
        Step::send("half"),
        Step::UntilClosed,
    ]);
    let service = streaming(&world, next.address().port());
    let connect = Step::Connect(service.address());
    let ask = |path: &str| Step::send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    let steps = vec![
        (0, connect.clone()),
        (1, connect.clone()),
        (2, connect),
        (0, ask("/streams")),
        (1, ask("/asks-late")),
        (0, Step::UntilMore(front.len())),
        (2, ask("/asks-nothing")),
        (2, Step::heads(1)),
    ];
    world.client(3, steps);
    let Some(outcome) = world.stop_agent() else { return };
    let calls: Vec<&Span> = (outcome.spans.iter())
        .filter(|span| span.kind == Kind::Client && span.service() == "streaming")
        .collect();
    assert_eq!(calls.len(), 2, "{:?}", outcome.spans);
    for call in calls {
        let candidates = || call.links.iter().map(|(_, id, _)| id).collect::<Vec<_>>();
        assert_eq!(call.parent, "", "{call:?} links to {:?}", candidates());
    }
}

#[test]
fn requests_that_move_between_threads_find_no_parent_by_thread() {
    let mut world = World::traced();
    let service = loops(&world, 4, 1);
    // It is known by its first answers.
    service.ask(&world, "jobs", 8, 200);
    service.ask(&world, "calls", 8, 1000);
    if let Some(outcome) = world.stop_agent() {
        let (right, none, wrong) = parents(&outcome.spans, "calls");
        assert_eq!((right + none + wrong, wrong), (3000, 0), "{right} right, {none} without");
    }
}

#[test]
fn threads_that_end_with_their_work_are_believed_to_have_it_from_their_birth() {
    let mut world = World::traced();
    let service = loops(&world, 1, 1);
    service.ask(&world, "spawn", 1, 100);
    if let Some(outcome) = world.stop_agent() {
        let (right, none, wrong) = parents(&outcome.spans, "spawn");
        assert_eq!((right + none, wrong), (100, 0));
        // Eight have to end before the first is believed.
        assert_eq!(none, 8, "{right} right");
    }
}

#[test]
fn a_call_that_may_be_for_several_requests_links_to_all_of_them() {
    let mut world = World::traced();
    let service = loops(&world, 1, 1);
    service.ask(&world, "timer", 4, 200);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    let spans = &outcome.spans;
    let requests: HashMap<&str, &Span> = (spans.iter())
        .filter(|span| span.kind == Kind::Server)
        .map(|span| (span.path(), span))
        .collect();
    let mut linked = 0;
    for call in spans.iter().filter(|span| span.kind == Kind::Client && !span.links.is_empty()) {
        linked += 1;
        assert_eq!(call.attribute("tracewire.correlation"), "ambiguous");
        assert_eq!(call.parent, "", "{call:?}");
        assert!(call.links.len() <= 4, "{call:?}");
        assert!(call.links.iter().all(|(_, _, says)| says == "candidate"), "{call:?}");
        let request = call.path().strip_suffix("/0").unwrap_or_default();
        let right = requests.get(request).map(|span| (&span.trace_id, &span.span_id));
        let found = call.links.iter().any(|(trace, span, _)| right == Some((trace, span)));
        assert!(found, "{right:?} is not among the links of {call:?}");
    }
    assert!(linked > 150, "{linked} of 200 calls have links");
}
