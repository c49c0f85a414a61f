//! The state machine of one direction of an HTTP/2 connection (RFC 9113).
//!
//! It knows where frames and header blocks start and end, over pieces of any size, and reads of
//! requests' header blocks what has to be known at once: whether there is a trace context (see
//! [`hpack`]). It keeps no bytes, only scalars. What frames carry else is passed over by
//! arithmetic.

mod frame;
pub mod hpack;
mod huffman;
pub mod older;

use super::http1::Window;
use crate::outcome::HeadKind;
use hpack::Scanner;

/// What a client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first eight bytes of [`PREFACE`], by which the protocol is recognised.
pub const PREFACE_START: u64 = u64::from_le_bytes(*b"PRI * HT");

/// Bytes of a frame's header (RFC 9113 §4.1).
pub const FRAME_HEADER: u32 = 9;

/// The longest payload that every peer accepts, in bytes (RFC 9113 §4.2).
pub const SAFE_FRAME: u32 = 1 << 14;

/// The largest stream id (RFC 9113 §5.1.1).
const MAX_STREAM: u32 = (1 << 31) - 1;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY_FRAME: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITY: u8 = 0x20;

/// No flag of a frame: the header block is that of a promised request.
pub(super) const PROMISE: u8 = 0x80;

/// It is a guess that a frame starts here, and so are all positions behind it.
pub(super) const GUESSED: u8 = 2;

/// What is expected next.
mod state {
    pub(super) const PREFACE: u8 = 0;
    pub(super) const FRAME: u8 = 1;
    pub(super) const PAD_LENGTH: u8 = 2;
    pub(super) const PREFIX: u8 = 3;
    pub(super) const BLOCK: u8 = 4;
    pub(super) const REST: u8 = 5;
    pub(super) const ERROR_CODE: u8 = 6;
    pub(super) const LOST: u8 = 7;
    pub(super) const OPAQUE: u8 = 8;
}

/// What a step came upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// Nothing of note; call again.
    None = 0,
    /// The bytes are not HTTP/2, or the position in them was lost.
    NotHttp2 = 1,
    /// What comes next is header block, the first part of it or one more.
    BlockStart = 2,
    /// The last byte taken ended a part of a header block; another frame goes on with it.
    BlockPart = 3,
    /// The last byte taken ended a header block.
    BlockEnd = 4,
    /// The last byte taken ended a frame of data.
    Data = 5,
    /// The last byte taken ended a reset of the stream, for [`Http2::error_code`].
    Reset = 6,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Http2 {
    /// The frame's header as far as it came, the newest byte lowest.
    head: u64,
    /// What the header block says.
    pub scanner: Scanner,
    /// Bytes of the frame's payload still to come.
    left: u32,
    /// Bytes since the start of the frame's header.
    since_frame: u32,
    /// The length of the frame's payload.
    frame_len: u32,
    /// The frame's stream.
    stream: u32,
    /// The stream whose header block has begun and not ended; 0 for none.
    block_stream: u32,
    /// Bytes of the header block so far.
    block_len: u32,
    /// Header blocks that ended, or were lost.
    blocks: u32,
    /// The error code of a reset.
    error_code: u32,
    state: u8,
    /// [`HeadKind`].
    kind: u8,
    frame_type: u8,
    flags: u8,
    /// Of the preface, of the frame's header or of an error code: bytes that came.
    matched: u8,
    /// Bytes of padding at the end of the frame.
    padding: u8,
    /// Non-zero once the first frame was seen, which has to be SETTINGS; [`GUESSED`] where frames
    /// are looked for without that.
    has_settings: u8,
    /// Of the header block that is being read, which may go on in other frames: whether it ends
    /// its stream ([`END_STREAM`]), and whether it is that of a [`PROMISE`].
    block_flags: u8,
}

impl Http2 {
    /// A direction at the start of its stream.
    pub fn new(kind: HeadKind) -> Self {
        let mut http2 = Self::default();
        http2.start(kind);
        http2
    }

    /// Makes of one that is all zero a direction at the start of its stream.
    #[inline(always)]
    pub fn start(&mut self, kind: HeadKind) {
        self.kind = kind as u8;
        self.state = if self.is_request() { state::PREFACE } else { state::FRAME };
    }

    /// Whether this direction carries requests.
    #[inline(always)]
    pub fn is_request(&self) -> bool {
        self.kind == HeadKind::Request as u8
    }

    /// The stream of the frame, or of the header block, that the last event was of.
    #[inline(always)]
    pub fn stream(&self) -> u32 {
        self.stream
    }

    /// Whether the frame, or the header block, that the last event was of ends its stream.
    #[inline(always)]
    pub fn ends_stream(&self) -> bool {
        if self.frame_type == DATA {
            self.flags & END_STREAM != 0
        } else {
            self.block_flags & END_STREAM != 0
        }
    }

    /// Whether the header block is that of a promised request.
    #[inline(always)]
    pub fn is_promise(&self) -> bool {
        self.block_flags & PROMISE != 0
    }

    /// Whether all of the header block so far came in the frame that began it.
    #[inline(always)]
    pub fn is_block_in_one_frame(&self) -> bool {
        self.frame_type != CONTINUATION
    }

    /// Bytes of payload of the frame that the last event was of, padding included.
    #[inline(always)]
    pub fn frame_len(&self) -> u32 {
        self.frame_len
    }

    /// Bytes since the first of the frame's header.
    #[inline(always)]
    pub fn since_frame(&self) -> u32 {
        self.since_frame
    }

    /// Bytes of the header block so far.
    #[inline(always)]
    pub fn block_len(&self) -> u32 {
        self.block_len
    }

    /// The number of the header block, among those of this direction.
    #[inline(always)]
    pub fn block(&self) -> u32 {
        self.blocks
    }

    /// Why the stream was reset (RFC 9113 §7).
    #[inline(always)]
    pub fn error_code(&self) -> u32 {
        self.error_code
    }

    /// Whether the bytes at the present position are header block.
    #[inline(always)]
    pub fn is_in_block(&self) -> bool {
        self.state == state::BLOCK
    }

    /// Whether a frame starts at the present position.
    #[inline(always)]
    pub fn is_at_frame(&self) -> bool {
        self.state == state::FRAME && self.matched == 0
    }

    /// Whether nothing of this direction is looked at.
    #[inline(always)]
    pub fn is_opaque(&self) -> bool {
        self.state == state::OPAQUE
    }

    /// Whether the position is lost.
    #[inline(always)]
    pub fn is_lost(&self) -> bool {
        self.state == state::LOST
    }

    /// The header block that just ended is done with.
    #[inline(always)]
    pub fn next_block(&mut self) {
        self.blocks = self.blocks.wrapping_add(1);
        self.block_len = 0;
        self.block_stream = 0;
    }

    /// Nothing of this direction is looked at any more.
    #[inline(always)]
    pub fn make_opaque(&mut self) {
        self.state = state::OPAQUE;
    }

    /// The position was lost. What the tables hold is not known from here on; numbers of blocks
    /// leave one out, so that who reads them knows as well.
    #[inline(always)]
    pub fn lose(&mut self) {
        self.state = state::LOST;
        self.blocks = self.blocks.wrapping_add(1);
        self.block_len = 0;
        self.block_stream = 0;
        self.matched = 0;
        self.scanner.lose();
    }

    /// Looks for a frame's header at the next byte, after the position was lost.
    #[inline(always)]
    pub fn guess_frame(&mut self) {
        self.state = state::FRAME;
        self.matched = 0;
        self.has_settings = GUESSED;
    }

    /// Passes over bytes that were not seen; `false` if the position is lost by that.
    #[inline(always)]
    pub fn pass_over(&mut self, missing: u32) -> bool {
        if self.state != state::REST || self.frame_type == DATA && missing >= self.left {
            return false;
        }
        if missing > self.left {
            return false;
        }
        self.left -= missing;
        self.since_frame = self.since_frame.wrapping_add(missing);
        if self.left == 0 {
            self.next_frame();
        }
        true
    }

    #[inline(always)]
    fn next_frame(&mut self) {
        self.state = state::FRAME;
        self.matched = 0;
    }

    #[inline(always)]
    fn fail(&mut self) -> Event {
        Event::NotHttp2
    }

    /// Takes bytes of the window from `at`, which is below `end`, and never past `end`. A step may
    /// take none where only the state changes, but never two in a row, except with
    /// [`Event::NotHttp2`]. `available` is how many bytes of the stream are there from `at` on, in
    /// the window and behind it: what is passed over need not be in the window.
    ///
    /// Answers how many bytes were taken, and what came of it.
    #[inline(always)]
    pub fn step(&mut self, window: &Window, at: u32, end: u32, available: u32) -> (u32, Event) {
        let (taken, event) = match self.state {
            state::BLOCK => self.take_block(window, at, end),
            state::FRAME => self.take_frame_header(window, at, end),
            state::REST => self.take_rest(available),
            state::PAD_LENGTH => self.take_pad_length(window, at),
            state::PREFIX => self.take_prefix(available),
            state::PREFACE => self.take_preface(window, at),
            state::ERROR_CODE => self.take_error_code(window, at),
            _ => (0, self.fail()),
        };
        self.since_frame = self.since_frame.wrapping_add(taken);
        (taken, event)
    }
}

#[cfg(test)]
#[path = "mod_tests.rs"]
mod tests;
