//! The size line of a chunk (RFC 9112 §7.1).

use super::{Event, Http1, state};

impl Http1 {
    /// The size line of a chunk (RFC 9112 §7.1): hex digits, then maybe extensions.
    #[inline(always)]
    pub(super) fn take_chunk_size(&mut self, byte: u8) -> (u32, Event) {
        let lower = byte | 0x20;
        let digit = if byte.is_ascii_digit() {
            byte - b'0'
        } else if lower.is_ascii_lowercase() && lower <= b'f' {
            lower - b'a' + 10
        } else {
            if self.matched == 0 || !matches!(byte, b'\r' | b'\n' | b';' | b' ' | b'\t') {
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
}
