//! The header fields that decide how long a message is, and the trace context.

use super::{
    Event, FACT_AMBIGUOUS, FACT_BROKEN, FACT_CHUNKED, FACT_CODING, FACT_LENGTH, FACT_TRACEPARENT,
    FACT_TRACEPARENT_REPEATED, FACT_UPGRADE, Http1, state,
};

/// The names that are looked for, each in a row of 32 bytes. Eight rows, so that masks
/// alone keep an index inside: the compiler turns a comparison into one that the
/// verifier cannot follow (`R0 max value is outside of the allowed memory range`).
static NAMES: [u8; 256] = {
    let mut table = [0; 256];
    let names: [&[u8]; 5] =
        [b"traceparent:", b"transfer-encoding:", b"content-length:", b"upgrade:", b"chunked"];
    let mut row = 0;
    while row < names.len() {
        let mut at = 0;
        while at < names[row].len() {
            table[row * 32 + at] = names[row][at];
            at += 1;
        }
        row += 1;
    }
    table
};
pub(super) const NAME_TRACEPARENT: u8 = 0;
pub(super) const NAME_CODING: u8 = 1;
pub(super) const NAME_LENGTH: u8 = 2;
pub(super) const NAME_UPGRADE: u8 = 3;
const NAME_CHUNKED: u8 = 4;

/// The byte at `at` of the name in row `row`; 0 past its end.
#[inline(always)]
fn name_byte(row: u8, at: u8) -> u8 {
    NAMES[(((row & 7) as usize) << 5) | (at & 31) as usize]
}

impl Http1 {
    #[inline(always)]
    pub(super) fn take_line_start(&mut self, byte: u8) -> (u32, Event) {
        let row = match byte | 0x20 {
            b't' => NAME_TRACEPARENT,
            b'c' => NAME_LENGTH,
            b'u' => NAME_UPGRADE,
            _ => 0xff,
        };
        if row != 0xff {
            self.name = row;
            self.matched = 1;
            self.state = state::NAME;
            return (1, Event::None);
        }
        if byte == b'\r' {
            self.state = state::EMPTY_LINE;
            return (1, Event::None);
        }
        if byte == b'\n' {
            self.facts |= FACT_AMBIGUOUS;
            self.state = state::HEAD_END;
            return (1, Event::HeadEnd);
        }
        if byte == b' ' || byte == b'\t' {
            // A folded line (RFC 9112 §5.2): obsolete, and read differently by readers.
            self.facts |= FACT_AMBIGUOUS;
        }
        self.skip_rest()
    }

    #[inline(always)]
    pub(super) fn take_name(&mut self, byte: u8) -> (u32, Event) {
        let lower = if byte.is_ascii_uppercase() { byte | 0x20 } else { byte };
        let at = self.matched;
        if self.name == NAME_TRACEPARENT && at == 3 && lower == b'n' {
            self.name = NAME_CODING;
        }
        let wanted = name_byte(self.name, at);
        if lower != wanted {
            if wanted == b':' && (byte == b' ' || byte == b'\t') {
                // White space before the colon (RFC 9112 §5.1): readers disagree.
                self.facts |= FACT_AMBIGUOUS;
            }
            return self.skip_rest();
        }
        self.matched = at + 1;
        if wanted != b':' {
            return (1, Event::None);
        }
        self.begin_value()
    }

    /// A name that is looked for ended with its colon, which is taken.
    #[inline(always)]
    pub(super) fn begin_value(&mut self) -> (u32, Event) {
        match self.name {
            NAME_TRACEPARENT => {
                if self.facts & FACT_TRACEPARENT != 0 {
                    self.facts |= FACT_TRACEPARENT_REPEATED;
                }
                self.facts |= FACT_TRACEPARENT;
                self.traceparent.clear();
                self.traceparent_at = 0;
                self.state = state::TRACEPARENT;
            }
            NAME_CODING => {
                if self.facts & (FACT_LENGTH | FACT_CHUNKED) != 0 {
                    self.facts |= FACT_AMBIGUOUS;
                }
                self.facts |= FACT_CODING;
                self.matched = 0;
                self.state = state::CODING;
            }
            NAME_LENGTH => {
                if self.facts & (FACT_LENGTH | FACT_CODING) != 0 {
                    self.facts |= FACT_AMBIGUOUS;
                }
                if self.facts & FACT_LENGTH != 0 {
                    // A second length that differs leaves no length (RFC 9112 §6.3).
                    self.tail = self.remaining;
                    self.matched = 0x80;
                } else {
                    self.matched = 0;
                }
                self.facts |= FACT_LENGTH;
                self.remaining = 0;
                self.state = state::LENGTH;
            }
            _ => {
                self.facts |= FACT_UPGRADE;
                return self.after_name();
            }
        }
        (1, Event::None)
    }

    #[inline(always)]
    pub(super) fn after_name(&mut self) -> (u32, Event) {
        self.state = state::LINE;
        self.tail = 0;
        (1, Event::None)
    }

    /// `Content-Length` (RFC 9110 §8.6). The low bits of `matched`: 0 before the
    /// number, 1 in it, 2 after it; the highest says that it is a second header.
    #[inline(always)]
    pub(super) fn take_length(&mut self, byte: u8) -> (u32, Event) {
        let phase = self.matched & 0x7f;
        if byte.is_ascii_digit() {
            if phase == 2 || self.remaining > (u64::MAX >> 8) {
                self.facts |= FACT_BROKEN | FACT_AMBIGUOUS;
            } else {
                self.remaining = self.remaining * 10 + (byte - b'0') as u64;
            }
            self.matched = (self.matched & 0x80) | 1;
        } else if byte == b' ' || byte == b'\t' {
            if phase == 1 {
                self.matched = (self.matched & 0x80) | 2;
            }
        } else if byte == b'\r' || byte == b'\n' {
            if phase == 0 || (self.matched & 0x80 != 0 && self.tail != self.remaining) {
                self.facts |= FACT_BROKEN | FACT_AMBIGUOUS;
            }
            return self.end_value();
        } else {
            self.facts |= FACT_BROKEN | FACT_AMBIGUOUS;
        }
        (1, Event::None)
    }

    /// `Transfer-Encoding` (RFC 9112 §6.1): is the last coding `chunked`?
    /// `matched` counts its letters; 0x40 is a mismatch, 0x20 marks white space after it.
    #[inline(always)]
    pub(super) fn take_coding(&mut self, byte: u8) -> (u32, Event) {
        let lower = if byte.is_ascii_uppercase() { byte | 0x20 } else { byte };
        if byte == b'\r' || byte == b'\n' {
            if self.matched & 0x5f == 7 {
                self.facts |= FACT_CHUNKED;
            }
            return self.end_value();
        }
        if byte == b',' {
            if self.matched & 0x5f == 7 {
                // The last one still, if only empty elements follow (RFC 9110 §5.6.1.2).
                self.facts |= FACT_CHUNKED | FACT_AMBIGUOUS;
            }
            self.matched = 0;
            return (1, Event::None);
        }
        if byte == b' ' || byte == b'\t' {
            if self.matched != 0 {
                self.matched |= 0x20;
            }
            return (1, Event::None);
        }
        if self.matched == 0 {
            self.facts &= !FACT_CHUNKED;
        }
        if self.matched < 7 && lower == name_byte(NAME_CHUNKED, self.matched) {
            self.matched += 1;
        } else {
            self.matched = 0x40;
        }
        (1, Event::None)
    }
}
