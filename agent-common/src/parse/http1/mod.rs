//! The state machine of one direction of an HTTP/1.x connection (RFC 9112).
//!
//! It knows message boundaries: where a head ends, how long the body is, where
//! the next message starts. It keeps no bytes, only scalars, so it may be fed
//! pieces of any size. It works on a window of bytes at a time; bodies are
//! passed over by arithmetic, without looking at them.

mod chunk;
mod event;
mod facts;
mod fast;
mod fastcgi;
mod header;
mod line;
mod start;
mod state;
mod window;

pub use event::{Body, Event};
pub use facts::*;
pub(super) use window::{byte_at, read_word};

use super::traceparent::TraceparentValue;
use crate::config::WINDOW;
use crate::outcome::HeadKind;
use start::{MAX_METHOD, is_method_byte};

/// A window of the stream. Longer than what it holds, so that a word may be read at each
/// of its positions, and as far ahead of it as any look-ahead goes: the compiler moves
/// masks that keep an index inside, and the verifier sees only the result.
/// A type of its own, since the kernel's BTF has to tell its size where it is handed to a
/// function that is verified by itself.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Window(pub [u8; WINDOW + SLACK]);

/// Bytes behind the window: the farthest look-ahead, and a word.
const SLACK: usize = 72;

/// The longest head that is followed, in bytes.
const MAX_HEAD: u32 = 1 << 20;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Http1 {
    /// The bytes of the body, or of the chunk, still to come.
    remaining: u64,
    /// Bytes of content seen in this message, without transfer coding.
    content: u64,
    /// The last eight bytes of the line, the newest in the highest byte.
    tail: u64,
    /// The value of `traceparent`.
    traceparent: TraceparentValue,
    /// Bytes of the head so far.
    head_len: u32,
    /// Where in the head the value of `traceparent` starts.
    traceparent_at: u32,
    /// `FACT_` bits.
    facts: u16,
    /// The status code.
    status: u16,
    state: u8,
    /// [`HeadKind`].
    kind: u8,
    /// The row of [`NAMES`] that the name may be.
    name: u8,
    /// Bytes of the name, method, status line, number or coding so far.
    matched: u8,
    /// Non-zero while this is a guess at where a message starts.
    tentative: u8,
    /// Non-zero once the exchange of the present head was opened.
    announced: u8,
    /// The two bytes before [`Http1::tail`].
    before_tail: u16,
    pad: [u8; 4],
}

impl Http1 {
    /// A direction at the start of its stream.
    pub fn new(kind: HeadKind) -> Self {
        Self { kind: kind as u8, ..Self::default() }
    }

    /// Whether this direction carries requests.
    #[inline(always)]
    pub fn is_request(&self) -> bool {
        self.kind == HeadKind::Request as u8
    }

    /// `FACT_` bits of the head.
    #[inline(always)]
    pub fn facts(&self) -> u16 {
        self.facts
    }

    /// Whether two readers could disagree about the request, or about where it ends. A transfer
    /// coding without `chunked` leaves no length (RFC 9112 §6.3).
    #[inline(always)]
    pub fn is_doubtful(&self) -> bool {
        let unframed = self.facts & (FACT_CODING | FACT_CHUNKED) == FACT_CODING;
        self.facts & (FACT_AMBIGUOUS | FACT_BROKEN) != 0 || unframed
    }

    /// The status code of the response's head.
    #[inline(always)]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Bytes of the head so far; the whole head after [`Event::HeadEnd`].
    #[inline(always)]
    pub fn head_len(&self) -> u32 {
        self.head_len
    }

    /// Bytes of content so far.
    #[inline(always)]
    pub fn content(&self) -> u64 {
        self.content
    }

    /// Where in the head the value of the `traceparent` header starts.
    #[inline(always)]
    pub fn traceparent_at(&self) -> u32 {
        self.traceparent_at
    }

    /// The value of `traceparent`: valid only if there is exactly one header.
    #[inline(always)]
    pub fn traceparent(&self) -> &TraceparentValue {
        &self.traceparent
    }

    /// Whether nothing of a message was seen yet.
    #[inline(always)]
    pub fn is_at_start(&self) -> bool {
        self.state == state::START
    }

    /// Whether a head is being read.
    #[inline(always)]
    pub fn is_in_head(&self) -> bool {
        self.state >= state::METHOD && self.state <= state::HEAD_END || self.is_in_head_of_records()
    }

    /// Whether the message comes in records of FastCGI.
    #[inline(always)]
    pub fn is_fastcgi(&self) -> bool {
        self.facts & FACT_FASTCGI != 0
    }

    /// Whether the end of the connection ends the message.
    #[inline(always)]
    pub fn is_until_close(&self) -> bool {
        self.state == state::UNTIL_CLOSE
    }

    /// Whether nothing of this direction is looked at any more.
    #[inline(always)]
    pub fn is_opaque(&self) -> bool {
        self.state == state::OPAQUE
    }

    /// Whether the position in the stream was lost.
    #[inline(always)]
    pub fn is_lost(&self) -> bool {
        self.state == state::LOST
    }

    /// Whether the fate of an `Upgrade` or `CONNECT` is open.
    #[inline(always)]
    pub fn is_held(&self) -> bool {
        self.state == state::HELD
    }

    /// Whether all of a head is there but the last line feed.
    #[inline(always)]
    pub fn is_before_last_line_feed(&self) -> bool {
        self.state == state::EMPTY_LINE
    }

    /// Whether the exchange of the present head was opened.
    #[inline(always)]
    pub fn is_announced(&self) -> bool {
        self.announced != 0
    }

    /// The exchange of the present head was opened.
    #[inline(always)]
    pub fn announce(&mut self) {
        self.announced = 1;
    }

    /// Whether the head that was just read announces no body.
    #[inline(always)]
    pub fn is_without_body(&self) -> bool {
        // Even the shortest request in records has an empty one behind its head.
        self.facts & (FACT_LENGTH | FACT_CODING | FACT_FASTCGI) == 0
    }

    /// Whether the start of the present message was a guess.
    #[inline(always)]
    pub fn is_tentative(&self) -> bool {
        self.tentative != 0
    }

    /// The position was lost: look for the start of a message again.
    #[inline(always)]
    pub fn lose(&mut self) {
        self.state = state::LOST;
        self.head_len = 0;
    }

    /// Nothing of this direction will be looked at any more.
    #[inline(always)]
    pub fn make_opaque(&mut self) {
        self.state = state::OPAQUE;
    }

    /// Tries to take what comes now for the start of a message.
    #[inline(always)]
    pub fn guess_start(&mut self) {
        self.next_message();
        self.tentative = 1;
    }

    /// A message is over: the next one starts here.
    #[inline(always)]
    pub fn next_message(&mut self) {
        self.state = state::START;
        self.tentative = 0;
        self.head_len = 0;
    }

    /// The position in the stream is certain again.
    #[inline(always)]
    pub fn confirm(&mut self) {
        self.tentative = 0;
    }

    /// Waits for the answer to an `Upgrade` or `CONNECT` before the next message.
    #[inline(always)]
    pub fn hold(&mut self) {
        self.state = state::HELD;
    }

    /// Takes `missing` bytes as passed without having been seen. Answers whether the
    /// position is still known: it is where they were all of a body.
    #[inline(always)]
    pub fn pass_over(&mut self, missing: u32) -> bool {
        if matches!(self.state, state::UNTIL_CLOSE | state::OPAQUE) {
            self.content += missing as u64;
            return true;
        }
        let is_known = self.pass_over_body(missing);
        if !is_known {
            self.lose();
        }
        is_known
    }

    /// As [`Http1::pass_over`], but nothing is lost where the bytes are not all of a body.
    #[inline(always)]
    pub fn pass_over_body(&mut self, missing: u32) -> bool {
        let missing = missing as u64;
        match self.state {
            // Strictly less: the end itself has to be seen, as an event.
            state::BODY | state::CHUNK_DATA if missing < self.remaining => {
                self.remaining -= missing;
                self.content += missing;
                true
            }
            state::CONTENT => self.pass_over_content(missing),
            _ => false,
        }
    }

    #[inline(always)]
    fn begin_message(&mut self) {
        self.remaining = 0;
        self.content = 0;
        self.tail = 0;
        self.traceparent.clear();
        self.head_len = 0;
        self.traceparent_at = 0;
        self.facts = 0;
        self.status = 0;
        self.matched = 0;
        self.announced = 0;
        self.name = 0xff;
    }

    /// The head ended. Says what follows and goes on to it.
    #[inline(always)]
    pub fn begin_body(&mut self, body: Body) -> Event {
        if self.is_fastcgi() {
            self.end_head_of_records();
            return Event::None;
        }
        self.state = match body {
            Body::Switched => state::OPAQUE,
            Body::None => state::MESSAGE_END,
            Body::Framed if self.facts & FACT_BROKEN != 0 => state::LOST,
            Body::Framed if self.facts & FACT_CHUNKED != 0 => {
                self.remaining = 0;
                self.matched = 0;
                state::CHUNK_SIZE
            }
            Body::Framed if self.facts & FACT_CODING != 0 => {
                // §6.3: a response is then delimited by close; a request is an error.
                if self.is_request() { state::LOST } else { state::UNTIL_CLOSE }
            }
            Body::Framed if self.facts & FACT_LENGTH != 0 => {
                if self.remaining == 0 {
                    state::MESSAGE_END
                } else {
                    state::BODY
                }
            }
            Body::Framed if self.is_request() => state::MESSAGE_END,
            Body::Framed => state::UNTIL_CLOSE,
        };
        match self.state {
            state::MESSAGE_END => Event::MessageEnd,
            state::LOST => Event::NotHttp,
            _ => Event::None,
        }
    }

    #[inline(always)]
    fn fail(&mut self) -> Event {
        self.state = state::LOST;
        Event::NotHttp
    }

    /// Takes bytes of the window from `at`, which is below `end`, and never past `end`.
    /// A step may take none where only the state changes, but never two in a row,
    /// except with [`Event::NotHttp`] and [`Event::Held`].
    /// `available` is how many bytes of the stream are there from `at` on,
    /// in the window and behind it: bodies are passed over beyond the window.
    ///
    /// Answers how many bytes were taken, and what came of it.
    #[inline(always)]
    pub fn step(&mut self, window: &Window, at: u32, end: u32, available: u32) -> (u32, Event) {
        if at < end
            && let Some(taken) = self.take_ahead(window, at, end)
        {
            return taken;
        }
        match self.state {
            state::LINE | state::REQUEST_LINE | state::CHUNK_LINE | state::TRAILER_LINE => {
                self.skip_line(window, at, end)
            }
            state::BODY | state::CHUNK_DATA => {
                let taken = if self.remaining < available as u64 {
                    self.remaining as u32
                } else {
                    available
                };
                self.remaining -= taken as u64;
                self.content += taken as u64;
                if self.remaining > 0 {
                    return (taken, Event::None);
                }
                if self.state == state::CHUNK_DATA {
                    self.state = state::CHUNK_END;
                    self.matched = 0;
                    return (taken, Event::None);
                }
                self.state = state::MESSAGE_END;
                (taken, Event::MessageEnd)
            }
            state::UNTIL_CLOSE => {
                self.content += available as u64;
                (available, Event::None)
            }
            state::OPAQUE => (available, Event::None),
            state::LOST => (0, Event::NotHttp),
            state::HELD => (0, Event::Held),
            state::RECORD | state::CONTENT | state::PADDING => {
                let step = fastcgi::step(self, window, at, end, available);
                (step as u32, Event::of((step >> 32) as u32))
            }
            _ => {
                let byte = window.0[at as usize & (WINDOW - 1)];
                let (taken, event) = self.take_byte(byte);
                if taken != 0 && self.state != state::START && self.state <= state::HEAD_END {
                    self.count_head(1);
                }
                (taken, event)
            }
        }
    }

    #[inline(always)]
    fn count_head(&mut self, taken: u32) {
        self.head_len += taken;
        if self.head_len > MAX_HEAD {
            self.state = state::LOST;
        }
    }

    /// Takes one byte, or none where only the state changed.
    #[inline(always)]
    fn take_byte(&mut self, byte: u8) -> (u32, Event) {
        match self.state {
            state::START => self.take_start(byte),
            state::METHOD => {
                if byte == b' ' {
                    if self.remaining == u64::from_be_bytes(*b"\0\0\0\0HEAD") {
                        self.facts |= FACT_HEAD;
                    } else if self.remaining == u64::from_be_bytes(*b"\0CONNECT") {
                        self.facts |= FACT_CONNECT;
                    } else if self.remaining == u64::from_be_bytes(*b"\0\0\0\0\0PRI") {
                        // The preface of HTTP/2, or half of it: never a method (RFC 9113 §3.4).
                        return (0, self.fail());
                    }
                    self.remaining = 0;
                    self.state = state::TARGET;
                } else if is_method_byte(byte) && self.matched < MAX_METHOD {
                    self.matched += 1;
                    self.remaining = (self.remaining << 8) | byte as u64;
                } else {
                    return (0, self.fail());
                }
                (1, Event::None)
            }
            state::TARGET => {
                if byte <= b' ' || byte == 0x7f {
                    return (0, self.fail());
                }
                self.state = state::REQUEST_LINE;
                self.tail = (byte as u64) << 56;
                self.before_tail = 0;
                (1, Event::None)
            }
            state::STATUS => self.take_status(byte),
            state::LINE_START => self.take_line_start(byte),
            state::NAME => self.take_name(byte),
            state::LENGTH => self.take_length(byte),
            state::CODING => self.take_coding(byte),
            state::TRACEPARENT => {
                if byte == b'\r' || byte == b'\n' {
                    return self.end_value();
                }
                if self.traceparent_at == 0 {
                    if byte == b' ' || byte == b'\t' {
                        return (1, Event::None);
                    }
                    self.traceparent_at = self.head_len;
                }
                self.traceparent.push(byte);
                (1, Event::None)
            }
            state::FIELD_END => self.take_field_end(byte),
            state::EMPTY_LINE => {
                if byte != b'\n' {
                    return (0, self.fail());
                }
                self.state = state::HEAD_END;
                (1, Event::HeadEnd)
            }
            state::CHUNK_SIZE => self.take_chunk_size(byte),
            state::CHUNK_END => self.take_chunk_end(byte),
            state::TRAILER_START => {
                if byte == b'\r' {
                    self.state = state::TRAILER_END;
                    return (1, Event::None);
                }
                if byte == b'\n' {
                    self.facts |= FACT_AMBIGUOUS;
                    self.state = state::MESSAGE_END;
                    return (1, Event::MessageEnd);
                }
                self.state = state::TRAILER_LINE;
                self.tail = 0;
                (0, Event::None)
            }
            state::TRAILER_END => {
                if byte != b'\n' {
                    return (0, self.fail());
                }
                self.state = state::MESSAGE_END;
                (1, Event::MessageEnd)
            }
            _ => (0, self.fail()),
        }
    }
}
