//! Go's own TLS library, in programs without symbols.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tracewire_tests::golang::built;
use tracewire_tests::needs::probes;
use tracewire_tests::otlp::{Kind, Span, describe};
use tracewire_tests::probes::await_bytes_changed;
use tracewire_tests::process::Process;
use tracewire_tests::services::{Service, Wire, free_port, node, python, start};
use tracewire_tests::world::{World, is_control};

/// How long a client may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Symbols and debug information are taken off.
const STRIPPED: [&str; 2] = ["-ldflags", "-s -w"];

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    Wire::tls().tell(&mut command);
    command
}

fn served(world: &World, program: &Path, next: Option<u16>) -> Service {
    let mut command = command(program);
    if let Some(next) = next {
        command.env("NEXT", next.to_string());
    }
    start(world, command, free_port(), world.scratch().join("seen"))
}

/// A client that has yet to be told to begin, started by a command of the program.
fn asking(world: &World, mut command: Command, port: u16, requests: usize) -> Process {
    command.env("PORT", port.to_string()).env("ASK", requests.to_string());
    let client = world.start(command);
    client.wait_line_for("gate", LIMIT);
    client
}

/// Has the client ask, once so many processes' libraries are probed.
fn ask_when_probed(world: &mut World, client: &mut Process, processes: usize) {
    if let Some(agent) = world.agent() {
        agent.wait_probed(processes);
    }
    client.tell("");
    client.wait_line_for("asked", LIMIT);
}

#[test]
fn two_thousand_requests_through_go_python_and_node_are_two_thousand_traces() {
    if !probes() {
        return;
    }
    const REQUESTS: usize = 2000;
    let mut world = World::traced_with(&["--log-level", "debug"]);
    let Some(program) = built(&world, "tls/service.go", &STRIPPED) else { return };
    let leaf = node(&world, &Wire::tls());
    let middle = python(&world, leaf.address(), &Wire::tls());
    let front = served(&world, &program, Some(middle.port));
    let mut client = asking(&world, command(&program), front.port, REQUESTS);
    ask_when_probed(&mut world, &mut client, 4);
    let Some(outcome) = world.stop_agent() else { return };
    assert_eq!(outcome.spans.len(), 6 * REQUESTS, "{:?}", outcome.counters);
    let mut by_path: HashMap<&str, Vec<&Span>> = HashMap::new();
    for span in &outcome.spans {
        by_path.entry(span.path()).or_default().push(span);
    }
    let pid = |service: &Service| service.id().to_string();
    let (first, last) = (client.id().to_string(), pid(&leaf));
    let chain = [
        (Kind::Client, &first),
        (Kind::Server, &pid(&front)),
        (Kind::Client, &pid(&front)),
        (Kind::Server, &pid(&middle)),
        (Kind::Client, &pid(&middle)),
        (Kind::Server, &last),
    ];
    for number in 0..REQUESTS {
        let spans = by_path.remove(format!("/item/{number}").as_str()).unwrap_or_default();
        let all = || describe(&spans.iter().copied().cloned().collect::<Vec<_>>());
        let mut parent = "";
        for (kind, process) in chain {
            let mut found = spans
                .iter()
                .filter(|one| one.kind == kind && one.resource.get("process.pid") == Some(process));
            let (Some(span), None) = (found.next(), found.next()) else {
                panic!("not one {kind:?} span of process {process}: {}", all());
            };
            assert_eq!(span.parent, parent, "{span:?}: {}", all());
            assert_eq!((&span.trace_id, span.status()), (&spans[0].trace_id, "200"), "{}", all());
            parent = &span.span_id;
        }
    }
}

#[test]
fn what_is_written_where_the_stack_has_to_grow_is_counted_once() {
    if !probes() {
        return;
    }
    const REQUESTS: usize = 400;
    let mut world = World::traced_with(&["--log-level", "debug"]);
    let Some(program) = built(&world, "tls/service.go", &STRIPPED) else { return };
    let server = served(&world, &program, None);
    let mut deep = command(&program);
    deep.env("DEEP", "1");
    let mut client = asking(&world, deep, server.port, REQUESTS);
    ask_when_probed(&mut world, &mut client, 2);
    let Some(outcome) = world.stop_agent() else { return };
    are_joined(&outcome.spans, REQUESTS);
}

/// Each request has a client's span, and below it a server's.
fn are_joined(spans: &[Span], requests: usize) {
    let clients: HashMap<&str, &Span> = spans
        .iter()
        .filter(|span| span.kind == Kind::Client)
        .map(|span| (span.path(), span))
        .collect();
    assert_eq!((spans.len(), clients.len()), (2 * requests, requests));
    for server in spans.iter().filter(|span| span.kind == Kind::Server) {
        assert_eq!(server.parent, clients[server.path()].span_id, "{server:?}");
        assert_eq!((server.attribute("url.scheme"), server.status()), ("https", "200"));
    }
}

#[test]
fn streams_of_go_over_tls_are_joined_at_each_hop() {
    if !probes() {
        return;
    }
    const REQUESTS: usize = 300;
    let mut world = World::traced_with(&["--log-level", "debug"]);
    let Some(program) = built(&world, "tls/service.go", &STRIPPED) else { return };
    let http2 = |mut command: Command| {
        command.env("HTTP2", "1");
        command
    };
    let port = free_port();
    let _server = start(&world, http2(command(&program)), port, world.scratch().join("seen"));
    let mut client = asking(&world, http2(command(&program)), port, REQUESTS);
    ask_when_probed(&mut world, &mut client, 2);
    let Some(outcome) = world.stop_agent() else { return };
    are_joined(&outcome.spans, REQUESTS);
    for span in outcome.spans {
        assert_eq!(span.attribute("network.protocol.version"), "2", "{span:?}");
    }
}

#[test]
fn go_programs_go_on_while_agents_come_stop_and_are_killed() {
    const REQUESTS: usize = 8000;
    if is_control() {
        return;
    }
    let mut world = World::new();
    let Some(program) = built(&world, "tls/service.go", &STRIPPED) else { return };
    let server = served(&world, &program, None);
    let mut client = asking(&world, command(&program), server.port, REQUESTS);
    client.tell("");
    for dies in [true, false, true, false] {
        world.start_agent(&[]);
        if dies {
            world.kill_agent();
        } else {
            drop(world.take_agent().map(|agent| agent.stop_with_log()));
        }
    }
    client.wait_line_for("asked", LIMIT);
    await_bytes_changed(server.id(), "go-service", 0);
}
