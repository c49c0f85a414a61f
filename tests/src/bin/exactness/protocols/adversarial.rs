//! Bytes of no protocol, and HTTP/1.x broken in places.

use fastrand::Rng;

use super::fill::{INNER, content, noise, one_of};
use super::http1;
use crate::dialogue::Dialogue;

/// What streams are put together from.
const SCRAPS: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "GET ",
    "POST ",
    "/",
    " HTTP/1.1",
    " HTTP/1.1\r\n",
    " HTTP/2.0\r\n",
    "\r\n",
    "\r\n\r\n",
    "\r",
    "\n",
    " ",
    "\t",
    ":",
    "Host: a\r\n",
    "traceparent",
    "traceparent: ",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
    "Content-Length: ",
    "Content-Length: 0\r\n",
    "Content-Length: 20\r\n",
    "Transfer-Encoding: chunked\r\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "Upgrade: h2c\r\n",
    "CONNECT a:1 HTTP/1.1\r\n\r\n",
    "\0",
    "\u{ff}",
    INNER,
];

const RESPONSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Noise, text and scraps of requests, in any order, by both ends.
pub(super) fn random(rng: &mut Rng) -> Dialogue {
    let mut dialogue = Dialogue::default();
    for _ in 0..rng.usize(1..6) {
        let bytes = match rng.u8(..4) {
            0 => content(rng),
            1 => {
                let len = rng.usize(1..5_000);
                noise(rng, len)
            }
            _ => scraps(rng),
        };
        dialogue.client(bytes);
        dialogue.server(if rng.bool() { RESPONSE.into() } else { scraps(rng) });
    }
    dialogue
}

fn scraps(rng: &mut Rng) -> Vec<u8> {
    let count = rng.usize(1..40);
    std::iter::repeat_with(|| one_of(rng, SCRAPS).bytes()).take(count).flatten().collect()
}

/// A dialogue in HTTP/1.x with some of its bytes changed, lost, doubled or moved.
pub(super) fn broken(rng: &mut Rng) -> Dialogue {
    let mut dialogue = http1::dialogue(rng);
    // What is answered is no longer told by what is asked.
    dialogue.answers = None;
    damage(rng, &mut dialogue);
    dialogue
}

/// Changes, loses, doubles and moves some bytes.
pub(super) fn damage(rng: &mut Rng, dialogue: &mut Dialogue) {
    let turns = dialogue.turns.len();
    for _ in 0..rng.usize(1..5) {
        let (_, bytes) = &mut dialogue.turns[rng.usize(..turns)];
        if bytes.is_empty() {
            continue;
        }
        // Heads are where it matters, and they come first.
        let near = bytes.len().min(if rng.bool() { 200 } else { usize::MAX });
        let at = rng.usize(..near);
        let end = (at + rng.usize(1..40)).min(bytes.len());
        match rng.u8(..6) {
            0 => bytes[at] = rng.u8(..),
            1 => bytes[at] ^= 1 << rng.u8(..8),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
            4 => drop(bytes.splice(at..at, one_of(rng, SCRAPS).bytes())),
            _ => {
                let moved: Vec<u8> = bytes.drain(at..end).collect();
                let to = rng.usize(..=bytes.len());
                drop(bytes.splice(to..to, moved));
            }
        }
    }
    dialogue.turns.retain(|(_, bytes)| !bytes.is_empty());
}
