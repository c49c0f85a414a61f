//! Requests and responses in records of FastCGI.

use crate::machine::{Asked, Ending, Garbage, Layout, Message, Pieces, Seen, read};
use proptest::prelude::*;
use tracewire_common::config::WINDOW;
use tracewire_common::outcome::HeadKind;
use tracewire_common::parse::http1::{FACT_AMBIGUOUS, FACT_FASTCGI, FACT_TRACEPARENT};

const BEGIN_REQUEST: u8 = 1;
const ABORT_REQUEST: u8 = 2;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;
const GET_VALUES: u8 = 9;
const GET_VALUES_RESULT: u8 = 10;
const UNKNOWN_TYPE: u8 = 11;

const VALUE: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn record(kind: u8, content: &[u8], padding: u8) -> Vec<u8> {
    let [hi, lo] = u16::try_from(content.len()).expect("it fits in a record").to_be_bytes();
    let mut record = vec![1, kind, 0, 7, hi, lo, padding, 0];
    record.extend_from_slice(content);
    record.extend(std::iter::repeat_n(b'\n', padding.into()));
    record
}

fn begin(role: u8, flags: u8) -> Vec<u8> {
    record(BEGIN_REQUEST, &[0, role, flags, 0, 0, 0, 0, 0], 0)
}

fn pair(name: &[u8], value: &[u8], long: bool) -> Vec<u8> {
    let mut pair = Vec::new();
    for len in [name.len(), value.len()] {
        match u8::try_from(len) {
            Ok(len @ ..0x80) if !long => pair.push(len),
            _ => pair.extend((u32::try_from(len).expect("a length") | 1 << 31).to_be_bytes()),
        }
    }
    [&pair, name, value].concat()
}

/// A request's head with these pairs, in records of so many bytes.
fn head(pairs: &[u8], len: usize, padding: u8) -> Vec<u8> {
    let mut head = begin(1, 0);
    for part in pairs.chunks(len) {
        head.extend(record(PARAMS, part, padding));
    }
    head.extend(record(PARAMS, b"", 0));
    head
}

/// What a request of nginx looks like, with a body.
fn request(traceparent: Option<&[u8]>, long: bool, len: usize) -> (Vec<u8>, usize) {
    let mut pairs = pair(b"SCRIPT_FILENAME", b"/srv/www/index.php", long);
    pairs.extend(pair(b"HTTP_TRACEPAREN_", b"00-not-this", long));
    pairs.extend(pair(b"EMPTY", b"", long));
    if let Some(value) = traceparent {
        pairs.extend(pair(b"HTTP_TRACEPARENT", value, long));
    }
    pairs.extend(pair(b"HTTP_COOKIE", &[b'c'; 3000], long));
    let head = head(&pairs, len, 5);
    let body = [record(STDIN, &[b'x'; 5000], 3), record(STDIN, b"", 0)].concat();
    ([head.clone(), body].concat(), head.len())
}

fn response(head: &str, body: &[u8]) -> Vec<u8> {
    [
        record(STDERR, b"PHP Warning: Status: 500\n\n", 6),
        record(STDOUT, &[head.as_bytes(), body].concat(), 2),
        record(STDOUT, body, 0),
        record(STDOUT, b"", 0),
        record(END_REQUEST, &[0; 8], 0),
    ]
    .concat()
}

fn read_whole(stream: &[u8], kind: HeadKind) -> Seen {
    read(stream, kind, &[Asked::Plain; 8], &Pieces::Whole, &Layout::PLAIN)
}

fn status_of(head: &str) -> u16 {
    let seen = read_whole(&response(head, b"body"), HeadKind::Response);
    assert_eq!(seen.messages.len(), 1, "{seen:?}");
    seen.messages[0].status
}

#[test]
fn a_request_has_a_head_and_a_body() {
    let (one, head_end) = request(Some(VALUE), false, 60_000);
    let stream = [one.clone(), one.clone()].concat();
    let seen = read_whole(&stream, HeadKind::Request);
    assert_eq!((seen.messages.len(), seen.ending), (2, Ending::Between));
    for (number, message) in seen.messages.iter().enumerate() {
        let start = number * one.len();
        assert_eq!(message.start, start);
        assert_eq!(message.head_end, Some(start + head_end));
        assert_eq!(message.end, Some(start + one.len()));
        assert_eq!(message.content, [b'x'; 5000]);
        assert_eq!(message.facts, FACT_FASTCGI | FACT_TRACEPARENT);
        let at = start + message.traceparent_at;
        assert_eq!(&stream[at..at + VALUE.len()], VALUE);
        let context = message.traceparent.expect("a valid context");
        assert_eq!(context.span_id, 0x00f0_67aa_0ba9_02b7);
    }
}

#[test]
fn white_space_before_a_context_is_none_of_it() {
    for space in [&b" "[..], b"\t", b" \t "] {
        let (stream, _) = request(Some(&[space, VALUE].concat()), false, 60_000);
        let seen = read_whole(&stream, HeadKind::Request);
        let Message { traceparent, traceparent_at: at, .. } = seen.messages[0];
        assert!(traceparent.is_some());
        assert_eq!(&stream[at..at + VALUE.len()], VALUE);
    }
}

#[test]
fn lengths_may_take_four_bytes_each() {
    let (stream, _) = request(Some(VALUE), true, 60_000);
    let seen = read_whole(&stream, HeadKind::Request);
    assert!(seen.messages[0].traceparent.is_some(), "{:?}", seen.messages[0].facts);
    assert_eq!(seen.ending, Ending::Between);
}

#[test]
fn a_context_that_a_record_cuts_is_none_that_could_be_rewritten() {
    for len in 1..400 {
        let (stream, _) = request(Some(VALUE), false, len);
        let seen = read_whole(&stream, HeadKind::Request);
        assert_eq!((seen.messages.len(), seen.ending), (1, Ending::Between), "{len}");
        let Message { facts, traceparent_at: at, traceparent, .. } = seen.messages[0];
        if traceparent.is_some() {
            assert_eq!(&stream[at..at + VALUE.len()], VALUE, "{len}");
        } else {
            assert!(facts & FACT_AMBIGUOUS != 0, "{len}");
        }
    }
}

#[test]
fn a_response_says_its_status_or_means_one() {
    for (head, status) in [
        ("Content-type: text/html\r\n\r\n", 200),
        ("Status: 404 Not Found\r\nX: y\r\n\r\n", 404),
        ("X-Powered-By: PHP/8.2\r\nstatus:503\n\n", 503),
        ("Location: /elsewhere\r\n\r\n", 302),
        ("Location: /elsewhere\r\nStatus: 301\r\n\r\n", 301),
        ("X-Status: 500\r\nStatus-X: 500\r\n\r\n", 200),
        ("\r\n", 200),
    ] {
        assert_eq!(status_of(head), status, "{head:?}");
    }
}

#[test]
fn a_response_ends_with_its_record_whatever_its_status() {
    for status in ["204", "304", "200"] {
        let stream = response(&format!("Status: {status}\r\n\r\n"), &[b'y'; 3000]);
        let seen = read_whole(&stream, HeadKind::Response);
        assert_eq!((seen.messages.len(), seen.ending), (1, Ending::Between));
        assert_eq!(seen.messages[0].content, [b'y'; 6000]);
        assert_eq!(seen.messages[0].end, Some(stream.len()));
    }
}

#[test]
fn a_request_that_ends_before_the_responses_head_has_no_status() {
    let stream = record(END_REQUEST, &[0, 0, 0, 0, 2, 0, 0, 0], 0);
    let seen = read_whole(&stream, HeadKind::Response);
    assert_eq!((seen.messages[0].status, seen.messages[0].head_end), (0, None));
    assert_eq!(seen.messages[0].end, Some(stream.len()));
    // In the midst of it.
    let begun = record(STDOUT, b"Status: 404 Not Found\r\nContent-ty", 0);
    let seen = read_whole(&[begun, record(END_REQUEST, &[0; 8], 0)].concat(), HeadKind::Response);
    assert_eq!((seen.messages.len(), seen.messages[0].head_end), (1, None));
    assert_eq!((seen.messages[0].content.len(), seen.ending), (0, Ending::Between));
}

#[test]
fn what_only_looks_like_it_is_not_read() {
    let (whole, _) = request(None, false, 60_000);
    let mut others: Vec<Vec<u8>> = vec![
        // An authorizer; reserved bytes; request 0; a parameter first; another version.
        [begin(2, 0), whole.clone()].concat(),
        [begin(1, 2), whole.clone()].concat(),
        [&[1, 1, 0, 0, 0, 8, 0, 0], &whole[8..]].concat(),
        record(PARAMS, b"abcdefgh", 0),
        // A second request before the first has ended.
        [begin(1, 0), begin(1, 0)].concat(),
    ];
    let mut version = whole.clone();
    version[16] = 2;
    others.push(version);
    let mut another = whole;
    another[16 + 3] = 8;
    others.push(another);
    for other in others {
        let seen = read_whole(&other, HeadKind::Request);
        assert!(matches!(seen.ending, Ending::NotHttp(_)), "{:?}", seen.ending);
        assert!(seen.messages.iter().all(|message| message.head_end.is_none()));
    }
}

#[test]
fn what_is_said_of_the_connection_is_no_part_of_its_messages() {
    let own = |kind, content: &[u8]| {
        let mut record = record(kind, content, 3);
        record[3] = 0;
        record
    };
    // What begins there has no head, and never ends.
    let messages = |stream: &[&[u8]], kind| {
        let seen = read_whole(&stream.concat(), kind);
        assert_eq!(seen.ending, Ending::Between);
        let is_message = |message: &Message| message.head_end.is_some() && message.end.is_some();
        assert_eq!(seen.messages.len(), 4);
        seen.messages.into_iter().filter(is_message).collect::<Vec<_>>()
    };
    let asked = own(GET_VALUES, &pair(b"FCGI_MPXS_CONNS", b"", false));
    let (one, head_end) = request(Some(VALUE), false, 60_000);
    let requests = messages(&[&asked, &one, &asked, &one], HeadKind::Request);
    assert_eq!(requests.len(), 2);
    let Message { start, head_end: ends, traceparent, .. } = &requests[0];
    assert_eq!((*start, *ends), (asked.len(), Some(asked.len() + head_end)));
    assert!(traceparent.is_some());
    let told = own(GET_VALUES_RESULT, &pair(b"FCGI_MPXS_CONNS", b"0", false));
    let answer = response("Status: 404\n\n", b"body");
    let stream = [&told[..], &answer, &own(UNKNOWN_TYPE, &[9; 8]), &answer];
    let responses = messages(&stream, HeadKind::Response);
    assert_eq!(responses.iter().map(|message| message.status).collect::<Vec<_>>(), [404, 404]);
    // In the midst of a request there is none, nor from the other side.
    for (stream, kind) in [
        ([begin(1, 0), asked.clone()].concat(), HeadKind::Request),
        (own(GET_VALUES_RESULT, b""), HeadKind::Request),
        (asked, HeadKind::Response),
    ] {
        let seen = read_whole(&stream, kind);
        assert!(matches!(seen.ending, Ending::NotHttp(_)), "{:?}", seen.ending);
    }
}

#[test]
fn an_aborted_request_is_over_and_the_next_one_is_read() {
    let head = head(&pair(b"A", b"b", false), 99, 0);
    let (body, end) = (record(STDIN, b"some", 4), record(STDIN, b"", 0));
    let abort = record(ABORT_REQUEST, b"", 3);
    for aborted in [
        vec![&head, &abort],
        vec![&head, &abort, &end],
        vec![&head, &body, &abort, &end],
        // While it is answered.
        vec![&head, &body, &end, &abort],
    ] {
        let first: Vec<u8> = aborted.into_iter().flatten().copied().collect();
        let next = [&head[..], &end].concat();
        let seen = read_whole(&[&first[..], &next].concat(), HeadKind::Request);
        assert_eq!(seen.ending, Ending::Between);
        let whole = |message: &&Message| message.head_end.is_some() && message.end.is_some();
        let whole: Vec<&Message> = seen.messages.iter().filter(whole).collect();
        let starts: Vec<usize> = whole.iter().map(|message| message.start).collect();
        assert_eq!(starts, [0, first.len()]);
    }
}

fn streams() -> [(Vec<u8>, HeadKind); 4] {
    let (short, _) = request(Some(VALUE), false, 60_000);
    let (long, _) = request(Some(VALUE), true, 777);
    let head = "X-Powered-By: PHP/8.2\r\nStatus: 404 Not Found\r\nLocation: /x\r\n\r\n";
    let answers = [response(head, &[b'z'; 2000]), response("A: b\r\n\r\n", b"")].concat();
    // One byte of output a record.
    let slow: Vec<u8> = head.bytes().flat_map(|byte| record(STDOUT, &[byte], 1)).collect();
    let slow = [slow, record(END_REQUEST, &[0; 8], 0)].concat();
    [
        ([short.clone(), long].concat(), HeadKind::Request),
        (short, HeadKind::Request),
        (answers, HeadKind::Response),
        (slow, HeadKind::Response),
    ]
}

#[test]
fn however_it_is_cut_it_reads_the_same() {
    for (stream, kind) in streams() {
        let whole = read_whole(&stream, kind);
        assert_eq!(whole.ending, Ending::Between);
        for at in 1..stream.len() {
            let seen = read(&stream, kind, &[], &Pieces::CutAt(at), &Layout::PLAIN);
            assert_eq!(seen, whole, "cut at {at}");
        }
        for len in 1..64 {
            let seen = read(&stream, kind, &[], &Pieces::Each(len), &Layout::PLAIN);
            assert_eq!(seen, whole, "pieces of {len}");
        }
        for offset in 0..WINDOW {
            let layout = Layout { load: WINDOW, offset, garbage: Garbage::HeadEnds };
            assert_eq!(read(&stream, kind, &[], &Pieces::Whole, &layout), whole, "at {offset}");
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_confuse_it(
        kinds in prop::collection::vec((0u8..12, prop::collection::vec(any::<u8>(), 0..40), 0u8..4), 0..12),
        kind in prop_oneof![Just(HeadKind::Request), Just(HeadKind::Response)],
        seed in any::<u64>(),
    ) {
        let mut stream = if kind == HeadKind::Request { begin(1, 1) } else { Vec::new() };
        for (kind, content, padding) in kinds {
            stream.extend(record(kind, &content, padding));
        }
        let whole = read_whole(&stream, kind);
        let layout = Layout { load: 40, offset: 9, garbage: Garbage::Random(seed) };
        let seen = read(&stream, kind, &[Asked::Plain; 8], &Pieces::Random(seed), &layout);
        prop_assert_eq!(seen, whole);
    }
}
