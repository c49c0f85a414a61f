//! What is not HTTP/1.x is never touched, and neither is anything after it.

use tracewire_tests::script::{Bytes, Step};
use tracewire_tests::stream::untouched;
use tracewire_tests::world::World;

use crate::wire::run;

/// A request that a program which lost its place would take for one.
const REQUEST: &[u8] = b"GET /look-alike HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends the first bytes, then something that looks like a request; both arrive untouched.
fn check(what: &str, first: &[&[u8]]) {
    let mut world = World::traced();
    let connections = first.iter().map(|first| {
        let client = vec![
            Step::send(first),
            Step::until("answer"),
            Step::send(REQUEST),
            Step::until("answer"),
            Step::send(REQUEST),
            Step::until("answer"),
        ];
        let answer = Step::send("answer");
        let server = vec![
            Step::UntilMore(first.len()),
            answer.clone(),
            Step::UntilMore(REQUEST.len()),
            answer.clone(),
            Step::UntilMore(REQUEST.len()),
            answer,
            Step::UntilClosed,
        ];
        (client, server)
    });
    let recorded = run(&world, connections.collect());
    for (first, request) in first.iter().zip(&recorded.requests) {
        untouched(what, &[first, REQUEST, REQUEST].concat(), request);
    }
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    assert!(
        outcome.spans.is_empty(),
        "{what}: {}",
        tracewire_tests::otlp::describe(&outcome.spans)
    );
}

#[test]
fn redis_like_traffic_is_left_alone() {
    check(
        "redis",
        &[
            b"*1\r\n$4\r\nPING\r\n",
            b"PING\r\n",
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$28\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n",
        ],
    );
}

#[test]
fn mail_like_traffic_is_left_alone() {
    check("mail", &[b"EHLO client.example\r\n", b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"]);
}

#[test]
fn a_server_that_speaks_first_is_left_alone() {
    let mut world = World::traced();
    let client = vec![Step::until("220 mail\r\n"), Step::send(REQUEST), Step::until("250")];
    let server = vec![
        Step::send("220 mail\r\n"),
        Step::heads(1),
        Step::send("250 ok\r\n"),
        Step::UntilClosed,
    ];
    let recorded = run(&world, vec![(client, server)]);
    untouched("server speaks first", REQUEST, &recorded.requests[0]);
    world.stop_agent();
}

#[test]
fn tls_is_left_alone() {
    check(
        "TLS",
        &[
            // A ClientHello's first bytes, whole and as a record header alone.
            b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03\x00\x01\x02\x03\x04\x05\x06\x07",
            b"\x16\x03\x01\x02\x00",
        ],
    );
}

#[test]
fn http2_is_left_alone() {
    check(
        "HTTP/2 preface",
        &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"],
    );
}

#[test]
fn almost_http_is_left_alone() {
    check(
        "almost HTTP",
        &[
            b"\x00",
            b"GET\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/0.9\r\n\r\n",
            b"GET / HTTP/3.0\r\n\r\n",
            b" GET / HTTP/1.1\r\n\r\n",
            b"GET / ICAP/1.0\r\n\r\n",
            b"OPTIONS rtsp://a RTSP/1.0\r\nCSeq: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ],
    );
}

#[test]
fn random_bytes_are_left_alone() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        // xorshift64: the same bytes in each run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    let streams: Vec<Bytes> =
        (1..60).map(|len| Bytes((0..len * 7).map(|_| next()).collect())).collect();
    let streams: Vec<&[u8]> = streams.iter().map(|Bytes(bytes)| bytes.as_slice()).collect();
    check("random", &streams);
}
