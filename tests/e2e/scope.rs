//! What is out of scope is not touched, and not reported.

use std::path::{Path, PathBuf};

use tracewire_tests::expect;
use tracewire_tests::otlp::{Kind, describe};
use tracewire_tests::peer::{Peer, program};
use tracewire_tests::process::{Process, copy_program, patient};
use tracewire_tests::script::Step;
use tracewire_tests::stream::{Part, compare};
use tracewire_tests::trace_parent::TraceParent;
use tracewire_tests::world::{World, send, serve};

const HEAD: &str = "GET /request HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn answers() -> Vec<Step> {
    vec![Step::heads(1), Step::send(OK), Step::UntilClosed]
}

/// One request to each server, on a connection of its own.
fn asks(servers: &[&Peer]) -> Vec<(usize, Step)> {
    let steps = servers.iter().enumerate().flat_map(|(number, server)| {
        [Step::Connect(server.address()), Step::send(HEAD), Step::until("\r\n\r\nok"), Step::Close]
            .map(|step| (number, step))
    });
    steps.collect()
}

/// The header of a server's only request.
fn header(what: &str, server: &Peer) -> Option<TraceParent> {
    compare(what, &[Part::head(HEAD)], &server.received(0)).remove(0)
}

/// The peer under another name: another program, as far as the agent can tell.
fn named(world: &World, name: &str) -> PathBuf {
    let copy = world.scratch().join(name);
    copy_program(&program(), &copy);
    copy
}

/// Two servers by port; `flag` names the port of the first. Only one of them is in scope.
fn ports(flag: &str, first_in_scope: bool) {
    let mut world = World::new();
    let (first, second) = (world.server(answers()), world.server(answers()));
    let port = first.address().port().to_string();
    world.start_agent(&[flag, &port]);
    world.client(2, asks(&[&first, &second]));
    let (inside, outside) = if first_in_scope { (&first, &second) } else { (&second, &first) };
    assert_eq!(header("out of scope", outside), None, "{flag}: a header out of scope");
    let headers = expect::all_injected(flag, vec![header("in scope", inside)]);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    expect::exactly_pairs(flag, &outcome.spans, &headers);
}

#[test]
fn an_excluded_port_is_left_alone() {
    ports("--exclude-port", false);
}

#[test]
fn only_an_included_port_is_looked_at() {
    ports("--include-port", true);
}

/// Two clients by executable, each with a server of the same name.
fn executables(flag: &str, inside: &str, outside: &str) {
    let mut world = World::new();
    world.start_agent(&[flag, "*/first"]);
    let mut seen = Vec::new();
    for name in [inside, outside] {
        let program = named(&world, name);
        let serves = |directory: &Path| serve(directory, vec![answers()]);
        let server = world.peer_by(&program, serves, |_| {});
        // A program's verdict takes the agent a moment; until then nothing of it is touched.
        let mut steps = vec![(0, Step::Pause(300))];
        steps.extend(asks(&[&server]));
        world.peer_by(&program, |directory| send(directory, steps), |_| {}).finish(1);
        seen.push(header(name, &server));
    }
    assert_eq!(seen[1], None, "{flag}: {outside} was given a header");
    seen.truncate(1);
    let headers = expect::all_injected(flag, seen);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    for span in &outcome.spans {
        assert_eq!(span.service(), inside, "{flag}: {}", describe(&outcome.spans));
    }
    expect::exactly_pairs(flag, &outcome.spans, &headers);
}

#[test]
fn an_excluded_executable_is_left_alone() {
    executables("--exclude-exe", "second", "first");
}

#[test]
fn only_an_included_executable_is_looked_at() {
    executables("--include-exe", "first", "second");
}

#[test]
fn an_excluded_service_between_others_breaks_the_trace_but_nothing_else() {
    let mut world = World::new();
    world.start_agent(&["--exclude-exe", "*/first"]);
    let first = named(&world, "first");
    let server = world.server(answers());
    let steps = asks(&[&server]);
    world.peer_by(&first, |directory| send(directory, steps), |_| {}).finish(1);
    assert_eq!(header("excluded client", &server), None, "an excluded program got a header");
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    // The server is in scope: it starts a trace of its own.
    let [span] = outcome.spans.as_slice() else { panic!("{}", describe(&outcome.spans)) };
    assert_eq!((span.kind, span.parent.as_str()), (Kind::Server, ""));
}

#[test]
fn traffic_outside_the_cgroup_is_left_alone() {
    let mut world = World::traced();
    let server = world.stranger(|directory| serve(directory, vec![answers()]));
    let steps = asks(&[&server]);
    world.stranger(|directory| send(directory, steps)).finish(1);
    assert_eq!(header("outside", &server), None, "a header outside the cgroup");
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    assert!(outcome.spans.is_empty(), "{}", describe(&outcome.spans));
}

#[test]
fn an_agent_inside_its_own_scope_does_not_trace_itself() {
    let mut world = World::new();
    if !tracewire_tests::world::is_control() {
        let mut command = world.agent_command(&[]);
        world.cgroup.place(&mut command);
        world.start_agent_by(command);
    }
    let server = world.server(answers());
    world.client(1, asks(&[&server]));
    let headers = expect::all_injected("agent inside", vec![header("agent inside", &server)]);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    expect::exactly_pairs("agent inside", &outcome.spans, &headers);
    let port = world.sink.port().to_string();
    for span in &outcome.spans {
        assert_ne!(span.attribute("server.port"), port, "the agent's own export: {span:?}");
    }
    let opaque = outcome.counters.get("connections_opaque");
    assert!(opaque.is_none_or(|count| *count == 0), "the export was looked at: {opaque:?}");
}

#[test]
fn services_are_named_as_their_environment_says() {
    let mut world = World::traced();
    let serves = |directory: &Path| serve(directory, vec![answers()]);
    let server = world.peer_by(&program(), serves, |command| {
        command.env("OTEL_SERVICE_NAME", "shop");
        command.env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=no");
    });
    let steps = asks(&[&server]);
    let client: Peer = world.peer(|directory| send(directory, steps));
    client.finish(1);
    let headers = expect::all_injected("names", vec![header("names", &server)]);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    for (client, server) in expect::exactly_pairs("names", &outcome.spans, &headers) {
        // The client has ended long before its spans are made: its name must not be lost.
        assert_eq!((client.service(), server.service()), ("peer", "shop"));
        let environment = server.resource.get("deployment.environment.name");
        assert_eq!(environment.map(String::as_str), Some("test"));
    }
}

#[test]
fn the_console_shows_traces_without_a_collector() {
    let world = World::new();
    if tracewire_tests::world::is_control() {
        return;
    }
    let cgroup = world.cgroup.path().to_string_lossy().into_owned();
    let command = tracewire_tests::agent::command(&["run", "--cgroup", &cgroup]);
    let mut agent = Process::start(command);
    let limit = patient(std::time::Duration::from_secs(20));
    assert!(
        agent.wait_stderr(limit, |line| line.contains("ready")).is_some(),
        "{}",
        agent.output()
    );
    let server = world.server(answers());
    world.client(1, asks(&[&server]));
    agent.signal(libc::SIGTERM);
    assert!(agent.wait_exit(limit).is_some_and(|status| status.success()), "{}", agent.output());
    let shown = agent.stdout();
    assert!(shown.contains("GET") && shown.contains("peer"), "{}", agent.output());
    assert!(!shown.contains('\u{1b}'), "colours in a pipe: {shown:?}");
}
