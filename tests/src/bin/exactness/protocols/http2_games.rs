//! HTTP/2 out of order, amid streams in good order, and what only begins like it.

use fastrand::Rng;

use super::adversarial::damage;
use super::fill::{INNER, chance, content, noise, one_of};
use super::frames::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, huffman, integer,
};
use super::http2::{Client, PREFACE, begin, exchanges, respond};
use crate::dialogue::Dialogue;
use crate::oracle::RECEIVED;

/// `:method`, `:scheme` and `:path`, each as the static table has it.
const PLAIN: &[u8] = &[0x82, 0x86, 0x84];

/// Streams in good order, then something that is not, then streams again.
pub(super) fn dialogue(rng: &mut Rng) -> Dialogue {
    let mut dialogue = Dialogue::default();
    if chance(rng, 30) {
        start(rng, &mut dialogue);
        return dialogue;
    }
    let mut client = begin(rng, &mut dialogue);
    if chance(rng, 60) {
        exchanges(rng, &mut dialogue, &mut client);
    }
    if chance(rng, 25) {
        exchanges(rng, &mut dialogue, &mut client);
        damage(rng, &mut dialogue);
        return dialogue;
    }
    for _ in 0..rng.usize(1..3) {
        dialogue.client(game(rng, &mut client));
        if rng.bool() {
            let stream = client.stream;
            respond(rng, &mut dialogue, stream, true);
            client.stream += 2;
        }
    }
    exchanges(rng, &mut dialogue, &mut client);
    dialogue
}

/// Starts of connections that are none of HTTP/2, or not quite.
fn start(rng: &mut Rng, dialogue: &mut Dialogue) {
    let settings = frame(SETTINGS, 0, 0, &[]);
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, PLAIN);
    match rng.u8(..9) {
        0..=2 => {
            // Less than a preface, or more than one, then anything.
            let part = rng.usize(1..PREFACE.len());
            dialogue.client(&PREFACE[..part]);
            if rng.bool() {
                dialogue.server(&settings);
            }
            let rest = one_of(rng, &[INNER, PREFACE, "", "\r\n\r\nGET / HTTP/1.1\r\n\r\n"]);
            dialogue.client(rest);
            dialogue.client(&settings);
            dialogue.client(&request);
        }
        3 => {
            dialogue.client(PREFACE);
            let len = rng.usize(1..3_000);
            dialogue.client(noise(rng, len));
        }
        4 => {
            // The first frame is another.
            dialogue.client(PREFACE);
            let ack = frame(SETTINGS, 1, 0, &[]);
            let ping = frame(PING, 0, 0, &[0; 8]);
            dialogue.client([&[][..], &ack, &ping][rng.usize(..3)]);
            dialogue.client(&request);
        }
        5 => {
            // A preface with a wrong byte.
            let mut preface = PREFACE.as_bytes().to_vec();
            preface[rng.usize(..PREFACE.len())] ^= 1 << rng.u8(..8);
            dialogue.client(preface);
            dialogue.client(&settings);
            dialogue.client(&request);
        }
        6 => upgrade(rng, dialogue),
        7 => {
            // Another protocol's frames, with requests inside.
            dialogue.client(PREFACE);
            dialogue.client(&settings);
            dialogue.client(yamux(rng));
        }
        _ => {
            dialogue.client(PREFACE);
            dialogue.client(PREFACE);
            dialogue.client(&settings);
            dialogue.client(&request);
        }
    }
    dialogue.server("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    dialogue.client(frame(HEADERS, END_HEADERS | END_STREAM, 3, PLAIN));
    dialogue.client(INNER);
}

/// HTTP/1.1 that becomes HTTP/2, or does not.
fn upgrade(rng: &mut Rng, dialogue: &mut Dialogue) {
    dialogue.client(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    );
    if rng.bool() {
        dialogue.answer(200, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    } else {
        dialogue.answer(
            101,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        );
    }
    let mut client = begin(rng, dialogue);
    exchanges(rng, dialogue, &mut client);
}

fn yamux(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..rng.u8(1..5) {
        let inner = if rng.bool() { INNER.into() } else { content(rng) };
        let len = u32::try_from(inner.len()).unwrap_or(0);
        bytes.extend([0, 0, 0, 1, 0, 0, 0, number * 2 + 1]);
        bytes.extend(len.to_be_bytes());
        bytes.extend(inner);
    }
    bytes
}

/// Something that nobody sends, or hardly anybody.
fn game(rng: &mut Rng, client: &mut Client) -> Vec<u8> {
    let stream = client.stream;
    client.stream += 2;
    let request = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, PLAIN);
    match rng.u8(..14) {
        0..=3 => frame(HEADERS, END_HEADERS | END_STREAM, stream, &odd_block(rng)),
        4..=6 => order(rng, stream),
        7 => size(rng, stream),
        8 => {
            // A length that lies: by little, or by much.
            let mut bytes = request(stream);
            bytes[2] = bytes[2].wrapping_add(one_of(rng, &[1, 2, 69, 200, 255]));
            bytes[1] = one_of(rng, &[0, 0, 1, 0xff]);
            bytes.extend(request(stream + 2));
            client.stream += 2;
            bytes
        }
        9 => yamux(rng),
        10 => INNER.into(),
        11 => {
            // A second head on a stream, and more on one that is over.
            let data = frame(DATA, END_STREAM, stream, b"x");
            [request(stream), request(stream), data, request(stream)].concat()
        }
        12 => {
            let len = rng.usize(..500);
            let kind = rng.u8(0x11..);
            frame(kind, rng.u8(..), rng.u32(..), &noise(rng, len))
        }
        _ => {
            // A context that one block leaves in the table for the next.
            let mut block = [&b"\x40\x0btraceparent\x37"[..], RECEIVED.as_bytes()].concat();
            let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
            let filler = rng.usize(..40);
            block = b"\x40\x01a\x01b".repeat(filler);
            integer(62 + filler, 7, 0x80, &mut block);
            bytes.extend(frames::block(rng, stream + 2, END_STREAM, &block));
            block.clear();
            integer(62 + filler + rng.usize(..2), 4, 0x10, &mut block);
            block.extend(b"\x01x");
            bytes.extend(frames::block(rng, stream + 4, END_STREAM, &block));
            client.stream += 4;
            bytes
        }
    }
}

/// Header blocks that decoders refuse, or have to take care of.
fn odd_block(rng: &mut Rng) -> Vec<u8> {
    let coded = huffman("traceparent").unwrap_or_default();
    let far = rng.usize(62..2_000);
    let mut block = PLAIN.to_vec();
    match rng.u8(..16) {
        // Integers of too many bytes, or just so many.
        0 => block.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        1 => block.extend([0x3f, 0xe1, 0x1f]),
        2 => block.extend(b"\x00\x7f\x80\x80\x80\x80\x80\x00"),
        3 => block.extend(b"\x00\x01a\x7f\x81\x80\x80\x00"),
        // Index 0, and such as were never filled.
        4 => block.push(0x80),
        5 => integer(far, 7, 0x80, &mut block),
        6 => {
            integer(far, 6, 0x40, &mut block);
            block.extend(b"\x01x");
        }
        // Huffman codes with padding of zeroes, too much of it, and the symbol that ends strings.
        7 => block.extend(b"\x00\x01a\x81\x00"),
        8 => {
            block.extend([0, 0x89]);
            block.extend(&coded);
            block.extend(b"\xff\x01x");
        }
        9 => block.extend(b"\x00\x84\xff\xff\xff\xff\x01x"),
        // Strings that end behind the block.
        10 => block.extend(b"\x00\x0btracepar"),
        11 => block.extend(b"\x00\x01a\x7f\xff\x01x"),
        12 => block.extend(b"\x40"),
        // A name in capitals, and none.
        13 => block.extend(b"\x00\x0bTraceparent\x01x"),
        14 => block.extend(b"\x00\x00\x00"),
        // A change of the table's size in the middle, and beyond what was agreed upon.
        _ => {
            integer(one_of(rng, &[0, 100, 5_000, 100_000]), 5, 0x20, &mut block);
            block.extend(PLAIN);
        }
    }
    block
}

/// Frames on streams, or in an order, that are not allowed.
fn order(rng: &mut Rng, stream: u32) -> Vec<u8> {
    let whole = END_HEADERS | END_STREAM;
    let begun = frame(HEADERS, END_STREAM, stream, PLAIN);
    let rest = frame(CONTINUATION, END_HEADERS, stream, PLAIN);
    match rng.u8(..12) {
        0 => frame(HEADERS, whole, stream + 1, PLAIN),
        1 => frame(HEADERS, whole, 0, PLAIN),
        2 => frame(HEADERS, whole, stream.saturating_sub(6) | 1, PLAIN),
        3 => frame(HEADERS, whole, 0x7fff_ffff, PLAIN),
        // The reserved bit is to be passed over.
        4 => frame(HEADERS, whole, stream | 0x8000_0000, PLAIN),
        5 => frame(CONTINUATION, END_HEADERS, stream, PLAIN),
        6 => [begun, frame(DATA, 0, stream, b"x"), rest].concat(),
        7 => [begun, frame(PING, 0, 0, &[0; 8]), rest].concat(),
        8 => [begun, frame(CONTINUATION, END_HEADERS, stream + 2, PLAIN), rest].concat(),
        9 => [begun, frame(0xb, 0, 0, &[]), rest].concat(),
        10 => frame(PUSH_PROMISE, END_HEADERS, stream, &[0, 0, 0, 2, 0x82]),
        _ => begun,
    }
}

/// Frames of sizes, or on streams, that are not theirs.
fn size(rng: &mut Rng, stream: u32) -> Vec<u8> {
    let len = rng.usize(..12);
    let payload = noise(rng, len);
    let kind = one_of(rng, &[PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE]);
    match rng.u8(..6) {
        0..=2 => frame(kind, rng.u8(..2), one_of(rng, &[0, stream]), &payload),
        3 => frame(DATA, 0x8, stream, &[200, 1, 2, 3]),
        4 => frame(HEADERS, END_HEADERS | 0x28, stream, &[3, 0, 0, 0, 0, 9, 0x82]),
        _ => frame(DATA, 0, stream, &vec![b'x'; rng.usize(16_000..40_000)]),
    }
}
