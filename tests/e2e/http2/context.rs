//! The context in HTTP/2's requests: exactly one, and what an application says itself is left alone.

use std::process::Command;

use serde_json::json;
use tracewire_tests::grpc::{
    Next, call, nghttpd, node_requests, node_server, python_calls, python_server,
};
use tracewire_tests::otlp::Kind;
use tracewire_tests::services::curl;
use tracewire_tests::world::{World, is_control};

use crate::judge::{called, one, received_their_clients, requested};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const OWN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn each_call_of_a_connection_has_one_context_and_the_headers_after_it_are_right() {
    const CALLS: usize = 60;
    let mut world = World::traced();
    let server = python_server(&world, Next::Nobody);
    // What comes again is in the receiver's table; what is new moves that.
    let value = |number: usize| format!("{}-{}", number % 3, "v".repeat(number % 7));
    let calls: Vec<_> = (0..CALLS)
        .map(|number| {
            let method = format!("/shop.N{number}/Echo");
            call(&method, &[("x-again", &value(number)), ("x-new", &number.to_string())])
        })
        .collect();
    let got = python_calls(&world, server.port, false, &calls);
    for (number, one) in got.iter().enumerate() {
        assert_eq!(one.received("x-again"), [value(number)], "{number}");
        assert_eq!(one.received("x-new"), [number.to_string()], "{number}");
        assert_eq!(one.received("traceparent").len(), usize::from(!is_control()), "{number}");
    }
    let Some(outcome) = world.stop_agent() else { return };
    received_their_clients(&server, &outcome.spans, CALLS);
    for (number, one) in got.iter().enumerate() {
        let (client, _) = called(&outcome.spans, &format!("/shop.N{number}/Echo"), "OK");
        assert!(one.received("traceparent")[0].contains(&client.span_id), "{number}");
    }
}

/// Calls that an application traces itself arrive so; the agent makes no client span of them, and
/// its server spans have the application's as their parents.
#[test]
fn the_context_of_an_application_on_grpcio_is_left_alone() {
    const CALLS: usize = 20;
    let mut world = World::traced();
    let server = python_server(&world, Next::Nobody);
    let calls: Vec<_> = (0..CALLS)
        .map(|number| {
            // One is the same each time and comes to be indexed, the other is not.
            let own = if number % 2 == 0 { OWN.to_owned() } else { other(number) };
            call(&format!("/shop.N{number}/Echo"), &[("traceparent", &own), ("x-after", "y")])
        })
        .collect();
    let got = python_calls(&world, server.port, false, &calls);
    for (number, one) in got.iter().enumerate() {
        let own = if number % 2 == 0 { OWN.to_owned() } else { other(number) };
        assert_eq!(one.received("traceparent"), [own], "{number}");
        assert_eq!(one.received("x-after"), ["y"], "{number}");
    }
    let Some(outcome) = world.stop_agent() else { return };
    let clients = outcome.spans.iter().filter(|span| span.kind == Kind::Client).count();
    assert_eq!(clients, 0, "{:?}", outcome.spans);
    for number in 0..CALLS {
        let server = one(&outcome.spans, Kind::Server, &format!("/shop.N{number}/Echo"));
        assert_eq!(server.trace_id, TRACE, "{server:?}");
        let parent = if number % 2 == 0 { "b7ad6b7169203331".to_owned() } else { id(number) };
        assert_eq!(server.parent, parent, "{server:?}");
    }
}

fn id(number: usize) -> String {
    format!("{:016x}", number + 1)
}

fn other(number: usize) -> String {
    format!("00-{TRACE}-{}-01", id(number))
}

#[test]
fn the_context_that_nghttp_sends_is_left_alone_also_when_it_is_indexed() {
    let mut world = World::traced();
    let directory = world.scratch();
    for number in 0..5 {
        let file = directory.join(number.to_string());
        std::fs::write(file, "content").expect("the scratch directory is writable");
    }
    let server = nghttpd(&world, &[], &directory);
    let mut command = Command::new("nghttp");
    command.args(["--null-out", "--multiply=4", "--header", &format!("traceparent: {OWN}")]);
    command.args((0..5).map(|number| format!("http://127.0.0.1:{}/{number}", server.port)));
    world.start(command).succeed();
    let received = server.output();
    let values: Vec<&str> =
        received.lines().filter_map(|line| Some(line.split_once("traceparent: ")?.1)).collect();
    assert_eq!(values, [OWN; 20], "{received}");
    let Some(outcome) = world.stop_agent() else { return };
    let is_own = |span: &&tracewire_tests::otlp::Span| {
        span.kind == Kind::Server && span.trace_id == TRACE && span.parent == "b7ad6b7169203331"
    };
    assert_eq!(outcome.spans.iter().filter(is_own).count(), 20, "{:?}", outcome.spans);
    assert_eq!(outcome.spans.len(), 20, "{:?}", outcome.spans);
}

#[test]
fn a_connection_with_some_requests_traced_by_the_application_gets_contexts_in_the_others() {
    let mut world = World::traced();
    let server = node_server(&world, Next::Nobody, None);
    let requests: Vec<_> = (0..20)
        .map(|number| {
            let own = if number % 2 == 0 { json!({ "traceparent": OWN }) } else { json!({}) };
            json!({ "path": format!("/{number}"), "headers": own })
        })
        .collect();
    let got = node_requests(&world, server.port, &json!({ "requests": requests }));
    for (number, one) in got.iter().enumerate() {
        let values = one.received("traceparent");
        if number % 2 == 0 {
            assert_eq!(values, [OWN], "{number}");
        } else {
            assert_eq!(values.len(), usize::from(!is_control()), "{number}: {values:?}");
        }
    }
    let Some(outcome) = world.stop_agent() else { return };
    for number in (1..20).step_by(2) {
        let (client, _) = requested(&outcome.spans, &format!("/{number}"), "GET", "200");
        assert!(got[number].received("traceparent")[0].contains(&client.span_id), "{number}");
    }
}

#[test]
fn nothing_is_written_where_propagation_is_off() {
    let mut world = World::traced_with(&["--propagate", "off"]);
    let server = node_server(&world, Next::Nobody, None);
    let url = format!("http://127.0.0.1:{}/quiet", server.port);
    curl(&world, &["--http2-prior-knowledge", &url]);
    assert_eq!(server.headers_seen(), [("/quiet".to_owned(), 0)]);
    let Some(outcome) = world.stop_agent() else { return };
    one(&outcome.spans, Kind::Client, "/quiet");
    one(&outcome.spans, Kind::Server, "/quiet");
}
