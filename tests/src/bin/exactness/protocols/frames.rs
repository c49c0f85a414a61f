//! Frames of HTTP/2 (RFC 9113 §4), and header blocks as clients code them (RFC 7541).

use std::collections::VecDeque;

use fastrand::Rng;

use super::fill::{chance, one_of};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const HAS_PRIORITY: u8 = 0x20;

/// The longest payload that every peer takes, in bytes.
const LONGEST: usize = 16_384;

/// A frame (RFC 9113 §4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block in as many frames as chance or its length wants.
pub(super) fn block(rng: &mut Rng, stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let mut cuts: Vec<usize> = Vec::new();
    if chance(rng, 20) {
        // Any: within a field, before the first, behind the last.
        cuts = (0..rng.usize(1..6)).map(|_| rng.usize(..=block.len())).collect();
        cuts.sort_unstable();
    }
    cuts.push(block.len());
    let (mut bytes, mut at) = (Vec::new(), 0);
    let mut parts = Vec::new();
    for cut in cuts {
        loop {
            // Around the length that leaves no room for a field.
            let end = cut.min(at + LONGEST - rng.usize(..150));
            parts.push(&block[at..end]);
            at = end;
            if at == cut {
                break;
            }
        }
    }
    for (number, part) in parts.iter().enumerate() {
        let ends = if number + 1 == parts.len() { END_HEADERS } else { 0 };
        if number == 0 {
            bytes.extend(head(rng, stream, flags | ends, part));
        } else {
            bytes.extend(frame(CONTINUATION, ends, stream, part));
        }
    }
    bytes
}

/// The first frame of a block, now and then with padding and a priority.
fn head(rng: &mut Rng, stream: u32, mut flags: u8, part: &[u8]) -> Vec<u8> {
    let (mut front, mut back) = (Vec::new(), 0);
    let is_long = part.len() > LONGEST - 300;
    if !is_long && chance(rng, 25) {
        flags |= PADDED;
        let len = one_of(rng, &[0, 1, 7, 68, 69, 70, 255]);
        front.push(len);
        back = usize::from(len);
    }
    if !is_long && chance(rng, 25) {
        flags |= HAS_PRIORITY;
        front.extend([rng.u8(..) & 0x80, 0, 0, 0, rng.u8(..)]);
    }
    frame(HEADERS, flags, stream, &[&front, part, &vec![0; back]].concat())
}

/// A frame of data, now and then padded.
pub(super) fn data(rng: &mut Rng, flags: u8, stream: u32, bytes: &[u8]) -> Vec<u8> {
    if bytes.len() > LONGEST - 300 || !chance(rng, 15) {
        return frame(DATA, flags, stream, bytes);
    }
    let len = rng.u8(..);
    let padded = [&[len], bytes, &vec![0; usize::from(len)]].concat();
    frame(DATA, flags | PADDED, stream, &padded)
}

/// Codes header blocks of one direction, each field in one of the ways there are.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    /// The newest first.
    table: VecDeque<(String, String)>,
    limit: usize,
}

impl Encoder {
    /// An encoder before the first block.
    pub(super) fn new() -> Self {
        Self { table: VecDeque::new(), limit: 4_096 }
    }

    /// Sets the size of the table; only at the start of a block.
    pub(super) fn resize(&mut self, limit: usize, block: &mut Vec<u8>) {
        integer(limit, 5, 0x20, block);
        self.limit = limit;
        self.evict();
    }

    /// Adds a field to a block.
    pub(super) fn field(&mut self, rng: &mut Rng, name: &str, value: &str, block: &mut Vec<u8>) {
        let known = |field: &(String, String)| field.0 == name && field.1 == value;
        if let Some(at) = self.table.iter().position(known)
            && chance(rng, 80)
        {
            return integer(62 + at, 7, 0x80, block);
        }
        let named = self.table.iter().position(|field| field.0 == name);
        let named = named.filter(|_| chance(rng, 70)).map_or(0, |at| 62 + at);
        match rng.u8(..3) {
            0 => {
                integer(named, 6, 0x40, block);
                self.table.push_front((name.into(), value.into()));
                self.evict();
            }
            form => integer(named, 4, (form - 1) << 4, block),
        }
        if named == 0 {
            string(rng, name, block);
        }
        string(rng, value, block);
    }

    fn evict(&mut self) {
        // RFC 7541 §4.1.
        let size = |field: &(String, String)| field.0.len() + field.1.len() + 32;
        while self.table.iter().map(size).sum::<usize>() > self.limit {
            self.table.pop_back();
        }
    }
}

/// An integer whose first byte has so many bits of it (RFC 7541 §5.1).
pub(super) fn integer(value: usize, prefix: u32, form: u8, block: &mut Vec<u8>) {
    let most = (1 << prefix) - 1;
    let low = |value: usize| u8::try_from(value & 0xff).unwrap_or(0);
    if value < most {
        block.push(form | low(value));
        return;
    }
    block.push(form | low(most));
    let mut rest = value - most;
    while rest > 0x7f {
        block.push(0x80 | low(rest & 0x7f));
        rest >>= 7;
    }
    block.push(low(rest));
}

/// A string, Huffman coded or not.
pub(super) fn string(rng: &mut Rng, text: &str, block: &mut Vec<u8>) {
    let coded = if rng.bool() { huffman(text) } else { None };
    if let Some(coded) = coded {
        integer(coded.len(), 7, 0x80, block);
        block.extend(coded);
        return;
    }
    integer(text.len(), 7, 0, block);
    block.extend_from_slice(text.as_bytes());
}

/// The symbols whose codes have 5 to 8 bits, in the order of their codes (RFC 7541 Appendix B),
/// and the first code of each length.
const SYMBOLS: &[(u32, u32, &str)] = &[
    (5, 0, "012aceiost"),
    (6, 0x14, " %-./3456789=A_bdfghlmnpru"),
    (7, 0x5c, ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, 0xf8, "&*,;XZ"),
];

/// `text` in the Huffman code, if all of it has short codes.
pub(super) fn huffman(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    let mut take = |code: u32, len: u32| {
        bits = (bits << len) | code;
        count += len;
        while count >= 8 {
            count -= 8;
            bytes.push((bits >> count).to_le_bytes()[0]);
            bits &= (1 << count) - 1;
        }
        count
    };
    let mut left = 0;
    for symbol in text.chars() {
        let place = |&(len, first, symbols): &(u32, u32, &str)| {
            let at = symbols.find(symbol).and_then(|at| u32::try_from(at).ok());
            at.map(|at| (first + at, len))
        };
        let (code, len) = SYMBOLS.iter().find_map(place)?;
        left = take(code, len);
    }
    if left > 0 {
        // The front of the symbol that ends strings: ones (§5.2).
        take((1 << (8 - left)) - 1, 8 - left);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_by_a_decoder_of_others() {
        let mut rng = Rng::with_seed(1);
        let mut encoder = Encoder::new();
        let mut decoder = loona_hpack::Decoder::new();
        for _ in 0..500 {
            let mut block = Vec::new();
            if chance(&mut rng, 5) {
                let limit = one_of(&mut rng, &[0, 50, 1_000, 4_096]);
                encoder.resize(limit, &mut block);
            }
            let mut fields = Vec::new();
            for _ in 0..rng.usize(1..8) {
                let name = one_of(&mut rng, &["traceparent", "x-a", "cookie", "x_&;%:zZ"]);
                let value = super::super::fill::header_value(&mut rng);
                encoder.field(&mut rng, name, &value, &mut block);
                fields.push((name.as_bytes().to_vec(), value.into_bytes()));
            }
            assert_eq!(decoder.decode(&block).expect("a block"), fields);
        }
        assert_eq!(huffman("traceparent").expect("a code"), b"\x4d\x83\x21\x6b\x1d\x85\xa9\x3f");
    }

    #[test]
    fn every_block_ends_once() {
        let mut rng = Rng::with_seed(2);
        for len in (0..300).chain(16_000..16_500).chain([40_000, 60_000]) {
            let bytes = block(&mut rng, 1, 0, &vec![0x82; len]);
            let mut at = 0;
            let mut ends = 0;
            while let Some([one, two, three, kind, flags, ..]) = bytes.get(at..) {
                let len = u32::from_be_bytes([0, *one, *two, *three]);
                assert_eq!(*kind, if at == 0 { HEADERS } else { CONTINUATION });
                assert_eq!(ends, 0);
                ends += flags & END_HEADERS;
                assert!(len <= 16_384);
                at += 9 + usize::try_from(len).expect("a length");
            }
            assert_eq!((at, ends), (bytes.len(), END_HEADERS));
        }
    }
}
