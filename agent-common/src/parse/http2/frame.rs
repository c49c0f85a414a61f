//! Frames (RFC 9113 §4 and §6): their headers, and what stands before and after what they carry.

use super::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Event, FRAME_HEADER, GOAWAY, GUESSED,
    HEADERS, Http2, MAX_STREAM, PADDED, PING, PREFACE, PRIORITY, PRIORITY_FRAME, PROMISE,
    PUSH_PROMISE, RST_STREAM, SAFE_FRAME, SETTINGS, WINDOW_UPDATE, state,
};
use crate::parse::http1::{Window, byte_at, read_word};

/// The largest type of a frame that is known (RFC 9113 §6, RFC 8336, RFC 9218).
const MAX_TYPE: u8 = 0x10;

impl Http2 {
    #[inline(always)]
    pub(super) fn take_preface(&mut self, window: &Window, at: u32) -> (u32, Event) {
        let matched = self.matched as usize & 31;
        let wanted = if matched < PREFACE.len() { PREFACE_BYTES[matched] } else { 0 };
        if byte_at(window, at) != wanted {
            return (0, self.fail());
        }
        self.matched += 1;
        if self.matched as usize == PREFACE.len() {
            self.next_frame();
        }
        (1, Event::None)
    }

    #[inline(always)]
    pub(super) fn take_frame_header(&mut self, window: &Window, at: u32, end: u32) -> (u32, Event) {
        let mut taken = 1;
        if self.matched == 0 {
            self.since_frame = 0;
            self.head = 0;
            if end.wrapping_sub(at) >= FRAME_HEADER {
                // All of it at once: eight bytes, and the last below.
                self.head = read_word(window, at).swap_bytes();
                self.matched = 8;
                taken = FRAME_HEADER;
            }
        }
        let byte = byte_at(window, at.wrapping_add(taken - 1));
        self.matched += 1;
        if self.matched < FRAME_HEADER as u8 {
            self.head = (self.head << 8) | byte as u64;
            return (taken, Event::None);
        }
        self.frame_len = (self.head >> 40) as u32;
        self.frame_type = (self.head >> 32) as u8;
        self.flags = (self.head >> 24) as u8;
        // The highest bit is reserved, and to be ignored.
        self.stream = (((self.head as u32) << 8) | byte as u32) & MAX_STREAM;
        self.left = self.frame_len;
        self.padding = 0;
        self.matched = 0;
        (taken, self.begin_frame())
    }

    /// The frame's header was read. Frames that no peer sends tell that this is none (the first
    /// has to be SETTINGS, §3.4), or that the position is not what it seems.
    #[inline(always)]
    fn begin_frame(&mut self) -> Event {
        let kind = self.frame_type;
        let is_settings = kind == SETTINGS;
        if self.has_settings == 0 && (!is_settings || self.flags & ACK != 0) {
            return self.fail();
        }
        if self.has_settings == 0 {
            self.has_settings = 1;
        }
        if self.block_stream != 0 && (kind != CONTINUATION || self.stream != self.block_stream) {
            // §4.3: nothing comes in between.
            return self.fail();
        }
        if !self.is_legal() {
            return self.fail();
        }
        self.state = state::REST;
        if self.left == 0 {
            // §6.1, §6.2: the shortest there can be, where they are not padded.
            self.next_frame();
        }
        match kind {
            DATA if self.flags & PADDED != 0 => {
                if self.left == 0 {
                    return self.fail();
                }
                self.state = state::PAD_LENGTH;
                Event::None
            }
            DATA => {
                if self.left == 0 {
                    Event::Data
                } else {
                    Event::None
                }
            }
            HEADERS | PUSH_PROMISE | CONTINUATION => self.begin_block_frame(),
            RST_STREAM => {
                self.state = state::ERROR_CODE;
                self.error_code = 0;
                Event::None
            }
            _ => Event::None,
        }
    }

    /// Whether a frame of its type may be so long, and on such a stream (§6).
    #[inline(always)]
    fn is_legal(&self) -> bool {
        let (len, on_connection) = (self.frame_len, self.stream == 0);
        if self.has_settings == GUESSED && len > SAFE_FRAME {
            return false;
        }
        match self.frame_type {
            DATA => !on_connection,
            PRIORITY_FRAME => !on_connection && len == 5,
            RST_STREAM => !on_connection && len == 4,
            SETTINGS => {
                on_connection && len.is_multiple_of(6) && (len == 0 || self.flags & ACK == 0)
            }
            PING => on_connection && len == 8,
            GOAWAY => on_connection && len >= 8,
            WINDOW_UPDATE => len == 4,
            // Whoever kept count from the start has to let other types pass (§5.5); at a position
            // that is a guess they tell that it was a wrong one.
            kind => kind <= MAX_TYPE || self.has_settings != GUESSED,
        }
    }

    #[inline(always)]
    fn begin_block_frame(&mut self) -> Event {
        let kind = self.frame_type;
        let is_client_stream = !self.stream.is_multiple_of(2);
        if !is_client_stream && self.is_request() {
            return self.fail();
        }
        if kind == CONTINUATION {
            if self.block_stream == 0 {
                return self.fail();
            }
            return self.begin_part();
        }
        if self.stream == 0 || (kind == PUSH_PROMISE && self.is_request()) {
            return self.fail();
        }
        self.block_stream = self.stream;
        self.block_len = 0;
        self.block_flags = if kind == HEADERS { self.flags & END_STREAM } else { PROMISE };
        self.scanner.begin();
        let prefix = self.prefix();
        let padded = (self.flags & PADDED != 0) as u32;
        if self.frame_len < prefix + padded {
            return self.fail();
        }
        if padded != 0 {
            self.state = state::PAD_LENGTH;
            return Event::None;
        }
        if prefix != 0 {
            self.state = state::PREFIX;
            self.matched = prefix as u8;
            return Event::None;
        }
        self.begin_part()
    }

    /// Bytes between the length of the padding and the header block.
    #[inline(always)]
    fn prefix(&self) -> u32 {
        if self.frame_type == PUSH_PROMISE {
            4
        } else if self.frame_type == HEADERS && self.flags & PRIORITY != 0 {
            5
        } else {
            0
        }
    }

    #[inline(always)]
    pub(super) fn take_pad_length(&mut self, window: &Window, at: u32) -> (u32, Event) {
        self.padding = byte_at(window, at);
        self.left = self.left.wrapping_sub(1);
        let prefix = self.prefix();
        if self.left < prefix + self.padding as u32 {
            return (1, self.fail());
        }
        if self.frame_type == DATA {
            self.state = state::REST;
            if self.left == 0 {
                self.next_frame();
                return (1, Event::Data);
            }
            return (1, Event::None);
        }
        if prefix != 0 {
            self.state = state::PREFIX;
            self.matched = prefix as u8;
            return (1, Event::None);
        }
        (1, self.begin_part())
    }

    #[inline(always)]
    pub(super) fn take_prefix(&mut self, available: u32) -> (u32, Event) {
        let wanted = self.matched as u32;
        let taken = if wanted < available { wanted } else { available };
        self.matched = self.matched.wrapping_sub(taken as u8);
        self.left = self.left.wrapping_sub(taken);
        if self.matched != 0 {
            return (taken, Event::None);
        }
        (taken, self.begin_part())
    }

    /// A part of a header block starts here.
    #[inline(always)]
    fn begin_part(&mut self) -> Event {
        self.state = state::BLOCK;
        self.matched = 0;
        if self.left == self.padding as u32 {
            return self.end_part();
        }
        Event::BlockStart
    }

    #[inline(always)]
    pub(super) fn take_block(&mut self, window: &Window, at: u32, end: u32) -> (u32, Event) {
        let left = self.left.wrapping_sub(self.padding as u32);
        let here = end.wrapping_sub(at);
        let most = if left < here { left } else { here };
        let taken = if self.is_request() {
            let taken = self.scanner.step(window, at, at.wrapping_add(most), self.block_len);
            if taken > most {
                return (0, self.fail());
            }
            taken
        } else {
            most
        };
        self.left = self.left.wrapping_sub(taken);
        self.block_len = self.block_len.wrapping_add(taken);
        if self.left == self.padding as u32 {
            return (taken, self.end_part());
        }
        (taken, Event::None)
    }

    #[inline(always)]
    fn end_part(&mut self) -> Event {
        self.state = state::REST;
        if self.left == 0 {
            self.next_frame();
        }
        if self.flags & END_HEADERS == 0 {
            return Event::BlockPart;
        }
        if self.is_request() && !self.scanner.is_between_fields() {
            return self.fail();
        }
        Event::BlockEnd
    }

    #[inline(always)]
    pub(super) fn take_rest(&mut self, available: u32) -> (u32, Event) {
        let taken = if self.left < available { self.left } else { available };
        self.left = self.left.wrapping_sub(taken);
        if self.left != 0 {
            return (taken, Event::None);
        }
        self.next_frame();
        (taken, if self.frame_type == DATA { Event::Data } else { Event::None })
    }

    #[inline(always)]
    pub(super) fn take_error_code(&mut self, window: &Window, at: u32) -> (u32, Event) {
        self.error_code = (self.error_code << 8) | byte_at(window, at) as u32;
        self.left = self.left.wrapping_sub(1);
        if self.left != 0 {
            return (1, Event::None);
        }
        self.next_frame();
        (1, Event::Reset)
    }
}

/// [`PREFACE`], as long as what indexes it may reach.
const PREFACE_BYTES: [u8; 32] = {
    let mut bytes = [0; 32];
    let mut at = 0;
    while at < PREFACE.len() {
        bytes[at] = PREFACE[at];
        at += 1;
    }
    bytes
};
