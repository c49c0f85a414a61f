//! The Huffman code of HPACK (RFC 7541 Appendix B), as far as a trace context needs it: digits,
//! the letters to `f`, and the dash, which have codes of five and six bits.

use crate::parse::traceparent::TraceparentValue;

/// `traceparent`, coded: 59 bits and five of padding; as eight bytes that were read, the first in
/// the lowest byte.
pub(super) const NAME: u64 = {
    let codes: [(u64, u32); 11] = [
        (0b01001, 5),
        (0b101100, 6),
        (0b00011, 5),
        (0b00100, 5),
        (0b00101, 5),
        (0b101011, 6),
        (0b00011, 5),
        (0b101100, 6),
        (0b00101, 5),
        (0b101010, 6),
        (0b01001, 5),
    ];
    let mut bits = 0;
    let mut at = 0;
    while at < codes.len() {
        bits = (bits << codes[at].1) | codes[at].0;
        at += 1;
    }
    // The padding is the front of the end-of-string symbol: ones (§5.2).
    ((bits << 5) | 0b11111).swap_bytes()
};

/// Bits that came, and were no whole symbol yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Bits {
    /// The lowest so many.
    bits: u32,
    count: u32,
}

impl Bits {
    /// Takes a byte of a coded value, and gives the symbols that it completes to `value`.
    #[inline(always)]
    pub(super) fn take(&mut self, byte: u8, is_last: bool, value: &mut TraceparentValue) {
        // Five bits are left over at most: two symbols, and fewer than five bits, are in it.
        self.bits = ((self.bits & 0xff) << 8) | byte as u32;
        self.count += 8;
        self.take_symbol(is_last, value);
        self.take_symbol(is_last, value);
    }

    #[inline(always)]
    fn take_symbol(&mut self, is_last: bool, value: &mut TraceparentValue) {
        let count = self.count;
        if !(5..=13).contains(&count) {
            return;
        }
        let five = (self.bits >> (count - 5)) & 0x1f;
        if five < 10 {
            self.count = count - 5;
            value.push(SHORT[five as usize & 15]);
            return;
        }
        if count < 6 {
            if is_last && five != 0x1f {
                value.push(0);
            }
            return;
        }
        let six = (self.bits >> (count - 6)) & 0x3f;
        if is_last && count < 8 && six == 0x3f {
            // Padding, if all of it is ones.
            let rest = (1u32 << (count - 6)) - 1;
            if self.bits & rest == rest {
                return;
            }
        }
        self.count = count - 6;
        value.push(LONG[six as usize & 63]);
    }
}

/// The symbols of five bits; those that no trace context has are 0.
const SHORT: [u8; 16] = *b"012ace\0\0\0\0\0\0\0\0\0\0";

/// Likewise those of six.
const LONG: [u8; 64] = {
    let mut symbols = [0; 64];
    symbols[0b010110] = b'-';
    let mut digit = b'3';
    while digit <= b'9' {
        symbols[(0b011001 + (digit - b'3')) as usize] = digit;
        digit += 1;
    }
    symbols[0b100011] = b'b';
    symbols[0b100100] = b'd';
    symbols[0b100101] = b'f';
    symbols
};
