//! Binary protocols with a length before each message, and requests inside.

use fastrand::Rng;

use super::fill::{INNER, chance, content, one_of, word};
use crate::dialogue::Dialogue;

/// PostgreSQL's messages (its documentation, "Frontend/Backend Protocol").
pub(super) fn postgres(rng: &mut Rng) -> Dialogue {
    let mut dialogue = Dialogue::default();
    if chance(rng, 30) {
        dialogue.client([0, 0, 0, 8, 4, 210, 22, 47]);
        dialogue.server("N");
    }
    let mut startup = vec![0, 3, 0, 0];
    startup.extend_from_slice(b"user\0GET / HTTP/1.1\r\n\r\n\0database\0db\0\0");
    dialogue.client(with_length(&[], &startup, 4));
    dialogue.server(with_length(b"R", &[0, 0, 0, 0], 4));
    dialogue.server(with_length(b"Z", b"I", 4));
    for _ in 0..rng.usize(1..6) {
        let inner = if rng.bool() { INNER.into() } else { content(rng) };
        let query = [b"SELECT '".as_slice(), &inner, b"'\0"].concat();
        dialogue.client(with_length(one_of(rng, &[b"Q", b"P", b"d"]), &query, 4));
        let row = content(rng);
        dialogue.server(with_length(b"D", &row, 4));
        dialogue.server(with_length(b"Z", b"I", 4));
    }
    dialogue.client(with_length(b"X", &[], 4));
    dialogue
}

/// Frames as yamux sends them: streams of HTTP/1.1 within one connection.
pub(super) fn yamux(rng: &mut Rng) -> Dialogue {
    let mut dialogue = Dialogue::default();
    if chance(rng, 15) {
        // A name for the session before the frames, as some tunnels send it.
        let name = word(rng, 20);
        dialogue.client(format!("TUNNEL {name}\n"));
    }
    for number in 0..rng.u32(1..10) {
        let stream = number * 2 + 1;
        dialogue.client(yamux_frame(1, 1, stream, &[]));
        let request = if chance(rng, 70) { INNER.into() } else { content(rng) };
        for piece in request.chunks(one_of(rng, &[7, 4_096, 100_000])).take(300) {
            dialogue.client(yamux_frame(0, 0, stream, piece));
        }
        dialogue.server(yamux_frame(1, 2, stream, &[]));
        let answer = content(rng);
        dialogue.server(yamux_frame(0, 4, stream, &answer));
    }
    dialogue
}

fn yamux_frame(kind: u8, flags: u16, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut head = vec![0, kind];
    head.extend_from_slice(&flags.to_be_bytes());
    head.extend_from_slice(&stream.to_be_bytes());
    with_length(&head, payload, 0)
}

/// `head`, the length of the payload and `more`, and the payload.
fn with_length(head: &[u8], payload: &[u8], more: u32) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(0) + more;
    [head, &len.to_be_bytes(), payload].concat()
}
