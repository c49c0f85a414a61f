//! WebSocket (RFC 6455): a request that is given a header, then frames that are not HTTP.

use fastrand::Rng;

use super::fill::{INNER, chance, content};
use super::http1::exchanges;
use crate::dialogue::Dialogue;

/// An upgrade, accepted or not, and what follows.
pub(super) fn dialogue(rng: &mut Rng) -> Dialogue {
    let mut dialogue = Dialogue::default();
    dialogue.client(
        "GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    if chance(rng, 15) {
        dialogue.answer(426, "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n");
        exchanges(rng, &mut dialogue);
        return dialogue;
    }
    dialogue.answer(
        101,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    for _ in 0..rng.usize(1..8) {
        // A client masks; with a mask of zero its text is there to be misread.
        let mask = if rng.bool() { [0; 4] } else { rng.u32(..).to_be_bytes() };
        let text = if chance(rng, 40) { INNER.into() } else { content(rng) };
        dialogue.client(frame(0x81, Some(mask), &text));
        let text = content(rng);
        dialogue.server(frame(0x82, None, &text));
    }
    dialogue.client(frame(0x88, Some([0; 4]), &[]));
    dialogue.server(frame(0x88, None, &[]));
    dialogue
}

fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(bit | u8::try_from(len).unwrap_or(0)),
        len => {
            frame.push(bit | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(mask.as_ref().map_or(&[][..], |mask| mask));
    let mask = mask.unwrap_or_default();
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
