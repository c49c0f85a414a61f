//! Request bodies: nothing in them is a head, whatever it looks like.

use tracewire_tests::expect;
use tracewire_tests::script::Step;
use tracewire_tests::services::{PROXY, curl, nginx};
use tracewire_tests::stream::{Part, compare, concat, show, untouched};
use tracewire_tests::trace_parent::{HEADER_LEN, TraceParent};
use tracewire_tests::world::World;

use crate::wire::{OK, run};

/// A request, complete, as an attacker or a test would put it in a body.
const LOOK_ALIKE: &str =
    "\r\n\r\nPOST /inner HTTP/1.1\r\nHost: inner\r\nContent-Length: 3\r\n\r\nabc";
/// Ends each stream, so that the server knows when to answer.
const END: &str = "END.";

fn with_length(body: &str) -> Vec<Part> {
    let head = format!("POST /form HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    vec![Part::head(head), Part::exact(body)]
}

fn chunked(chunks: &[&str], extension: &str, trailers: &str) -> Vec<Part> {
    let head = "POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut body = String::new();
    for chunk in chunks {
        body.push_str(&format!("{:x}{extension}\r\n{chunk}\r\n", chunk.len()));
    }
    body.push_str(&format!("0\r\n{trailers}\r\n"));
    vec![Part::head(head), Part::exact(body)]
}

/// Sends `parts` cut in many ways, a kept-alive GET after each, and checks both.
///
/// The server answers after "The end" and, where `more_follows`, an empty line.
fn check(what: &str, parts: Vec<Part>, more_follows: bool, cuts: &[usize]) {
    let mut world = World::traced();
    let last = format!("GET /{END} HTTP/1.1\r\nHost: a\r\n\r\n");
    let first = concat(&parts);
    let connection = |cut: &usize| {
        let mut client: Vec<Step> = first.chunks(*cut).map(Step::send).collect();
        client.extend([Step::until("\r\n\r\nok"), Step::send(&last), Step::until("\r\n\r\nok")]);
        let server = vec![
            Step::until("The end"),
            Step::Until { pattern: "\r\n\r\n".into(), times: usize::from(more_follows) },
            Step::send(OK),
            Step::until(END),
            Step::heads(1),
            Step::send(OK),
            Step::UntilClosed,
        ];
        (client, server)
    };
    let recorded = run(&world, cuts.iter().map(connection).collect());
    let sent = [parts, vec![Part::head(&last)]].concat();
    let mut headers = Vec::new();
    for (cut, request) in cuts.iter().zip(&recorded.requests) {
        let what = format!("{what}, sends of {cut}");
        headers.extend(expect::all_injected(&what, compare(&what, &sent, request)));
    }
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    expect::exactly_pairs(what, &outcome.spans, &headers);
}

#[test]
fn a_body_with_a_length_is_passed_over() {
    let body = format!("{LOOK_ALIKE}{LOOK_ALIKE}The end");
    check("with a length", with_length(&body), false, &[10_000, 1, 7, 60, 100]);
}

#[test]
fn a_chunked_body_is_passed_over() {
    let chunks = [LOOK_ALIKE, "x", LOOK_ALIKE, "The end"];
    check("chunked", chunked(&chunks, "", ""), true, &[10_000, 1, 7, 60, 100]);
}

#[test]
fn a_chunked_body_with_extensions_and_trailers_is_passed_over() {
    let chunks = ["one", LOOK_ALIKE];
    let trailers = "X-Trailer: The end\r\nX-More: GET / HTTP/1.1\r\n";
    check("trailers", chunked(&chunks, ";name=\"va;lue\"", trailers), true, &[10_000, 1, 7, 50]);
}

#[test]
fn an_empty_body_ends_with_the_head() {
    let head = "POST /empty HTTP/1.1\r\nHost: a\r\nX: The end\r\nContent-Length: 0\r\n\r\n";
    check("empty", vec![Part::head(head)], true, &[10_000, 9]);
}

#[test]
fn a_request_may_wait_for_100_continue() {
    let mut world = World::new();
    let body = LOOK_ALIKE.repeat(10) + END;
    let server = world.server(vec![
        Step::heads(1),
        Step::send("HTTP/1.1 100 Continue\r\n\r\n"),
        Step::until(END),
        Step::send(OK),
        Step::UntilClosed,
    ]);
    let url = format!("http://{}/expect", server.address());
    let file = world.scratch().join("body");
    std::fs::write(&file, &body).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let data = format!("@{}", file.display());
    let arguments = ["-H", "Expect: 100-continue", "--data-binary", &data, &url];
    // The same program without an agent says what it sends.
    assert_eq!(curl(&world, &arguments), "ok");
    let without = server.received(0);
    world.start_agent(&[]);
    assert_eq!(curl(&world, &arguments), "ok");
    let at = without.len() - body.len();
    let sent = [Part::head(&without[..at]), Part::exact(&without[at..])];
    let found = compare("100-continue", &sent, &server.received(1));
    let headers = expect::all_injected("100-continue", found);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    for (client, server) in expect::exactly_pairs("100-continue", &outcome.spans, &headers) {
        // The interim response is not the answer.
        assert_eq!((client.status(), server.status()), ("200", "200"), "100-continue");
    }
}

#[test]
fn a_response_may_come_before_the_body() {
    let mut world = World::traced();
    let body = LOOK_ALIKE.repeat(40);
    let refused = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n";
    let parts = with_length(&format!("{body}{END}"));
    let next = format!("GET /{END} HTTP/1.1\r\nHost: a\r\n\r\n");
    let [head, rest] = parts.as_slice() else { unreachable!("a head and a body") };
    let client = vec![
        Step::send(head.bytes()),
        Step::until("\r\n\r\n"),
        Step::send(&rest.bytes()[..500]),
        Step::Pause(5),
        Step::send(&rest.bytes()[500..]),
        Step::send(&next),
        Step::until("\r\n\r\nok"),
    ];
    let server = vec![
        Step::heads(1),
        Step::send(refused),
        Step::until(END),
        Step::until(END),
        Step::heads(1),
        Step::send(OK),
        Step::UntilClosed,
    ];
    let recorded = run(&world, vec![(client, server)]);
    let sent = [parts, vec![Part::head(&next)]].concat();
    let found = compare("early response", &sent, &recorded.requests[0]);
    let headers = expect::all_injected("early response", found);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    let pairs = expect::exactly_pairs("early response", &outcome.spans, &headers);
    let statuses: Vec<_> = pairs.iter().map(|(c, s)| (c.status(), s.status())).collect();
    assert_eq!(statuses, [("413", "413"), ("200", "200")]);
}

#[test]
fn nginx_passes_an_upload_on_from_a_file() {
    let mut world = World::traced();
    let server = world.server(vec![Step::until(END), Step::send(OK), Step::Close]);
    // The body goes to a file first, and from there with sendfile().
    let block = format!("client_max_body_size 8m; client_body_in_file_only clean; {PROXY}");
    let proxy = nginx(&world, Some(server.address()), &block);
    let body = LOOK_ALIKE.repeat(30_000) + END;
    let file = world.scratch().join("body");
    std::fs::write(&file, &body).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let data = format!("@{}", file.display());
    let url = format!("http://127.0.0.1:{}/upload", proxy.port);
    assert_eq!(curl(&world, &["-H", "Expect:", "--data-binary", &data, &url]), "ok");
    let request = server.received(0);
    let at = request.len().saturating_sub(body.len());
    untouched("upload by nginx", body.as_bytes(), &request[at..]);
    let head = &request[..at];
    let line = head.strip_suffix(b"\r\n").unwrap_or_default();
    let line = &line[line.len().saturating_sub(HEADER_LEN)..];
    if TraceParent::parse_line(line).is_none() {
        // nginx copies the client's header to its own place, where it is rewritten.
        let count = tracewire_tests::trace_parent::in_head(head).len();
        let wanted = usize::from(!tracewire_tests::world::is_control());
        assert_eq!(count, wanted, "traceparent headers in {}", show(head));
    }
    world.stop_agent();
}
