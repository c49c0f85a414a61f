//! Heads: where they start and end, and what makes them ambiguous.

use crate::machine::{Asked, Ending, Garbage, Layout, Pieces, read, requests, responses};
use tracewire_common::config::WINDOW;
use tracewire_common::outcome::HeadKind;
use tracewire_common::parse::http1::{
    FACT_AMBIGUOUS, FACT_CHUNKED, FACT_LENGTH, FACT_TRACEPARENT, FACT_UPGRADE,
};

#[test]
fn empty_lines_before_a_request_belong_to_no_message() {
    let seen = requests(b"\r\n\r\n\nGET / HTTP/1.1\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    assert_eq!(seen.messages[0].start, 5);
    assert_eq!(seen.messages[0].head_end, Some(23));
    assert_eq!(seen.messages[1].start, 27);
    assert_eq!(seen.messages.len(), 2);
}

#[test]
fn pipelined_requests_are_told_apart() {
    let one = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let seen = requests(&one.repeat(100));
    assert_eq!(seen.messages.len(), 100);
    for (number, message) in seen.messages.iter().enumerate() {
        assert_eq!(
            (message.start, message.end),
            (number * one.len(), Some((number + 1) * one.len()))
        );
    }
}

#[test]
fn names_of_headers_are_found_in_any_case() {
    for (name, fact) in [
        ("content-length", FACT_LENGTH),
        ("CONTENT-LENGTH", FACT_LENGTH),
        ("cOnTeNt-LeNgTh", FACT_LENGTH),
        ("UPGRADE", FACT_UPGRADE),
        ("Traceparent", FACT_TRACEPARENT),
        ("TRACEPARENT", FACT_TRACEPARENT),
    ] {
        let seen = requests(format!("GET / HTTP/1.1\r\n{name}: 0\r\n\r\n").as_bytes());
        assert_eq!(seen.messages[0].facts, fact, "{name}");
    }
    let seen = requests(b"GET / HTTP/1.1\r\nTRANSFER-encoding: chunked\r\n\r\n0\r\n\r\n");
    assert!(seen.messages[0].has(FACT_CHUNKED));
}

#[test]
fn names_that_only_look_alike_are_not_taken() {
    for name in [
        "traceparents",
        "trace",
        "tracepare",
        "tracestate",
        "xtraceparent",
        "traceparent-",
        "t",
        "tr",
        "tra",
        "tran",
        "transfer",
        "transfer-encodin",
        "transfer-encodings",
        "transfer_encoding",
        "tranceparent",
        "trac",
        "te",
        "trailer",
        "content-len",
        "content-lengths",
        "content-type",
        "content_length",
        "c",
        "cookie",
        "connection",
        "upgrad",
        "upgrades",
        "upgrade-insecure-requests",
        "u",
        "user-agent",
        "x-content-length",
        "\u{14}raceparent",
        "Content\rLength",
    ] {
        for value in ["1", "chunked", ""] {
            let text = format!("GET / HTTP/1.1\r\n{name}: {value}\r\n{name}\r\n\r\n");
            let seen = requests(text.as_bytes());
            assert_eq!(seen.messages[0].facts, 0, "{name:?}");
            assert_eq!(seen.messages[0].end, Some(text.len()));
        }
    }
}

#[test]
fn folded_lines_are_read_but_ambiguous() {
    for headers in ["X: a\r\n b", "X: a\r\n\tb", " X: a", "Content-Length: 2\r\n 3"] {
        let seen = requests(format!("GET / HTTP/1.1\r\n{headers}\r\n\r\nab").as_bytes());
        assert!(seen.messages[0].has(FACT_AMBIGUOUS), "{headers:?}");
    }
}

#[test]
fn a_folded_header_that_says_the_length_leaves_no_length() {
    let seen = requests(b"POST / HTTP/1.1\r\nContent-Length:\r\n 2\r\n\r\nab");
    assert!(seen.messages[0].has(FACT_AMBIGUOUS));
    assert!(matches!(seen.ending, Ending::NotHttp(_)));
}

#[test]
fn bare_line_feeds_end_lines_but_are_ambiguous() {
    for head in [
        "GET / HTTP/1.1\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\n",
        "GET / HTTP/1.1\n\n",
        "GET / HTTP/1.1\r\nt\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: 0\n\r\n",
        "GET / HTTP/1.1\r\nTransfer-Encoding: identity\n\r\n",
        "GET / HTTP/1.1\r\ntraceparent: x\n\r\n",
    ] {
        let seen = requests(head.as_bytes());
        assert_eq!(seen.messages[0].head_end, Some(head.len()), "{head:?}");
        assert!(seen.messages[0].has(FACT_AMBIGUOUS), "{head:?}");
    }
    let seen = responses(b"HTTP/1.1 204\n\r\n", &[]);
    assert!(seen.messages[0].has(FACT_AMBIGUOUS));
}

#[test]
fn white_space_before_the_colon_of_a_header_that_matters_is_ambiguous() {
    for header in [
        "Content-Length : 2",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding : chunked",
        "traceparent : x",
        "Upgrade : x",
    ] {
        let seen = requests(format!("GET / HTTP/1.1\r\n{header}\r\n\r\n").as_bytes());
        assert_eq!(seen.messages[0].facts, FACT_AMBIGUOUS, "{header:?}");
    }
}

#[test]
fn a_carriage_return_that_ends_no_line_does_not_end_the_head() {
    assert!(matches!(requests(b"GET / HTTP/1.1\r\n\rX: y\r\n\r\n").ending, Ending::NotHttp(_)));
    assert_eq!(requests(b"GET / HTTP/1.1\r\nX: \r\r\r\n\r\n").messages[0].end, Some(25));
}

#[test]
fn the_version_may_be_any_of_http_1_and_ends_the_request_line() {
    for line in [
        "GET / HTTP/1.0",
        "GET / HTTP/1.1",
        "GET * HTTP/1.9",
        "GET /a b HTTP/1.1",
        "GET http://x/ HTTP/1.1",
    ] {
        assert_eq!(
            requests(format!("{line}\r\n\r\n").as_bytes()).ending,
            Ending::Between,
            "{line}"
        );
    }
    for line in [
        "GET /",
        "GET / HTTP/2.0",
        "GET / HTTP/1.",
        "GET / HTTP/1.x",
        "GET / HTTP/1.1 ",
        "GET / HTTP/11",
        "GET / http/1.1",
        "GET / HTTP/1.10",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 x",
        "GET \t/ HTTP/1.1",
    ] {
        assert!(
            matches!(requests(format!("{line}\r\n\r\n").as_bytes()).ending, Ending::NotHttp(_)),
            "{line}"
        );
    }
}

#[test]
fn status_lines_are_read_with_and_without_a_reason() {
    for (line, status) in [
        ("HTTP/1.1 200 OK", 200),
        ("HTTP/1.0 404", 404),
        ("HTTP/1.1 599 ", 599),
        ("HTTP/1.1 200 HTTP/1.1 500", 200),
        ("HTTP/1.1 200 \u{e9}", 200),
    ] {
        let seen = responses(format!("{line}\r\nContent-Length: 0\r\n\r\n").as_bytes(), &[]);
        assert_eq!(seen.messages[0].status, status);
        assert_eq!(seen.ending, Ending::Between);
    }
    for line in [
        "HTTP/1.1",
        "HTTP/1.1 20",
        "HTTP/1.1 2000",
        "HTTP/1.1  200",
        "HTTP/2 200",
        "HTTP/1.1 2x0",
        "http/1.1 200",
        "HTTP/1.1 -20",
        "\r\nHTTP/1.1 200",
    ] {
        let seen = responses(format!("{line}\r\n\r\n").as_bytes(), &[]);
        assert!(matches!(seen.ending, Ending::NotHttp(_)), "{line:?}");
    }
}

#[test]
fn heads_of_many_kilobytes_are_followed() {
    for (size, lines) in [(16 * 1024, 1), (16 * 1024, 300), (60 * 1024, 1), (60 * 1024, 1000)] {
        let mut head = b"POST / HTTP/1.1\r\n".to_vec();
        for number in 0..lines {
            head.extend_from_slice(format!("X-{number}: ").as_bytes());
            head.resize(head.len() + size / lines, b'v');
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"Content-Length: 3\r\n\r\n");
        let mut stream = head.clone();
        stream.extend_from_slice(b"abcGET / HTTP/1.1\r\n\r\n");
        for pieces in [Pieces::Whole, Pieces::Each(1448), Pieces::Each(1), Pieces::Random(7)] {
            let seen = read(&stream, HeadKind::Request, &[], &pieces, &Layout::PLAIN);
            assert_eq!(seen.messages[0].head_end, Some(head.len()));
            assert_eq!(seen.messages[0].content, b"abc");
            assert_eq!(seen.messages.len(), 2);
        }
    }
}

#[test]
fn a_head_longer_than_a_mebibyte_is_given_up() {
    let mut head = b"GET / HTTP/1.1\r\nX: ".to_vec();
    head.resize((1 << 20) + 1000, b'v');
    head.extend_from_slice(b"\r\n\r\n");
    assert!(matches!(requests(&head).ending, Ending::NotHttp(at) if at < (1 << 20) + 1024));
    let mut lines = b"GET / HTTP/1.1\r\n".to_vec();
    while lines.len() < 1 << 20 {
        lines.extend_from_slice(b"Transfer\r\n");
    }
    lines.extend_from_slice(b"\r\n\r\n");
    assert!(matches!(requests(&lines).ending, Ending::NotHttp(_)));
}

#[test]
fn headers_are_found_wherever_the_window_ends() {
    let tail = b"Transfer-Encoding: gzip, chunked\r\nTraceparent: \
        00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n1\r\na\r\n0\r\n\r\n";
    for before in WINDOW - 140..WINDOW + 8 {
        let mut stream = b"POST / HTTP/1.1\r\nX: ".to_vec();
        stream.resize(before - 2, b'v');
        stream.extend_from_slice(b"\r\n");
        stream.extend_from_slice(tail);
        for garbage in [Garbage::Byte(b'\n'), Garbage::HeadEnds, Garbage::Random(before as u64)] {
            let layout = Layout { garbage, ..Layout::PLAIN };
            let seen = read(&stream, HeadKind::Request, &[], &Pieces::Whole, &layout);
            assert!(seen.messages[0].has(FACT_CHUNKED | FACT_TRACEPARENT));
            assert_eq!(seen.messages[0].traceparent_at, before + 47);
            assert!(seen.messages[0].traceparent.is_some());
            assert_eq!(seen.messages[0].content, b"a");
        }
    }
}

#[test]
fn garbage_in_the_window_behind_the_bytes_is_never_read() {
    let stream =
        b"GET /abcdefghijklmnopqrstuvwxyz HTTP/1.1\r\nHost: some-long-name.example\r\n\r\n";
    let expected = requests(stream);
    for cut in 1..stream.len() {
        for garbage in
            [Garbage::Byte(b'\n'), Garbage::Byte(b'\r'), Garbage::HeadEnds, Garbage::Random(3)]
        {
            for offset in [0, 1, 1000, WINDOW - 9, WINDOW - 1] {
                let layout = Layout { load: WINDOW, offset, garbage };
                let seen = read(stream, HeadKind::Request, &[], &Pieces::CutAt(cut), &layout);
                assert_eq!(seen, expected);
            }
        }
    }
}

#[test]
fn a_cut_in_a_head_leaves_it_open() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
    for len in 1..head.len() {
        assert_eq!(responses(&head[..len], &[Asked::Plain]).ending, Ending::InHead, "{len}");
    }
}

#[test]
fn the_version_stands_behind_a_space() {
    for line in [
        "GET /xHTTP/1.1",
        "GET / H\u{7f}TTP/1.1",
        "GET HTTTTP/1.1",
        "PUT /xHTTP/1.1",
        "GET HTTP/1.1",
    ] {
        let stream = format!("{line}\r\nHost: a\r\n\r\n");
        for pieces in [Pieces::Whole, Pieces::Each(1), Pieces::Each(3), Pieces::Each(7)] {
            let seen = read(stream.as_bytes(), HeadKind::Request, &[], &pieces, &Layout::PLAIN);
            assert!(matches!(seen.ending, Ending::NotHttp(_)), "{line}: {:?}", seen.ending);
        }
    }
}

#[test]
fn a_lone_cr_behind_a_framing_value_is_ambiguous() {
    for field in ["Content-Length: 5\r-X: y", "Transfer-Encoding: chunked\rX: y"] {
        let stream = format!("POST / HTTP/1.1\r\n{field}\r\nHost: somewhere.example\r\n\r\n");
        for pieces in [Pieces::Whole, Pieces::Each(1), Pieces::Each(5)] {
            let seen = read(stream.as_bytes(), HeadKind::Request, &[], &pieces, &Layout::PLAIN);
            assert!(seen.messages[0].has(FACT_AMBIGUOUS), "{field:?}");
        }
    }
}
