//! The first line of a message (RFC 9112 §3, §4).

use super::{Event, Http1, fastcgi, state};

/// The longest method that is taken for one, in bytes.
pub(super) const MAX_METHOD: u8 = 24;

impl Http1 {
    #[inline(always)]
    pub(super) fn take_start(&mut self, byte: u8) -> (u32, Event) {
        if byte == fastcgi::VERSION {
            self.begin_records();
            return (1, Event::None);
        }
        if self.is_request() {
            // RFC 9112 §2.2: empty lines before a request line are to be ignored.
            if byte == b'\r' || byte == b'\n' {
                return (1, Event::None);
            }
            if !is_method_byte(byte) {
                return (0, self.fail());
            }
            self.begin_message();
            self.state = state::METHOD;
            self.remaining = byte as u64;
            self.matched = 1;
        } else {
            if byte != b'H' {
                return (0, self.fail());
            }
            self.begin_message();
            self.state = state::STATUS;
            self.matched = 1;
        }
        (1, Event::None)
    }

    /// `HTTP/1.x ddd`, then anything up to the line's end (RFC 9112 §4).
    #[inline(always)]
    pub(super) fn take_status(&mut self, byte: u8) -> (u32, Event) {
        let at = self.matched;
        let literal = (u64::from_le_bytes(*b"HTTP/1.\0") >> ((at & 7) * 8)) as u8;
        let fits = if at < 7 {
            byte == literal
        } else if at == 7 {
            byte.is_ascii_digit()
        } else if at == 8 {
            byte == b' '
        } else if at < 12 {
            let digit = byte.wrapping_sub(b'0');
            self.status = (self.status * 10).wrapping_add(digit as u16);
            digit < 10
        } else {
            return if byte == b' ' || byte == b'\r' || byte == b'\n' {
                self.skip_rest()
            } else {
                (0, self.fail())
            };
        };
        if !fits {
            return (0, self.fail());
        }
        self.matched = at + 1;
        (1, Event::None)
    }
}

/// Bytes of a method. RFC 9110 §9.1 allows any token; methods in use are upper
/// case with dashes, and anything else would let other protocols pass for HTTP.
#[inline(always)]
pub(super) fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-' || byte == b'_'
}
