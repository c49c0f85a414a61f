//! What is common, taken many bytes at once: whole heads, where nothing in them is odd.
//!
//! This takes what the machine would take byte by byte, and leaves it in the state that
//! it would be in; or it stops at the start of a line, and takes nothing of that line,
//! where anything is out of the ordinary. All that it learns on the way is in locals: a
//! byte taken by itself costs the kernel some 15 ns, a word taken here less than 5.

use super::window::{read_word, zero_bytes};
use super::{
    Event, FACT_CHUNKED, FACT_CODING, FACT_LENGTH, FACT_TRACEPARENT, Http1, Window, state,
};
use crate::config::WINDOW;

/// Bytes that must be there to look at a first line.
const FIRST_LINE: u32 = 16;

/// Bytes that must be there to look at the fields that matter, their values included.
const LENGTH: u32 = 18;
const CODING: u32 = 27;
const TRACEPARENT: u32 = 69;

/// Lines, or rows of lines that do not matter, taken in one step.
const LINES: u32 = 12;

/// Words looked at for the ends of lines, at once.
const WORDS: u32 = 40;

/// Keeps positions in and just behind the window what they are. The verifier would else
/// learn more about them with each round, find no two rounds alike, and say `BPF program is
/// too large`.
const POSITION: u32 = 2 * WINDOW as u32 - 1;

const LF_WORD: u64 = 0x0a0a_0a0a_0a0a_0a0a;
const CR_WORD: u64 = 0x0d0d_0d0d_0d0d_0d0d;
const ZERO_WORD: u64 = 0x3030_3030_3030_3030;

/// Sets bit 5 of each byte: makes letters lower case. Other bytes may come to look like
/// `-`, `:` and space, so those are compared as they were.
const LOWER: u64 = 0x2020_2020_2020_2020;

/// Eight bytes of a name, as they are read.
const fn word(text: [u8; 8]) -> u64 {
    u64::from_le_bytes(text)
}

/// What a line turned out to be, by its first bytes: nothing that is taken here.
const ODD: u32 = 0;
/// The line that ends the head.
const END: u32 = 1;
/// One to pass over. More than that: a field that matters, of which so many more bytes
/// were taken, up to the CR.
const FIELD: u32 = 2;

/// [`Http1::candidate_ahead`] as a function that the verifier looks at once, by itself.
///
/// # Safety
///
/// Both pointers must be null or valid.
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle), inline(never))]
unsafe extern "C" fn http1_candidate(
    http1: *mut Http1,
    window: *const Window,
    at: u32,
    end: u32,
    before: u32,
) -> u32 {
    // SAFETY: the caller's promise.
    match unsafe { (http1.as_mut(), window.as_ref()) } {
        (Some(http1), Some(window)) => http1.candidate_ahead(window, at, end, before),
        _ => ODD,
    }
}

/// [`words_of_lines`] as a function that the verifier looks at once, by itself: it walks the words of a line
/// once for each state in which it gets there.
///
/// # Safety
///
/// The pointer must be null or valid.
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle), inline(never))]
unsafe extern "C" fn http1_lines_end(window: *const Window, from: u32, end: u32, most: u32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { window.as_ref() }.map_or(0, |window| words_of_lines(window, from, end, most))
}

/// Where the line ends that goes on at `from`, and with it those that follow and are to be passed over, `most`
/// in all: behind the last line feed. 0 if the first does not end, with CR and LF, below `end`, or too far
/// away.
#[inline(always)]
fn lines_end(window: &Window, from: u32, end: u32, most: u32) -> u32 {
    // SAFETY: a reference is valid.
    unsafe { http1_lines_end(window, from, end, most) }
}

/// As [`lines_end`].
#[inline(always)]
fn words_of_lines(window: &Window, from: u32, end: u32, most: u32) -> u32 {
    let mut here = from & POSITION;
    let mut passed = 0;
    let mut lines = 0;
    let mut round = 0;
    while round < WORDS && here < end {
        let feeds = zero_bytes(read_word(window, here) ^ LF_WORD);
        round += 1;
        if feeds == 0 {
            here = (here + 8) & POSITION;
            continue;
        }
        let after = (here + (feeds.trailing_zeros() >> 3) + 1) & POSITION;
        if after > end || after < 2 || read_word(window, after - 2) as u8 != b'\r' {
            break;
        }
        passed = after;
        lines += 1;
        if lines >= most || after >= end || !is_passed_over(read_word(window, after) as u8) {
            break;
        }
        here = after;
    }
    passed
}

/// Whether a line that starts so is a field that does not matter.
#[inline(always)]
fn is_passed_over(first: u8) -> bool {
    let lower = first | 0x20;
    first > b' ' && lower != b'c' && lower != b't' && lower != b'u'
}

impl Http1 {
    /// Takes bytes from `at`, of which those below `end` are there; `at` is below `end`.
    /// `None` if they are to be taken as the state says.
    #[inline(always)]
    pub(super) fn take_ahead(
        &mut self,
        window: &Window,
        at: u32,
        end: u32,
    ) -> Option<(u32, Event)> {
        let (at, end) = (at & POSITION, end & POSITION);
        // A line starts here, and all before it was taken.
        let mut here = at;
        if self.state == state::START {
            if end - at < FIRST_LINE {
                return None;
            }
            let from = at + self.start_ahead(window, at)?;
            // Of a request line the end matters.
            let most = if self.is_request() { 1 } else { LINES };
            let after = lines_end(window, from, end, most);
            if after < from + 2 {
                return None;
            }
            if self.is_request()
                && (after < from + 11
                    || read_word(window, after - 11) as u16 != u16::from_le_bytes(*b" H")
                    || !ends_request_line(read_word(window, after - 9)))
            {
                return None;
            }
            here = after & POSITION;
        } else if self.state != state::LINE_START {
            return None;
        }
        let mut line = 0;
        while line < LINES && here < end {
            let field = self.field_ahead(window, here, end, here - at);
            if field == END {
                self.state = state::HEAD_END;
                self.count_head(here + 2 - at);
                let is_over = self.state == state::HEAD_END;
                let event = if is_over { Event::HeadEnd } else { Event::NotHttp };
                return Some((here + 2 - at, event));
            }
            if field == ODD {
                break;
            }
            if field > FIELD {
                let from = (here + (field - FIELD)) & POSITION;
                let line_ends = read_word(window, from) as u16 == u16::from_le_bytes(*b"\r\n");
                if from + 2 > end || !line_ends {
                    // The value was taken, and what is behind it is looked at byte by byte.
                    self.end_value();
                    self.count_head(from - at);
                    return Some((from - at, Event::None));
                }
                here = (from + 2) & POSITION;
                line += 1;
                continue;
            }
            let after = lines_end(window, here, end, LINES);
            if after < here + 2 {
                break;
            }
            here = after & POSITION;
            line += 1;
        }
        if here == at {
            return None;
        }
        self.state = state::LINE_START;
        self.count_head(here - at);
        Some((here - at, Event::None))
    }

    /// The start of a first line: how long it is.
    #[inline(always)]
    fn start_ahead(&mut self, window: &Window, at: u32) -> Option<u32> {
        if self.is_request() {
            self.method_ahead(window, at)
        } else {
            self.status_ahead(window, at)
        }
    }

    /// The commonest methods, up to the first byte of the target.
    #[inline(always)]
    fn method_ahead(&mut self, window: &Window, at: u32) -> Option<u32> {
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
        Some(len)
    }

    /// `HTTP/1.x ddd`.
    #[inline(always)]
    fn status_ahead(&mut self, window: &Window, at: u32) -> Option<u32> {
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
        Some(12)
    }

    /// A line of the head that starts at `at`. A field that matters is taken up to the
    /// end of its value, if it is the only one of its kind. `before` bytes of this step
    /// come before it.
    #[inline(always)]
    fn field_ahead(&mut self, window: &Window, at: u32, end: u32, before: u32) -> u32 {
        let start = read_word(window, at) as u16;
        let first = start as u8;
        if first <= b' ' {
            let is_end = start == u16::from_le_bytes(*b"\r\n") && at + 2 <= end;
            return if is_end { END } else { ODD };
        }
        if is_passed_over(first) {
            return FIELD;
        }
        // SAFETY: references.
        unsafe { http1_candidate(self, window, at, end, before) }
    }

    /// A field whose name starts like one that matters.
    #[inline(always)]
    fn candidate_ahead(&mut self, window: &Window, at: u32, end: u32, before: u32) -> u32 {
        let there = end - at;
        if there < 8 {
            return ODD;
        }
        let raw = read_word(window, at);
        let name = raw | LOWER;
        if name == word(*b"content-") {
            if there < LENGTH {
                return ODD;
            }
            return self.length_ahead(window, at, there, raw);
        }
        if name == word(*b"tracepar") {
            if there < TRACEPARENT {
                return ODD;
            }
            return self.traceparent_ahead(window, at, self.head_len + before);
        }
        if name == word(*b"transfer") {
            return if there < CODING { ODD } else { self.coding_ahead(window, at) };
        }
        if name & !(0xff << 56) == word(*b"upgrade\0") && (raw >> 56) as u8 != b'-' {
            return ODD;
        }
        FIELD
    }

    /// `Content-Length:`, a space, up to seven digits, CR; or another name that starts like
    /// it. `there` bytes are there.
    #[inline(always)]
    fn length_ahead(&mut self, window: &Window, at: u32, there: u32, raw: u64) -> u32 {
        if (raw >> 56) as u8 != b'-' {
            return ODD;
        }
        let next = read_word(window, at + 8);
        if (next | LOWER) & 0xffff_ffff_ffff != word(*b"length\0\0") {
            return FIELD;
        }
        if (next >> 48) as u16 != u16::from_le_bytes(*b": ")
            || self.facts & (FACT_LENGTH | FACT_CODING) != 0
        {
            return ODD;
        }
        let value = read_word(window, at + 16);
        let bits = zero_bytes(value ^ CR_WORD).trailing_zeros() & !7;
        if bits == 0 || bits >= 64 || there < 17 + (bits >> 3) {
            return ODD;
        }
        // The last digit in the highest byte, zeros before the first.
        let digits = (value ^ ZERO_WORD) << (64 - bits);
        if (digits | digits.wrapping_add(0x0606_0606_0606_0606)) & 0xf0f0_f0f0_f0f0_f0f0 != 0 {
            return ODD;
        }
        let pairs = (digits * 10 + (digits >> 8)) & 0x00ff_00ff_00ff_00ff;
        let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
        self.facts |= FACT_LENGTH;
        self.remaining = (fours * 10_000 + (fours >> 32)) & 0xffff_ffff;
        FIELD + 16 + (bits >> 3)
    }

    /// `Transfer-Encoding: chunked`, CR.
    #[inline(always)]
    fn coding_ahead(&mut self, window: &Window, at: u32) -> u32 {
        let name = read_word(window, at + 8);
        let colon = read_word(window, at + 16);
        let value = read_word(window, at + 18);
        if name | LOWER != word(*b"-encodin")
            || name as u8 != b'-'
            || colon as u8 | 0x20 != b'g'
            || (colon >> 8) as u8 != b':'
            || value as u8 != b' '
            || value | LOWER != word(*b" chunked")
            || read_word(window, at + 26) as u8 != b'\r'
            || self.facts & (FACT_LENGTH | FACT_CHUNKED | FACT_CODING) != 0
        {
            return ODD;
        }
        self.facts |= FACT_CODING | FACT_CHUNKED;
        FIELD + 26
    }

    /// `traceparent:`, a space, a whole value of version 00, CR. The line starts `in_head`
    /// bytes into the head.
    #[inline(always)]
    fn traceparent_ahead(&mut self, window: &Window, at: u32, in_head: u32) -> u32 {
        let name = read_word(window, at + 8);
        if (name as u32 | LOWER as u32) & 0x00ff_ffff != u32::from_le_bytes(*b"ent\0")
            || (name >> 24) as u8 != b':'
            || (name >> 32) as u8 != b' '
            || self.facts & FACT_TRACEPARENT != 0
            || !self.traceparent.take_version_00(|offset| read_word(window, at + 13 + offset))
        {
            return ODD;
        }
        self.facts |= FACT_TRACEPARENT;
        self.traceparent_at = in_head + 13;
        FIELD + 68
    }
}

/// Whether the eight bytes before the line feed end a request line.
#[inline(always)]
fn ends_request_line(last: u64) -> bool {
    last & !(0xff << 48) == word(*b"TTP/1.\0\r") && ((last >> 48) as u8).is_ascii_digit()
}
