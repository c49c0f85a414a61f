//! HTTP/1.x as well-behaved clients and servers speak it (RFC 9112).

use std::fmt::Write;

use fastrand::Rng;

use super::fill::{chance, content, context, header_name, header_value, one_of, word};
use crate::dialogue::Dialogue;

/// A request with its body, and how it wants to be answered.
pub(super) struct Request {
    /// The head, with its empty line.
    pub(super) head: String,
    /// The body, in its transfer coding.
    pub(super) body: Vec<u8>,
    is_head: bool,
    waits: bool,
}

/// Some exchanges on one connection, some of them pipelined.
pub(super) fn dialogue(rng: &mut Rng) -> Dialogue {
    let mut dialogue = Dialogue::default();
    exchanges(rng, &mut dialogue);
    if chance(rng, 10) {
        // The last response lasts until the connection ends.
        dialogue.client("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let body = content(rng);
        dialogue.answer(200, [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &body].concat());
    }
    dialogue
}

/// Some exchanges that leave the connection open.
pub(super) fn exchanges(rng: &mut Rng, dialogue: &mut Dialogue) {
    for _ in 0..rng.usize(1..5) {
        let count = if chance(rng, 25) { rng.usize(2..8) } else { 1 };
        let requests: Vec<Request> = (0..count).map(|_| request(rng)).collect();
        for request in &requests {
            dialogue.client(&request.head);
            if request.waits && count == 1 {
                dialogue.server("HTTP/1.1 100 Continue\r\n\r\n");
            }
            dialogue.client(&request.body);
        }
        for request in &requests {
            respond(rng, dialogue, request.is_head);
        }
    }
}

/// A request that every server reads alike.
pub(super) fn request(rng: &mut Rng) -> Request {
    let with_body = chance(rng, 40);
    let method = if with_body {
        one_of(rng, &["POST", "PUT", "PATCH", "DELETE", "MKCALENDAR", "M-SEARCH"])
    } else {
        one_of(rng, &["GET", "GET", "GET", "HEAD", "OPTIONS", "PROPFIND"])
    };
    let target = target(rng);
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if chance(rng, 95) {
        head += "Host: example.test\r\n";
    }
    headers(rng, &mut head);
    let waits = with_body && chance(rng, 10);
    if waits {
        head += "Expect: 100-continue\r\n";
    }
    if chance(rng, 12) {
        // The application traces itself, and its word is left alone; or it passes on what it received.
        let value = context(rng);
        let name = one_of(rng, &["traceparent", "Traceparent", "TRACEPARENT"]);
        let (before, behind) = (one_of(rng, &[" ", " ", "", "\t "]), one_of(rng, &["", "", " "]));
        let _infallible = write!(head, "{name}:{before}{value}{behind}\r\n");
    }
    let mut body = Vec::new();
    if with_body {
        let content = content(rng);
        if chance(rng, 40) {
            head +=
                one_of(rng, &["Transfer-Encoding: chunked\r\n", "transfer-encoding:chunked\r\n"]);
            body = chunked(rng, &content);
        } else {
            let name = one_of(rng, &["Content-Length", "content-length"]);
            let _infallible = write!(head, "{name}: {}\r\n", content.len());
            body = content;
        }
    }
    if chance(rng, 50) {
        headers(rng, &mut head);
    }
    head += "\r\n";
    Request { head, body, is_head: method == "HEAD", waits }
}

fn target(rng: &mut Rng) -> String {
    match rng.u8(..6) {
        0 => "/".into(),
        1 => "http://example.test:80/absolute?q=HTTP/1.1".into(),
        2 => "*".into(),
        3 => {
            let len = rng.usize(1..3_000);
            format!("/{}", word(rng, len))
        }
        _ => {
            let len = rng.usize(1..40);
            format!("/{}?x=%20&y=HTTP/1.0", word(rng, len))
        }
    }
}

/// Any number of header fields, so that heads have any size up to beyond the limit.
fn headers(rng: &mut Rng, head: &mut String) {
    let count = match rng.u8(..100) {
        0..=69 => rng.usize(..8),
        70..=95 => rng.usize(..60),
        _ => rng.usize(..700),
    };
    for _ in 0..count {
        let (name, value) = (header_name(rng), header_value(rng));
        let gap = one_of(rng, &["", " ", "\t"]);
        let _infallible = write!(head, "{name}:{gap}{value}\r\n");
    }
}

/// `content` in chunks (RFC 9112 §7.1).
pub(super) fn chunked(rng: &mut Rng, content: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let most = one_of(rng, &[3, 100, 5_000, 100_000]);
        let (chunk, more) = rest.split_at(rng.usize(1..=most).min(rest.len()));
        let extension = one_of(rng, &["", "", ";name=value", ";GET / HTTP/1.1", " ; a"]);
        let size =
            if rng.bool() { format!("{:x}", chunk.len()) } else { format!("{:05X}", chunk.len()) };
        body.extend_from_slice(format!("{size}{extension}\r\n").as_bytes());
        body.extend_from_slice(chunk);
        body.extend_from_slice(b"\r\n");
        rest = more;
    }
    let trailer = one_of(rng, &["", "", "X-Trailer: GET / HTTP/1.1\r\n", "traceparent: no\r\n"]);
    body.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
    body
}

/// A whole response.
pub(super) fn respond(rng: &mut Rng, dialogue: &mut Dialogue, to_head: bool) {
    if chance(rng, 5) {
        dialogue.server("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    }
    let status = one_of(rng, &[200, 200, 201, 204, 304, 404, 503]);
    let bodyless = to_head || status == 204 || status == 304;
    let content = content(rng);
    let (framing, body) = if status == 204 {
        (String::new(), Vec::new())
    } else if chance(rng, 40) {
        ("Transfer-Encoding: chunked\r\n".to_owned(), chunked(rng, &content))
    } else {
        (format!("Content-Length: {}\r\n", content.len()), content)
    };
    let mut response =
        format!("HTTP/1.1 {status} Reason\r\nServer: a\r\n{framing}\r\n").into_bytes();
    if !bodyless {
        response.extend_from_slice(&body);
    }
    dialogue.answer(status, response);
}
