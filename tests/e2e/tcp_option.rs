//! Traces that go on from host to host over TLS, by a TCP option beside the ciphertext: two hosts are two
//! network namespaces, each with an agent of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tracewire_tests::golang::built;
use tracewire_tests::needs::probes;
use tracewire_tests::otlp::{Kind, Span, describe};
use tracewire_tests::probes::can_probe;
use tracewire_tests::process::Process;
use tracewire_tests::services::{
    PROXY, Service, Wire, free_port, interpreter, nginx, node, python, start,
};
use tracewire_tests::world::{Outcome, World};

const OPTION: [&str; 4] = ["--log-level", "debug", "--propagate", "tcp-option"];

/// How long a client may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Requests of which some are at work at once.
const REQUESTS: usize = 500;

/// The Go program as a service or a client, of what listens at `next`.
fn go(program: &Path, next: Option<SocketAddr>, http2: bool) -> Command {
    let mut command = Command::new(program);
    Wire::tls().tell(&mut command);
    if let Some(next) = next {
        command.env("NEXT_HOST", next.ip().to_string()).env("NEXT", next.port().to_string());
    }
    if http2 {
        command.env("HTTP2", "1");
    }
    command
}

fn served(world: &World, command: Command) -> Service {
    start(world, command, free_port(), world.scratch().join("seen"))
}

/// A client that has yet to be told to begin.
fn asking(world: &World, mut command: Command, to: SocketAddr, requests: usize) -> Process {
    command.env("NEXT_HOST", to.ip().to_string()).env("PORT", to.port().to_string());
    command.env("ASK", requests.to_string());
    let client = world.start(command);
    client.wait_line_for("gate", LIMIT);
    client
}

/// Has the client ask, once so many libraries are probed on each host.
fn ask_when_probed(client: &mut Process, hosts: [(&mut World, usize); 2]) {
    for (world, libraries) in hosts {
        if can_probe()
            && let Some(agent) = world.agent()
        {
            agent.wait_probed(libraries);
        }
    }
    client.tell("");
    client.wait_line_for("asked", LIMIT);
}

/// A reverse proxy over TLS on both sides, and where it listens for that.
fn secure_proxy(world: &World, next: SocketAddr) -> (Service, SocketAddr) {
    let (host, port) = (world.host(), free_port());
    let at = concat!(env!("CARGO_MANIFEST_DIR"), "/services/tls");
    let proxy = PROXY.replace("http://next", "https://next");
    let server = format!(
        "listen {host}:{port} ssl; ssl_certificate {at}/certificate.pem;\n\
         ssl_certificate_key {at}/key.pem;\n{proxy}"
    );
    (nginx(world, Some(next), &server), (host, port).into())
}

/// What is known when both agents have stopped.
struct Stopped {
    outcomes: [Outcome; 2],
    /// The spans of both.
    by_path: HashMap<String, Vec<Span>>,
}

fn stop(worlds: [&mut World; 2]) -> Option<Stopped> {
    let [left, right] = worlds.map(World::stop_agent);
    let outcomes = [left?, right?];
    let mut by_path: HashMap<String, Vec<Span>> = HashMap::new();
    for span in outcomes.iter().flat_map(|outcome| &outcome.spans) {
        by_path.entry(span.path().to_owned()).or_default().push(span.clone());
    }
    Some(Stopped { outcomes, by_path })
}

/// How many spans of a trace hang below one another, from its root on.
fn depth(spans: &[Span]) -> usize {
    let mut parent = "";
    let mut depth = 0;
    while let Some(span) = spans.iter().find(|span| span.parent == parent) {
        parent = &span.span_id;
        depth += 1;
    }
    depth
}

#[test]
fn a_trace_goes_on_over_tls_from_host_to_host() {
    let (mut left, mut right) = World::two_hosts();
    let Some(program) = built(&left, "tls/service.go", &[]) else { return };
    for world in [&mut left, &mut right] {
        world.start_agent(&OPTION);
    }
    let leaf = node(&left, &Wire::tls());
    let middle = python(&right, leaf.address(), &Wire::tls());
    let (_proxy, secure) = secure_proxy(&left, middle.address());
    let front = served(&right, go(&program, Some(secure), false));
    let mut client = asking(&left, go(&program, None, false), front.address(), REQUESTS);
    // Node, two processes of nginx and a client in Go; Python and a service in Go.
    ask_when_probed(&mut client, [(&mut left, 4), (&mut right, 2)]);
    let Some(Stopped { outcomes, by_path }) = stop([&mut left, &mut right]) else { return };
    for number in 0..REQUESTS {
        let spans = &by_path[&format!("/item/{number}")];
        assert_eq!((spans.len(), depth(spans)), (8, 8), "{}", describe(spans));
        for span in spans {
            assert_eq!((&span.trace_id, span.status()), (&spans[0].trace_id, "200"), "{span:?}");
            let way = match span.kind {
                Kind::Client => span.attribute("tracewire.propagation"),
                _ => span.attribute("tracewire.correlation"),
            };
            assert_eq!(way, "tcp_option", "{span:?}");
        }
    }
    assert_eq!(by_path.len(), REQUESTS);
    for Outcome { counters, .. } in outcomes {
        assert_eq!(counters["options_taken"], 2 * REQUESTS as u64, "{counters:?}");
    }
}

#[test]
fn streams_of_http_2_over_tls_find_their_own_contexts_or_none() {
    let (mut left, mut right) = World::two_hosts();
    let Some(program) = built(&left, "tls/service.go", &[]) else { return };
    for world in [&mut left, &mut right] {
        world.start_agent(&OPTION);
    }
    let server = served(&right, go(&program, None, true));
    let mut client = asking(&left, go(&program, None, true), server.address(), REQUESTS);
    ask_when_probed(&mut client, [(&mut left, 1), (&mut right, 1)]);
    let Some(Stopped { outcomes, by_path }) = stop([&mut left, &mut right]) else { return };
    let mut joined: u64 = 0;
    for number in 0..REQUESTS {
        let spans = &by_path[&format!("/item/{number}")];
        let [one, other] = &spans[..] else { panic!("{}", describe(spans)) };
        let (client, server) = if one.kind == Kind::Client { (one, other) } else { (other, one) };
        if server.parent.is_empty() {
            continue;
        }
        assert_eq!(server.parent, client.span_id, "{}", describe(spans));
        assert_eq!(server.trace_id, client.trace_id, "{}", describe(spans));
        joined += 1;
    }
    // A segment carries one: where several streams leave with it, the others' come too late.
    assert!(joined >= REQUESTS as u64 / 2, "{joined}");
    assert_eq!(outcomes[1].counters["options_taken"], joined);
}

/// Requests from one host to the other, whose agent runs with `flags`. Gives what is known at the end;
/// two spans for each path.
fn across(flags: &[&str]) -> Option<Stopped> {
    const CONNECTIONS: usize = 5;
    const EACH: usize = 8;
    let (mut left, mut right) = World::two_hosts();
    left.start_agent(&OPTION);
    right.start_agent(flags);
    let echo = || {
        let mut command = interpreter("tls/echo.py");
        Wire::tls().tell(&mut command);
        command
    };
    let server = served(&right, echo());
    let mut command = echo();
    command.env("NEXT_HOST", server.host.to_string()).env("PORT", server.port.to_string());
    command.env("ASK", CONNECTIONS.to_string());
    let mut client = left.start(command);
    client.wait_line_for("ready", LIMIT);
    ask_when_probed(&mut client, [(&mut left, 1), (&mut right, 1)]);
    let stopped = stop([&mut left, &mut right])?;
    if !probes() {
        assert!(stopped.by_path.is_empty());
        return None;
    }
    assert_eq!(stopped.by_path.len(), CONNECTIONS * EACH);
    for spans in stopped.by_path.values() {
        assert_eq!(spans.len(), 2, "{}", describe(spans));
        assert!(spans.iter().all(|span| span.status() == "200"), "{}", describe(spans));
    }
    Some(stopped)
}

#[test]
fn requests_to_a_host_that_reads_contexts_are_joined() {
    let Some(Stopped { by_path, .. }) = across(&OPTION) else { return };
    for spans in by_path.values() {
        assert_eq!(depth(spans), 2, "{}", describe(spans));
    }
}

#[test]
fn nothing_is_sent_to_a_host_that_does_not_say_that_it_reads_contexts() {
    let Some(Stopped { outcomes, by_path }) = across(&OPTION[..2]) else { return };
    for Outcome { counters, .. } in &outcomes {
        assert!(counters.keys().all(|name| !name.starts_with("option")), "{counters:?}");
    }
    for spans in by_path.values() {
        assert_ne!(spans[0].trace_id, spans[1].trace_id, "{}", describe(spans));
        assert!(spans.iter().all(|span| span.parent.is_empty()), "{}", describe(spans));
    }
}
