//! The `traceparent` header: its place, its value, and where it comes more than once.

use crate::machine::{Layout, Pieces, read, requests};
use crate::{bodies, reference};
use proptest::prelude::*;
use tracewire_common::outcome::HeadKind;
use tracewire_common::parse::http1::{FACT_AMBIGUOUS, FACT_TRACEPARENT, FACT_TRACEPARENT_REPEATED};
use tracewire_common::parse::traceparent::{HEADER_LEN, PARENT_OFFSET, parse, write_header};

const VALUE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn the_place_of_the_value_is_counted_from_the_first_byte_of_the_head() {
    for (before, blank) in [("", " "), ("", ""), ("Host: x\r\n", "  \t "), ("\r\n", " ")] {
        let (lead, before) = if before == "\r\n" { (before, "") } else { ("", before) };
        let text = format!("{lead}GET / HTTP/1.1\r\n{before}traceparent:{blank}{VALUE} \r\n\r\n");
        let message = requests(text.as_bytes()).messages.remove(0);
        let at = message.start + message.traceparent_at;
        assert_eq!(&text[at..at + VALUE.len()], VALUE);
        assert_eq!(message.traceparent, parse(VALUE.as_bytes()));
        assert_eq!(&text[at + PARENT_OFFSET as usize..][..16], "00f067aa0ba902b7");
        assert_eq!(message.facts, FACT_TRACEPARENT);
    }
}

#[test]
fn the_value_survives_every_cut() {
    let text = format!("GET / HTTP/1.1\r\nA: b\r\nTraceParent: {VALUE}\r\nC: d\r\n\r\n");
    let expected = requests(text.as_bytes());
    assert!(expected.messages[0].traceparent.is_some());
    for cut in 1..text.len() {
        let seen =
            read(text.as_bytes(), HeadKind::Request, &[], &Pieces::CutAt(cut), &Layout::PLAIN);
        assert_eq!(seen, expected, "cut at {cut}");
    }
}

#[test]
fn a_repeated_header_is_noted_and_gives_no_context() {
    let text = format!("GET / HTTP/1.1\r\ntraceparent: {VALUE}\r\ntraceparent: {VALUE}\r\n\r\n");
    let message = requests(text.as_bytes()).messages.remove(0);
    assert_eq!(message.facts, FACT_TRACEPARENT | FACT_TRACEPARENT_REPEATED);
    assert_eq!(message.traceparent, None);
}

#[test]
fn an_empty_header_is_there_but_gives_no_context() {
    for blank in ["", " ", "\t \t"] {
        let text = format!("GET / HTTP/1.1\r\ntraceparent:{blank}\r\n\r\n");
        let message = requests(text.as_bytes()).messages.remove(0);
        assert_eq!(message.facts, FACT_TRACEPARENT);
        assert_eq!((message.traceparent, message.traceparent_at), (None, 0));
    }
}

#[test]
fn a_folded_value_is_ambiguous() {
    let text = format!("GET / HTTP/1.1\r\ntraceparent:\r\n {VALUE}\r\n\r\n");
    let message = requests(text.as_bytes()).messages.remove(0);
    assert!(message.has(FACT_TRACEPARENT | FACT_AMBIGUOUS));
    assert_eq!(message.traceparent, None);
}

#[test]
fn a_value_left_over_from_the_request_before_is_not_seen() {
    let text = format!("GET / HTTP/1.1\r\ntraceparent: {VALUE}\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    let seen = requests(text.as_bytes());
    assert_eq!(seen.messages[1].facts, 0);
    assert_eq!((seen.messages[1].traceparent, seen.messages[1].traceparent_at), (None, 0));
}

#[test]
fn a_written_header_is_found_in_a_head() {
    let context = parse(VALUE.as_bytes()).expect("valid");
    let mut line = [0; HEADER_LEN];
    write_header(&mut line, &context);
    let mut head = b"GET / HTTP/1.1\r\n".to_vec();
    head.extend_from_slice(&line);
    head.extend_from_slice(b"\r\n");
    let message = requests(&head).messages.remove(0);
    assert_eq!((message.facts, message.traceparent), (FACT_TRACEPARENT, Some(context)));
}

proptest! {
    #[test]
    fn any_value_reads_as_the_reference_reads_it(value in proptest::collection::vec(any::<u8>(), 0..70)) {
        bodies::traceparent(&value);
    }

    #[test]
    fn a_value_with_one_byte_changed_reads_as_the_reference_reads_it(
        at in 0..VALUE.len(), byte in any::<u8>(), version in "[0-9a-g]{2}", tail in "[ -]?[a-f0-9 -]{0,8}",
    ) {
        let mut value = VALUE.as_bytes().to_vec();
        value[..2].copy_from_slice(version.as_bytes());
        value.extend_from_slice(tail.as_bytes());
        bodies::traceparent(&value);
        value[at] = byte;
        bodies::traceparent(&value);
    }

    #[test]
    fn a_value_in_a_head_reads_as_by_itself(value in "[ \t]{0,3}[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}[ -]{0,3}[a-z]{0,3}") {
        let text = format!("GET / HTTP/1.1\r\ntraceparent:{value}\r\n\r\n");
        let message = requests(text.as_bytes()).messages.remove(0);
        prop_assert_eq!(message.traceparent, reference::traceparent(value.as_bytes()));
    }
}
