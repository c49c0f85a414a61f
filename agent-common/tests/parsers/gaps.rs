//! Bytes that were never seen, and finding a message's start again.

use tracewire_common::outcome::HeadKind;
use tracewire_common::parse::http1::{Body, Event, Http1, Window};

/// Feeds `bytes` until something of note happens; the bytes taken, and the event.
fn feed(http1: &mut Http1, bytes: &[u8]) -> (usize, Event) {
    let mut window = Window([b'\n'; size_of::<Window>()]);
    window.0[..bytes.len()].copy_from_slice(bytes);
    let mut at = 0;
    while at < bytes.len() {
        let left = (bytes.len() - at) as u32;
        let (taken, event) = http1.step(&window, at as u32, bytes.len() as u32, left);
        at += taken as usize;
        if event != Event::None {
            return (at, event);
        }
    }
    (at, Event::None)
}

fn at_body(headers: &str) -> Http1 {
    let mut http1 = Http1::new(HeadKind::Response);
    let (_, event) = feed(&mut http1, format!("HTTP/1.1 200 OK\r\n{headers}\r\n").as_bytes());
    assert_eq!(event, Event::HeadEnd);
    assert_eq!(http1.begin_body(Body::Framed), Event::None);
    http1
}

#[test]
fn a_gap_inside_a_body_keeps_the_position() {
    let mut http1 = at_body("Content-Length: 100\r\n");
    assert_eq!(feed(&mut http1, b"0123456789").1, Event::None);
    assert!(http1.pass_over(80));
    assert_eq!(http1.content(), 90);
    assert_eq!(feed(&mut http1, b"0123456789HTTP"), (10, Event::MessageEnd));
    assert_eq!(http1.content(), 100);
}

#[test]
fn a_gap_up_to_the_end_of_a_body_or_past_it_loses_the_position() {
    for missing in [100, 101, u32::MAX] {
        let mut http1 = at_body("Content-Length: 100\r\n");
        assert!(!http1.pass_over(missing));
        assert!(http1.is_lost());
        assert_eq!(feed(&mut http1, b"x"), (0, Event::NotHttp));
    }
}

#[test]
fn a_gap_inside_a_chunk_keeps_the_position() {
    let mut http1 = at_body("Transfer-Encoding: chunked\r\n");
    feed(&mut http1, b"64\r\n0123456789");
    assert!(http1.pass_over(89));
    assert_eq!(feed(&mut http1, b"x\r\n0\r\n\r\n"), (8, Event::MessageEnd));
    assert_eq!(http1.content(), 100);
    let mut http1 = at_body("Transfer-Encoding: chunked\r\n");
    feed(&mut http1, b"64\r\n");
    assert!(!http1.pass_over(100));
}

/// A response in records, up to its first record of output: the head, and `len` bytes of it.
fn at_output(len: u16) -> Http1 {
    const HEAD: &[u8] = b"Status: 200\n\n";
    let [hi, lo] = (HEAD.len() as u16 + len).to_be_bytes();
    let mut http1 = Http1::new(HeadKind::Response);
    let (_, event) = feed(&mut http1, &[&[1, 6, 0, 1, hi, lo, 0, 0], HEAD].concat());
    assert_eq!(event, Event::HeadEnd);
    assert_eq!(http1.begin_body(Body::Framed), Event::None);
    http1
}

#[test]
fn a_gap_inside_a_record_of_output_keeps_the_position() {
    let mut http1 = at_output(100);
    assert!(http1.pass_over(60) && http1.pass_over_body(39));
    assert_eq!(http1.content(), 99);
    let end = b"x\x01\x03\0\x01\0\x08\0\0........";
    assert_eq!(feed(&mut http1, end), (end.len(), Event::MessageEnd));
    assert_eq!(http1.content(), 100);
}

#[test]
fn a_gap_past_a_record_or_in_anything_but_a_body_loses_the_position() {
    for missing in [100, 101, 1 << 16, u32::MAX] {
        let mut http1 = at_output(100);
        assert!(!http1.pass_over_body(missing) && !http1.is_lost());
        assert!(!http1.pass_over(missing) && http1.is_lost());
    }
    // In the head of a response, and in what it says of errors.
    for bytes in [&b"\x01\x06\0\x01\0\x64\0\0Stat"[..], b"\x01\x07\0\x01\0\x64\0\0Warn"] {
        let mut http1 = Http1::new(HeadKind::Response);
        feed(&mut http1, bytes);
        assert!(!http1.pass_over(1) && http1.is_lost());
    }
    // In the parameters of a request.
    let mut http1 = Http1::new(HeadKind::Request);
    feed(
        &mut http1,
        b"\x01\x01\0\x01\0\x08\0\0\0\x01\0\0\0\0\0\0\x01\x04\0\x01\0\x64\0\0\x0e\x03REQ",
    );
    assert!(!http1.pass_over(1) && http1.is_lost());
}

#[test]
fn a_gap_in_a_body_that_lasts_until_close_is_counted() {
    let mut http1 = at_body("");
    assert!(http1.pass_over(u32::MAX) && http1.pass_over(1));
    assert_eq!(http1.content(), 1 << 32);
    assert!(http1.is_until_close());
}

#[test]
fn a_gap_anywhere_else_loses_the_position() {
    for bytes in ["", "HT", "HTTP/1.1 200 OK\r\nX", "HTTP/1.1 200 OK\r\nContent-Length: 1"] {
        let mut http1 = Http1::new(HeadKind::Response);
        feed(&mut http1, bytes.as_bytes());
        assert!(!http1.pass_over(1));
        assert!(http1.is_lost());
    }
    let mut http1 = at_body("Transfer-Encoding: chunked\r\n");
    assert!(!http1.pass_over(1), "in the size of a chunk");
}

#[test]
fn a_gap_in_another_protocol_does_not_matter() {
    let mut http1 = Http1::new(HeadKind::Request);
    http1.make_opaque();
    assert!(http1.pass_over(5));
    assert_eq!(feed(&mut http1, b"GET /"), (5, Event::None));
}

#[test]
fn a_start_is_found_again_after_the_position_was_lost() {
    let mut http1 = Http1::new(HeadKind::Request);
    feed(&mut http1, b"GET / HTTP/1.1\r\nContent-Length: 7\r\n");
    assert!(!http1.pass_over(30));
    http1.guess_start();
    assert!(http1.is_tentative() && http1.is_at_start());
    assert_eq!(feed(&mut http1, b"rest of it").1, Event::NotHttp);
    http1.guess_start();
    let head = b"GET / HTTP/1.1\r\n\r\n";
    assert_eq!(feed(&mut http1, head), (head.len(), Event::HeadEnd));
    assert_eq!(http1.facts(), 0, "nothing of the head before is left");
    assert_eq!(http1.head_len() as usize, head.len());
    assert!(http1.is_tentative());
    http1.confirm();
    assert!(!http1.is_tentative());
    assert_eq!(http1.begin_body(Body::Framed), Event::MessageEnd);
}

#[test]
fn bytes_are_held_until_the_fate_of_an_upgrade_is_known() {
    let mut http1 = Http1::new(HeadKind::Request);
    http1.hold();
    assert!(http1.is_held());
    assert_eq!(feed(&mut http1, b"GET"), (0, Event::Held));
    assert!(http1.is_held(), "asking again changes nothing");
    http1.next_message();
    let head = b"GET / HTTP/1.1\r\n\r\n";
    assert_eq!(feed(&mut http1, head), (head.len(), Event::HeadEnd));
}
