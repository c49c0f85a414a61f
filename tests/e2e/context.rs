//! Trace context: taken over, started, rewritten, or left alone.

use std::net::SocketAddr;

use tracewire_tests::expect;
use tracewire_tests::otlp::{Kind, Span, describe};
use tracewire_tests::peer::Peer;
use tracewire_tests::script::{ChainHeaders, Step};
use tracewire_tests::services::{batching, late, nginx};
use tracewire_tests::stream::{only_header, show};
use tracewire_tests::trace_parent::{TraceParent, in_head};
use tracewire_tests::world::{World, chain, is_control, send};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// A service in scope, between a client and a leaf that the agent cannot see.
struct Hop {
    middle: Peer,
    leaf: Peer,
    address: SocketAddr,
}

impl Hop {
    fn start(world: &World, headers: ChainHeaders) -> Self {
        let leaf = world.stranger(|directory| chain(directory, None, ChainHeaders::None));
        let next = leaf.address();
        let middle = world.peer(|directory| chain(directory, Some(next), headers));
        let address = middle.address();
        Self { middle, leaf, address }
    }

    /// Sends one request for each piece of head, each on a connection of its own.
    fn ask(&self, world: &World, headers: &[String]) {
        let requests = headers.iter().enumerate().flat_map(|(number, lines)| {
            let request = format!("GET /{number} HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            [
                Step::Connect(self.address),
                Step::send(request),
                Step::Until { pattern: format!("/{number}\n").as_str().into(), times: 2 },
                Step::Close,
            ]
            .map(|step| (number, step))
        });
        let steps = requests.collect();
        world.stranger(|directory| send(directory, steps)).finish(headers.len());
    }

    /// What the leaf received, by the number of the request.
    fn head(&self, number: usize) -> Vec<u8> {
        let start = format!("GET /{number} HTTP/1.1\r\n");
        let heads = self.leaf.heads();
        let mut mine = heads.iter().filter(|head| head.starts_with(start.as_bytes()));
        match (mine.next(), mine.next()) {
            (Some(head), None) => head.clone(),
            _ => panic!("the leaf received {} requests, not one of {start:?}", heads.len()),
        }
    }
}

fn line(value: &str) -> String {
    format!("traceparent: {value}\r\n")
}

/// The server and the client span of the request with this number.
fn spans_of(spans: &[Span], number: usize) -> (&Span, &Span) {
    let find = |kind| {
        expect::only(&format!("{kind:?} span of /{number}"), spans, |span| {
            span.kind == kind && span.path() == format!("/{number}")
        })
    };
    (find(Kind::Server), find(Kind::Client))
}

/// Asks with each of the headers, and checks what holds whatever came in: the client
/// span below the server span, and the leaf's header naming the client span.
/// Gives server spans in the order of the headers.
fn asked(headers: &[String], forward: ChainHeaders, flags: &[&str]) -> Option<Vec<Span>> {
    let mut world = World::traced_with(flags);
    let hop = Hop::start(&world, forward);
    hop.ask(&world, headers);
    let outcome = world.stop_agent()?;
    assert_eq!(outcome.spans.len(), 2 * headers.len(), "{}", describe(&outcome.spans));
    let servers = headers.iter().enumerate().map(|(number, header)| {
        let (server, client) = spans_of(&outcome.spans, number);
        let sent = only_header(header, &hop.head(number));
        assert_eq!(client.parent, server.span_id, "{header:?}");
        assert_eq!(client.trace_id, server.trace_id, "{header:?}");
        assert_eq!(sent.trace_id, client.trace_id, "{header:?}");
        assert_eq!(sent.span_id, client.span_id, "{header:?}");
        assert!(sent.sampled, "{header:?}");
        server.clone()
    });
    Some(servers.collect())
}

fn is_continued(headers: &[String]) {
    for (server, header) in asked(headers, ChainHeaders::None, &[]).iter().flatten().zip(headers) {
        assert_eq!((server.trace_id.as_str(), server.parent.as_str()), (TRACE, SPAN), "{header:?}");
        assert_eq!(server.attribute("tracewire.correlation"), "wire", "{header:?}");
    }
}

fn is_refused(headers: &[String]) {
    for (server, header) in asked(headers, ChainHeaders::None, &[]).iter().flatten().zip(headers) {
        assert_ne!(server.trace_id, TRACE, "{header:?}");
        assert_eq!(server.parent, "", "{header:?}");
    }
}

#[test]
fn a_valid_header_continues_its_trace() {
    let value = format!("00-{TRACE}-{SPAN}-01");
    is_continued(&[
        line(&value),
        format!("Traceparent: {value}\r\n"),
        format!("TRACEPARENT:{value}\r\n"),
        format!("traceparent:  {value} \t\r\n"),
        format!("X-A: b\r\ntraceparent: {value}\r\ntracestate: a=b\r\n"),
        // Other flags than the sampled one mean nothing here.
        line(&format!("00-{TRACE}-{SPAN}-03")),
        line(&format!("00-{TRACE}-{SPAN}-ff")),
    ]);
}

#[test]
fn a_header_of_a_later_version_continues_its_trace() {
    is_continued(&[
        line(&format!("cc-{TRACE}-{SPAN}-01")),
        line(&format!("cc-{TRACE}-{SPAN}-01-what-the-future-brings")),
        line(&format!("01-{TRACE}-{SPAN}-01-")),
    ]);
}

#[test]
fn an_invalid_header_starts_a_new_trace() {
    let upper = TRACE.to_uppercase();
    let zeros = "0".repeat(32);
    is_refused(&[
        String::new(),
        line(""),
        line(&format!("ff-{TRACE}-{SPAN}-01")),
        line(&format!("00-{zeros}-{SPAN}-01")),
        line(&format!("00-{TRACE}-{}-01", &zeros[..16])),
        line(&format!("00-{upper}-{SPAN}-01")),
        line(&format!("00-{TRACE}-{}-01", SPAN.to_uppercase())),
        line(&format!("00-{TRACE}-{SPAN}-0")),
        line(&format!("00-{TRACE}-{SPAN}")),
        line(&format!("00-{TRACE}-{SPAN}-0x")),
        line(&format!("00-{TRACE}-{SPAN}-01-extra")),
        line(&format!("00-{TRACE}-{SPAN}-01.")),
        line(&format!("cc-{TRACE}-{SPAN}-01extra")),
        line(&format!("0-{TRACE}-{SPAN}-01")),
        line(&format!("CC-{TRACE}-{SPAN}-01")),
        line(&format!("00_{TRACE}_{SPAN}_01")),
        line(&format!("00-{}g-{SPAN}-01", &TRACE[1..])),
    ]);
}

#[test]
fn a_repeated_header_starts_a_new_trace() {
    let first = line(&format!("00-{TRACE}-{SPAN}-01"));
    let other = line(&format!("00-{}-{SPAN}-01", TRACE.replace('0', "1")));
    is_refused(&[format!("{first}{first}"), format!("{first}X-A: b\r\n{other}")]);
}

#[test]
fn an_unsampled_parent_is_respected() {
    let mut world = World::traced();
    let hop = Hop::start(&world, ChainHeaders::None);
    hop.ask(
        &world,
        &[line(&format!("00-{TRACE}-{SPAN}-00")), line(&format!("00-{TRACE}-{SPAN}-02"))],
    );
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    assert!(outcome.spans.is_empty(), "{}", describe(&outcome.spans));
    for number in 0..2 {
        let sent = only_header("unsampled", &hop.head(number));
        assert_eq!((sent.trace_id.as_str(), sent.sampled), (TRACE, false));
        assert_ne!(sent.span_id, SPAN, "the parent is this service, not the one before it");
    }
}

#[test]
fn a_ratio_of_zero_starts_unsampled_traces_and_respects_sampled_ones() {
    let mut world = World::traced_with(&["--sample-ratio", "0"]);
    let hop = Hop::start(&world, ChainHeaders::None);
    hop.ask(&world, &[String::new(), line(&format!("00-{TRACE}-{SPAN}-01"))]);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    assert!(!only_header("ratio 0", &hop.head(0)).sampled);
    assert!(only_header("sampled parent", &hop.head(1)).sampled);
    assert_eq!(outcome.spans.len(), 2, "{}", describe(&outcome.spans));
    let (server, client) = spans_of(&outcome.spans, 1);
    assert_eq!((server.parent.as_str(), client.parent.as_str()), (SPAN, server.span_id.as_str()));
}

#[test]
fn a_header_passed_through_is_rewritten_in_place() {
    // All that must hold is in `asked`: one header, naming the client span.
    let headers = [line(&format!("00-{TRACE}-{SPAN}-01")), String::new()];
    let servers = asked(&headers, ChainHeaders::Forward, &[]);
    for server in servers.iter().flatten().take(1) {
        assert_eq!((server.trace_id.as_str(), server.parent.as_str()), (TRACE, SPAN));
    }
}

#[test]
fn an_unsampled_header_passed_through_stays_unsampled() {
    let mut world = World::traced();
    let hop = Hop::start(&world, ChainHeaders::Forward);
    hop.ask(&world, &[line(&format!("00-{TRACE}-{SPAN}-00"))]);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    assert!(outcome.spans.is_empty(), "{}", describe(&outcome.spans));
    let sent = only_header("unsampled pass-through", &hop.head(0));
    assert_eq!((sent.trace_id.as_str(), sent.sampled), (TRACE, false));
}

#[test]
fn an_applications_own_header_is_left_alone() {
    for own_trace in [TRACE, "11111111111111111111111111111111"] {
        let own = TraceParent {
            trace_id: own_trace.into(),
            span_id: "2222222222222222".into(),
            sampled: true,
        };
        let mut world = World::traced();
        let hop = Hop::start(&world, ChainHeaders::Own(own.value()));
        hop.ask(&world, &[line(&format!("00-{TRACE}-{SPAN}-01")), String::new()]);
        for number in 0..2 {
            let values = in_head(&hop.head(number));
            assert_eq!(values, [own.value().into_bytes()], "{}", show(&hop.head(number)));
        }
        let Some(outcome) = world.stop_agent() else {
            return;
        };
        let clients = outcome.spans.iter().filter(|span| span.kind == Kind::Client).count();
        assert_eq!(clients, 0, "{}", describe(&outcome.spans));
    }
}

#[test]
fn propagation_can_be_switched_off() {
    let mut world = World::traced_with(&["--propagate", "off"]);
    let hop = Hop::start(&world, ChainHeaders::None);
    hop.ask(&world, &[String::new()]);
    assert!(in_head(&hop.head(0)).is_empty(), "{}", show(&hop.head(0)));
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    let (server, client) = spans_of(&outcome.spans, 0);
    assert_eq!(client.parent, server.span_id);
}

#[test]
fn requests_of_one_connection_keep_their_own_parents() {
    let mut world = World::traced();
    let hop = Hop::start(&world, ChainHeaders::None);
    let mut steps = vec![(0, Step::Connect(hop.address))];
    for number in 0..50 {
        let request = format!(
            "GET /{number} HTTP/1.1\r\nHost: a\r\ntraceparent: 00-{TRACE}-{:016x}-01\r\n\r\n",
            number + 1
        );
        let answer = Step::Until { pattern: format!("/{number}\n").as_str().into(), times: 2 };
        steps.extend([(0, Step::send(request)), (0, answer)]);
    }
    world.stranger(|directory| send(directory, steps)).finish(1);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    assert_eq!(outcome.spans.len(), 100, "{}", describe(&outcome.spans));
    for number in 0..50 {
        let (server, client) = spans_of(&outcome.spans, number);
        assert_eq!(server.parent, format!("{:016x}", number + 1));
        assert_eq!(client.parent, server.span_id);
        assert_eq!(only_header("kept alive", &hop.head(number)).span_id, client.span_id);
    }
}

#[test]
fn a_control_run_sees_no_header() {
    if !is_control() {
        return;
    }
    let world = World::new();
    let mut hop = Hop::start(&world, ChainHeaders::None);
    hop.ask(&world, &[String::new()]);
    assert!(in_head(&hop.head(0)).is_empty());
    hop.middle.assert_alive();
}

#[test]
fn a_rule_that_is_switched_off_finds_no_parent() {
    for (without, found) in [("reply", "connect"), ("connect", "receive"), ("connect,receive", "")]
    {
        let mut world = World::traced_with(&["--without-rule", without]);
        let hop = Hop::start(&world, ChainHeaders::None);
        hop.ask(&world, &[String::new()]);
        let Some(outcome) = world.stop_agent() else {
            return;
        };
        let (server, client) = spans_of(&outcome.spans, 0);
        let (parent, rule) =
            if found.is_empty() { ("", "none") } else { (server.span_id.as_str(), found) };
        assert_eq!(client.parent, parent, "without {without}");
        assert_eq!(client.attribute("tracewire.correlation"), rule, "without {without}");
    }
}

/// A head that waits in the send buffer leaves when the server makes room, in the middle of the
/// server's `recv()`: its thread works on the request before.
#[test]
fn a_request_that_the_kernel_sends_late_is_not_for_the_task_that_it_interrupts() {
    const BODY: usize = 200_000;
    let mut world = World::traced_with(&["--propagate", "off"]);
    let first = format!("POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY}\r\n\r\n");
    let second = "GET /second HTTP/1.1\r\nHost: a\r\n\r\n";
    let server = world.server(vec![
        Step::until("/first"),
        // The rest is written meanwhile, more than there is room for here.
        Step::Pause(500),
        Step::until("/second"),
        Step::send("HTTP/1.1 204 No Content\r\n\r\n".repeat(2)),
        Step::UntilClosed,
    ]);
    let steps = [
        Step::Connect(server.address()),
        Step::SendBuffer(1 << 20),
        Step::send(first),
        Step::SendFill { len: BODY, nonblocking: false },
        Step::send(second),
        Step::heads(2),
        Step::Close,
    ];
    world.client(1, steps.map(|step| (0, step)).to_vec());
    let Some(outcome) = world.stop_agent() else { return };
    let call = expect::only("client span of /second", &outcome.spans, |span| {
        span.kind == Kind::Client && span.path() == "/second"
    });
    assert_eq!(call.parent, "", "{}", describe(&outcome.spans));
}

#[test]
fn a_head_of_several_windows_in_one_send_is_told_at_both_ends() {
    let mut world = World::traced();
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for len in [500, 1_500, 3_000] {
        let long = "x".repeat(len);
        let head = format!("GET /long/{len} HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n");
        let server =
            world.server(vec![Step::until("\r\n\r\n"), Step::send(answer), Step::UntilClosed]);
        let steps = [
            Step::Connect(server.address()),
            Step::send(&head),
            Step::until("\r\n\r\nok"),
            Step::Close,
        ];
        world.client(1, steps.into_iter().map(|step| (0, step)).collect());
    }
    let Some(outcome) = world.stop_agent() else { return };
    for path in ["/long/500", "/long/1500", "/long/3000"] {
        let told = outcome.spans.iter().filter(|span| span.path() == path).count();
        assert_eq!(told, 2, "{path}: {:?}", outcome.counters);
    }
}

/// Requests to a proxy that takes `AT_ONCE` of them before it asks for any, each with one of these contexts;
/// its spans.
fn passed_on_in_another_order(flags: &[&str], contexts: &[String]) -> Option<Vec<Span>> {
    let mut world = World::traced_with(flags);
    let leaf = nginx(&world, None, "location / { return 200 ok; }");
    let proxy = batching(&world, contexts.len(), leaf.port);
    let to = SocketAddr::from(([127, 0, 0, 1], proxy.port));
    let ask = |number: usize, context: &String| {
        let request =
            format!("GET /{number} HTTP/1.1\r\nHost: a\r\ntraceparent: {context}\r\n\r\n");
        [Step::Connect(to), Step::send(request)].map(|step| (number, step))
    };
    let asking = contexts.iter().enumerate().flat_map(|(number, context)| ask(number, context));
    let answered = (0..contexts.len()).map(|number| (number, Step::UntilClosed));
    let steps = asking.chain(answered).collect();
    world.stranger(|directory| send(directory, steps)).finish(contexts.len());
    let (of_proxy, others): (Vec<Span>, Vec<Span>) =
        world.stop_agent()?.spans.into_iter().partition(|span| span.service() == "batching");
    let servers = of_proxy.iter().filter(|span| span.kind == Kind::Server).count();
    assert_eq!(servers, contexts.len(), "{}\n{}", describe(&of_proxy), describe(&others));
    Some(of_proxy)
}

const AT_ONCE: usize = 8;

#[test]
fn what_is_sent_with_a_context_is_for_the_request_that_came_with_it() {
    let contexts: Vec<String> =
        (1..=AT_ONCE).map(|number| format!("00-{TRACE}-{number:016x}-01")).collect();
    for flags in [&["--propagate", "off"][..], &["--propagate", "always"]] {
        let Some(spans) = passed_on_in_another_order(flags, &contexts) else { return };
        assert_eq!(spans.len(), 2 * AT_ONCE, "{}", describe(&spans));
        for client in spans.iter().filter(|span| span.kind == Kind::Client) {
            let parent = spans.iter().find(|span| span.span_id == client.parent);
            assert_eq!(parent.map(Span::path), Some(client.path()), "{}", describe(&spans));
            assert_eq!(client.attribute("tracewire.correlation"), "passed_on");
        }
    }
}

#[test]
fn a_context_that_several_requests_came_with_says_nothing_of_which_one_it_is() {
    let contexts = vec![format!("00-{TRACE}-{SPAN}-01"); AT_ONCE];
    let Some(spans) = passed_on_in_another_order(&["--propagate", "off"], &contexts) else {
        return;
    };
    for client in spans.iter().filter(|span| span.kind == Kind::Client) {
        assert_ne!(client.attribute("tracewire.correlation"), "passed_on", "{client:?}");
        let parent = spans.iter().find(|span| span.span_id == client.parent);
        assert!(parent.is_none_or(|parent| parent.path() == client.path()), "{client:?}");
    }
}

#[test]
fn what_a_request_that_is_over_goes_on_to_send_is_not_for_the_next_with_its_context() {
    let mut world = World::traced_with(&["--propagate", "off"]);
    let leaf = nginx(&world, None, "location / { return 200 ok; }");
    let server = late(&world, leaf.port);
    let to = SocketAddr::from(([127, 0, 0, 1], server.port));
    let ask = |path: &str| {
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: a\r\ntraceparent: 00-{TRACE}-{SPAN}-01\r\n\r\n");
        [Step::Connect(to), Step::send(head), Step::UntilClosed].map(|step| (0, step))
    };
    // The second is a retry, say, or the next that somebody calls with what he was called with.
    let steps = ask("/late").into_iter().chain(ask("/held")).collect();
    world.stranger(|directory| send(directory, steps)).finish(1);
    let Some(outcome) = world.stop_agent() else { return };
    let servers = outcome.spans.iter().filter(|span| span.kind == Kind::Server);
    assert_eq!(servers.count(), 3, "{}", describe(&outcome.spans));
    for client in outcome.spans.iter().filter(|span| span.kind == Kind::Client) {
        assert_eq!(client.parent, "", "{}", describe(&outcome.spans));
    }
}

#[test]
fn without_the_rule_a_context_says_nothing_of_the_request() {
    let contexts: Vec<String> =
        (1..=AT_ONCE).map(|number| format!("00-{TRACE}-{number:016x}-01")).collect();
    let flags = ["--propagate", "off", "--without-rule", "passed-on"];
    let Some(spans) = passed_on_in_another_order(&flags, &contexts) else { return };
    assert!(spans.iter().all(|span| span.attribute("tracewire.correlation") != "passed_on"));
}
