//! After `101`, or a `CONNECT` that succeeded, the bytes are no longer HTTP/1.x.

use tracewire_tests::expect;
use tracewire_tests::otlp::{Kind, describe};
use tracewire_tests::script::Step;
use tracewire_tests::stream::{Part, compare};
use tracewire_tests::world::World;

use crate::wire::{OK, run_one};

const INNER: &str = "GET /inner HTTP/1.1\r\nHost: inner\r\n\r\n";
const UPGRADE: &str = "GET /socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const CONNECT: &str = "CONNECT example.test:443 HTTP/1.1\r\nHost: example.test:443\r\n\r\n";

/// The request is accepted with `accept`, then both sides send what looks like HTTP.
fn check(what: &str, request: &str, accept: &str) {
    let mut world = World::traced();
    let client = vec![
        Step::send(request),
        Step::until("\r\n\r\n"),
        Step::send(INNER),
        Step::until("\r\n\r\nok"),
        Step::send(INNER.repeat(3)),
        Step::until("\r\n\r\nok"),
        Step::send(b"\x81\x05hello"),
        Step::until("\r\n\r\nok"),
    ];
    let server = vec![
        Step::heads(1),
        Step::send(accept),
        Step::heads(1),
        Step::send(OK),
        Step::heads(3),
        Step::send(OK),
        Step::until("hello"),
        Step::send(OK),
        Step::UntilClosed,
    ];
    let (received, response) = run_one(&world, client, server);
    let inner = [INNER.repeat(4).as_bytes(), b"\x81\x05hello"].concat();
    // The request that asks may have a header; nothing after it may.
    compare(what, &[Part::head(request), Part::exact(inner)], &received);
    assert_eq!(response, format!("{accept}{}", OK.repeat(3)).as_bytes(), "{what}: responses");
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    let spans = &outcome.spans;
    assert!(
        spans.iter().all(|span| span.path() != "/inner") && spans.len() <= 2,
        "{what}: spans of what is not HTTP; {}",
        describe(spans)
    );
}

#[test]
fn a_websocket_is_left_alone_after_101() {
    let accept =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    check("websocket", UPGRADE, accept);
}

#[test]
fn a_tunnel_is_left_alone_after_connect() {
    check("CONNECT", CONNECT, "HTTP/1.1 200 Connection established\r\n\r\n");
}

#[test]
fn a_tunnel_with_a_length_in_its_answer_is_left_alone() {
    // A length there must be ignored (RFC 9110 §9.3.6).
    check("CONNECT with a length", CONNECT, "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n");
}

#[test]
fn an_upgrade_that_is_refused_stays_http() {
    let mut world = World::traced();
    let refused = "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nok";
    let client = vec![
        Step::send(UPGRADE),
        Step::until("\r\n\r\nok"),
        Step::send(INNER),
        Step::until("\r\n\r\nok"),
    ];
    let server = vec![
        Step::heads(1),
        Step::send(refused),
        Step::heads(1),
        Step::send(OK),
        Step::UntilClosed,
    ];
    let (received, _) = run_one(&world, client, server);
    let sent = [Part::head(UPGRADE), Part::head(INNER)];
    let headers: Vec<_> =
        compare("refused upgrade", &sent, &received).into_iter().flatten().collect();
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    expect::pairs("refused upgrade", &outcome.spans, &headers);
    let upgrade = expect::only("refused upgrade", &outcome.spans, |span| {
        span.kind == Kind::Server && span.path() == "/socket"
    });
    assert_eq!(upgrade.status(), "426", "refused upgrade");
}

#[test]
fn an_upgrade_to_http2_that_is_ignored_stays_http() {
    let mut world = World::traced();
    let request = "GET /h2c HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                   Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    let client = vec![
        Step::send(request),
        Step::until("\r\n\r\nok"),
        Step::send(INNER),
        Step::until("\r\n\r\nok"),
    ];
    let server =
        vec![Step::heads(1), Step::send(OK), Step::heads(1), Step::send(OK), Step::UntilClosed];
    let (received, _) = run_one(&world, client, server);
    compare("ignored upgrade", &[Part::head(request), Part::head(INNER)], &received);
    world.stop_agent();
}
