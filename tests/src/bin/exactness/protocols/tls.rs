//! Records as TLS 1.3 sends them (RFC 8446 §5), with fragments that look like requests.

use fastrand::Rng;

use super::fill::{INNER, chance, content, noise};
use crate::dialogue::Dialogue;

const HANDSHAKE: u8 = 22;
const CIPHER_CHANGE: u8 = 20;
const DATA: u8 = 23;

/// A handshake and some data, as they look from outside.
pub(super) fn dialogue(rng: &mut Rng) -> Dialogue {
    let mut dialogue = Dialogue::default();
    let mut hello = vec![1, 0, 1, 0xfc, 3, 3];
    hello.extend_from_slice(&noise(rng, 506));
    dialogue.client(record(HANDSHAKE, &hello));
    let len = rng.usize(80..160);
    let answer = noise(rng, len);
    dialogue.server(record(HANDSHAKE, &answer));
    dialogue.server(record(CIPHER_CHANGE, &[1]));
    let len = rng.usize(800..5_000);
    let certificates = noise(rng, len);
    dialogue.server(record(DATA, &certificates));
    dialogue.client(record(CIPHER_CHANGE, &[1]));
    let finished = noise(rng, 53);
    dialogue.client(record(DATA, &finished));
    for _ in 0..rng.usize(1..6) {
        let request = if chance(rng, 30) { INNER.into() } else { content(rng) };
        for piece in request.chunks(16_384) {
            dialogue.client(record(DATA, piece));
        }
        for piece in content(rng).chunks(16_384) {
            dialogue.server(record(DATA, piece));
        }
        dialogue.server(record(DATA, b"end"));
    }
    dialogue
}

fn record(kind: u8, fragment: &[u8]) -> Vec<u8> {
    let len = u16::try_from(fragment.len()).unwrap_or(0).to_be_bytes();
    [&[kind, 3, 3], &len[..], fragment].concat()
}
