//! Bodies in chunks (RFC 9112 §7.1).

use crate::machine::{Ending, Seen, requests, responses};
use tracewire_common::parse::http1::FACT_AMBIGUOUS;

fn chunked(body: &[u8]) -> Seen {
    let mut stream = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    stream.extend_from_slice(body);
    requests(&stream)
}

#[test]
fn chunks_are_put_together_and_the_next_request_follows() {
    let seen = chunked(b"3\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    assert_eq!(seen.messages[0].content, b"abc0123456789");
    assert_eq!(seen.messages.len(), 2);
    assert_eq!(seen.ending, Ending::Between);
}

#[test]
fn extensions_of_chunks_are_passed_over() {
    let seen = chunked(b"3;a=b;c=\"4\"\r\nabc\r\n1 ;x\r\nd\r\n0;last\r\n\r\n");
    assert_eq!(seen.messages[0].content, b"abcd");
    assert_eq!(seen.ending, Ending::Between);
}

#[test]
fn trailers_are_passed_over_and_are_no_headers() {
    let seen = chunked(
        b"1\r\na\r\n0\r\nContent-Length: 500\r\ntraceparent: x\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    );
    assert_eq!(seen.messages.len(), 2);
    assert_eq!(seen.messages[0].content, b"a");
    assert_eq!(seen.ending, Ending::Between);
}

#[test]
fn what_looks_like_the_end_inside_a_chunk_is_content() {
    let seen = chunked(b"B\r\n\r\n0\r\n\r\nGET \r\n0\r\n\r\n");
    assert_eq!(seen.messages[0].content, b"\r\n0\r\n\r\nGET ");
    assert_eq!(seen.ending, Ending::Between);
}

#[test]
fn chunks_longer_than_the_window_are_passed_over() {
    let mut body = b"4E20\r\n".to_vec();
    body.resize(body.len() + 20_000, b'\n');
    body.extend_from_slice(b"\r\n0\r\n\r\n");
    let seen = chunked(&body);
    assert_eq!(seen.messages[0].content.len(), 20_000);
    assert_eq!(seen.ending, Ending::Between);
}

#[test]
fn sizes_that_are_none_are_refused() {
    for body in [
        "\r\n",
        ";x\r\n",
        "g\r\n",
        "-1\r\n",
        "0x5\r\n",
        " 5\r\n",
        "5\0\r\n",
        "1000000000000000\r\n",
        "0000000000000000\r\n",
        "0\rx\r\n\r\n",
        "3\r\r\nabc",
    ] {
        let seen = chunked(body.as_bytes());
        assert!(matches!(seen.ending, Ending::NotHttp(_)), "{body:?}: {:?}", seen.ending);
    }
}

#[test]
fn the_longest_size_is_not_cut_short() {
    let seen = chunked(b"fffffffffffffff\r\nabc");
    assert_eq!(seen.messages[0].content, b"abc");
    assert_eq!(seen.ending, Ending::InBody);
}

#[test]
fn data_past_the_size_is_refused() {
    for body in
        [&b"3\r\nabcd\r\n0\r\n\r\n"[..], b"3\r\nabc0\r\n\r\n", b"3\r\nabc\rx", b"3\r\nabc\r\r\n"]
    {
        assert!(matches!(chunked(body).ending, Ending::NotHttp(_)));
    }
}

#[test]
fn an_empty_line_that_is_none_is_refused() {
    assert!(matches!(chunked(b"0\r\n\rx").ending, Ending::NotHttp(_)));
}

#[test]
fn responses_in_chunks_follow_each_other() {
    let one = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let seen = responses(&one.repeat(3), &[]);
    assert_eq!(seen.messages.len(), 3);
    assert!(seen.messages.iter().all(|message| message.content == b"ok" && message.end.is_some()));
}

#[test]
fn bare_line_feeds_between_chunks_end_lines_but_are_ambiguous() {
    for body in [
        &b"1\na\r\n0\r\n\r\n"[..],
        b"1;x\na\r\n0\r\n\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"1\r\na\r\n0\n\r\n",
        b"1\r\na\r\n0\r\n\n",
        b"1\r\na\r\n0\r\nX: y\n\r\n",
    ] {
        let seen = chunked(body);
        let message = &seen.messages[0];
        assert_eq!(message.content, b"a");
        assert!(!message.has(FACT_AMBIGUOUS), "the head is not ambiguous");
        assert!(message.end_facts & FACT_AMBIGUOUS != 0, "{body:?}");
    }
    let seen = chunked(b"1\r\na\r\n0\r\nX: y\r\n\r\n");
    assert_eq!(seen.messages[0].end_facts & FACT_AMBIGUOUS, 0);
}
