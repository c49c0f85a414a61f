//! FastCGI, as web servers ask PHP-FPM by it, and as nobody should.

use fastrand::Rng;

use super::fill::{
    INNER, chance, content, content_of, context, header_name, header_value, one_of, word,
};
use crate::dialogue::Dialogue;

const BEGIN_REQUEST: u8 = 1;
const ABORT_REQUEST: u8 = 2;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;

/// Some requests on one connection, one after another.
pub(super) fn dialogue(rng: &mut Rng) -> Dialogue {
    let mut dialogue = Dialogue::default();
    let breaks = chance(rng, 30);
    for _ in 0..rng.usize(1..5) {
        let id = if chance(rng, 80) { 1 } else { rng.u16(1..) };
        let mut request = request(rng, id);
        let mut response = response(rng, id);
        if breaks {
            break_in_places(rng, &mut request);
            break_in_places(rng, &mut response);
        }
        dialogue.client(request);
        if breaks {
            dialogue.server(response);
        } else {
            dialogue.answer(200, response);
        }
    }
    dialogue
}

fn request(rng: &mut Rng, id: u16) -> Vec<u8> {
    let role = if chance(rng, 90) { 1 } else { rng.u8(..5) };
    let keep = rng.u8(..2);
    let mut bytes = record(rng, BEGIN_REQUEST, id, &[0, role, keep, 0, 0, 0, 0, 0]);
    let parameters = parameters(rng);
    stream(rng, &mut bytes, PARAMS, id, &parameters);
    if chance(rng, 5) {
        bytes.extend(record(rng, ABORT_REQUEST, id, &[]));
    }
    let body = if rng.bool() { content(rng) } else { Vec::new() };
    stream(rng, &mut bytes, STDIN, id, &body);
    bytes
}

fn response(rng: &mut Rng, id: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    if chance(rng, 20) {
        let complaint = content_of(rng, 300);
        bytes.extend(record(rng, STDERR, id, &complaint));
    }
    let status = one_of(
        rng,
        &["", "", "Status: 404 Not Found\r\n", "Status: 201\n", "Location: /elsewhere\r\n"],
    );
    let end = one_of(rng, &["\r\n", "\n"]);
    let head = format!("{status}Content-type: text/html\r\nX-Powered-By: {INNER}{end}");
    let page = [head.as_bytes(), &content(rng)].concat();
    stream(rng, &mut bytes, STDOUT, id, &page);
    bytes.extend(record(rng, END_REQUEST, id, &[0; 8]));
    bytes
}

/// What a web server says of a request, and what its client said.
fn parameters(rng: &mut Rng) -> Vec<u8> {
    let mut pairs = Vec::new();
    pair(rng, &mut pairs, "SCRIPT_FILENAME", "/srv/www/index.php");
    let method = one_of(rng, &["GET", "POST", ""]);
    pair(rng, &mut pairs, "REQUEST_METHOD", method);
    let most = one_of(rng, &[4, 30, 400]);
    for _ in 0..rng.usize(..most) {
        let name = header_name(rng).to_ascii_uppercase().replace('-', "_");
        let value = match rng.u8(..20) {
            0 => word(rng, 5_000),
            1 => INNER.into(),
            _ => header_value(rng),
        };
        pair(rng, &mut pairs, &format!("HTTP_{name}"), &value);
    }
    for _ in 0..one_of(rng, &[0, 1, 1, 1, 2]) {
        let value = context(rng);
        let almost = one_of(rng, &["HTTP_TRACEPARENS", "TRACEPARENT"]);
        let name = if chance(rng, 80) { "HTTP_TRACEPARENT" } else { almost };
        pair(rng, &mut pairs, name, &value);
        pair(rng, &mut pairs, "HTTP_AFTER", "it");
    }
    pairs
}

/// A name and a value, with lengths of one byte or four.
fn pair(rng: &mut Rng, pairs: &mut Vec<u8>, name: &str, value: &str) {
    for len in [name.len(), value.len()] {
        match u8::try_from(len) {
            Ok(len @ ..0x80) if !chance(rng, 10) => pairs.push(len),
            _ => pairs.extend((len as u32 | 1 << 31).to_be_bytes()),
        }
    }
    pairs.extend_from_slice(name.as_bytes());
    pairs.extend_from_slice(value.as_bytes());
}

/// `content` in records that end anywhere, and the empty one.
fn stream(rng: &mut Rng, bytes: &mut Vec<u8>, kind: u8, id: u16, content: &[u8]) {
    for part in content.chunks(one_of(rng, &[100, 4_096, 8_000, 65_535])) {
        bytes.extend(record(rng, kind, id, part));
    }
    bytes.extend(record(rng, kind, id, &[]));
}

fn record(rng: &mut Rng, kind: u8, id: u16, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap_or(u16::MAX);
    let padding = if rng.bool() { (8 - len % 8) as u8 % 8 } else { rng.u8(..) };
    let mut record = vec![1, kind];
    record.extend(id.to_be_bytes());
    record.extend(len.to_be_bytes());
    record.extend([padding, 0]);
    record.extend(&content[..len.into()]);
    record.extend(std::iter::repeat_n(b'\n', padding.into()));
    record
}

/// Changes a few bytes, mostly near the front, where lengths and types are.
fn break_in_places(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.usize(..4) {
        let near = one_of(rng, &[24, 200, bytes.len()]).min(bytes.len());
        let at = rng.usize(..near);
        match rng.u8(..3) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes[at] ^= 1 << rng.u8(..8),
            _ => drop(bytes.remove(at)),
        }
    }
}
