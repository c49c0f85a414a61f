//! Where a message ends when its head says so (RFC 9112 §6.3).

use crate::machine::{Asked, Ending, requests, responses};
use tracewire_common::parse::http1::{
    FACT_AMBIGUOUS, FACT_BROKEN, FACT_CHUNKED, FACT_CODING, FACT_CONNECT, FACT_HEAD, FACT_LENGTH,
    FACT_UPGRADE,
};

#[test]
fn a_request_without_a_length_has_no_body() {
    let seen = requests(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\n\r\n");
    assert_eq!(seen.messages.len(), 2);
    assert_eq!(seen.messages[0].end, Some(28));
    assert_eq!(seen.messages[0].facts, 0);
    assert_eq!(seen.messages[1].start, 28);
    assert_eq!(seen.ending, Ending::Between);
}

#[test]
fn content_length_gives_the_body_and_the_next_message_follows_at_once() {
    let seen = requests(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\n\r\n");
    assert_eq!(seen.messages[0].content, b"hello");
    assert_eq!(seen.messages[0].facts, FACT_LENGTH);
    assert_eq!(seen.messages.len(), 2);
    assert_eq!(seen.ending, Ending::Between);
}

#[test]
fn a_length_of_zero_ends_the_message_with_its_head() {
    let seen = requests(b"POST / HTTP/1.1\r\ncontent-length:0\r\n\r\nPOST / HTTP/1.1\r\n\r\n");
    assert_eq!(seen.messages[0].end, Some(37));
    assert_eq!(seen.messages.len(), 2);
}

#[test]
fn what_looks_like_a_request_in_a_body_is_body() {
    let inner = b"GET /inner HTTP/1.1\r\nContent-Length: 999\r\n\r\n";
    let mut stream =
        format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", inner.len()).into_bytes();
    stream.extend_from_slice(inner);
    stream.extend_from_slice(b"GET /outer HTTP/1.1\r\n\r\n");
    let seen = requests(&stream);
    assert_eq!(seen.messages.len(), 2);
    assert_eq!(seen.messages[0].content, inner);
    assert_eq!(seen.ending, Ending::Between);
}

#[test]
fn equal_lengths_are_read_but_ambiguous() {
    let head = b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nokGET / HTTP/1.1\r\n\r\n";
    let seen = requests(head);
    assert_eq!(seen.messages[0].facts, FACT_LENGTH | FACT_AMBIGUOUS);
    assert_eq!(seen.messages[0].content, b"ok");
    assert_eq!(seen.messages.len(), 2);
}

#[test]
fn different_lengths_leave_no_length() {
    for head in [
        &b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokGET / HTTP/1.1\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nok",
        b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length:\r\n\r\nok",
    ] {
        let seen = requests(head);
        assert!(seen.messages[0].has(FACT_BROKEN | FACT_AMBIGUOUS));
        assert_eq!(seen.messages.len(), 1);
        assert_eq!(seen.ending, Ending::NotHttp(seen.messages[0].head_end.expect("whole")));
    }
}

#[test]
fn lengths_that_are_no_number_leave_no_length() {
    for value in ["", " ", "x", "5x", "x5", "-1", "+5", "5, 5", "5 5", "0x10", "1e3", "５"] {
        let seen =
            requests(format!("POST / HTTP/1.1\r\nContent-Length: {value}\r\n\r\n").as_bytes());
        assert!(seen.messages[0].has(FACT_LENGTH | FACT_BROKEN | FACT_AMBIGUOUS), "{value:?}");
    }
}

#[test]
fn lengths_that_overflow_leave_no_length() {
    for value in [
        "18446744073709551616",
        "18446744073709551615",
        "99999999999999999999999999999",
        "720575940379279360",
    ] {
        let seen =
            requests(format!("POST / HTTP/1.1\r\nContent-Length: {value}\r\n\r\nx").as_bytes());
        assert!(seen.messages[0].has(FACT_BROKEN), "{value}");
    }
    for value in ["720575940379279359", "0000000000000000000000000000000000000000000000000000007"] {
        let seen =
            requests(format!("POST / HTTP/1.1\r\nContent-Length: {value}\r\n\r\nx").as_bytes());
        assert!(!seen.messages[0].has(FACT_BROKEN), "{value}");
        assert_eq!(seen.ending, Ending::InBody);
    }
}

#[test]
fn white_space_around_a_length_is_no_part_of_it() {
    for value in ["\t 3", "3 \t", "3", " 3 "] {
        let seen =
            requests(format!("PUT / HTTP/1.1\r\nContent-Length:{value}\r\n\r\nabc").as_bytes());
        assert_eq!(seen.messages[0].facts, FACT_LENGTH);
        assert_eq!(seen.messages[0].content, b"abc");
    }
}

#[test]
fn chunked_wins_over_a_length_and_is_ambiguous() {
    for headers in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
    ] {
        let seen = requests(
            format!(
                "POST / HTTP/1.1\r\n{headers}\r\n\r\n4\r\nabcd\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
            )
            .as_bytes(),
        );
        let facts = FACT_LENGTH | FACT_CODING | FACT_CHUNKED | FACT_AMBIGUOUS;
        assert_eq!(seen.messages[0].facts, facts);
        assert_eq!(seen.messages[0].content, b"abcd");
        assert_eq!(seen.messages.len(), 2);
    }
}

#[test]
fn a_request_with_a_coding_other_than_chunked_at_the_end_is_given_up() {
    for value in [
        "gzip",
        "chunked, gzip",
        "chunke",
        "chunkedd",
        "chunked;q=1",
        "\x0bchunked",
        "chu nked",
        "x chunked",
        "\"chunked\"",
        "",
    ] {
        let seen = requests(
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: {value}\r\n\r\nabc").as_bytes(),
        );
        let message = &seen.messages[0];
        assert!(message.has(FACT_CODING) && !message.has(FACT_CHUNKED), "{value:?}");
        assert_eq!(seen.ending, Ending::NotHttp(message.head_end.expect("whole")), "{value:?}");
    }
}

#[test]
fn chunked_is_found_at_the_end_of_the_codings() {
    for value in
        ["chunked", "CHUNKED", "gzip, chunked", "gzip ,\tChunked \t", "gzip,,chunked", "chunked "]
    {
        let seen = requests(
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: {value}\r\n\r\n1\r\na\r\n0\r\n\r\n")
                .as_bytes(),
        );
        assert_eq!(seen.messages[0].facts, FACT_CODING | FACT_CHUNKED, "{value:?}");
        assert_eq!(seen.messages[0].content, b"a");
        assert_eq!(seen.ending, Ending::Between);
    }
}

#[test]
fn the_codings_of_several_headers_are_one_list() {
    let two = |a: &str, b: &str| {
        let head =
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: {a}\r\nTransfer-Encoding: {b}\r\n\r\n");
        requests(head.as_bytes()).messages[0].facts
    };
    assert_eq!(two("gzip", "chunked") & FACT_CHUNKED, FACT_CHUNKED);
    assert_eq!(two("chunked", "gzip") & FACT_CHUNKED, 0);
}

#[test]
fn empty_elements_in_the_list_of_codings_do_not_hide_chunked() {
    // RFC 9110 §5.6.1.2: a recipient must ignore empty elements of a list.
    for value in [
        "chunked,",
        "chunked , ,",
        "gzip, chunked,",
        "chunked\r\nTransfer-Encoding:",
        "chunked\r\nTransfer-Encoding: ,",
    ] {
        let seen = responses(
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {value}\r\n\r\n1\r\na\r\n0\r\n\r\n")
                .as_bytes(),
            &[],
        );
        let message = &seen.messages[0];
        assert!(message.has(FACT_CODING | FACT_CHUNKED | FACT_AMBIGUOUS), "{value:?}");
        assert_eq!(message.content, b"a");
        assert_eq!(seen.ending, Ending::Between);
    }
}

#[test]
fn a_response_without_a_length_lasts_until_the_connection_closes() {
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.0 200 OK\r\nServer: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\nContent-Length: 3\r\n\r\n",
    ] {
        let seen = responses(format!("{head}HTTP/1.1 200 OK\r\n\r\n").as_bytes(), &[]);
        assert_eq!(seen.messages.len(), 1);
        assert_eq!(seen.messages[0].content, b"HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(seen.messages[0].end, None);
        assert_eq!(seen.ending, Ending::UntilClose);
    }
}

#[test]
fn interim_responses_come_before_the_response_and_have_no_body() {
    let seen = responses(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n\
          HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        &[Asked::Plain],
    );
    let statuses: Vec<_> = seen.messages.iter().map(|message| message.status).collect();
    assert_eq!(statuses, [100, 103, 200]);
    assert_eq!(seen.messages[2].content, b"ok");
    assert_eq!(seen.ending, Ending::Between);
}

#[test]
fn responses_to_head_and_with_204_or_304_have_no_body_whatever_they_say() {
    let seen = responses(
        b"HTTP/1.1 200 OK\r\nContent-Length: 700\r\n\r\n\
          HTTP/1.1 204 No Content\r\nContent-Length: 700\r\n\r\n\
          HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n\
          HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        &[Asked::Head, Asked::Plain, Asked::Plain, Asked::Plain],
    );
    assert_eq!(seen.messages.len(), 4);
    assert_eq!(seen.messages[3].content, b"ok");
    assert_eq!(seen.ending, Ending::Between);
}

#[test]
fn a_switch_of_protocols_makes_the_rest_opaque() {
    let seen =
        responses(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n\x81\x05HTTP/", &[]);
    assert!(seen.messages[0].has(FACT_UPGRADE));
    assert_eq!(seen.ending, Ending::Opaque);
    let seen =
        responses(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nHTTP/1.1 ", &[Asked::Connect]);
    assert_eq!(seen.messages.len(), 1);
    assert_eq!(seen.ending, Ending::Opaque);
}

#[test]
fn a_connect_that_is_refused_is_answered_as_any_request() {
    let seen = responses(b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno", &[Asked::Connect]);
    assert_eq!(seen.messages[0].content, b"no");
    assert_eq!(seen.ending, Ending::Between);
}

#[test]
fn bytes_behind_an_open_upgrade_or_connect_are_held() {
    for (head, fact) in [
        (&b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"[..], FACT_UPGRADE),
        (b"CONNECT a:443 HTTP/1.1\r\n\r\n", FACT_CONNECT),
    ] {
        let seen = requests(head);
        assert_eq!(seen.messages[0].facts, fact);
        assert_eq!(seen.ending, Ending::Between);
        let mut more = head.to_vec();
        more.push(0x16);
        assert_eq!(requests(&more).ending, Ending::Held(head.len()));
    }
}

#[test]
fn only_the_very_methods_head_and_connect_are_noted() {
    for (method, facts) in [
        ("HEAD", FACT_HEAD),
        ("CONNECT", FACT_CONNECT),
        ("HEADS", 0),
        ("XHEAD", 0),
        ("OVERHEAD", 0),
        ("XXXXXXXXHEAD", 0),
        ("XCONNECT", 0),
        ("XXXXXXXXXXXXCONNECT", 0),
        ("M-SEARCH", 0),
        ("X", 0),
    ] {
        let seen = requests(format!("{method} / HTTP/1.1\r\n\r\n").as_bytes());
        assert_eq!(seen.messages[0].facts, facts, "{method}");
    }
}

#[test]
fn a_length_of_any_number_of_digits_is_read_as_its_number() {
    for length in [0, 7, 42, 305, 6_021, 10_203, 98_765, 230_041, 1_234_567] {
        let head = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
        let mut stream = head.into_bytes();
        stream.resize(stream.len() + length, b'b');
        let end = stream.len();
        stream.extend_from_slice(b"GET / HTTP/1.1\r\nHost: somewhere.example\r\n\r\n");
        let seen = requests(&stream);
        assert_eq!(seen.messages[0].end, Some(end), "{length}");
        assert_eq!(seen.messages.len(), 2, "{length}");
    }
}
