//! Writes header blocks and streams at random, in every way that the specifications allow.

use crate::machine::Noise;
use loona_hpack::Decoder;
use std::collections::VecDeque;
use tracewire_common::outcome::HeadKind;
use tracewire_common::parse::http2::PREFACE;

const NAMES: [&str; 9] = [
    "traceparent",
    "traceparent",
    "traceparent",
    "tracestate",
    "traceparens",
    "uraceparent",
    "elastic-apm-traceparent",
    "x",
    "",
];

/// A name and a value.
type Pair = (Vec<u8>, Vec<u8>);

/// An encoder of header blocks, which uses its table at random.
pub(super) struct Encoder {
    noise: Noise,
    /// The newest first, as the receiver has it.
    table: VecDeque<Pair>,
    /// What its entries add up to, and the most that they may.
    size: usize,
    max: usize,
    /// The most that the receiver allows.
    allowed: usize,
    is_new: bool,
}

impl Encoder {
    pub(super) fn new(seed: u64, allowed: usize) -> Self {
        Self {
            noise: Noise::new(seed),
            table: VecDeque::new(),
            size: 0,
            max: 4096,
            allowed,
            is_new: true,
        }
    }

    pub(super) fn entries(&self) -> usize {
        self.table.len()
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.noise.draw().is_multiple_of(many)
    }

    fn below(&mut self, end: usize) -> usize {
        self.noise.draw() as usize % end
    }

    /// The next header block, and the fields that it stands for.
    pub(super) fn block(&mut self, most: usize) -> (Vec<u8>, Vec<Pair>) {
        let (mut out, mut list) = (Vec::new(), Vec::new());
        // A large table needs time to fill.
        let large = self.allowed > 4096;
        let is_first = std::mem::take(&mut self.is_new) && large;
        if is_first || self.one_in(if large { 1000 } else { 12 }) {
            for _ in 0..1 + self.below(2) {
                self.max = [0, 32, 90, 200, 1000, 4096][self.below(6)];
                self.integer(&mut out, 0x20, 0x1f, self.max);
                self.evict(0);
            }
            if large || self.one_in(2) {
                self.max = self.allowed;
                self.integer(&mut out, 0x20, 0x1f, self.max);
            }
        }
        for _ in 0..1 + self.below(most) {
            let field = self.field(&mut out);
            list.push(field);
        }
        (out, list)
    }

    fn field(&mut self, out: &mut Vec<u8>) -> Pair {
        if self.one_in(5) {
            let index = 1 + self.below(61);
            self.integer(out, 0x80, 0x7f, index);
            return static_entry(index);
        }
        if !self.table.is_empty() && self.one_in(2) {
            // The traceparents among them, or any.
            let those = |entry: &Pair| entry.0 == b"traceparent";
            let mut back = self.below(self.table.len());
            if self.one_in(2) {
                let skipped = self.below(6);
                let places = self.table.iter().enumerate().filter(|(_, entry)| those(entry));
                back = places.map(|(at, _)| at).nth(skipped).unwrap_or(back);
            }
            self.integer(out, 0x80, 0x7f, 62 + back);
            return self.table[back].clone();
        }
        let (first, mask) = [(0x40, 0x3f), (0x40, 0x3f), (0, 0x0f), (0x10, 0x0f)][self.below(4)];
        let mut name = NAMES[self.below(NAMES.len())].as_bytes().to_vec();
        let mut index = 0;
        if self.one_in(8) {
            index = 1 + self.below(61);
            name = static_entry(index).0;
        } else if self.one_in(2) {
            let wanted = name.clone();
            let same: Vec<usize> =
                (0..self.table.len()).filter(|back| self.table[*back].0 == wanted).collect();
            if !same.is_empty() {
                index = 62 + same[self.below(same.len())];
            }
        }
        self.integer(out, first, mask, index);
        if index == 0 {
            self.string(out, &name);
        }
        let value = self.value();
        self.string(out, &value);
        if first == 0x40 {
            let room = name.len() + value.len() + 32;
            self.evict(room);
            if room <= self.max {
                self.size += room;
                self.table.push_front((name.clone(), value.clone()));
            }
        }
        (name, value)
    }

    /// Makes room for so much.
    fn evict(&mut self, room: usize) {
        while self.size + room > self.max {
            let Some((name, value)) = self.table.pop_back() else { break };
            self.size -= name.len() + value.len() + 32;
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let context = format!(
            "00-{:016x}{:016x}-{:016x}-{:02x}",
            self.noise.draw(),
            self.noise.draw(),
            self.noise.draw(),
            self.noise.draw() as u8
        );
        let mut value = context.into_bytes();
        match self.below(12) {
            0 => {
                let at = self.below(value.len());
                value[at] = self.noise.draw() as u8;
            }
            1 => {
                value[..2].copy_from_slice([b"cc", b"ff", b"01"][self.below(3)]);
                // As long as is read, and longer.
                let (longest, longer) = ([b'-'; 201], [b'-'; 202]);
                let tail =
                    [&b"-"[..], b"-0a", b"-what the future brings", b"x", b"", &longest, &longer];
                value.extend_from_slice(tail[self.below(7)]);
            }
            2 => value.splice(..0, b"0123-ab"[..self.below(7)].iter().copied()).for_each(drop),
            3 => value.truncate(self.below(55)),
            4 => {
                let len = [3, 126, 127, 128, 255, 256, 257, 300, 5000][self.below(9)];
                value = (0..len).map(|_| b"0a-xyz"[self.below(6)]).collect();
            }
            5 => value = [b"  ", value.as_slice(), b"\t"].concat(),
            6 | 7 => value.truncate(2),
            _ => {}
        }
        value
    }

    fn string(&mut self, out: &mut Vec<u8>, bytes: &[u8]) {
        if self.one_in(2) {
            self.integer(out, 0, 0x7f, bytes.len());
            out.extend_from_slice(bytes);
        } else {
            let mut coded = Vec::new();
            httlib_huffman::encode(bytes, &mut coded).expect("every byte has a code");
            self.integer(out, 0x80, 0x7f, coded.len());
            out.extend_from_slice(&coded);
        }
    }

    /// RFC 7541 §5.1, at times with zeros that could be left out.
    fn integer(&mut self, out: &mut Vec<u8>, first: u8, mask: u8, value: usize) {
        let Some(mut rest) = value.checked_sub(usize::from(mask)) else {
            out.push(first | value as u8);
            return;
        };
        out.push(first | mask);
        let start = out.len();
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
        // Decoders take no more than four bytes behind the first.
        while out.len() < start + 4 && self.one_in(8) {
            *out.last_mut().expect("a byte was put there") |= 0x80;
            out.push(0);
        }
    }
}

fn static_entry(index: usize) -> Pair {
    let mut list = Decoder::new().decode(&[0x80 | index as u8]).expect("a static entry");
    list.remove(0)
}

/// A frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The start of a direction.
pub(super) fn start(kind: HeadKind) -> Vec<u8> {
    let preface: &[u8] = if kind == HeadKind::Request { PREFACE } else { &[] };
    [preface, &frame(4, 0, 0, &[0, 3, 0, 0, 0, 9])].concat()
}

/// A legal stream of about so many frames.
pub(super) fn stream(kind: HeadKind, seed: u64, frames: usize, encoder: &mut Encoder) -> Vec<u8> {
    let mut noise = Noise::new(seed);
    let mut bytes = start(kind);
    for _ in 0..frames {
        bytes.extend(exchange(kind, &mut noise, encoder));
    }
    bytes
}

/// A frame, or those of a header block.
pub(super) fn exchange(kind: HeadKind, noise: &mut Noise, encoder: &mut Encoder) -> Vec<u8> {
    let mut below = |end: u64| noise.draw() % end;
    let mut id = 2 * below(1000) as u32 + 1;
    if kind == HeadKind::Response && below(4) == 0 {
        id += 1;
    }
    // The highest bit of an id is reserved, and means nothing.
    let reserved = if below(8) == 0 { 1 << 31 } else { 0 };
    let end_stream = below(2) as u8;
    let some = |len: u64| vec![5; len as usize];
    match below(10) {
        0 => {
            let len = [0, 1, 100, 3000][below(4) as usize];
            let mut payload = some(len);
            let mut flags = end_stream;
            if below(3) == 0 {
                let padding = below(256);
                payload.insert(0, padding as u8);
                payload.extend(some(padding));
                flags |= 8;
            }
            frame(0, flags, id | reserved, &payload)
        }
        1 => frame(3, 0, id, &(below(14) as u32).to_be_bytes()),
        2 => frame(4, 1, 0, &[]),
        3 => {
            let kind = [2, 6, 7, 8, 0xa, 0xc, 0x10, 0x4d, 0xff][below(9) as usize];
            // RFC 9113 §6: how long it is, and whether on a stream.
            let (len, stream) = match kind {
                2 => (5, id),
                6 => (8, 0),
                7 => (8 + below(20), 0),
                8 => (4, below(4) as u32),
                _ => (below(20), below(4) as u32),
            };
            frame(kind, below(256) as u8, reserved | stream, &some(len))
        }
        _ => {
            let (block, _) = encoder.block(5);
            let is_promise = kind == HeadKind::Response && below(4) == 0;
            // Flags that mean nothing here may be set as well.
            let mut flags = end_stream | (below(256) as u8 & 0xd2);
            let mut before = Vec::new();
            let mut behind = Vec::new();
            if below(3) == 0 {
                behind = some([0, 1, 9, 255][below(4) as usize]);
                before.push(behind.len() as u8);
                flags |= 8;
            }
            if is_promise {
                flags |= below(2) as u8 * 0x20;
                before.extend([0, 0, 0, 2]);
            } else if below(3) == 0 {
                flags |= 0x20;
                before.extend([0x80, 0, 0, 3, 16]);
            }
            let mut cuts: Vec<usize> =
                (0..below(4)).map(|_| below(block.len() as u64 + 1) as usize).collect();
            cuts.extend([0, block.len()]);
            cuts.sort_unstable();
            let mut bytes = Vec::new();
            for (number, cut) in cuts.windows(2).enumerate() {
                let is_last = number + 2 == cuts.len();
                let end = if is_last { 4 } else { 0 };
                let part = &block[cut[0]..cut[1]];
                if number == 0 {
                    let payload = [&before, part, &behind].concat();
                    let kind = if is_promise { 5 } else { 1 };
                    bytes.extend(frame(kind, flags & !4 | end, id | reserved, &payload));
                } else {
                    let flags = below(256) as u8 & !4;
                    bytes.extend(frame(9, flags | end, id, part));
                }
            }
            bytes
        }
    }
}
