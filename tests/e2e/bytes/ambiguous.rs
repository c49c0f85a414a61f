//! Heads whose meaning is not certain are left alone: two programs might read them differently.

use tracewire_tests::script::Step;
use tracewire_tests::stream::untouched;
use tracewire_tests::world::World;

use crate::wire::{OK, run};

/// Sends each stream on a connection of its own; each must arrive as it was sent.
fn check(what: &str, streams: &[&str]) {
    let mut world = World::traced();
    let connections = streams.iter().map(|stream| {
        let client = vec![Step::send(stream), Step::until("\r\n\r\nok")];
        let server =
            vec![Step::until("The end"), Step::Pause(2), Step::send(OK), Step::UntilClosed];
        (client, server)
    });
    let recorded = run(&world, connections.collect());
    for (stream, request) in streams.iter().zip(&recorded.requests) {
        untouched(what, stream.as_bytes(), request);
    }
    world.stop_agent();
}

#[test]
fn bare_line_feeds_are_left_alone() {
    check(
        "bare line feeds",
        &[
            "GET / HTTP/1.1\nHost: a\nX: The end\n\n",
            "GET / HTTP/1.1\r\nHost: a\nX: The end\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: The end\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: The end\r\n\n",
        ],
    );
}

#[test]
fn two_ways_to_tell_the_length_are_left_alone() {
    check(
        "both lengths",
        &[
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 17\r\nTransfer-Encoding: chunked\r\n\r\n\
         7\r\nThe end\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 17\r\n\r\n\
         7\r\nThe end\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\nContent-Length: 8\r\n\r\nThe end",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +7\r\n\r\nThe end",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999999\r\n\r\nThe end",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\nThe end",
        ],
    );
}

#[test]
fn folded_headers_are_left_alone() {
    check(
        "folded",
        &[
            "GET / HTTP/1.1\r\nHost: a\r\nX: one\r\n The end\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: one\r\n\tThe end\r\n\r\n",
        ],
    );
}

#[test]
fn what_follows_an_ambiguous_head_is_left_alone_also_if_that_had_a_context() {
    const OWN: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let mut world = World::traced();
    let connections = ["Transfer-Encoding: gzip", "X: folded\r\n twice", "Content-Length : 0"];
    let connections = connections.map(|header| {
        let first = format!("GET /1 HTTP/1.1\r\nHost: a\r\n{OWN}{header}\r\n\r\n");
        let more = (2..6).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let requests: Vec<String> = std::iter::once(first).chain(more).collect();
        let client = requests.iter().flat_map(|r| [Step::send(r), Step::until("\r\n\r\nok")]);
        let server = requests.iter().flat_map(|_| [Step::until("\r\n\r\n"), Step::send(OK)]);
        let steps = (client.collect(), server.chain([Step::UntilClosed]).collect());
        (requests.concat(), steps)
    });
    let (streams, steps): (Vec<String>, Vec<_>) = connections.into_iter().unzip();
    let recorded = run(&world, steps);
    for (stream, received) in streams.iter().zip(&recorded.requests) {
        untouched("own context, ambiguous", stream.as_bytes(), received);
    }
    world.stop_agent();
}
