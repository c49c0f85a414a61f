//! Requests over TLS: read in the library, for as long as that harms nobody.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use tracewire_tests::agent::command;
use tracewire_tests::needs::{Package, lacks, probes};
use tracewire_tests::otlp::{Kind, Span, describe};
use tracewire_tests::probes::{await_bytes_changed, bytes_changed};
use tracewire_tests::process::Process;
use tracewire_tests::script::{Load, Script};
use tracewire_tests::services::{
    PROXY, Wire, curl, free_port, interpreter, nginx, node, python, start,
};
use tracewire_tests::world::{World, is_control};

/// Libraries are said to be probed at this level, each in each process.
const TALKATIVE: [&str; 2] = ["--log-level", "debug"];

/// The library of Python and nginx, by the end of its path.
const LIBRARY: &str = "/libssl.so.3";

/// How long a client may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A client of `leaf.js` with so many threads and requests in each.
fn asking(wire: &Wire, port: u16, threads: usize, requests: usize) -> Command {
    let mut command = interpreter("tls/ask.py");
    wire.tell(&mut command);
    command.env("PORT", port.to_string()).env("THREADS", threads.to_string());
    command.env("REQUESTS", requests.to_string());
    command
}

fn echo(wire: &Wire, port: u16) -> Command {
    let mut command = interpreter("tls/echo.py");
    wire.tell(&mut command);
    command.env("PORT", port.to_string());
    command
}

/// Runs a client that stops, saying `word`, until its library and its server's are probed.
fn ask_when_probed(world: &mut World, command: Command, word: &str) {
    let mut client = world.start(command);
    client.wait_line_for(word, LIMIT);
    if let Some(agent) = world.agent() {
        agent.wait_probed(2);
    }
    client.tell("");
    client.wait_line_for("asked", LIMIT);
}

fn of_kind(spans: &[Span], kind: Kind) -> Vec<&Span> {
    spans.iter().filter(|span| span.kind == kind).collect()
}

#[test]
fn one_request_over_tls_is_one_trace() {
    let mut world = World::new();
    let wire = Wire::tls();
    let leaf = node(&world, &wire);
    let middle = python(&world, leaf.address(), &wire);
    let proxy = PROXY.replace("http://next", "https://next");
    let front = nginx(&world, Some(middle.address()), &proxy);
    if !is_control() {
        world.start_agent(&[]);
    }
    let url = format!("http://127.0.0.1:{}/one?secret=1", front.port);
    assert_eq!(curl(&world, &[&url]), "middle leaf /one?secret=1\n0 bytes");
    let Some(outcome) = world.stop_agent() else { return };
    let spans = &outcome.spans;
    if !probes() {
        // What is in plain text has its spans all the same.
        assert_eq!(spans.len(), 2, "{}", describe(spans));
        return;
    }
    assert_eq!(spans.len(), 6, "{}", describe(spans));
    assert!(spans.iter().all(|span| span.trace_id == spans[0].trace_id), "{}", describe(spans));
    let https: Vec<&Span> = spans
        .iter()
        .filter(|span| {
            span.attribute("url.scheme") == "https"
                || span.attribute("url.full").starts_with("https://")
        })
        .collect();
    assert_eq!(https.len(), 4, "{}", describe(spans));
    for span in https {
        assert_eq!((span.status(), span.path()), ("200", "/one"), "{span:?}");
        if span.kind == Kind::Client {
            let port = span.attribute("server.port").parse();
            assert!(port == Ok(middle.port) || port == Ok(leaf.port), "{span:?}");
            assert_eq!(span.attribute("tracewire.propagation"), "encrypted", "{span:?}");
        } else {
            assert_eq!(span.attribute("tracewire.correlation"), "local", "{span:?}");
        }
    }
}

#[test]
fn threads_that_call_the_library_at_once_get_what_they_ask_for_and_each_request_two_spans() {
    if !probes() {
        return;
    }
    const THREADS: usize = 8;
    const REQUESTS: usize = 250;
    let mut world = World::traced_with(&TALKATIVE);
    let wire = Wire::tls();
    let leaf = node(&world, &wire);
    let mut command = asking(&wire, leaf.port, THREADS, REQUESTS + 1);
    command.env("GATE", "1");
    ask_when_probed(&mut world, command, "gate");
    let Some(outcome) = world.stop_agent() else { return };
    for kind in [Kind::Client, Kind::Server] {
        for thread in 0..THREADS {
            // The first one was, or was not, before the library was probed, and then the answer to
            // the second tells whose the session is.
            for number in 2..=REQUESTS {
                let path = format!("/{thread}/{number}");
                let mut found =
                    outcome.spans.iter().filter(|span| span.kind == kind && span.path() == path);
                let (Some(span), None) = (found.next(), found.next()) else {
                    panic!("not one {kind:?} span of {path}: {:?}", outcome.counters);
                };
                let size = (thread * 7919 + number * 997) % 50_000;
                assert_eq!(span.attribute("http.request.body.size"), size.to_string(), "{span:?}");
                assert_eq!(span.status(), "200", "{span:?}");
            }
        }
    }
}

#[test]
fn sixteen_clients_with_gnutls_are_joined_with_their_server() {
    if !probes() {
        return;
    }
    const CLIENTS: usize = 16;
    const REQUESTS: usize = 125;
    if lacks(&[Package::Wget]) {
        return;
    }
    let mut world = World::traced_with(&TALKATIVE);
    let leaf = node(&world, &Wire::tls());
    let mut clients: Vec<Process> = (0..CLIENTS)
        .map(|_| {
            // It asks for nothing before it has read all of what it is to ask for.
            let mut command = Command::new("wget");
            command.args(["--no-verbose", "--no-check-certificate", "--no-proxy"]);
            command.args(["--output-document=-", "--input-file=-"]);
            world.start(command)
        })
        .collect();
    if let Some(agent) = world.agent() {
        agent.wait_probed(1 + CLIENTS);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        for request in 0..REQUESTS {
            client.tell(&format!("https://127.0.0.1:{}/{number}/{request}", leaf.port));
        }
        client.close_input();
    }
    for (number, client) in clients.into_iter().enumerate() {
        let wanted = (0..REQUESTS).map(|request| format!("leaf /{number}/{request}\n0 bytes"));
        assert_eq!(client.succeed(), wanted.collect::<Vec<_>>().join("\n"));
    }
    let Some(outcome) = world.stop_agent() else { return };
    assert_eq!(outcome.spans.len(), 2 * CLIENTS * REQUESTS, "{:?}", outcome.counters);
    let (of_clients, of_servers) =
        (of_kind(&outcome.spans, Kind::Client), of_kind(&outcome.spans, Kind::Server));
    let of_clients: HashMap<&str, &Span> =
        of_clients.into_iter().map(|span| (span.path(), span)).collect();
    for server in of_servers {
        let client = of_clients.get(server.path());
        let client = client.unwrap_or_else(|| panic!("no client asked for it: {server:?}"));
        assert_eq!((&server.parent, &server.trace_id), (&client.span_id, &client.trace_id));
        assert_eq!((client.service(), client.status()), ("wget", "200"), "{client:?}");
    }
}

#[test]
fn sessions_older_than_the_agent_are_read_and_not_joined() {
    if !probes() {
        return;
    }
    const BEFORE: usize = 5;
    const AFTER: usize = 20;
    let mut world = World::new();
    let wire = Wire::tls();
    let leaf = node(&world, &wire);
    let mut command = asking(&wire, leaf.port, 1, BEFORE + AFTER);
    command.env("GATE", BEFORE.to_string());
    let mut client = world.start(command);
    client.wait_line_for("gate", LIMIT);
    if !is_control() {
        world.start_agent(&[]);
    }
    client.tell("");
    client.wait_line_for("asked", LIMIT);
    drop(client);
    let Some(outcome) = world.stop_agent() else { return };
    let spans = &outcome.spans;
    // Whose the session is, is learned from the first answer, and by the server from its request.
    assert!(of_kind(spans, Kind::Client).len() >= AFTER - 1, "{}", describe(spans));
    assert!(of_kind(spans, Kind::Server).len() >= AFTER - 1, "{}", describe(spans));
    for span in spans {
        assert_eq!((span.status(), span.parent.as_str()), ("200", ""), "{}", describe(spans));
    }
}

#[test]
fn what_goes_through_memory_is_read_whole() {
    if !probes() {
        return;
    }
    const CONNECTIONS: usize = 3;
    const SIZES: [u64; 8] = [0, 1, 5, 16_383, 16_384, 16_385, 100_000, 3_000_000];
    let mut world = World::traced_with(&TALKATIVE);
    let wire = Wire::tls();
    let port = free_port();
    let _server = start(&world, echo(&wire, port), port, world.scratch());
    let mut command = echo(&wire, port);
    command.env("ASK", CONNECTIONS.to_string());
    ask_when_probed(&mut world, command, "ready");
    let Some(outcome) = world.stop_agent() else { return };
    let spans = &outcome.spans;
    assert_eq!(spans.len(), 2 * CONNECTIONS * SIZES.len(), "{}", describe(spans));
    for client in of_kind(spans, Kind::Client) {
        let size = client.path().rsplit('/').next().unwrap_or_default();
        assert_eq!(client.attribute("http.request.body.size"), size, "{client:?}");
        assert_eq!(client.attribute("http.response.body.size"), size, "{client:?}");
        let mut servers = spans.iter().filter(|span| span.parent == client.span_id);
        let (Some(server), None) = (servers.next(), servers.next()) else {
            panic!("not one server span below {client:?}: {}", describe(spans));
        };
        assert_eq!(server.path(), client.path());
        assert_eq!(server.attribute("http.request.body.size"), size, "{server:?}");
        assert_eq!(server.attribute("http.response.body.size"), size, "{server:?}");
    }
}

#[test]
fn calls_in_the_library_survive_agents_that_stop_or_are_killed() {
    let mut world = World::alone();
    let wire = Wire::tls();
    let leaf = node(&world, &wire);
    let middle = python(&world, leaf.address(), &wire);
    let front =
        nginx(&world, Some(middle.address()), &PROXY.replace("http://next", "https://next"));
    for dies in [true, false, true, false] {
        if !is_control() {
            world.start_agent(&[]);
        }
        let load = Load {
            to: ([127, 0, 0, 1], front.port).into(),
            path: "/item".into(),
            threads: 16,
            requests: 2000,
            limit_ms: 60_000,
        };
        let loading = world.peer(|_| Script::Load(load));
        std::thread::sleep(Duration::from_millis(500));
        if dies {
            world.kill_agent();
        } else {
            drop(world.take_agent().map(|agent| agent.stop_with_log()));
        }
        let report = loading.report();
        assert_eq!(report.failures, Vec::<String>::new(), "{report:?}\n{}", middle.output());
        assert_eq!(report.requests, 2000);
        assert!(report.longest_ms < 1000, "{report:?}");
    }
}

#[test]
fn processes_are_probed_in_scope_only_and_only_while_the_agent_runs() {
    if !probes() {
        return;
    }
    if is_control() {
        return;
    }
    let mut world = World::new();
    let wire = Wire::tls();
    let inside = python(&world, ([127, 0, 0, 1], free_port()).into(), &wire);
    let elsewhere = World::new();
    let outside = python(&elsewhere, ([127, 0, 0, 1], free_port()).into(), &wire);
    for dies in [false, true] {
        world.start_agent(&[]);
        // `SSL_new`, `SSL_free`, `SSL_clear`, `SSL_do_handshake`, `SSL_sendfile`, three to read and three
        // to write.
        await_bytes_changed(inside.id(), LIBRARY, 11);
        assert_eq!(bytes_changed(outside.id(), LIBRARY), 0);
        if dies {
            world.kill_agent();
        } else {
            drop(world.take_agent().map(|agent| agent.stop_with_log()));
        }
        await_bytes_changed(inside.id(), LIBRARY, 0);
    }
    world.start_agent(&["--tls", "off"]);
    assert_eq!(bytes_changed(inside.id(), LIBRARY), 0);
}

#[test]
fn without_tls_to_be_read_there_are_no_spans_of_it() {
    let mut world = World::new();
    let wire = Wire::tls();
    let leaf = node(&world, &wire);
    if !is_control() {
        world.start_agent(&["--tls", "off"]);
    }
    let client = world.start(asking(&wire, leaf.port, 1, 3));
    client.wait_line_for("asked", LIMIT);
    drop(client);
    let Some(outcome) = world.stop_agent() else { return };
    assert!(outcome.spans.is_empty(), "{}", describe(&outcome.spans));
    assert_eq!(outcome.counters.get("tls_sessions"), None);
}

#[test]
fn what_was_encrypted_is_in_no_span_and_no_log() {
    if !probes() {
        return;
    }
    const SECRET: &str = "Bearer-hunter2-encrypted";
    let mut world = World::traced_with(&["--log-level", "trace"]);
    let wire = Wire::tls();
    let leaf = node(&world, &wire);
    let mut command = asking(&wire, leaf.port, 1, 20);
    command.env("GATE", "1").env("SECRET", SECRET);
    ask_when_probed(&mut world, command, "gate");
    let Some(agent) = world.take_agent() else { return };
    let (counters, log) = agent.stop_with_log();
    let spans = world.sink.spans();
    assert!(spans.len() >= 2 * 18, "{counters:?}, {}", describe(&spans));
    assert!(!log.contains(SECRET), "{log}");
    assert!(!format!("{spans:?}").contains(SECRET), "{}", describe(&spans));
}

#[test]
fn a_process_that_calls_its_library_very_often_is_left_alone() {
    if !probes() {
        return;
    }
    let mut world = World::traced();
    let mut busy = world.start(interpreter("tls/busy.py"));
    busy.wait_line_for("busy", LIMIT);
    if let Some(agent) = world.agent() {
        agent.wait_said("so often that reading would slow it down");
        await_bytes_changed(busy.id(), LIBRARY, 0);
    }
    busy.tell("");
    busy.wait_line_for("calls", LIMIT);
    drop(world.stop_agent());
}

/// What is said of a process.
fn checked(pid: u32) -> String {
    Process::start(command(&["check", "--pid", &pid.to_string()])).succeed()
}

#[test]
fn what_is_read_of_a_process_can_be_asked() {
    if !probes() {
        return;
    }
    if is_control() {
        return;
    }
    let mut world = World::new();
    let leaf = node(&world, &Wire::tls());
    let library = "ok      /usr/bin/node: OpenSSL's interface, 11 places to probe, ";
    let told = checked(leaf.id());
    assert!(told.contains(&format!("{library}none is probed now")), "{told}");
    world.start_agent(&TALKATIVE);
    let agent = world.agent().map(|agent| {
        agent.wait_probed(1);
        agent.id()
    });
    let told = checked(leaf.id());
    assert!(told.contains(&format!("{library}all are probed now")), "{told}");
    // The agent's own library has no symbols.
    let told = checked(agent.unwrap_or_default());
    assert!(told.contains("off     TLS: the program seems to hold rustls"), "{told}");
    drop(world.stop_agent());
}
