//! Many requests on one connection: the place in the stream is never lost.

use tracewire_tests::expect;
use tracewire_tests::script::Step;
use tracewire_tests::stream::{Part, compare, concat};
use tracewire_tests::world::{World, is_control};

use crate::wire::{OK, run, run_one};

/// An exchange of a sequence.
struct Exchange {
    request: Part,
    response: String,
    status: &'static str,
}

fn exchange(method: &str, number: usize, status: &'static str, rest: &str) -> Exchange {
    let request = format!("{method} /{number} HTTP/1.1\r\nHost: a\r\n\r\n");
    Exchange {
        request: Part::head(request),
        response: format!("HTTP/1.1 {status} X\r\n{rest}"),
        status,
    }
}

/// Runs the exchanges one after the other on one connection.
fn check(what: &str, exchanges: &[Exchange]) {
    let mut world = World::traced();
    let mut client = Vec::new();
    let mut server = Vec::new();
    for exchange in exchanges {
        client.push(Step::Send(exchange.request.bytes().into()));
        client.push(Step::UntilMore(exchange.response.len()));
        server.push(Step::heads(1));
        server.push(Step::send(&exchange.response));
    }
    server.push(Step::UntilClosed);
    let (request, response) = run_one(&world, client, server);
    let sent: Vec<Part> = exchanges.iter().map(|exchange| exchange.request.clone()).collect();
    let answered: String = exchanges.iter().map(|exchange| exchange.response.as_str()).collect();
    assert_eq!(response, answered.as_bytes(), "{what}: responses");
    let headers = expect::all_injected(what, compare(what, &sent, &request));
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    let pairs = expect::exactly_pairs(what, &outcome.spans, &headers);
    for (exchange, (client, server)) in exchanges.iter().zip(pairs) {
        let statuses = (client.status(), server.status());
        assert_eq!(statuses, (exchange.status, exchange.status), "{what}: {}", server.path());
    }
}

#[test]
fn responses_without_a_body_do_not_hide_the_next() {
    check(
        "no bodies",
        &[
            exchange("GET", 0, "200", "Content-Length: 4\r\n\r\nbody"),
            exchange("HEAD", 1, "200", "Content-Length: 1000\r\n\r\n"),
            exchange("GET", 2, "204", "\r\n"),
            exchange("GET", 3, "304", "Content-Length: 1000\r\nETag: \"x\"\r\n\r\n"),
            exchange("HEAD", 4, "200", "Transfer-Encoding: chunked\r\n\r\n"),
            exchange("GET", 5, "200", "Content-Length: 0\r\n\r\n"),
            exchange("DELETE", 6, "404", "Content-Length: 4\r\n\r\nnone"),
            exchange("GET", 7, "500", "Content-Length: 4\r\n\r\nfail"),
        ],
    );
}

#[test]
fn chunked_responses_do_not_hide_the_next() {
    let inner = "HTTP/1.1 500 Inner\r\nContent-Length: 3\r\n\r\nabc";
    let chunked = format!(
        "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\nX-Trailer: HTTP/1.1 500\r\n\r\n",
        inner.len()
    );
    let sized = format!("Content-Length: {}\r\n\r\n{inner}", inner.len());
    check(
        "chunked",
        &[
            exchange("GET", 0, "200", &chunked),
            exchange("GET", 1, "201", &sized),
            exchange("GET", 2, "202", &chunked),
            exchange("GET", 3, "203", "Content-Length: 0\r\n\r\n"),
        ],
    );
}

#[test]
fn interim_responses_are_not_the_answer() {
    let hints = "\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1";
    let mut early = exchange("GET", 0, "200", "");
    early.response =
        format!("HTTP/1.1 102 Processing\r\n{hints} 200 OK\r\nContent-Length: 2\r\n\r\nok");
    check("interim", &[early, exchange("GET", 1, "201", "Content-Length: 0\r\n\r\n")]);
}

#[test]
fn a_long_kept_alive_connection_keeps_its_place() {
    let rest = |number: usize| format!("Content-Length: {number}\r\n\r\n{}", "x".repeat(number));
    let exchanges: Vec<Exchange> =
        (0..300).map(|number| exchange("GET", number, "200", &rest(number * 13))).collect();
    check("long", &exchanges);
}

#[test]
fn http_1_0_ends_with_the_connection() {
    let mut world = World::traced();
    let request = "GET /old HTTP/1.0\r\nHost: a\r\n\r\n";
    let response = format!("HTTP/1.0 200 OK\r\n\r\n{}", "HTTP/1.1 500 no\r\n\r\n".repeat(5000));
    let client = vec![Step::send(request), Step::UntilClosed];
    let server = vec![Step::heads(1), Step::send(&response), Step::Close];
    let recorded = run(&world, vec![(client.clone(), server.clone()), (client, server)]);
    let mut headers = Vec::new();
    for number in 0..2 {
        assert_eq!(recorded.responses[number], response.as_bytes(), "HTTP/1.0 response");
        let found = compare("HTTP/1.0", &[Part::head(request)], &recorded.requests[number]);
        headers.extend(expect::all_injected("HTTP/1.0", found));
    }
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    for (client, server) in expect::exactly_pairs("HTTP/1.0", &outcome.spans, &headers) {
        assert_eq!((client.status(), server.status()), ("200", "200"), "HTTP/1.0");
        // A close is how such a response ends: no error.
        assert!(!client.is_error && !server.is_error, "HTTP/1.0: {client:?} {server:?}");
    }
}

/// `count` requests in one send, or cut in pieces; all answered in one send.
fn pipelined(count: usize, cut: usize, followed: bool) {
    let what = format!("{count} pipelined, sends of {cut}");
    let mut world = World::traced();
    let request = |number| Part::head(format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let requests: Vec<Part> = (0..count).map(request).collect();
    let mut client: Vec<Step> = concat(&requests).chunks(cut).map(Step::send).collect();
    let answers = Step::Until { pattern: "\r\n\r\nok".into(), times: count };
    client.extend([answers.clone(), Step::send(concat(&requests)), answers]);
    let server = vec![
        Step::heads(count),
        Step::send(OK.repeat(count)),
        Step::heads(count),
        Step::send(OK.repeat(count)),
        Step::UntilClosed,
    ];
    let (received, responses) = run_one(&world, client, server);
    let sent = [requests.clone(), requests].concat();
    let found = compare(&what, &sent, &received);
    assert_eq!(responses, OK.repeat(2 * count).as_bytes(), "{what}: responses");
    if !followed {
        // More than are followed at once: what is counted as dropped is expected here.
        return;
    }
    assert!(is_control() || found[0].is_some(), "{what}: the first has no header");
    let headers: Vec<_> = found.into_iter().flatten().collect();
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    expect::pairs(&what, &outcome.spans, &headers);
    assert_eq!(
        outcome.spans.len(),
        4 * count,
        "{what}: spans at both ends; {}",
        tracewire_tests::otlp::describe(&outcome.spans)
    );
}

#[test]
fn two_pipelined_requests_are_both_followed() {
    pipelined(2, usize::MAX, true);
    pipelined(2, 11, true);
}

#[test]
fn five_pipelined_requests_are_all_followed() {
    pipelined(5, usize::MAX, true);
    pipelined(5, 50, true);
}

#[test]
fn sixteen_pipelined_requests_are_all_followed() {
    pipelined(16, usize::MAX, true);
}

#[test]
fn forty_pipelined_requests_arrive_whole() {
    pipelined(40, usize::MAX, false);
    pipelined(40, 100, false);
}
