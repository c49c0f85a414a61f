//! Lines that are passed over, eight bytes at a time.

use super::window::read_word;
use super::{Event, FACT_AMBIGUOUS, Http1, Window, state};
use crate::config::WINDOW;

const LF_WORD: u64 = 0x0a0a_0a0a_0a0a_0a0a;
const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Words looked at in one step.
const ROUNDS: u32 = 3;

impl Http1 {
    /// Passes over a line, eight bytes at a time.
    #[inline(always)]
    pub(super) fn skip_line(&mut self, window: &Window, at: u32, end: u32) -> (u32, Event) {
        let mut taken = 0u32;
        let mut found = false;
        // Few words a step, for the verifier, but enough for most lines.
        let mut round = 0;
        while round < ROUNDS {
            let here = at + taken;
            if here >= end {
                break;
            }
            let word = read_word(window, here);
            let present = end - here;
            let differs = word ^ LF_WORD;
            let zero = differs.wrapping_sub(LOW_BITS) & !differs & HIGH_BITS;
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
        let first = window[at as usize & (WINDOW - 1)];
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
            self.tail = word;
        } else if count > 0 {
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
                // The version is the last thing of the line; its digit is masked out.
                let with_cr = u64::from_le_bytes(*b"TTP/1.\0\r");
                let bare = u64::from_le_bytes(*b"HTTP/1.\0");
                let (text, digit) = if (self.tail >> 56) as u8 == b'\r' {
                    (self.tail & !(0xff << 48) == with_cr, (self.tail >> 48) as u8)
                } else {
                    (self.tail & !(0xff << 56) == bare, (self.tail >> 56) as u8)
                };
                if !text || !digit.is_ascii_digit() {
                    return self.fail();
                }
                self.state = state::LINE_START;
            }
            state::CHUNK_LINE => {
                // `remaining` holds the size of the chunk; 0 is the last one.
                self.state =
                    if self.remaining == 0 { state::TRAILER_START } else { state::CHUNK_DATA };
            }
            state::TRAILER_LINE => self.state = state::TRAILER_START,
            _ => self.state = state::LINE_START,
        }
        Event::None
    }

    /// Goes over to passing over the line. The byte at hand is looked at again.
    #[inline(always)]
    pub(super) fn skip_rest(&mut self) -> (u32, Event) {
        self.state = state::LINE;
        self.tail = 0;
        (0, Event::None)
    }
}
