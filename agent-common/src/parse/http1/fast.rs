//! What is common, taken several bytes at once.
//!
//! Each of these takes what the machine would take byte by byte, and leaves it in the
//! state that it would be in; or takes nothing, where anything is out of the ordinary.
//! A step costs the kernel some 15 ns whether it takes one byte or thirty.

use super::header::{NAME_CODING, NAME_LENGTH, NAME_TRACEPARENT, NAME_UPGRADE};
use super::window::read_word;
use super::{Event, Http1, Window, state};

/// Bytes that must be there: no look-ahead below goes further, but for a trace context.
pub(super) const LOOK_AHEAD: u32 = 24;

/// A space, a value of version 00, CR.
const TRACEPARENT_LEN: u32 = 57;

/// Sets bit 5 of each byte: makes letters lower case. Other bytes may come to look like
/// `-` and `:`, so those are compared as they were.
const LOWER: u64 = 0x2020_2020_2020_2020;

const fn word(text: [u8; 8]) -> u64 {
    u64::from_le_bytes(text)
}

impl Http1 {
    /// Takes several bytes at `at`, of which at least [`LOOK_AHEAD`] are there. `None`
    /// if they are to be taken as the state says then.
    #[inline(always)]
    pub(super) fn take_ahead(
        &mut self,
        window: &Window,
        at: u32,
        end: u32,
    ) -> Option<(u32, Event)> {
        match self.state {
            state::START if self.is_request() => self.method_ahead(window, at),
            state::START => self.status_ahead(window, at),
            state::LINE_START => self.line_ahead(window, at),
            state::LENGTH if self.matched == 0 => self.length_ahead(window, at),
            state::TRACEPARENT if self.traceparent_at == 0 && end - at >= TRACEPARENT_LEN => {
                self.traceparent_ahead(window, at)
            }
            _ => None,
        }
    }

    /// The commonest methods, up to the first byte of the target.
    #[inline(always)]
    fn method_ahead(&mut self, window: &Window, at: u32) -> Option<(u32, Event)> {
        let here = read_word(window, at);
        let (len, target) = if here as u32 == u32::from_le_bytes(*b"GET ") {
            (5, (here >> 32) as u8)
        } else if here & 0xff_ffff_ffff == word(*b"POST \0\0\0") {
            (6, (here >> 40) as u8)
        } else {
            return None;
        };
        if target <= b' ' || target == 0x7f {
            return None;
        }
        self.begin_message();
        self.matched = len as u8 - 2;
        self.state = state::REQUEST_LINE;
        self.tail = (target as u64) << 56;
        self.count_head(len);
        Some((len, Event::MessageStart))
    }

    /// `HTTP/1.x ddd`.
    #[inline(always)]
    fn status_ahead(&mut self, window: &Window, at: u32) -> Option<(u32, Event)> {
        let version = read_word(window, at);
        let rest = read_word(window, at + 8);
        let digit = |shift: u32| ((rest >> shift) as u8).wrapping_sub(b'0');
        let after = (rest >> 32) as u8;
        let minor = (version >> 56) as u8;
        if version & !(0xff << 56) != word(*b"HTTP/1.\0")
            || !minor.is_ascii_digit()
            || rest as u8 != b' '
            || digit(8) > 9
            || digit(16) > 9
            || digit(24) > 9
            || !(after == b' ' || after == b'\r')
        {
            return None;
        }
        self.begin_message();
        self.status = digit(8) as u16 * 100 + digit(16) as u16 * 10 + digit(24) as u16;
        self.matched = 12;
        self.state = state::LINE;
        self.count_head(12);
        Some((12, Event::MessageStart))
    }

    /// The name of a header field. If it is of no interest, only the state changes, to
    /// that of a line that is passed over.
    #[inline(always)]
    fn line_ahead(&mut self, window: &Window, at: u32) -> Option<(u32, Event)> {
        let raw = read_word(window, at);
        let first = raw as u8;
        if first == b'\r' || first == b'\n' || first == b' ' || first == b'\t' {
            return None;
        }
        let name = raw | LOWER;
        let (row, len) = if name == word(*b"content-") {
            let next = read_word(window, at + 8);
            let lower = next | LOWER;
            if (raw >> 56) as u8 != b'-' {
                return None;
            }
            if lower & 0xffff_ffff_ffff != word(*b"length\0\0") {
                // Any other name that starts like it.
                self.start_line();
                return None;
            }
            if (next >> 48) as u8 != b':' {
                return None;
            }
            (NAME_LENGTH, 15)
        } else if name == word(*b"tracepar") {
            let next = read_word(window, at + 8);
            if (next as u32 | LOWER as u32) & 0x00ff_ffff != u32::from_le_bytes(*b"ent\0")
                || (next >> 24) as u8 != b':'
            {
                return None;
            }
            (NAME_TRACEPARENT, 12)
        } else if name == word(*b"transfer") {
            let next = read_word(window, at + 8);
            let last = read_word(window, at + 16);
            if next | LOWER != word(*b"-encodin")
                || next as u8 != b'-'
                || last as u8 | 0x20 != b'g'
                || (last >> 8) as u8 != b':'
            {
                return None;
            }
            (NAME_CODING, 18)
        } else if name & !(0xff << 56) == word(*b"upgrade\0") {
            if (raw >> 56) as u8 != b':' {
                return None;
            }
            (NAME_UPGRADE, 8)
        } else {
            self.start_line();
            return None;
        };
        self.name = row;
        self.matched = len as u8;
        let (_, event) = self.begin_value();
        self.count_head(len);
        Some((len, event))
    }

    /// A space, up to five digits, CR: the length of most bodies.
    #[inline(always)]
    fn length_ahead(&mut self, window: &Window, at: u32) -> Option<(u32, Event)> {
        let here = read_word(window, at);
        if here as u8 != b' ' {
            return None;
        }
        let mut value = 0u64;
        let mut len = 1u32;
        while len < 7 {
            let byte = (here >> (len * 8)) as u8;
            if byte == b'\r' {
                break;
            }
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            value = value * 10 + digit as u64;
            len += 1;
        }
        if len == 1 || len == 7 {
            return None;
        }
        self.remaining = value;
        self.matched = 1;
        self.count_head(len);
        Some((len, Event::None))
    }

    /// A space and a whole value of version 00.
    #[inline(always)]
    fn traceparent_ahead(&mut self, window: &Window, at: u32) -> Option<(u32, Event)> {
        if read_word(window, at) as u8 != b' ' {
            return None;
        }
        if !self.traceparent.take_version_00(|offset| read_word(window, at + 1 + offset)) {
            return None;
        }
        self.traceparent_at = self.head_len + 1;
        self.count_head(TRACEPARENT_LEN - 1);
        Some((TRACEPARENT_LEN - 1, Event::None))
    }

    /// Goes over to passing over the line that starts here.
    #[inline(always)]
    fn start_line(&mut self) {
        self.state = state::LINE;
        self.tail = 0;
    }
}
