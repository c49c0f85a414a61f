//! Agents come and go; the traffic does not notice.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use tracewire_tests::expect;
use tracewire_tests::netns::Netns;
use tracewire_tests::otlp::{Kind, Span, describe};
use tracewire_tests::peer::{Peer, program};
use tracewire_tests::script::{ChainHeaders, Load, LoadReport, Script, Serve, Step, fill};
use tracewire_tests::services::{PROXY, free_port, nginx, upload, uploads};
use tracewire_tests::stream::{Part, compare};
use tracewire_tests::world::{World, chain, is_control, send, serve};

const HEAD: &str = "GET /request HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers so many requests without bodies.
fn answer(times: usize) -> Vec<Step> {
    let mut steps = repeat(times, &[Step::heads(1), Step::send(OK)]);
    steps.push(Step::UntilClosed);
    steps
}

fn ask(times: usize) -> Vec<Step> {
    repeat(times, &[Step::send(HEAD), Step::until("\r\n\r\nok")])
}

fn repeat(times: usize, steps: &[Step]) -> Vec<Step> {
    vec![steps; times].concat()
}

fn on_first(steps: impl IntoIterator<Item = Step>) -> Vec<(usize, Step)> {
    steps.into_iter().map(|step| (0, step)).collect()
}

/// The requests on one connection: those sent without an agent have no header, the others have.
fn check(world: &mut World, what: &str, request: &[u8], without: usize, with: usize) {
    let sent = vec![Part::head(HEAD); without + with];
    let mut found = compare(what, &sent, request);
    let later = found.split_off(without);
    assert!(found.iter().all(Option::is_none), "{what}: a header without an agent");
    let headers = expect::all_injected(what, later);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    expect::exactly_pairs(what, &outcome.spans, &headers);
}

#[test]
fn connections_older_than_the_agent_are_read_and_given_headers() {
    for before in [0, 1, 3] {
        let what = format!("{before} requests before the agent");
        let mut world = World::new();
        let server = world.server(answer(before + 3));
        let steps = [vec![Step::Connect(server.address())], ask(before), vec![Step::Gate], ask(3)];
        let mut client = world.peer(|directory| send(directory, on_first(steps.concat())));
        client.wait_gate(0);
        world.start_agent(&[]);
        client.open_gate();
        client.finish(1);
        check(&mut world, &what, &server.received(0), before, 3);
    }
}

#[test]
fn an_agent_that_starts_inside_a_head_leaves_it_whole() {
    let mut world = World::new();
    let server = world.server(answer(2));
    let mut steps = vec![Step::Connect(server.address()), Step::send(&HEAD[..20]), Step::Gate];
    steps.extend([Step::send(&HEAD[20..]), Step::until("\r\n\r\nok")]);
    steps.extend(ask(1));
    let mut client = world.peer(|directory| send(directory, on_first(steps)));
    client.wait_gate(0);
    world.start_agent(&[]);
    client.open_gate();
    client.finish(1);
    compare("start inside a head", &[Part::head(HEAD), Part::head(HEAD)], &server.received(0));
    world.stop_agent();
}

#[test]
fn an_agent_that_starts_inside_a_body_puts_nothing_in_it() {
    let mut world = World::new();
    let body = fill(20_000);
    let head = format!("PUT /body HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    let sent = [Part::head(&head), Part::exact(&body), Part::head(HEAD)];
    let end = "GET /request";
    let server = world.server(vec![
        Step::UntilMore(head.len() + body.len()),
        Step::send(OK),
        Step::until(end),
        Step::heads(1),
        Step::send(OK),
        Step::UntilClosed,
    ]);
    // The part that is sent under the agent starts exactly as a request does.
    let request = b"GET /";
    let at = 10_000 + body[10_000..].windows(5).position(|w| w == request).unwrap_or(0);
    let mut steps = vec![Step::Connect(server.address()), Step::send(&head)];
    steps.extend([Step::send(&body[..at]), Step::Gate]);
    steps.extend(body[at..].chunks(1000).map(Step::send));
    steps.push(Step::until("\r\n\r\nok"));
    steps.extend(ask(1));
    let mut client = world.peer(|directory| send(directory, on_first(steps)));
    client.wait_gate(0);
    world.start_agent(&[]);
    client.open_gate();
    client.finish(1);
    compare("start inside a body", &sent, &server.received(0));
    world.stop_agent();
}

#[test]
fn a_listener_that_waits_for_data_is_read_from_the_first_byte() {
    let mut world = World::traced();
    let server = world.peer(|directory| {
        let Script::Serve(serve) = serve(directory, vec![answer(2)]) else { unreachable!() };
        Script::Serve(Serve { defer_accept: true, ..serve })
    });
    let steps = [vec![Step::Connect(server.address())], ask(2)].concat();
    world.client(1, on_first(steps));
    check(&mut world, "TCP_DEFER_ACCEPT", &server.received(0), 0, 2);
}

#[test]
fn ipv6_is_the_same() {
    let mut world = World::traced();
    let server = server_at(&world, (Ipv6Addr::LOCALHOST, 0).into());
    let steps = [vec![Step::Connect(server.address())], ask(2)].concat();
    world.client(1, on_first(steps));
    let request = server.received(0);
    let sink = check_address(&mut world, "IPv6", &request);
    assert!(sink.is_none_or(|address| address == "::1"), "client.address");
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_the_same() {
    let mut world = World::traced();
    let server = server_at(&world, (Ipv6Addr::UNSPECIFIED, 0).into());
    let to = SocketAddr::from(([127, 0, 0, 1], server.address().port()));
    let steps = [vec![Step::Connect(to)], ask(2)].concat();
    world.client(1, on_first(steps));
    let request = server.received(0);
    let address = check_address(&mut world, "IPv4 in IPv6", &request);
    assert!(address.is_none_or(|address| address == "127.0.0.1"), "client.address");
}

fn server_at(world: &World, listen: SocketAddr) -> Peer {
    world.peer(|directory| {
        let Script::Serve(serve) = serve(directory, vec![answer(2)]) else { unreachable!() };
        Script::Serve(Serve { listen, ..serve })
    })
}

/// As [`check`], for two requests; gives the client's address as the server span says it.
fn check_address(world: &mut World, what: &str, request: &[u8]) -> Option<String> {
    let found = compare(what, &vec![Part::head(HEAD); 2], request);
    let headers = expect::all_injected(what, found);
    let outcome = world.stop_agent()?;
    let pairs = expect::exactly_pairs(what, &outcome.spans, &headers);
    pairs.first().map(|(_, server)| server.attribute("client.address").to_owned())
}

#[test]
fn two_network_namespaces_are_joined() {
    let mut world = World::traced();
    let (left, right) = Netns::pair();
    let listen = SocketAddr::new(right.address(), 8080);
    let server = world.peer_by(
        &program(),
        |directory| {
            let Script::Serve(serve) = serve(directory, vec![answer(2)]) else { unreachable!() };
            Script::Serve(Serve { listen, ..serve })
        },
        |command| right.place(command),
    );
    let to = server.address();
    let steps = on_first([vec![Step::Connect(to)], ask(2)].concat());
    let client = world.peer_by(
        &program(),
        |directory| send(directory, steps),
        |command| left.place(command),
    );
    client.finish(1);
    let request = server.received(0);
    let address = check_address(&mut world, "two namespaces", &request);
    assert!(address.is_none_or(|address| address == left.address().to_string()), "client.address");
}

#[test]
fn a_program_that_sizes_its_reads_by_fionread_gets_everything() {
    let mut world = World::traced();
    let body = fill(300_000);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let response = [head.as_bytes(), &body].concat();
    let server = world.server(
        [
            repeat(3, &[Step::heads(1), Step::Send(response.as_slice().into())]),
            vec![Step::UntilClosed],
        ]
        .concat(),
    );
    let steps = [
        vec![Step::Connect(server.address())],
        repeat(3, &[Step::send(HEAD), Step::UntilMoreByFionread(response.len())]),
    ];
    let got = world.client(1, on_first(steps.concat()));
    assert!(got[0] == response.repeat(3), "responses differ");
    check(&mut world, "FIONREAD", &server.received(0), 0, 3);
}

#[test]
fn a_blocking_client_that_sends_much_and_then_waits_gets_its_answer() {
    // Uploads, their bytes, and those of the send buffer. Of the first kind one in a hundred failed on
    // Linux 6.1 when sockets stayed in the map.
    const UPLOADS: [(usize, usize, usize); 2] = [(300, 150_000, 20_000), (20, 4_000_000, 0)];
    let mut world = World::new();
    let is_spared = !world.needs_verdict();
    // By itself the agent leaves alone what would come to harm.
    world.start_agent(&["--propagate", "auto"]);
    let server = uploads(&world);
    for (count, bytes, buffer) in UPLOADS {
        let said = upload(&world, &server, count, bytes, buffer);
        assert!(said.contains(&format!("{count} uploads, 0 failed")), "{said}");
    }
    let Some(outcome) = world.stop_agent() else { return };
    let spans = &outcome.spans;
    let servers = spans.iter().filter(|span| span.kind == Kind::Server);
    let is_joined = |server: &Span| {
        spans.iter().any(|span| span.kind == Kind::Client && span.span_id == server.parent)
    };
    let all: usize = UPLOADS.iter().map(|(count, ..)| count).sum();
    assert_eq!(servers.filter(|server| is_joined(server)).count(), all, "{}", describe(spans));
    let spared = outcome.counters.get("sockets_spared").copied().unwrap_or_default();
    assert_eq!(spared, if is_spared { all as u64 } else { 0 });
}

/// nginx before a small server, with sixteen clients for some seconds.
fn under_load(world: &mut World, seconds: u64, meanwhile: impl FnOnce(&mut World)) -> LoadReport {
    let leaf = world.peer(|directory| chain(directory, None, ChainHeaders::None));
    let front = nginx(world, Some(leaf.address()), PROXY);
    let load = Load {
        to: ([127, 0, 0, 1], front.port).into(),
        path: "/load".into(),
        threads: 16,
        requests: usize::MAX,
        limit_ms: seconds * 1000,
    };
    let client = world.peer(|_| Script::Load(load));
    std::thread::sleep(Duration::from_secs(1));
    meanwhile(world);
    let report = client.report();
    assert_eq!(report.failures, Vec::<String>::new(), "{report:?}\n{}", front.output());
    assert!(report.longest_ms < 1000, "a request stalled: {report:?}");
    assert!(report.requests > 100, "{report:?}");
    report
}

#[test]
fn a_killed_agent_harms_no_request_and_the_next_one_carries_on() {
    let mut world = World::alone();
    if !is_control() {
        world.start_agent(&[]);
    }
    // A connection that lives through all of it.
    let server = world.server(answer(3));
    let gated = [ask(1), vec![Step::Gate], ask(1), vec![Step::Gate], ask(1)];
    let steps = [vec![Step::Connect(server.address())], gated.concat()].concat();
    let mut client = world.peer(|directory| send(directory, on_first(steps)));
    client.wait_gate(0);
    under_load(&mut world, 6, |world| {
        world.kill_agent();
        // The kernel clears the program array in work that it puts off a little.
        std::thread::sleep(Duration::from_secs(1));
        client.open_gate();
        client.wait_gate(1);
        std::thread::sleep(Duration::from_millis(500));
        world.start_agent(&[]);
    });
    // The queue to a receiver that was built for tests may still be full of the load's
    // spans, and a full queue drops the newest.
    world.sink.wait_quiet(Duration::from_secs(2), Duration::from_secs(30));
    client.open_gate();
    client.finish(1);
    let found = compare("killed", &vec![Part::head(HEAD); 3], &server.received(0));
    if is_control() {
        return;
    }
    let had: Vec<bool> = found.iter().map(Option::is_some).collect();
    assert_eq!(had, [true, false, true], "requests with a header: before, without, after");
    let last: Vec<_> = found.into_iter().skip(2).flatten().collect();
    let Some(agent) = world.take_agent() else {
        return;
    };
    // Starting on connections in full use may cost spans, never traffic: they are counted.
    world.sink.wait_quiet(Duration::from_secs(2), Duration::from_secs(30));
    agent.stop();
    expect::pairs("after the restart", &world.sink.spans(), &last);
}

#[test]
fn starting_and_stopping_agents_harms_no_request() {
    let mut world = World::alone();
    under_load(&mut world, 6, |world| {
        for _ in 0..2 {
            world.start_agent(&[]);
            std::thread::sleep(Duration::from_millis(700));
            if let Some(agent) = world.take_agent() {
                agent.stop();
            }
        }
    });
}

/// Under load with a collector that does not take anything.
fn without_collector(endpoint: &str) {
    let mut world = World::alone();
    let command = (!is_control()).then(|| world.agent_command_to(endpoint, &[]));
    command.into_iter().for_each(|command| world.start_agent_by(command));
    under_load(&mut world, 4, |world| {
        if let Some(agent) = world.agent() {
            assert!(agent.is_running(), "{}", agent.log());
        }
    });
    let Some(mut agent) = world.take_agent() else {
        return;
    };
    assert!(agent.is_running(), "{}", agent.log());
    let resident = resident_kib(agent.id());
    assert!(resident < 64 * 1024, "the agent holds {resident} KiB");
    let started = Instant::now();
    let counters = agent.stop();
    assert!(started.elapsed() < Duration::from_secs(7), "stopping took {:?}", started.elapsed());
    let said = counters
        .iter()
        .any(|(name, count)| *count > 0 && (name.contains("drop") || name.contains("fail")));
    assert!(said, "spans were lost without a word: {counters:?}");
}

#[test]
fn an_unreachable_collector_stops_nothing() {
    without_collector(&format!("http://127.0.0.1:{}", free_port()));
}

#[test]
fn a_silent_collector_stops_nothing() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap_or_else(|e| panic!("listen: {e}"));
    let address = listener.local_addr().unwrap_or_else(|e| panic!("listen: {e}"));
    without_collector(&format!("http://{address}"));
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(u64::MAX)
}

#[test]
fn spans_that_wait_are_exported_when_the_agent_stops() {
    let mut world = World::traced();
    let server = world.server(answer(1));
    let steps = [vec![Step::Connect(server.address())], ask(1)].concat();
    world.client(1, on_first(steps));
    // At once: nothing of it has waited for a batch.
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    assert_eq!(outcome.spans.len(), 2, "{}", describe(&outcome.spans));
}
