//! The Huffman code of HPACK (RFC 7541 §5.2 and appendix B).
//!
//! The code is canonical: shorter codes come first, and codes of one length are in the order
//! of their symbols. So the lengths are all that is written down here, and the tables are
//! made of them when this is compiled.

use super::Stop;

/// The symbol that ends a string; it never stands in one, only its front as padding.
const END: u16 = 256;
/// Symbols, [`END`] among them.
const SYMBOLS: usize = 257;
/// Bits of the longest code.
const LONGEST: usize = 30;

/// Bits of each symbol's code (RFC 7541 appendix B), in the order of the symbols.
#[rustfmt::skip]
pub(super) const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// The code, in the forms in which it is looked up.
struct Code {
    /// Symbols in the order of their codes.
    symbols: [u16; SYMBOLS],
    /// By length: the first code of that length.
    first: [u32; LONGEST + 1],
    /// By length: where that code's symbol is among `symbols`.
    index: [u16; LONGEST + 1],
    /// By length: how many codes have it.
    count: [u16; LONGEST + 1],
    /// By the next eight bits: symbol and length of a code of at most eight; length 0 for longer.
    short: [(u8, u8); 256],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code = Code {
        symbols: [0; SYMBOLS],
        first: [0; LONGEST + 1],
        index: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        short: [(0, 0); 256],
    };
    let (mut next, mut at, mut length) = (0u32, 0, 1);
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = next;
        code.index[length] = at as u16;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                code.symbols[at] = symbol as u16;
                if length <= 8 {
                    let mut rest = 0;
                    while rest < 1 << (8 - length) {
                        let bits = ((next as usize) << (8 - length)) + rest;
                        code.short[bits] = (symbol as u8, length as u8);
                        rest += 1;
                    }
                }
                code.count[length] += 1;
                at += 1;
                next += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    // A code that leaves no sequence of bits without a meaning: else `next` could find none.
    assert!(next == 1 << LONGEST && at == SYMBOLS);
    code
}

/// The symbol that the bits begin with, and the length of its code.
fn next(bits: u64) -> (u16, u32) {
    let (symbol, length) = CODE.short[(bits >> 56) as usize];
    if length != 0 {
        return (u16::from(symbol), u32::from(length));
    }
    for length in 9..LONGEST {
        let offset = ((bits >> (64 - length)) as u32).wrapping_sub(CODE.first[length]);
        if offset < u32::from(CODE.count[length]) {
            return (CODE.symbols[CODE.index[length] as usize + offset as usize], length as u32);
        }
    }
    // The code is complete, so what is no shorter code is one of the longest.
    let offset = ((bits >> (64 - LONGEST)) as u32).wrapping_sub(CODE.first[LONGEST]);
    let at = CODE.index[LONGEST] as usize + offset as usize;
    (CODE.symbols.get(at).copied().unwrap_or(END), LONGEST as u32)
}

/// Hands every decoded byte to `sink`. The work is bounded by the bits of `bytes`, and at most
/// 8/5 as many bytes come out as there are in it.
pub(super) fn decode(bytes: &[u8], mut sink: impl FnMut(u8)) -> Result<(), Stop> {
    let mut input = bytes.iter();
    let (mut bits, mut held) = (0u64, 0u32);
    loop {
        while held <= 56 {
            let Some(&byte) = input.next() else { break };
            bits |= u64::from(byte) << (56 - held);
            held += 8;
        }
        if held == 0 {
            return Ok(());
        }
        // Padding is the front of the symbol that ends strings, all ones: so ones are put after it.
        let (symbol, length) = next(bits | u64::MAX.checked_shr(held).unwrap_or(0));
        if length > held {
            // RFC 7541 §5.2: padding is of ones, and shorter than a byte.
            let padding = bits >> (64 - held);
            let is_padding = held < 8 && padding == (1 << held) - 1;
            return if is_padding { Ok(()) } else { Err(Stop::Invalid) };
        }
        let Ok(byte) = u8::try_from(symbol) else {
            return Err(Stop::Invalid);
        };
        sink(byte);
        bits <<= length;
        held -= length;
    }
}
