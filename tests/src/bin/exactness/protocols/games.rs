//! HTTP/1.x with the liberties that readers read differently, amid requests in good order.

use fastrand::Rng;

use super::fill::{INNER, chance, content, one_of, word};
use super::http1::{chunked, exchanges, respond};
use crate::dialogue::Dialogue;

/// Requests in good order, then one with a liberty, then requests in good order again.
pub(super) fn dialogue(rng: &mut Rng) -> Dialogue {
    let mut dialogue = Dialogue::default();
    if chance(rng, 60) {
        exchanges(rng, &mut dialogue);
    }
    match rng.u8(..10) {
        0..=6 => {
            dialogue.client(liberty(rng));
            respond(rng, &mut dialogue, false);
        }
        7 => {
            dialogue.client(long_head(rng));
            respond(rng, &mut dialogue, false);
        }
        8 => connect(rng, &mut dialogue),
        _ => {
            // A head that never ends.
            let len = one_of(rng, &[10, 1_000, 70_000, 1_200_000]);
            dialogue.client("GET /endless HTTP/1.1\r\nHost: a\r\n");
            dialogue.client("X-More: and more\r\n".repeat(len / 18 + 1));
            return dialogue;
        }
    }
    if chance(rng, 70) {
        exchanges(rng, &mut dialogue);
    }
    dialogue
}

fn liberty(rng: &mut Rng) -> Vec<u8> {
    let body = content(rng);
    let len = body.len();
    let chunks = chunked(rng, &body);
    let heads: &[&str] = &[
        // Empty lines before the request line.
        "\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        "\n\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\rGET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        // Bare line feeds.
        "GET /a HTTP/1.1\nHost: a\n\n",
        "GET /a HTTP/1.1\r\nHost: a\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\n\n",
        "GET /a HTTP/1.1\nHost: a\r\n\r\n",
        "GET /a HTTP/1.1\r\n\n",
        // Bare carriage returns.
        "GET /a HTTP/1.1\rHost: a\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\n\r\r\n",
        "GET /a HTTP/1.1\r\n\r\rGET /b HTTP/1.1\r\n\r\n",
        // Blanks where none should be.
        "GET /a HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /a HTTP/1.1\r\nContent-Length : 0\r\n\r\n",
        "GET /a HTTP/1.1\r\ntraceparent : x\r\n\r\n",
        "GET /a HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\n\tfolded: x\r\n\r\n",
        "GET /a HTTP/1.1\r\nX: a\r\n traceparent: x\r\n\r\n",
        "GET  /a  HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a HTTP/1.1 \r\nHost: a\r\n\r\n",
        " GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        // Odd lines and versions.
        "GET /a HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET /a HTTP/1.9\r\nHost: a\r\n\r\n",
        "GET /a HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET /a\r\n\r\n",
        "get /a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a HTTP/1.1\r\nno colon here\r\n\r\n",
        "GET /a HTTP/1.1\r\n: no name\r\n\r\n",
        "GET /a HTTP/1.1\r\nbad name: a\r\nb@d: x\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        // Trace contexts of its own.
        "GET /a HTTP/1.1\r\ntraceparent:\r\n\r\n",
        "GET /a HTTP/1.1\r\ntraceparent\r\n\r\n",
        "GET /a HTTP/1.1\r\nTRACEPARENT: x\r\ntraceparent: y\r\n\r\n",
        "GET /a HTTP/1.1\r\ntraceparent:00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
        // Lengths that fight.
        "GET /a HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        "GET /a HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
        "GET /a HTTP/1.1\r\nContent-Length: 0, 0\r\n\r\n",
        "GET /a HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "GET /a HTTP/1.1\r\nContent-Length: +0\r\n\r\n",
        "GET /a HTTP/1.1\r\nContent-Length:\r\n\r\n",
        "GET /a HTTP/1.1\r\nContent-Length: 0x0\r\n\r\n",
        "GET /a HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n",
        "GET /a HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "GET /a HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        "GET /a HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\n\n",
        "GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n",
        "GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n\r\n",
    ];
    let with_body = [
        format!("POST /a HTTP/1.1\r\nContent-Length: {len}\r\nContent-Length: {len}\r\n\r\n"),
        format!("POST /a HTTP/1.1\r\ncontent-length: {len}\r\nTransfer-Encoding: chunked\r\n\r\n"),
        format!("POST /a HTTP/1.1\r\nContent-Length: {}\r\n\r\n", len + INNER.len()),
        format!("POST /a HTTP/1.1\r\nContent-Length: 000{len}\r\n\r\n"),
        format!("POST /a HTTP/1.1\nContent-Length: {len}\r\n\r\n"),
    ];
    match rng.u8(..12) {
        0 => [with_body[rng.usize(..with_body.len())].as_bytes(), &body].concat(),
        1 => {
            let head = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n";
            [head.as_bytes(), &chunks].concat()
        }
        _ => one_of(rng, heads).as_bytes().to_vec(),
    }
}

/// A head around the sizes where something changes.
fn long_head(rng: &mut Rng) -> String {
    let around = one_of(rng, &[1_024, 4_096, 16_384, 32_768, 65_536, 131_072, 1_048_576]);
    let wanted = (around - 100) + rng.usize(..200);
    let mut head = String::from("GET /long HTTP/1.1\r\nHost: a\r\n");
    let line = one_of(rng, &[60, 900, 9_000]);
    while head.len() + line + 20 < wanted {
        head += "X-Filler: ";
        head += &word(rng, line);
        head += "\r\n";
    }
    let rest = wanted.saturating_sub(head.len() + 11);
    head += "X-Pad: ";
    head += &word(rng, rest);
    head += "\r\n\r\n";
    head
}

fn connect(rng: &mut Rng, dialogue: &mut Dialogue) {
    dialogue.client("CONNECT example.test:443 HTTP/1.1\r\nHost: example.test:443\r\n\r\n");
    if rng.bool() {
        dialogue.answer(407, "HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n");
        return;
    }
    dialogue.answer(200, "HTTP/1.1 200 Connection established\r\n\r\n");
    for _ in 0..rng.usize(1..4) {
        dialogue.client(if rng.bool() { INNER.into() } else { content(rng) });
        dialogue.server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
}
