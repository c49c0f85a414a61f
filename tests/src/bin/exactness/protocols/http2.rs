//! HTTP/2 with prior knowledge (RFC 9113), and what only begins like it.

use fastrand::Rng;

use super::fill::{INNER, chance, content, noise, one_of};
use crate::dialogue::Dialogue;

const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frames by both ends.
pub(super) fn dialogue(rng: &mut Rng) -> Dialogue {
    let mut dialogue = Dialogue::default();
    if chance(rng, 20) {
        // Less than a preface, or more than one, then anything.
        let part = rng.usize(1..PREFACE.len());
        dialogue.client(&PREFACE[..part]);
        let rest = one_of(rng, &[INNER, PREFACE, "", "\r\n\r\nGET / HTTP/1.1\r\n\r\n"]);
        dialogue.client(rest);
        dialogue.server("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        dialogue.client(INNER);
        return dialogue;
    }
    dialogue.client(PREFACE);
    dialogue.client(frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]));
    dialogue.server(frame(4, 0, 0, &[]));
    dialogue.client(frame(4, 1, 0, &[]));
    for number in 0..rng.u32(1..8) {
        let stream = number * 2 + 1;
        let mut block = vec![0x82, 0x86, 0x84];
        if rng.bool() {
            block.extend_from_slice(b"\x00\x0btraceparenu\x05GET /");
        }
        let len = rng.usize(..200);
        block.extend_from_slice(&noise(rng, len));
        let body = content(rng);
        dialogue.client(frame(1, if body.is_empty() { 5 } else { 4 }, stream, &block));
        for piece in body.chunks(16_384) {
            dialogue.client(frame(0, 0, stream, piece));
        }
        dialogue.server(frame(1, 4, stream, &[0x88]));
        for piece in content(rng).chunks(16_384) {
            dialogue.server(frame(0, 0, stream, piece));
        }
        dialogue.server(frame(0, 1, stream, &[]));
    }
    dialogue.client(frame(7, 0, 0, &[0; 8]));
    dialogue
}

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut frame = len[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}
