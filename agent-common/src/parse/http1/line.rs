//! Lines that are passed over, eight bytes at a time.

use super::window::{read_word, zero_bytes};
use super::{Event, FACT_AMBIGUOUS, Http1, Window, state};
use crate::config::WINDOW;

const LF_WORD: u64 = 0x0a0a_0a0a_0a0a_0a0a;

/// Words looked at in one step.
const ROUNDS: u32 = 8;

/// Keeps what was taken in a step what it is: more than [`ROUNDS`] words and a line feed are.
const STEP: u32 = 127;

impl Http1 {
    /// Passes over a line, eight bytes at a time.
    #[inline(always)]
    pub(super) fn skip_line(&mut self, window: &Window, at: u32, end: u32) -> (u32, Event) {
        let mut taken = 0u32;
        let mut found = false;
        // Few words a step, for the verifier, but enough for most lines.
        let mut round = 0;
        while round < ROUNDS {
            taken &= STEP;
            let here = at + taken;
            if here >= end {
                break;
            }
            let word = read_word(window, here);
            let present = end - here;
            let zero = zero_bytes(word ^ LF_WORD);
            // Bytes of the word before its first line feed.
            let mut before = if zero == 0 { 8 } else { zero.trailing_zeros() >> 3 };
            if before >= present {
                before = if present < 8 { present } else { 8 };
                self.note_tail(word, before);
                taken += before;
            } else {
                self.note_tail(word, before);
                taken += before;
                if before < 8 {
                    taken += 1;
                    found = !self.goes_on_with_next_line(window, at + taken, end);
                    if found {
                        break;
                    }
                }
            }
            round += 1;
        }
        let in_head = self.state < state::HEAD_END;
        if in_head {
            self.count_head(taken);
            if self.state == state::LOST {
                return (taken, Event::NotHttp);
            }
        }
        let event = if found { self.end_line() } else { Event::None };
        (taken, event)
    }

    /// A line feed was taken, the next line starts at `at`. Whether that line is passed
    /// over as well, being a header field whose name cannot be one that is looked for.
    #[inline(always)]
    fn goes_on_with_next_line(&mut self, window: &Window, at: u32, end: u32) -> bool {
        if self.state != state::LINE || at >= end || (self.tail >> 56) as u8 != b'\r' {
            return false;
        }
        let first = window.0[at as usize & (WINDOW - 1)];
        let lower = first | 0x20;
        if first <= b' ' || lower == b't' || lower == b'c' || lower == b'u' {
            return false;
        }
        self.tail = 0;
        true
    }

    /// Shifts the first `count` (0 to 8) bytes of `word` into the tail.
    #[inline(always)]
    pub(super) fn note_tail(&mut self, word: u64, count: u32) {
        if count >= 8 {
            self.before_tail = (self.tail >> 48) as u16;
            self.tail = word;
        } else if count > 0 {
            self.before_tail = if count == 1 {
                (self.before_tail >> 8) | ((self.tail as u16) << 8)
            } else {
                (self.tail >> ((count - 2) * 8)) as u16
            };
            let bits = (count & 7) * 8;
            self.tail = (self.tail >> bits) | (word << (64 - bits));
        }
    }

    /// A line feed ended a line that was passed over.
    #[inline(always)]
    pub(super) fn end_line(&mut self) -> Event {
        if (self.tail >> 56) as u8 != b'\r' {
            // RFC 9112 §2.2 lets a recipient take a bare LF; not all do.
            self.facts |= FACT_AMBIGUOUS;
        }
        match self.state {
            state::REQUEST_LINE => {
                // The version is the last thing of the line, behind a space; its digit is
                // masked out.
                let with_cr = u64::from_le_bytes(*b"TTP/1.\0\r");
                let bare = u64::from_le_bytes(*b"HTTP/1.\0");
                let before = self.before_tail;
                let (text, digit) = if (self.tail >> 56) as u8 == b'\r' {
                    let starts = before == u16::from_le_bytes(*b" H");
                    (starts && self.tail & !(0xff << 48) == with_cr, (self.tail >> 48) as u8)
                } else {
                    let starts = (before >> 8) as u8 == b' ';
                    (starts && self.tail & !(0xff << 56) == bare, (self.tail >> 56) as u8)
                };
                if !text || !digit.is_ascii_digit() {
                    return self.fail();
                }
                self.state = state::LINE_START;
            }
            state::CHUNK_LINE => self.state = self.after_size(),
            state::TRAILER_LINE => self.state = state::TRAILER_START,
            _ => self.state = state::LINE_START,
        }
        Event::None
    }

    /// The value of a field that matters ended: CR LF has to follow. The byte at hand is
    /// looked at again.
    #[inline(always)]
    pub(super) fn end_value(&mut self) -> (u32, Event) {
        self.state = state::FIELD_END;
        self.matched = 0;
        (0, Event::None)
    }

    /// CR, then LF, behind a value. A CR by itself ends a line for some readers, and is a
    /// part of the value, or a space, for others (RFC 9112 §2.2).
    #[inline(always)]
    pub(super) fn take_field_end(&mut self, byte: u8) -> (u32, Event) {
        if byte == b'\r' && self.matched == 0 {
            self.matched = 1;
            return (1, Event::None);
        }
        if byte == b'\n' {
            if self.matched == 0 {
                self.facts |= FACT_AMBIGUOUS;
            }
            self.state = state::LINE_START;
            return (1, Event::None);
        }
        self.facts |= FACT_AMBIGUOUS;
        self.skip_rest()
    }

    /// Goes over to passing over the line. The byte at hand is looked at again.
    #[inline(always)]
    pub(super) fn skip_rest(&mut self) -> (u32, Event) {
        self.state = state::LINE;
        self.tail = 0;
        (0, Event::None)
    }
}
