//! The size line of a chunk, and what follows its data (RFC 9112 §7.1).

use super::{Event, FACT_AMBIGUOUS, Http1, state};

/// In `matched`, instead of the number of digits: the CR behind them was taken.
const SIZE_CR: u8 = 16;

impl Http1 {
    /// CR LF after the data of a chunk; a bare LF is taken too.
    #[inline(always)]
    pub(super) fn take_chunk_end(&mut self, byte: u8) -> (u32, Event) {
        if byte == b'\r' && self.matched == 0 {
            self.matched = 1;
        } else if byte == b'\n' {
            if self.matched == 0 {
                self.facts |= FACT_AMBIGUOUS;
            }
            self.matched = 0;
            self.remaining = 0;
            self.state = state::CHUNK_SIZE;
        } else {
            return (0, self.fail());
        }
        (1, Event::None)
    }

    /// The size line of a chunk (RFC 9112 §7.1): hex digits, then maybe extensions.
    #[inline(always)]
    pub(super) fn take_chunk_size(&mut self, byte: u8) -> (u32, Event) {
        if self.matched == SIZE_CR {
            // A CR by itself ends the line for some readers, and makes it none for others.
            if byte != b'\n' {
                return (0, self.fail());
            }
            self.state = self.after_size();
            return (1, Event::None);
        }
        if byte == b'\r' && self.matched != 0 {
            self.matched = SIZE_CR;
            return (1, Event::None);
        }
        let lower = byte | 0x20;
        let digit = if byte.is_ascii_digit() {
            byte - b'0'
        } else if lower.is_ascii_lowercase() && lower <= b'f' {
            lower - b'a' + 10
        } else {
            if self.matched == 0 || !matches!(byte, b'\n' | b';' | b' ' | b'\t') {
                return (0, self.fail());
            }
            self.state = state::CHUNK_LINE;
            self.tail = 0;
            return (0, Event::None);
        };
        if self.matched >= 15 {
            return (0, self.fail());
        }
        self.matched += 1;
        self.remaining = (self.remaining << 4) | digit as u64;
        (1, Event::None)
    }
    /// What follows the size line: `remaining` holds the size of the chunk; 0 is the last one.
    #[inline(always)]
    pub(super) fn after_size(&self) -> u8 {
        if self.remaining == 0 { state::TRAILER_START } else { state::CHUNK_DATA }
    }
}
