//! However a stream is cut, and however it lies in the window, it reads the same.

use crate::machine::{Asked, Garbage, Layout, Noise, Pieces, read};
use crate::{bodies, reference};
use proptest::prelude::*;
use tracewire_common::config::WINDOW;
use tracewire_common::outcome::HeadKind;

const REQUESTS: &[u8] =
    b"\r\nGET /a?b=c HTTP/1.1\r\nHost: localhost\r\nUser-Agent: some client\r\n\
traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n\
POST /b HTTP/1.1\r\nTRANSFER-ENCODING: gzip, chunked\r\nTrailer: X\r\n\r\n\
5;a=b\r\nGET /\r\n10\r\n0123456789abcdef\r\n0\r\nX: y\r\n\r\n\
PUT /c HTTP/1.0\nContent-Length: 4\nContent-Length: 4\n folded\n\n\r\n\r\n\
HEAD / HTTP/1.1\r\nTransfer-Encodin: x\r\nContent-Lengt: 7\r\ntracepare\r\n\r\n\
CONNECT x:1 HTTP/1.1\r\n\r\nheld";

const RESPONSES: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n\
HTTP/1.1 200HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nHTTP/1.0 204\r\n\r\n\
HTTP/1.1 200 OK\r\nTransfer-Encoding:chunked\r\n\r\n1\r\na\r\n0\r\n\r\nHTTP/1.1 404 Not Found\r\n\r\nto the end";

const ASKED: &[Asked] = &[Asked::Plain, Asked::Head, Asked::Plain, Asked::Plain, Asked::Plain];

fn streams() -> [(&'static [u8], HeadKind); 2] {
    [(REQUESTS, HeadKind::Request), (RESPONSES, HeadKind::Response)]
}

#[test]
fn the_streams_are_read_to_their_ends() {
    for (stream, kind) in streams() {
        let seen = read(stream, kind, ASKED, &Pieces::Whole, &Layout::PLAIN);
        assert_eq!(seen.messages.len(), if kind == HeadKind::Request { 5 } else { 6 });
        reference::check(stream, kind, ASKED, &seen);
    }
}

#[test]
fn a_stream_cut_at_any_byte_reads_the_same() {
    for (stream, kind) in streams() {
        let whole = read(stream, kind, ASKED, &Pieces::Whole, &Layout::PLAIN);
        for cut in 1..stream.len() {
            let seen = read(stream, kind, ASKED, &Pieces::CutAt(cut), &Layout::PLAIN);
            assert_eq!(seen, whole, "cut at {cut}");
        }
    }
}

#[test]
fn a_stream_in_pieces_of_any_size_reads_the_same() {
    for (stream, kind) in streams() {
        let whole = read(stream, kind, ASKED, &Pieces::Whole, &Layout::PLAIN);
        for len in 1..stream.len() {
            let seen = read(stream, kind, ASKED, &Pieces::Each(len), &Layout::PLAIN);
            assert_eq!(seen, whole, "pieces of {len}");
        }
    }
}

#[test]
fn a_stream_anywhere_in_the_window_reads_the_same() {
    for (stream, kind) in streams() {
        let whole = read(stream, kind, ASKED, &Pieces::Whole, &Layout::PLAIN);
        for offset in 0..WINDOW {
            let layout = Layout { load: WINDOW, offset, garbage: Garbage::HeadEnds };
            assert_eq!(read(stream, kind, ASKED, &Pieces::Whole, &layout), whole, "at {offset}");
        }
        for load in 1..40 {
            let layout = Layout { load, offset: 3, garbage: Garbage::Byte(b'\n') };
            assert_eq!(
                read(stream, kind, ASKED, &Pieces::Whole, &layout),
                whole,
                "loads of {load}"
            );
        }
    }
}

/// Pieces of heads and bodies, legal and not, that a stream is put together from.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static str> = vec![
        "GET / HTTP/1.1\r\n",
        "POST /x HTTP/1.1\r\n",
        "HEAD / HTTP/1.0\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 204 No\r\n",
        "HTTP/1.1 304\r\n",
        "HTTP/1.1 101 Go\r\n",
        "Content-Length: 5\r\n",
        "content-length:0\r\n",
        "Content-Length: 18\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "transfer-encoding: gzip\r\n",
        "Transfer-Encoding: chunked,\r\n",
        "Transfer-Encoding:\r\n",
        "Upgrade: h2c\r\n",
        "Host: a\r\n",
        "X: y\n",
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
        "traceparent:\r\n",
        " folded\r\n",
        "Content-Length : 5\r\n",
        "\r\n",
        "\n",
        "\r",
        "hello",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
        "0\r\n",
        "A;x=y\r\n0123456789\r\n",
        "ffffffffffffffff\r\n",
        ":",
        " ",
        "t",
        "c",
        "u",
        "H",
        "HTTP/1.",
        "2.0",
    ];
    prop_oneof![
        12 => proptest::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 1..6),
    ]
}

/// A stream whose messages have a start, and anything after it.
fn stream(request: bool) -> impl Strategy<Value = Vec<u8>> {
    let start: &[u8] = if request { b"POST / HTTP/1.1\r\n" } else { b"HTTP/1.1 200 OK\r\n" };
    let message = proptest::collection::vec(fragment(), 0..9)
        .prop_map(move |parts| [start, &parts.concat()].concat());
    proptest::collection::vec(message, 1..4).prop_map(|messages| messages.concat())
}

/// A whole legal request or response, its content included.
fn message(request: bool) -> impl Strategy<Value = Vec<u8>> {
    let start = if request {
        "(GET|POST|M-SEARCH|DELETE) /[a-z]{0,40} HTTP/1\\.[01]\r\n"
    } else {
        "HTTP/1\\.[01] [245]0[01235-9]( [A-Za-z ]{0,20})?\r\n"
    };
    let header = "([A-Za-z][a-z-]{0,25}|[Tt]rac[a-z]{0,3}|[Cc]ontent-[a-z]{1,4}|[Tt]ran[a-z]{0,4}|[Uu]p[a-z]{0,3}):[ \t]{0,2}[!-~]{0,60}\r\n";
    let content = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..2000), 0..4);
    (start, proptest::collection::vec(header, 0..8), content, any::<bool>(), 0..9usize).prop_map(
        |(start, headers, content, chunked, place)| {
            let mut lines = headers;
            let length: usize = content.iter().map(Vec::len).sum();
            let framing = if chunked {
                "Transfer-Encoding: chunked\r\n".to_owned()
            } else {
                format!("Content-Length: {length}\r\n")
            };
            lines.insert(place.min(lines.len()), framing);
            let mut bytes = format!("{start}{}\r\n", lines.concat()).into_bytes();
            for part in &content {
                if chunked {
                    bytes.extend_from_slice(format!("{:x};e\r\n", part.len()).as_bytes());
                }
                bytes.extend_from_slice(part);
                if chunked {
                    bytes.extend_from_slice(b"\r\n");
                }
            }
            if chunked {
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
            bytes
        },
    )
}

fn check(stream: &[u8], kind: HeadKind, asked: &[Asked], seed: u64) {
    let whole = read(stream, kind, asked, &Pieces::Whole, &Layout::PLAIN);
    reference::check(stream, kind, asked, &whole);
    let mut noise = Noise::new(seed);
    for pieces in [Pieces::Each(1), Pieces::Random(seed), Pieces::Random(!seed)] {
        let layout = bodies::layout(&mut noise);
        assert_eq!(read(stream, kind, asked, &pieces, &layout), whole, "{pieces:?} {layout:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn legal_requests_read_as_the_reference_reads_them(
        messages in proptest::collection::vec(message(true), 1..4), seed in any::<u64>(),
    ) {
        let stream = messages.concat();
        let seen = read(&stream, HeadKind::Request, &[], &Pieces::Whole, &Layout::PLAIN);
        prop_assert_eq!(seen.messages.len(), messages.len());
        prop_assert!(seen.messages.iter().all(|message| message.end.is_some()));
        check(&stream, HeadKind::Request, &[], seed);
    }

    #[test]
    fn legal_responses_read_as_the_reference_reads_them(
        messages in proptest::collection::vec(message(false), 1..4), seed in any::<u64>(),
    ) {
        check(&messages.concat(), HeadKind::Response, &[], seed);
    }

    #[test]
    fn requests_put_together_at_random_read_the_same_however_cut(
        stream in stream(true), seed in any::<u64>(),
    ) {
        check(&stream, HeadKind::Request, &[], seed);
    }

    #[test]
    fn responses_put_together_at_random_read_the_same_however_cut(
        stream in stream(false), seed in any::<u64>(),
    ) {
        check(&stream, HeadKind::Response, ASKED, seed);
    }

    #[test]
    fn any_bytes_read_the_same_however_cut(
        bytes in proptest::collection::vec(any::<u8>(), 0..400), request in any::<bool>(), seed in any::<u64>(),
    ) {
        let kind = if request { HeadKind::Request } else { HeadKind::Response };
        check(&bytes, kind, ASKED, seed);
    }
}
