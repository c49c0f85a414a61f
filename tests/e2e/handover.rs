//! Where nothing is written, the two ends of a connection on one host are joined all the same,
//! and what is no such connection is not.

use std::net::{Ipv6Addr, SocketAddr};

use tracewire_tests::netns::Netns;
use tracewire_tests::otlp::{Kind, Span, describe};
use tracewire_tests::peer::{Peer, program};
use tracewire_tests::script::{ChainHeaders, Script, Serve, Step};
use tracewire_tests::stream::{Part, compare};
use tracewire_tests::world::{World, any_port, chain, is_control, send, serve};

const OFF: &[&str] = &["--propagate", "off"];
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn head(number: usize) -> String {
    format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// A server that answers so many requests on each connection, and listens there.
fn server_at(world: &World, listen: SocketAddr, requests: usize, defer_accept: bool) -> Peer {
    world.peer(|directory| {
        let mut steps: Vec<Step> =
            (0..requests).flat_map(|_| [Step::heads(1), Step::send(OK)]).collect();
        steps.push(Step::UntilClosed);
        let Script::Serve(serve) = serve(directory, vec![steps]) else { unreachable!() };
        Script::Serve(Serve { listen, defer_accept, ..serve })
    })
}

fn on_first(steps: impl IntoIterator<Item = Step>) -> Vec<(usize, Step)> {
    steps.into_iter().map(|step| (0, step)).collect()
}

/// Connects, and asks so many times, each time waiting for the answer.
fn ask(to: SocketAddr, requests: usize) -> Vec<(usize, Step)> {
    let asked = (0..requests).flat_map(|n| [Step::send(head(n)), Step::until("\r\n\r\nok")]);
    on_first([Step::Connect(to)].into_iter().chain(asked))
}

/// The span of that kind of the request with this number.
fn span(spans: &[Span], kind: Kind, number: usize) -> &Span {
    let path = format!("/{number}");
    let mut found = spans.iter().filter(|span| span.kind == kind && span.path() == path);
    match (found.next(), found.next()) {
        (Some(span), None) => span,
        _ => panic!("not one {kind:?} span of {path}; {}", describe(spans)),
    }
}

fn is_joined(spans: &[Span], requests: usize) {
    assert_eq!(spans.len(), 2 * requests, "{}", describe(spans));
    for number in 0..requests {
        let (client, server) =
            (span(spans, Kind::Client, number), span(spans, Kind::Server, number));
        assert_eq!(server.parent, client.span_id, "{}", describe(spans));
        assert_eq!(server.trace_id, client.trace_id, "{}", describe(spans));
        assert_eq!(server.attribute("tracewire.correlation"), "local", "{server:?}");
    }
}

/// Checks that the server received each request as it was sent, and that each is joined.
fn check(world: &mut World, what: &str, received: &[u8], requests: usize) {
    let sent: Vec<Part> = (0..requests).map(|number| Part::head(head(number))).collect();
    let headers = compare(what, &sent, received);
    assert!(headers.iter().all(Option::is_none), "{what}: a header");
    if let Some(outcome) = world.stop_agent() {
        is_joined(&outcome.spans, requests);
    }
}

#[test]
fn each_address_family_is_joined() {
    let any = Ipv6Addr::UNSPECIFIED;
    for (listen, to) in [
        (any_port(), None),
        ((Ipv6Addr::LOCALHOST, 0).into(), None),
        // IPv4 on a socket of IPv6: the ends see the address in two forms.
        ((any, 0).into(), Some([127, 0, 0, 1])),
    ] {
        let mut world = World::traced_with(OFF);
        let server = server_at(&world, listen, 5, false);
        let port = server.address().port();
        let to = to.map_or(server.address(), |ip| (ip, port).into());
        world.client(1, ask(to, 5));
        check(&mut world, &listen.to_string(), &server.received(0), 5);
    }
}

#[test]
fn two_network_namespaces_are_joined() {
    let mut world = World::traced_with(OFF);
    let (left, right) = Netns::pair();
    let listen = SocketAddr::new(right.address(), 8080);
    let server = world.peer_by(
        &program(),
        |directory| {
            let steps = vec![Step::heads(1), Step::send(OK), Step::UntilClosed];
            let Script::Serve(serve) = serve(directory, vec![steps]) else { unreachable!() };
            Script::Serve(Serve { listen, ..serve })
        },
        |command| right.place(command),
    );
    let to = server.address();
    let client = world.peer_by(
        &program(),
        |directory| send(directory, ask(to, 1)),
        |command| left.place(command),
    );
    client.finish(1);
    check(&mut world, "two namespaces", &server.received(0), 1);
}

#[test]
fn a_listener_that_waits_for_data_is_joined() {
    let mut world = World::traced_with(OFF);
    let server = server_at(&world, any_port(), 2, true);
    world.client(1, ask(server.address(), 2));
    check(&mut world, "TCP_DEFER_ACCEPT", &server.received(0), 2);
}

#[test]
fn a_head_split_anywhere_is_joined() {
    let mut world = World::traced_with(OFF);
    let splits = head(10).len() - 1;
    let server = server_at(&world, any_port(), splits, false);
    let asked = (0..splits).flat_map(|number| {
        let head = head(number);
        let (front, rest) = head.split_at((number + 1).min(head.len() - 1));
        // The two parts are two packets.
        let pause = Step::Pause(2);
        [Step::send(front), pause, Step::send(rest), Step::until("\r\n\r\nok")]
    });
    world.client(1, on_first([Step::Connect(server.address())].into_iter().chain(asked)));
    check(&mut world, "split", &server.received(0), splits);
}

#[test]
fn pipelined_requests_are_joined_each_to_its_own() {
    let mut world = World::traced_with(OFF);
    let server = server_at(&world, any_port(), 8, false);
    let all: String = (0..8).map(head).collect();
    let steps = [
        Step::Connect(server.address()),
        Step::send(all),
        Step::Until { pattern: "\r\n\r\nok".into(), times: 8 },
    ];
    world.client(1, on_first(steps));
    check(&mut world, "pipelined", &server.received(0), 8);
}

#[test]
fn a_head_that_cannot_be_given_a_header_is_joined() {
    // Folded: what it means depends on who reads it, so nothing is written into it.
    const FOLDED: &str = "GET /0 HTTP/1.1\r\nHost: a\r\nX-Folded: a\r\n b\r\n\r\n";
    let mut world = World::traced();
    let server = server_at(&world, any_port(), 1, false);
    let steps = [Step::Connect(server.address()), Step::send(FOLDED), Step::until("\r\n\r\nok")];
    world.client(1, on_first(steps));
    assert_eq!(server.received(0), FOLDED.as_bytes());
    if let Some(outcome) = world.stop_agent() {
        is_joined(&outcome.spans, 1);
    }
}

#[test]
fn by_itself_the_agent_writes_only_where_that_harms_no_connection() {
    let mut world = World::new();
    let spares = world.needs_verdict();
    world.start_agent(&["--propagate", "auto"]);
    let server = server_at(&world, any_port(), 3, false);
    world.client(1, ask(server.address(), 3));
    let sent: Vec<Part> = (0..3).map(|number| Part::head(head(number))).collect();
    let headers = compare("auto", &sent, &server.received(0));
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    if spares {
        assert!(headers.iter().all(Option::is_none), "a header all the same");
        is_joined(&outcome.spans, 3);
    } else {
        assert!(headers.iter().all(Option::is_some), "no header");
    }
}

#[test]
fn ends_are_not_joined_without_the_rule() {
    let mut world = World::traced_with(&["--propagate", "off", "--without-rule", "local"]);
    let server = server_at(&world, any_port(), 1, false);
    world.client(1, ask(server.address(), 1));
    if let Some(outcome) = world.stop_agent() {
        let server = span(&outcome.spans, Kind::Server, 0);
        assert_eq!(server.parent, "", "{}", describe(&outcome.spans));
        assert_eq!(server.attribute("tracewire.correlation"), "none");
    }
}

/// A service that calls another, both in scope, asked by one that is not.
fn asked_with(headers: ChainHeaders, line: &str) -> Option<Vec<Span>> {
    let mut world = World::traced_with(OFF);
    let leaf = world.peer(|directory| chain(directory, None, ChainHeaders::None));
    let next = leaf.address();
    let middle = world.peer(|directory| chain(directory, Some(next), headers));
    let request = format!("GET /0 HTTP/1.1\r\nHost: a\r\n{line}\r\n");
    let steps = on_first([
        Step::Connect(middle.address()),
        Step::send(request),
        Step::Until { pattern: "/0\n".into(), times: 2 },
    ]);
    world.stranger(|directory| send(directory, steps)).finish(1);
    Some(world.stop_agent()?.spans)
}

/// The server spans of the service asked, and of the one that it asks.
fn servers(spans: &[Span]) -> (&Span, &Span) {
    let of = |remote: bool| {
        let mut found = spans.iter().filter(|span| {
            let is_first = ["wire", "none"].contains(&span.attribute("tracewire.correlation"))
                && (span.parent.is_empty() || span.parent == SPAN);
            span.kind == Kind::Server && is_first == remote
        });
        found.next().unwrap_or_else(|| panic!("{}", describe(spans)))
    };
    (of(true), of(false))
}

#[test]
fn a_header_that_is_passed_on_counts_less_than_the_span_that_passed_it_on() {
    let line = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    let Some(spans) = asked_with(ChainHeaders::Forward, &line) else { return };
    assert_eq!(spans.len(), 3, "{}", describe(&spans));
    let client = span(&spans, Kind::Client, 0);
    let (middle, leaf) = servers(&spans);
    assert_eq!((middle.trace_id.as_str(), middle.parent.as_str()), (TRACE, SPAN));
    assert_eq!(client.parent, middle.span_id);
    assert_eq!((leaf.trace_id.as_str(), &leaf.parent), (TRACE, &client.span_id));
}

#[test]
fn a_header_may_be_passed_on_by_several_one_behind_the_other() {
    let mut world = World::traced_with(OFF);
    let leaf = world.peer(|directory| chain(directory, None, ChainHeaders::None));
    let mut next = leaf.address();
    let forwards: Vec<_> = (0..3)
        .map(|_| {
            let one = world.peer(|directory| chain(directory, Some(next), ChainHeaders::Forward));
            next = one.address();
            one
        })
        .collect();
    let steps = on_first([
        Step::Connect(next),
        Step::send(format!(
            "GET /0 HTTP/1.1\r\nHost: a\r\ntraceparent: 00-{TRACE}-{SPAN}-01\r\n\r\n"
        )),
        Step::Until { pattern: "/0\n".into(), times: 1 + forwards.len() },
    ]);
    world.stranger(|directory| send(directory, steps)).finish(1);
    let Some(outcome) = world.stop_agent() else { return };
    // A server span, and three times a client's and a server's below.
    let (mut parent, mut depth) = (SPAN.to_owned(), 0);
    while let Some(span) = outcome.spans.iter().find(|span| span.parent == parent) {
        assert_eq!(span.trace_id, TRACE);
        (parent, depth) = (span.span_id.clone(), depth + 1);
    }
    assert_eq!(depth, 7, "{}", describe(&outcome.spans));
    assert_eq!(outcome.spans.len(), depth, "{}", describe(&outcome.spans));
}

#[test]
fn a_trace_that_is_not_sampled_stays_so() {
    let line = format!("traceparent: 00-{TRACE}-{SPAN}-00\r\n");
    let Some(spans) = asked_with(ChainHeaders::None, &line) else { return };
    assert!(spans.is_empty(), "{}", describe(&spans));
}

#[test]
fn the_header_of_an_applications_own_tracing_counts() {
    let own = format!("00-{TRACE}-2222222222222222-01");
    let Some(spans) = asked_with(ChainHeaders::Own(own), "") else { return };
    let leaf = spans.iter().find(|span| span.parent == "2222222222222222");
    assert!(leaf.is_some_and(|leaf| leaf.trace_id == TRACE), "{}", describe(&spans));
    assert!(spans.iter().all(|span| span.kind == Kind::Server), "{}", describe(&spans));
}

#[test]
fn a_client_out_of_scope_is_nobodys_parent() {
    let mut world = World::traced_with(OFF);
    let server = server_at(&world, any_port(), 3, false);
    let steps = ask(server.address(), 3);
    world.stranger(|directory| send(directory, steps)).finish(1);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    assert_eq!(outcome.spans.len(), 3, "{}", describe(&outcome.spans));
    assert!(outcome.spans.iter().all(|span| span.parent.is_empty()));
    assert_eq!(outcome.counters.get("contexts_handed_over"), None);
}

#[test]
fn connections_older_than_the_agent_are_joined() {
    let mut world = World::new();
    let server = server_at(&world, any_port(), 5, false);
    let steps: Vec<Step> = [Step::Connect(server.address())]
        .into_iter()
        .chain((0..2).flat_map(|n| [Step::send(head(n)), Step::until("\r\n\r\nok")]))
        .chain([Step::Gate])
        .chain((2..5).flat_map(|n| [Step::send(head(n)), Step::until("\r\n\r\nok")]))
        .collect();
    let mut client = world.peer(|directory| send(directory, on_first(steps)));
    client.wait_gate(0);
    world.start_agent(OFF);
    client.open_gate();
    client.finish(1);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    assert!(!is_control());
    assert_eq!(outcome.spans.len(), 6, "{}", describe(&outcome.spans));
    for number in 2..5 {
        let client = span(&outcome.spans, Kind::Client, number);
        assert_eq!(span(&outcome.spans, Kind::Server, number).parent, client.span_id);
    }
}
