//! An encoder for tests, which uses every form that RFC 7541 has, as chance will have it.

use super::huffman::LENGTHS;
use super::static_table::ENTRIES;
use std::collections::VecDeque;

/// Numbers that look random and are the same in every run (xorshift64).
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}

/// An encoder and its table.
pub(crate) struct Encoder {
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
    limit: usize,
    update: Option<usize>,
    pub(crate) noise: Noise,
}

impl Encoder {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            table: VecDeque::new(),
            limit: 4096,
            update: None,
            noise: Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        }
    }

    /// Changes the size of the table, with the next block.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.update = Some(limit);
        self.evict();
    }

    pub(crate) fn encode(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(limit) = self.update.take() {
            integer(&mut out, 0x20, 5, limit);
        }
        for (name, value) in fields {
            self.field(&mut out, name.as_bytes(), value.as_bytes());
        }
        out
    }

    fn field(&mut self, out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        let entries = || {
            let fixed = ENTRIES.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            fixed.chain(self.table.iter().map(|(name, value)| (&name[..], &value[..])))
        };
        let with = |matches: &dyn Fn(&[u8], &[u8]) -> bool| -> Vec<usize> {
            let all = entries().enumerate().filter(|(_, entry)| matches(entry.0, entry.1));
            all.map(|(at, _)| at + 1).collect()
        };
        let whole = with(&|n, v| n == name && v == value);
        let named = with(&|n, _| n == name);
        if !whole.is_empty() && self.noise.below(8) != 0 {
            integer(out, 0x80, 7, whole[self.noise.below(whole.len())]);
            return;
        }
        let (pattern, prefix) = [(0x40, 6), (0x40, 6), (0x00, 4), (0x10, 4)][self.noise.below(4)];
        if named.is_empty() || self.noise.below(8) == 0 {
            integer(out, pattern, prefix, 0);
            self.string(out, name);
        } else {
            integer(out, pattern, prefix, named[self.noise.below(named.len())]);
        }
        self.string(out, value);
        if pattern == 0x40 {
            self.table.push_front((name.to_vec(), value.to_vec()));
            self.evict();
        }
    }

    fn evict(&mut self) {
        let size = |(name, value): &(Vec<u8>, Vec<u8>)| name.len() + value.len() + 32;
        while self.table.iter().map(size).sum::<usize>() > self.limit {
            self.table.pop_back();
        }
    }

    fn string(&mut self, out: &mut Vec<u8>, text: &[u8]) {
        if self.noise.below(2) == 0 {
            let coded = huffman(text);
            integer(out, 0x80, 7, coded.len());
            out.extend(coded);
        } else {
            integer(out, 0, 7, text.len());
            out.extend(text);
        }
    }
}

pub(crate) fn integer(out: &mut Vec<u8>, pattern: u8, prefix: u32, value: usize) {
    let most = (1 << prefix) - 1;
    if value < most {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

pub(crate) fn huffman(text: &[u8]) -> Vec<u8> {
    let mut order: Vec<usize> = (0..LENGTHS.len()).collect();
    order.sort_by_key(|&symbol| (LENGTHS[symbol], symbol));
    let (mut codes, mut next, mut length) = ([0u32; 257], 0u32, 0);
    for symbol in order {
        next <<= LENGTHS[symbol] - length;
        length = LENGTHS[symbol];
        codes[symbol] = next;
        next += 1;
    }
    let mut bits: Vec<bool> = Vec::new();
    for &byte in text {
        let byte = usize::from(byte);
        bits.extend((0..LENGTHS[byte]).rev().map(|bit| codes[byte] >> bit & 1 == 1));
    }
    let byte = |bits: &[bool]| {
        (0..8).fold(0, |byte, at| byte << 1 | u8::from(bits.get(at).copied().unwrap_or(true)))
    };
    bits.chunks(8).map(byte).collect()
}
