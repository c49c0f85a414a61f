//! HTTP/2 with prior knowledge (RFC 9113), as clients and servers send it.

use fastrand::Rng;

use super::fill::{
    chance, content, content_of, context, header_name, header_value, noise, one_of, word,
};
use super::frames::{
    self, DATA, END_STREAM, Encoder, GOAWAY, HEADERS, PING, PRIORITY, PUSH_PROMISE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, frame,
};
use crate::dialogue::Dialogue;

pub(super) const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const ACK: u8 = 0x1;

/// A client that talks.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// Its next stream.
    pub(super) stream: u32,
    /// What codes its header blocks.
    pub(super) encoder: Encoder,
}

/// Streams, many of them at once.
pub(super) fn dialogue(rng: &mut Rng) -> Dialogue {
    let mut dialogue = Dialogue::default();
    let mut client = begin(rng, &mut dialogue);
    exchanges(rng, &mut dialogue, &mut client);
    if rng.bool() {
        dialogue.client(frame(GOAWAY, 0, 0, &[0; 8]));
    }
    dialogue
}

/// The preface, and settings of both ends.
pub(super) fn begin(rng: &mut Rng, dialogue: &mut Dialogue) -> Client {
    let mut client = Client { stream: 1, encoder: Encoder::new() };
    dialogue.client(PREFACE);
    let settings = [[0, 3, 0, 0, 0, 100], [0, 4, 0, 1, 0, 0], [0, 2, 0, 0, 0, 0]];
    let count = rng.usize(..=settings.len());
    dialogue.client(frame(SETTINGS, 0, 0, settings[..count].as_flattened()));
    if rng.bool() {
        dialogue.client(frame(WINDOW_UPDATE, 0, 0, &[0, 0x7f, 0, 0]));
    }
    if rng.bool() {
        // Requests need not wait for the server's settings.
        request(rng, dialogue, &mut client);
    }
    dialogue.server(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]));
    dialogue.server(frame(SETTINGS, ACK, 0, &[]));
    dialogue.client(frame(SETTINGS, ACK, 0, &[]));
    client
}

/// Requests and responses.
pub(super) fn exchanges(rng: &mut Rng, dialogue: &mut Dialogue, client: &mut Client) {
    for _ in 0..rng.usize(1..6) {
        let first = client.stream;
        let at_once = if chance(rng, 20) { rng.usize(2..30) } else { 1 };
        for _ in 0..at_once {
            request(rng, dialogue, client);
            if chance(rng, 20) {
                dialogue.client(between(rng, first));
            }
        }
        for stream in (first..client.stream).step_by(2) {
            respond(rng, dialogue, stream, at_once == 1);
        }
    }
}

/// A request: head, contents, now and then trailers.
fn request(rng: &mut Rng, dialogue: &mut Dialogue, client: &mut Client) {
    let stream = client.stream;
    client.stream += if chance(rng, 10) { 2 * rng.u32(1..50) } else { 2 };
    let body = if chance(rng, 40) { Vec::new() } else { some_content(rng) };
    let ends = if body.is_empty() { END_STREAM } else { 0 };
    let block = head(rng, client);
    dialogue.client(frames::block(rng, stream, ends, &block));
    if body.is_empty() {
        return;
    }
    let has_trailers = chance(rng, 20);
    let step = one_of(rng, &[16_384, 16_384, 1_000]);
    let pieces: Vec<&[u8]> = body.chunks(step).collect();
    for (number, piece) in pieces.iter().enumerate() {
        let is_last = number + 1 == pieces.len() && !has_trailers;
        dialogue.client(frames::data(rng, u8::from(is_last), stream, piece));
        if chance(rng, 3) {
            dialogue.client(between(rng, stream));
        }
    }
    if has_trailers {
        let mut block = Vec::new();
        let fields = [("grpc-status", "0"), ("x-checksum", "abc")];
        for (name, value) in &fields[..rng.usize(1..=2)] {
            client.encoder.field(rng, name, value, &mut block);
        }
        dialogue.client(frames::block(rng, stream, END_STREAM, &block));
    }
}

/// Now and then the largest there is; seldom, as it takes its time.
fn some_content(rng: &mut Rng) -> Vec<u8> {
    if chance(rng, 1) { content_of(rng, 1 << 20) } else { content(rng) }
}

/// The header block of a request.
fn head(rng: &mut Rng, client: &mut Client) -> Vec<u8> {
    let mut block = Vec::new();
    let encoder = &mut client.encoder;
    if chance(rng, 4) {
        encoder.resize(one_of(rng, &[0, 100, 1_000, 4_096]), &mut block);
        if rng.bool() {
            encoder.resize(4_096, &mut block);
        }
    }
    // GET or POST, http, /: of the static table.
    block.extend([one_of(rng, &[0x82, 0x83]), 0x86, 0x84]);
    encoder.field(rng, ":authority", "example.test", &mut block);
    for _ in 0..rng.usize(..6) {
        let name = if chance(rng, 60) {
            one_of(rng, &["user-agent", "accept", "cookie", "te", "x-trace", "tracestate"]).into()
        } else {
            header_name(rng).to_ascii_lowercase()
        };
        let value = if rng.bool() { "some/value".into() } else { header_value(rng) };
        encoder.field(rng, &name, &value, &mut block);
    }
    if chance(rng, 15) {
        let value = context(rng);
        encoder.field(rng, "traceparent", &value, &mut block);
    }
    if chance(rng, 5) {
        let wanted = rng.usize(1_000..61_000);
        let len = one_of(rng, &[1, 20, 900, 9_000]);
        while block.len() < wanted {
            let value = word(rng, len);
            encoder.field(rng, "x-filler", &value, &mut block);
        }
    }
    if chance(rng, 3) {
        // What indexed fields alone make: a byte each.
        block.extend(vec![0x90; rng.usize(..6_000)]);
    }
    block
}

/// A frame that may come between any two others.
fn between(rng: &mut Rng, stream: u32) -> Vec<u8> {
    let len = rng.usize(..300);
    match rng.u8(..8) {
        0 => frame(PING, rng.u8(..2), 0, &noise(rng, 8)),
        1 => frame(WINDOW_UPDATE, 0, one_of(rng, &[0, stream]), &[0, 0, 4, 0]),
        2 => frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        3 => frame(PRIORITY, 0, stream + 100, &[0, 0, 0, 0, 16]),
        4 => frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]),
        5 => frame(0x10, 0, 0, b"\0\0\0\x01u=3"),
        // Of types that nobody knows.
        6 => frame(rng.u8(0xa..0x10), rng.u8(..), rng.u32(..) >> 1, &noise(rng, len)),
        _ => frame(0xa, 0, 0, &content_of(rng, len)),
    }
}

/// The response on a stream, by a server that codes its blocks without a table.
pub(super) fn respond(rng: &mut Rng, dialogue: &mut Dialogue, stream: u32, may_be_long: bool) {
    if chance(rng, 3) {
        let promise = [&[0, 0, 0, 2][..], &[0x82, 0x86, 0x84]].concat();
        dialogue.server(frame(PUSH_PROMISE, 4, stream, &promise));
    }
    let mut block = vec![0x88];
    if chance(rng, 20) {
        block.extend(b"\x00\x0btraceparent\x05GET /");
    }
    let body = if may_be_long { content(rng) } else { noise(rng, 40) };
    dialogue.server(frame(HEADERS, if body.is_empty() { 5 } else { 4 }, stream, &block));
    for piece in body.chunks(16_384) {
        dialogue.server(frame(DATA, 0, stream, piece));
    }
    if !body.is_empty() {
        dialogue.server(frame(HEADERS, 5, stream, b"\x00\x0bgrpc-status\x010"));
    }
}
