//! gRPC calls by grpcio, in threads and in event loops: what their spans say.

use serde_json::{Value, json};
use tracewire_tests::grpc::{
    Called, Go, Next, call, go_program, node_server, python_aio_server, python_calls,
    python_server, rust_calls, rust_server,
};
use tracewire_tests::otlp::Kind;
use tracewire_tests::services::Service;
use tracewire_tests::world::World;

use crate::judge::{called, joined, received_their_clients};

/// Milliseconds that a `List` takes: five messages, twenty milliseconds apart.
const LIST_MS: u64 = 100;

fn ok(messages: &[&str]) -> Called {
    Called { code: "OK".into(), messages: messages.iter().map(|&text| text.to_owned()).collect() }
}

fn failed(code: &str) -> Called {
    Called { code: code.into(), messages: Vec::new() }
}

fn stream(method: &str) -> Value {
    json!({ "method": method, "stream": true })
}

/// Both kinds of client and of server.
fn each(test: impl Fn(&mut World, &Service, bool)) {
    for aio in [false, true] {
        let mut world = World::traced();
        let server =
            if aio { python_aio_server(&world) } else { python_server(&world, Next::Nobody) };
        test(&mut world, &server, aio);
    }
}

#[test]
fn a_unary_call_is_one_trace() {
    each(|world, server, aio| {
        let got = python_calls(world, server.port, aio, &[call("/shop.Item/Get", &[])]);
        assert_eq!(got, [ok(&["python /shop.Item/Get 0 bytes\n"])]);
        let Some(outcome) = world.stop_agent() else { return };
        let (client, server_span) = called(&outcome.spans, "/shop.Item/Get", "OK");
        assert_eq!(client.attribute("server.port"), server.port.to_string());
        assert!(client.parent.is_empty(), "{client:?}");
        assert!(!client.is_error && !server_span.is_error, "{client:?} {server_span:?}");
        assert_eq!(outcome.spans.len(), 2, "{:?}", outcome.spans);
        received_their_clients(server, &outcome.spans, 1);
    });
}

#[test]
fn a_call_that_fails_without_a_message_has_its_status_from_its_only_headers() {
    each(|world, server, aio| {
        let calls = [call("/shop.Item/Fail", &[]), call("/shop.Item/After", &[])];
        let got = python_calls(world, server.port, aio, &calls);
        assert_eq!(got[0], failed("NOT_FOUND"));
        assert_eq!(got[1].code, "OK");
        let Some(outcome) = world.stop_agent() else { return };
        let (client, _) = called(&outcome.spans, "/shop.Item/Fail", "NOT_FOUND");
        assert!(client.is_error, "{client:?}");
        called(&outcome.spans, "/shop.Item/After", "OK");
    });
}

#[test]
fn a_call_that_fails_after_a_message_has_its_status_from_the_trailers() {
    each(|world, server, aio| {
        let calls = [stream("/shop.Item/FailLate"), call("/shop.Item/After", &[])];
        let got = python_calls(world, server.port, aio, &calls);
        assert_eq!(got[0], failed("NOT_FOUND"));
        assert_eq!(got[1].code, "OK");
        let Some(outcome) = world.stop_agent() else { return };
        let (client, _) = called(&outcome.spans, "/shop.Item/FailLate", "NOT_FOUND");
        assert!(client.is_error, "{client:?}");
        called(&outcome.spans, "/shop.Item/After", "OK");
    });
}

#[test]
fn a_method_that_there_is_not_is_unimplemented() {
    let mut world = World::traced();
    let server = rust_server(&world, Next::Nobody);
    let got = python_calls(&world, server.port, false, &[call("/shop.Other/Get", &[])]);
    assert_eq!(got, [failed("UNIMPLEMENTED")]);
    let Some(outcome) = world.stop_agent() else { return };
    let (client, server) = called(&outcome.spans, "/shop.Other/Get", "UNIMPLEMENTED");
    assert!(client.is_error && server.is_error, "{client:?} {server:?}");
}

#[test]
fn a_streams_duration_reaches_to_its_trailers() {
    each(|world, server, aio| {
        let got = python_calls(world, server.port, aio, &[stream("/shop.Item/List")]);
        let messages: Vec<String> = (0..5).map(|number| format!("message {number}\n")).collect();
        assert_eq!(got, [Called { code: "OK".into(), messages }]);
        let Some(outcome) = world.stop_agent() else { return };
        let (client, server) = called(&outcome.spans, "/shop.Item/List", "OK");
        for span in [client, server] {
            assert!(span.end - span.start >= LIST_MS * 1_000_000, "{span:?}");
        }
    });
}

#[test]
fn a_call_that_its_client_cancels_ends_then() {
    each(|world, server, aio| {
        let wait = json!({ "method": "/shop.Item/Wait", "cancel": true });
        let got = python_calls(world, server.port, aio, &[wait, call("/shop.Item/After", &[])]);
        assert_eq!(got[0], failed("CANCELLED"));
        assert_eq!(got[1].code, "OK");
        let Some(outcome) = world.stop_agent() else { return };
        let (client, server) = joined(&outcome.spans, "/shop.Item/Wait");
        for span in [client, server] {
            // There are no trailers; what it says of the end may not be that all went well.
            assert_ne!(span.attribute("rpc.response.status_code"), "OK", "{span:?}");
            // The server would go on for ten seconds.
            assert!(span.end - span.start < 5_000_000_000, "{span:?}");
        }
        called(&outcome.spans, "/shop.Item/After", "OK");
    });
}

#[test]
fn clients_and_servers_of_all_languages_understand_each_other() {
    let mut world = World::traced();
    let servers = [
        ("python", python_server(&world, Next::Nobody)),
        ("node", node_server(&world, Next::Nobody, None)),
        ("rust", rust_server(&world, Next::Nobody)),
    ];
    let go = go_program(&world);
    let go_server = go.as_ref().map(|program| ("go", Go::Grpc.server(&world, program, None)));
    let servers: Vec<_> = servers.into_iter().chain(go_server).collect();
    let mut calls = Vec::new();
    for (name, server) in &servers {
        let method = format!("/shop.Item/Python-{name}");
        let got = python_calls(&world, server.port, false, &[call(&method, &[])]);
        assert!(got[0].messages[0].starts_with(&format!("{name} {method}")), "{got:?}");
        calls.push(method);
    }
    for (name, server) in servers.iter().filter(|(name, _)| ["python", "rust"].contains(name)) {
        let asked = rust_calls(&world, server.port, &["--calls", "20", "--streams", "4"]);
        assert_eq!(asked.calls, 20, "{name}: {asked:?}");
    }
    if let Some(program) = &go {
        for (_, server) in &servers {
            Go::Grpc.ask(&world, program, server.port, 20);
        }
    }
    let Some(outcome) = world.stop_agent() else { return };
    for method in &calls {
        called(&outcome.spans, method, "OK");
    }
    let gos = if go.is_some() { 20 } else { 0 };
    for (name, server) in &servers {
        let rusts = if ["python", "rust"].contains(name) { 20 } else { 0 };
        received_their_clients(server, &outcome.spans, 1 + rusts + gos);
    }
    let clients = outcome.spans.iter().filter(|span| span.kind == Kind::Client).count();
    assert_eq!(clients, servers.len() * (1 + gos) + 40);
    assert_eq!(outcome.spans.len(), 2 * clients);
}
