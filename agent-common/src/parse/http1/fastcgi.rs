//! HTTP in the records of FastCGI, as web servers ask PHP-FPM for it ("FastCGI Specification",
//! version 1, Open Market 1996), and what such a server answers (RFC 3875 §6).
//!
//! The protocol can carry several requests at once on a connection. Few web servers do so, and nothing
//! is made of it: [`Http1::request_id`] shows it. Else requests follow one another, as in HTTP/1.x, and
//! the same machine tells where they end: a request's head goes up to the empty record that ends its
//! parameters, a response's up to the empty line in what the application writes.

use super::window::{read_word, zero_bytes};
use super::{
    Event, FACT_AMBIGUOUS, FACT_FASTCGI, FACT_TRACEPARENT, FACT_TRACEPARENT_REPEATED, Http1,
    Window, state,
};
use crate::config::WINDOW;

/// The first byte of each record (§3.3).
pub(super) const VERSION: u8 = 1;

/// Types of records (§8).
const BEGIN_REQUEST: u8 = 1;
const ABORT_REQUEST: u8 = 2;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;
const GET_VALUES: u8 = 9;
const GET_VALUES_RESULT: u8 = 10;
const UNKNOWN_TYPE: u8 = 11;

/// Bytes in the content of the records that begin and end a request.
const FIXED_CONTENT: u64 = 8;

/// [`Http1::before_tail`]: the head is over.
pub(super) const HEAD_OVER: u16 = 1;
/// Likewise: the response has a `Location`.
const LOCATION: u16 = 2;
/// Likewise: the connection is closed behind the request.
const CLOSES: u16 = 4;
/// One more byte of a name in the response's head: they are counted in the upper half.
const ONE_OF_NAME: u16 = 1 << 8;

/// [`Http1::name`], in parameters: the lengths of a name and its value (§3.4).
const LENGTHS: u8 = 0;
/// A name that is as long as [`TRACEPARENT`].
const NAME: u8 = 1;
/// The value of [`TRACEPARENT`].
const VALUE: u8 = 2;
/// What is left of a name and its value.
const REST: u8 = 3;
/// A record ended inside of lengths or of a name or value that matters, which nobody sends: what comes
/// is not known.
const UNKNOWN: u8 = 4;

/// [`Http1::name`], in the head of a response: the name of a field; a status code; what is left of a
/// line.
const FIELD: u8 = 0;
const STATUS: u8 = 1;
const LINE: u8 = 2;

/// The parameter that a `traceparent` header becomes (RFC 3875 §4.1.18).
const TRACEPARENT: [u64; 2] = [u64::from_le_bytes(*b"HTTP_TRA"), u64::from_le_bytes(*b"CEPARENT")];
const TRACEPARENT_LEN: u32 = 16;

/// The lengths and the name, if both lengths take a byte.
const SHORT_PAIR: u32 = 2 + TRACEPARENT_LEN;

/// Words of a line that are passed over in one step.
const WORDS: u32 = 8;

const LF_WORD: u64 = 0x0a0a_0a0a_0a0a_0a0a;

/// Where in [`Http1::remaining`] things of the record at work are: the bytes left of its content, and
/// behind that of its padding; its type; the request's id; whether it had no content.
const LEN_MASK: u64 = 0xffff;
const PADDING_AT: u32 = 16;
const TYPE_AT: u32 = 24;
const ID_AT: u32 = 32;
const EMPTY: u64 = 1 << 48;

/// [`Http1::take_records`] as a function that the verifier looks at once, by itself.
///
/// # Safety
///
/// Both pointers must be null or valid.
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle), inline(never))]
unsafe extern "C" fn fastcgi_step(
    http1: *mut Http1,
    window: *const Window,
    at: u32,
    end: u32,
    available: u32,
) -> u64 {
    // SAFETY: the caller's promise.
    let (taken, event) = match unsafe { (http1.as_mut(), window.as_ref()) } {
        (Some(http1), Some(window)) => http1.take_records(window, at, end, available),
        _ => (0, Event::NotHttp),
    };
    taken as u64 | ((event as u64) << 32)
}

/// As [`Http1::step`], of a message in records; the event as a number, in the upper half.
#[inline(always)]
pub(super) fn step(http1: &mut Http1, window: &Window, at: u32, end: u32, available: u32) -> u64 {
    // SAFETY: references are valid.
    unsafe { fastcgi_step(http1, window, at, end, available) }
}

impl Http1 {
    /// The first byte of the first record of a message was taken.
    #[inline(always)]
    pub(super) fn begin_records(&mut self) {
        self.begin_message();
        self.facts = FACT_FASTCGI;
        self.state = state::RECORD;
        self.head_len = 1;
        self.tail = VERSION as u64;
        self.matched = 1;
        self.before_tail = 0;
        self.name = LENGTHS;
    }

    /// The head is over: content comes.
    #[inline(always)]
    pub(super) fn end_head_of_records(&mut self) {
        self.before_tail |= HEAD_OVER;
        self.content = 0;
        self.go_on();
    }

    /// Whether the connection is closed behind the request that was read last: some servers wait for
    /// that, and not only for the record that ends it.
    #[inline(always)]
    pub fn closes_behind(&self) -> bool {
        self.is_fastcgi() && self.before_tail & CLOSES != 0
    }

    /// The number that the message's records bear, the same in a request and its response (§3.3), and
    /// free again when that is over; 0 if none was read.
    #[inline(always)]
    pub fn request_id(&self) -> u16 {
        if self.is_fastcgi() { (self.remaining >> ID_AT) as u16 } else { 0 }
    }

    /// As [`Http1::pass_over`], inside of a record; `false` where anything but a body may be among it.
    #[inline(always)]
    pub(super) fn pass_over_content(&mut self, missing: u64) -> bool {
        let kind = (self.remaining >> TYPE_AT) as u8;
        let is_body = self.before_tail & HEAD_OVER != 0 && (kind == STDIN || kind == STDOUT);
        if !is_body || missing >= self.remaining & LEN_MASK {
            return false;
        }
        self.remaining -= missing;
        self.content += missing;
        true
    }

    /// Whether the head of a request in records was not read to its end. Also known where the position was lost.
    #[inline(always)]
    pub fn is_without_head_of_records(&self) -> bool {
        self.is_fastcgi() && self.before_tail & HEAD_OVER == 0
    }

    /// Whether a head in records is being read.
    #[inline(always)]
    pub(super) fn is_in_head_of_records(&self) -> bool {
        self.state >= state::RECORD && self.before_tail & HEAD_OVER == 0
    }

    #[inline(always)]
    fn take_records(&mut self, window: &Window, at: u32, end: u32, available: u32) -> (u32, Event) {
        let in_head = self.is_in_head_of_records();
        let here = end.wrapping_sub(at) & (2 * WINDOW as u32 - 1);
        let byte = window.0[at as usize & (WINDOW - 1)];
        let (taken, event) = match self.state {
            state::RECORD => {
                self.tail = (self.tail << 8) | byte as u64;
                self.matched += 1;
                (1, if self.matched < 8 { Event::None } else { self.open_record() })
            }
            state::CONTENT => self.take_content(window, at, here, available),
            _ => {
                let left = (self.remaining >> PADDING_AT) as u8 as u32;
                let taken = if left < here { left } else { here };
                self.remaining = self.remaining.wrapping_sub((taken as u64) << PADDING_AT);
                (taken, if taken < left { Event::None } else { self.end_record() })
            }
        };
        if in_head {
            self.count_head(taken);
            if self.state == state::LOST {
                return (taken, Event::NotHttp);
            }
        }
        (taken, event)
    }

    /// All of a record's header is in [`Http1::tail`].
    #[inline(always)]
    fn open_record(&mut self) -> Event {
        let header = self.tail;
        let (kind, id) = ((header >> 48) as u8, header >> 32 & 0xffff);
        let (len, padding) = (header >> 16 & 0xffff, header >> 8 & 0xff);
        let before = self.remaining >> ID_AT & 0xffff;
        let is_first = before == 0;
        let fits = if !self.is_request() {
            kind == STDOUT || kind == STDERR || kind == END_REQUEST && len == FIXED_CONTENT
        } else if is_first {
            kind == BEGIN_REQUEST && len == FIXED_CONTENT
        } else if self.before_tail & HEAD_OVER == 0 {
            kind == PARAMS || kind == ABORT_REQUEST
        } else {
            kind == STDIN || kind == ABORT_REQUEST
        };
        if (header >> 56) as u8 == VERSION && is_first && self.is_of_no_message(kind, id, len) {
            return self.expect_record(kind, 0, len, padding);
        }
        let is_same = is_first || id == before;
        if (header >> 56) as u8 != VERSION || id == 0 || !is_same || !fits {
            return self.fail();
        }
        self.expect_record(kind, id, len, padding)
    }

    /// Between messages, a record begins that is of none of them: one of the connection's own (§3.3), or what
    /// still comes of a request that was over before. Such a one is kept with the number 0.
    #[inline(always)]
    fn is_of_no_message(&self, kind: u8, id: u64, len: u64) -> bool {
        if !self.is_request() {
            return id == 0 && (kind == GET_VALUES_RESULT || kind == UNKNOWN_TYPE);
        }
        if id == 0 {
            return kind == GET_VALUES;
        }
        // Aborted, while it is answered or behind that; and the end of the body of one that was.
        len == 0 && (kind == ABORT_REQUEST || kind == STDIN)
    }

    /// The record's header is in order.
    #[inline(always)]
    fn expect_record(&mut self, kind: u8, id: u64, len: u64, padding: u64) -> Event {
        let empty = if len == 0 { EMPTY } else { 0 };
        self.remaining =
            empty | id << ID_AT | (kind as u64) << TYPE_AT | padding << PADDING_AT | len;
        self.tail = 0;
        self.matched = 0;
        if len == 0 && padding == 0 {
            return self.end_record();
        }
        self.go_on();
        Event::None
    }

    /// The state that takes what is left of the record.
    #[inline(always)]
    fn go_on(&mut self) {
        self.state = if self.remaining as u16 != 0 {
            state::CONTENT
        } else if (self.remaining >> PADDING_AT) as u8 != 0 {
            state::PADDING
        } else {
            self.tail = 0;
            self.matched = 0;
            state::RECORD
        };
    }

    /// All of a record was taken.
    #[inline(always)]
    fn end_record(&mut self) -> Event {
        let kind = (self.remaining >> TYPE_AT) as u8;
        let is_empty = self.remaining & EMPTY != 0;
        if kind == PARAMS && (self.matched != 0 || self.name == NAME || self.name == VALUE) {
            self.name = UNKNOWN;
            self.facts |= FACT_AMBIGUOUS;
        }
        let is_of_none = self.remaining >> ID_AT & 0xffff == 0;
        self.go_on();
        if is_of_none {
            // The message itself is yet to begin.
            self.state = state::START;
            self.head_len = 0;
            return Event::None;
        }
        match kind {
            PARAMS if is_empty => Event::HeadEnd,
            STDIN if is_empty => self.end_message(),
            // Of its body, no more comes.
            ABORT_REQUEST if self.before_tail & HEAD_OVER != 0 => self.end_message(),
            END_REQUEST => self.end_message(),
            _ => Event::None,
        }
    }

    #[inline(always)]
    fn end_message(&mut self) -> Event {
        if self.before_tail & HEAD_OVER == 0 {
            // What was read of the head is none.
            self.content = 0;
            self.status = 0;
        }
        self.state = state::MESSAGE_END;
        Event::MessageEnd
    }

    /// Takes some of a record's content.
    #[inline(always)]
    fn take_content(
        &mut self,
        window: &Window,
        at: u32,
        here: u32,
        available: u32,
    ) -> (u32, Event) {
        let kind = (self.remaining >> TYPE_AT) as u8;
        let left = self.remaining as u16 as u32;
        let in_head = self.before_tail & HEAD_OVER == 0;
        let here = if left < here { left } else { here };
        let (taken, event) = match kind {
            BEGIN_REQUEST => {
                let byte = window.0[at as usize & (WINDOW - 1)];
                self.tail = (self.tail << 8) | byte as u64;
                (1, Event::None)
            }
            PARAMS => (self.take_parameters(window, at, here), Event::None),
            STDOUT if in_head => self.take_response_head(window, at, here),
            STDIN | STDOUT => {
                // Without looking at it, and beyond the window too.
                let taken = if left < available { left } else { available };
                self.content += taken as u64;
                (taken, Event::None)
            }
            _ => (here, Event::None),
        };
        self.remaining = self.remaining.wrapping_sub(taken as u64);
        if event as u8 != Event::None as u8 || taken < left {
            return (taken, event);
        }
        // A responder (§6.2); the flag says whether the connection is kept.
        const RESPONDER: u64 = 1 << 48;
        const KEEP: u64 = 1 << 40;
        if kind == BEGIN_REQUEST {
            if self.tail & !KEEP != RESPONDER {
                return (taken, self.fail());
            }
            self.before_tail |= if self.tail & KEEP != 0 { 0 } else { CLOSES };
        }
        if (self.remaining >> PADDING_AT) as u8 != 0 {
            self.state = state::PADDING;
            return (taken, Event::None);
        }
        (taken, self.end_record())
    }

    /// Takes some of a request's parameters, of which `here` bytes are in the window, at least one.
    #[inline(always)]
    fn take_parameters(&mut self, window: &Window, at: u32, here: u32) -> u32 {
        let byte = window.0[at as usize & (WINDOW - 1)];
        match self.name {
            LENGTHS => {
                let front = read_word(window, at);
                if self.matched == 0 && here >= SHORT_PAIR && front & 0x8080 == 0 {
                    return self.take_short_pair(window, at, here, front);
                }
                self.take_length_byte(byte);
                1
            }
            NAME => {
                let at = self.matched as u32;
                let word = if at < 8 { TRACEPARENT[0] } else { TRACEPARENT[1] };
                self.matched += 1;
                if byte != (word >> ((at & 7) * 8)) as u8 {
                    self.content += (TRACEPARENT_LEN - 1).wrapping_sub(at & 15) as u64;
                    self.pass_over_rest();
                } else if self.matched as u32 == TRACEPARENT_LEN {
                    self.begin_context(1);
                }
                1
            }
            VALUE => {
                self.traceparent.push(byte);
                if !self.traceparent.has_begun() {
                    // White space, which a web server may have left before the value.
                    self.traceparent_at += 1;
                }
                self.content = self.content.wrapping_sub(1);
                if self.content == 0 {
                    self.name = LENGTHS;
                    self.matched = 0;
                }
                1
            }
            REST => {
                let taken = if self.content < here as u64 { self.content as u32 } else { here };
                self.content -= taken as u64;
                self.pass_over_rest();
                taken
            }
            _ => here,
        }
    }

    /// Takes lengths of a byte each, and as much as there is of the name and the value.
    #[inline(always)]
    fn take_short_pair(&mut self, window: &Window, at: u32, here: u32, front: u64) -> u32 {
        let (name, value) = (front & 0x7f, front >> 8 & 0x7f);
        let is_traceparent = name == TRACEPARENT_LEN as u64
            && read_word(window, at + 2) == TRACEPARENT[0]
            && read_word(window, at + 10) == TRACEPARENT[1];
        if is_traceparent {
            self.content = value;
            self.begin_context(SHORT_PAIR);
            return SHORT_PAIR;
        }
        let len = 2 + name + value;
        let taken = if len < here as u64 { len } else { here as u64 };
        self.content = len - taken;
        self.pass_over_rest();
        taken as u32
    }

    /// Goes over what is left of a name and its value.
    #[inline(always)]
    fn pass_over_rest(&mut self) {
        self.matched = 0;
        self.tail = 0;
        self.name = if self.content == 0 { LENGTHS } else { REST };
    }

    /// The value of `traceparent` starts, so many bytes on.
    #[inline(always)]
    fn begin_context(&mut self, ahead: u32) {
        let is_again = self.facts & FACT_TRACEPARENT != 0;
        self.facts |= FACT_TRACEPARENT | if is_again { FACT_TRACEPARENT_REPEATED } else { 0 };
        self.traceparent.clear();
        self.traceparent_at = self.head_len + ahead;
        self.matched = 0;
        self.name = if self.content == 0 { LENGTHS } else { VALUE };
    }

    /// Takes a byte of the lengths: each takes one, or four with the highest bit set. They are
    /// gathered in [`Http1::tail`], as four bytes each.
    #[inline(always)]
    fn take_length_byte(&mut self, byte: u8) {
        let is_first_of_one = self.matched & 3 == 0;
        self.tail = (self.tail << 8) | byte as u64;
        self.matched += 1;
        if is_first_of_one && byte & 0x80 == 0 {
            // In four bytes it would be three zeros and this.
            self.tail = (self.tail >> 8) << 32 | byte as u64;
            self.matched += 3;
        }
        if self.matched < 8 {
            return;
        }
        const LEN: u64 = 0x7fff_ffff;
        let (name, value) = (self.tail >> 32 & LEN, self.tail & LEN);
        self.matched = 0;
        self.tail = 0;
        if name == TRACEPARENT_LEN as u64 {
            self.content = value;
            self.name = NAME;
        } else {
            self.content = name + value;
            self.pass_over_rest();
        }
    }

    /// Takes some of a response's head (RFC 3875 §6.3), of which `here` bytes are in the window.
    #[inline(always)]
    fn take_response_head(&mut self, window: &Window, at: u32, here: u32) -> (u32, Event) {
        let byte = window.0[at as usize & (WINDOW - 1)];
        if self.name == LINE {
            return (self.take_rest_of_line(window, at, here), Event::None);
        }
        if byte == b'\n' {
            let is_empty = self.name == FIELD && self.before_tail < ONE_OF_NAME;
            self.start_field();
            return (1, if is_empty { self.end_response_head() } else { Event::None });
        }
        if byte == b'\r' {
            return (1, Event::None);
        }
        if self.name == STATUS {
            // Three digits, behind white space or none.
            let digit = byte.wrapping_sub(b'0');
            if digit < 10 && self.status < 100 {
                self.status = self.status * 10 + digit as u16;
            } else if self.status != 0 || (byte != b' ' && byte != b'\t') {
                self.name = LINE;
            }
            return (1, Event::None);
        }
        let len = self.before_tail / ONE_OF_NAME;
        if byte == b':' {
            let is = |name: &[u8; 8]| self.content == u64::from_be_bytes(*name);
            let (is_status, is_location) = (is(b"\0\0status"), is(b"location"));
            self.name = LINE;
            if is_status && len == 6 && self.status == 0 {
                self.name = STATUS;
            } else if is_location && len == 8 {
                self.before_tail |= LOCATION;
            }
        } else if len < 8 {
            self.content = (self.content << 8) | (byte | 0x20) as u64;
            self.before_tail = self.before_tail.wrapping_add(ONE_OF_NAME);
        } else {
            self.name = LINE;
        }
        (1, Event::None)
    }

    /// A line of a response's head starts.
    #[inline(always)]
    fn start_field(&mut self) {
        self.name = FIELD;
        self.content = 0;
        self.before_tail &= ONE_OF_NAME - 1;
    }

    /// The status of a response that names none: 302 where it leads elsewhere, else 200 (§6.2.3,
    /// §6.3.3).
    #[inline(always)]
    fn end_response_head(&mut self) -> Event {
        if self.status == 0 {
            self.status = if self.before_tail & LOCATION != 0 { 302 } else { 200 };
        }
        Event::HeadEnd
    }

    /// Takes bytes up to a line feed, and that as well.
    #[inline(always)]
    fn take_rest_of_line(&mut self, window: &Window, at: u32, here: u32) -> u32 {
        let mut taken = 0;
        let mut round = 0;
        while round < WORDS && taken < here {
            let feeds = zero_bytes(read_word(window, at + taken) ^ LF_WORD);
            if feeds != 0 {
                let line = taken + (feeds.trailing_zeros() >> 3) + 1;
                if line <= here {
                    self.start_field();
                    return line;
                }
                return here;
            }
            taken += 8;
            round += 1;
        }
        if taken < here { taken } else { here }
    }
}
