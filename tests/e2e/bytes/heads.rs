//! Request heads, in one piece and in many.

use tracewire_tests::expect;
use tracewire_tests::script::{Bytes, Step};
use tracewire_tests::stream::{Part, compare};
use tracewire_tests::world::{World, send, serve};

use crate::wire::{OK, Recorded, run, run_one};

const HEAD: &str = "GET /some/path?x=1 HTTP/1.1\r\nHost: example.test\r\n\
                    User-Agent: peer\r\nAccept: */*\r\nX-Last: value\r\n\r\n";

fn long_head(len: usize) -> Vec<u8> {
    let mut head = b"GET /long HTTP/1.1\r\nHost: example.test\r\n".to_vec();
    let mut number = 0;
    while head.len() + 64 < len {
        head.extend_from_slice(
            format!("X-Filler-{number:05}: 0123456789abcdefghijklmnopqrst\r\n").as_bytes(),
        );
        number += 1;
    }
    let rest = len - head.len() - "X-Pad: \r\n\r\n".len();
    head.extend_from_slice(format!("X-Pad: {}\r\n\r\n", "p".repeat(rest)).as_bytes());
    assert_eq!(head.len(), len);
    head
}

fn sends(pieces: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<Step> {
    pieces.into_iter().map(Step::send).collect()
}

fn answered(mut steps: Vec<Step>) -> (Vec<Step>, Vec<Step>) {
    steps.push(Step::until("\r\n\r\nok"));
    (steps, vec![Step::heads(1), Step::send(OK), Step::UntilClosed])
}

/// Each connection carries `head`, and all get a header and both spans.
fn check(world: &mut World, what: &str, head: &[u8], connections: Vec<(Vec<Step>, Vec<Step>)>) {
    let Recorded { requests, responses } = run(world, connections);
    let mut headers = Vec::new();
    for (number, request) in requests.iter().enumerate() {
        let what = format!("{what}, connection {number}");
        let found = compare(&what, &[Part::head(head)], request);
        headers.extend(expect::all_injected(&what, found));
    }
    assert!(responses.iter().all(|response| response == OK.as_bytes()), "{what}: responses");
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    expect::exactly_pairs(what, &outcome.spans, &headers);
}

#[test]
fn a_head_split_anywhere_over_two_sends_gets_one_header() {
    let mut world = World::traced();
    let split = |at| answered(sends([&HEAD[..at], &HEAD[at..]]));
    check(&mut world, "two sends", HEAD.as_bytes(), (1..HEAD.len()).map(split).collect());
}

#[test]
fn a_head_split_anywhere_with_a_pause_gets_one_header() {
    let mut world = World::traced();
    // The pause lets the first piece leave, arrive and be read alone.
    let split =
        |at| answered(vec![Step::send(&HEAD[..at]), Step::Pause(3), Step::send(&HEAD[at..])]);
    check(
        &mut world,
        "two sends with a pause",
        HEAD.as_bytes(),
        (1..HEAD.len()).map(split).collect(),
    );
}

#[test]
fn a_head_sent_byte_by_byte_gets_one_header() {
    let mut world = World::traced();
    let bytes = answered(sends(HEAD.as_bytes().chunks(1)));
    check(&mut world, "byte by byte", HEAD.as_bytes(), vec![bytes]);
}

#[test]
fn a_head_in_one_vector_or_with_more_to_come_gets_one_header() {
    let mut world = World::traced();
    let pieces = HEAD.as_bytes().chunks(7).map(Bytes::from).collect();
    let vector = answered(vec![Step::SendVector(pieces)]);
    let more = answered(vec![Step::SendMore(HEAD[..40].into()), Step::send(&HEAD[40..])]);
    check(&mut world, "writev and MSG_MORE", HEAD.as_bytes(), vec![vector, more]);
}

#[test]
fn a_head_of_16_kib_gets_one_header_however_it_is_sent() {
    let mut world = World::traced();
    let head = long_head(16 * 1024);
    let pieces = |len: usize| answered(sends(head.chunks(len)));
    let cases = vec![pieces(16 * 1024), pieces(8000), pieces(1000), pieces(1024), pieces(1023)];
    check(&mut world, "16 KiB", &head, cases);
}

#[test]
fn a_head_of_40_kib_gets_one_header_however_it_is_sent() {
    let mut world = World::traced();
    let head = long_head(40 * 1024);
    let pieces = |len: usize| answered(sends(head.chunks(len)));
    check(&mut world, "40 KiB", &head, vec![pieces(40 * 1024), pieces(4096), pieces(4095)]);
}

#[test]
fn a_head_beyond_the_limit_is_left_alone_and_so_is_what_follows_it() {
    let mut world = World::traced();
    let head = long_head(80 * 1024);
    let client = vec![
        Step::send(&head),
        Step::until("\r\n\r\nok"),
        Step::send(HEAD),
        Step::until("\r\n\r\nok"),
    ];
    let server =
        vec![Step::heads(1), Step::send(OK), Step::heads(1), Step::send(OK), Step::UntilClosed];
    let (request, _) = run_one(&world, client, server);
    // The request after it may have a header again, or not: both are safe.
    compare("80 KiB", &[Part::exact(&head), Part::head(HEAD)], &request);
    world.stop_agent();
}

#[test]
fn heads_on_two_connections_of_one_thread_do_not_mix() {
    let mut world = World::traced();
    let server = world.server(vec![Step::heads(1), Step::send(OK), Step::UntilClosed]);
    let to = server.address();
    let mut steps = vec![(0, Step::Connect(to)), (1, Step::Connect(to))];
    // The server numbers connections as it accepts them: make sure of the order.
    for piece in HEAD.as_bytes().chunks(5) {
        steps.push((0, Step::send(piece)));
        steps.push((1, Step::send(piece)));
    }
    steps.extend((0..2).map(|number| (number, Step::until("\r\n\r\nok"))));
    let client = world.peer(|directory| send(directory, steps));
    client.finish(2);
    let mut headers = Vec::new();
    for number in 0..2 {
        let found = compare("interleaved", &[Part::head(HEAD)], &server.received(number));
        headers.extend(expect::all_injected("interleaved", found));
    }
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    expect::exactly_pairs("interleaved", &outcome.spans, &headers);
}

#[test]
fn unusual_but_valid_heads_get_one_header() {
    let heads = [
        "GET / HTTP/1.1\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://example.test/absolute HTTP/1.1\r\nHost: example.test\r\n\r\n",
        "PROPFIND /dav HTTP/1.1\r\nHost: a\r\nDepth: 1\r\n\r\n",
        "get /lower HTTP/1.1\r\nhost: a\r\nempty:\r\n\r\n",
        "GET /colons HTTP/1.1\r\nHost:a:80\r\nX-Trace-Parent: traceparent: no\r\ntraceparents: 1\r\n\r\n",
        "GET /utf8/\u{e9} HTTP/1.1\r\nHost: a\r\nX: \u{fc}\u{1f600}\r\n\r\n",
    ];
    let mut world = World::traced();
    let server = vec![Step::heads(1), Step::send(OK), Step::UntilClosed];
    let connections = heads
        .iter()
        .map(|head| (vec![Step::send(head), Step::until("\r\n\r\nok")], server.clone()));
    let recorded = run(&world, connections.collect());
    for (head, request) in heads.iter().zip(&recorded.requests) {
        // Not each of these must get a header, but each must arrive whole.
        compare(head, &[Part::head(head)], request);
    }
    let plain = compare("no headers", &[Part::head(heads[0])], &recorded.requests[0]);
    expect::all_injected("a head without any header", plain);
    world.stop_agent();
}

#[test]
fn a_server_that_answers_after_half_closing_is_read_to_the_end() {
    let mut world = World::traced();
    let client = vec![Step::send(HEAD), Step::HalfClose, Step::UntilClosed];
    let server = vec![Step::UntilClosed, Step::send(OK), Step::Close];
    let server = world.peer(|directory| serve(directory, vec![server]));
    let to = server.address();
    let mut steps = vec![(0, Step::Connect(to))];
    steps.extend(client.into_iter().map(|step| (0, step)));
    let responses = world.client(1, steps);
    assert_eq!(responses[0], OK.as_bytes());
    let found = compare("half-closed", &[Part::head(HEAD)], &server.received(0));
    let headers = expect::all_injected("half-closed", found);
    let Some(outcome) = world.stop_agent() else {
        return;
    };
    for (client, server) in expect::exactly_pairs("half-closed", &outcome.spans, &headers) {
        assert_eq!((client.status(), server.status()), ("200", "200"), "half-closed");
    }
}
