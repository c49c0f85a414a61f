//! What the kernel has to know of a request's header block (RFC 7541): whether it holds a trace
//! context, and which.
//!
//! No table is kept. The dynamic table is addressed from its newest entry, so it is enough to
//! remember which of the entries that were added last are named `traceparent`, and what the last
//! few of these said; what was evicted is not referred to by anybody who keeps to the rules. An
//! index that reaches further back than is remembered may be a `traceparent`, and so may a field
//! that takes its name from there: that is said ([`FACT_UNKNOWN_FIELD`]), and what it means is for
//! the caller to decide.

use super::huffman::{Bits, NAME as CODED_NAME};
use crate::context::TraceContext;
use crate::parse::http1::{Window, byte_at, read_word};
use crate::parse::traceparent::{TraceparentValue, VALUE_LEN};

/// The block has a `traceparent`.
pub const FACT_TRACEPARENT: u8 = 1;
/// It has more than one.
pub const FACT_REPEATED: u8 = 2;
/// It has a field of which it is not known what it is.
pub const FACT_UNKNOWN_FIELD: u8 = 4;
/// Its `traceparent` is, or becomes, an entry of the receiver's table.
pub const FACT_INDEXED: u8 = 8;

/// Entries of the static table (RFC 7541 Appendix A). None is a `traceparent`.
const STATIC_ENTRIES: u32 = 61;

/// Entries of the dynamic table of which is remembered whether they are a `traceparent`. A table of
/// the size that is in force unless something else is agreed upon (4,096 bytes) has no more than
/// half as many.
const REMEMBERED: u32 = 256;

/// As many, a bit each.
const HISTORY: usize = REMEMBERED as usize / 64;

/// Of so many `traceparent` entries, the newest, the value is remembered.
const VALUES: usize = 4;

const NAME_LEN: u32 = 11;

/// The longest value that is read, in bytes. Those of versions to come may be longer than today's
/// (W3C Trace Context §3.2.4).
const LONGEST_VALUE: u32 = 256;

mod state {
    pub(super) const FIELD: u8 = 0;
    pub(super) const INDEX: u8 = 1;
    pub(super) const NAME_START: u8 = 2;
    pub(super) const NAME_SIZE: u8 = 3;
    pub(super) const NAME: u8 = 4;
    pub(super) const NAME_PASSED_OVER: u8 = 5;
    pub(super) const VALUE_START: u8 = 6;
    pub(super) const VALUE_SIZE: u8 = 7;
    pub(super) const VALUE: u8 = 8;
    pub(super) const VALUE_PASSED_OVER: u8 = 9;
    pub(super) const BROKEN: u8 = 10;
}

/// The representations of a field (§6).
mod form {
    pub(super) const INDEXED: u8 = 0;
    pub(super) const LITERAL_ADDED: u8 = 1;
    pub(super) const LITERAL: u8 = 2;
    pub(super) const TABLE_SIZE: u8 = 3;
}

/// Whether a field is named `traceparent`.
mod verdict {
    pub(super) const NO: u8 = 0;
    pub(super) const YES: u8 = 1;
    pub(super) const UNKNOWN: u8 = 2;
}

/// An entry of the dynamic table that is named `traceparent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct Entry {
    /// How many entries had been added with it.
    number: u64,
    value: TraceparentValue,
}

/// Reads header blocks of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Scanner {
    /// The value of the block's `traceparent`.
    value: TraceparentValue,
    /// Bits of a Huffman coded value that are not a whole symbol yet.
    bits: Bits,
    /// The last eight bytes of a name.
    name_end: u64,
    /// Entries that were added to the dynamic table since the start, or since the last loss.
    added: u64,
    /// For each of the newest entries, the newest in the lowest bit, whether it is a `traceparent`.
    traceparents: [u64; HISTORY],
    /// Likewise, whether it is not known what it is.
    unknowns: [u64; HISTORY],
    /// The newest entries that are a `traceparent`, one written over the oldest.
    entries: [Entry; VALUES],
    /// An integer that is being read (§5.1).
    integer: u32,
    /// Bytes of the string still to come.
    left: u32,
    /// Where in the block the coded value of the `traceparent` starts, in bytes.
    value_at: u32,
    /// The length of that, in bytes.
    value_len: u32,
    /// Values of `traceparent` entries so far.
    kept: u32,
    /// The three bytes of a name before its last eight.
    name_start: u32,
    state: u8,
    /// How the field is represented.
    form: u8,
    /// Whether it is a `traceparent`.
    named: u8,
    /// Bits by which the next byte of the integer is shifted.
    shift: u8,
    /// Non-zero if the string is Huffman coded.
    coded: u8,
    /// `FACT_` bits.
    facts: u8,
    /// Non-zero if the value of the `traceparent` is Huffman coded.
    value_coded: u8,
    pad: u8,
}

impl Scanner {
    /// A header block begins.
    #[inline(always)]
    pub fn begin(&mut self) {
        if self.state != state::BROKEN {
            self.state = state::FIELD;
        }
        self.facts = 0;
        self.value.clear();
    }

    /// What the dynamic table holds is not known from here on.
    #[inline(always)]
    pub fn lose(&mut self) {
        *self = Self { unknowns: [u64::MAX; HISTORY], ..Self::default() };
    }

    /// `FACT_` bits of the block.
    #[inline(always)]
    pub fn facts(&self) -> u8 {
        self.facts
    }

    /// The one valid context in the block.
    #[inline(always)]
    pub fn context(&self) -> Option<TraceContext> {
        if self.facts & (FACT_TRACEPARENT | FACT_REPEATED) != FACT_TRACEPARENT {
            return None;
        }
        self.value.finish()
    }

    /// Where in the block the value of the `traceparent` starts as it is coded there, behind its
    /// length, and how long it is, in bytes. Nothing for one that is an entry of a table.
    #[inline(always)]
    pub fn value_place(&self) -> (u32, u32) {
        (self.value_at, self.value_len)
    }

    /// Whether the value is Huffman coded.
    #[inline(always)]
    pub fn value_is_coded(&self) -> bool {
        self.value_coded != 0
    }

    /// Whether a block may end here.
    #[inline(always)]
    pub fn is_between_fields(&self) -> bool {
        self.state == state::FIELD
    }

    /// Takes bytes of the window from `at`, which is below `end`. `block_at`: where in the block
    /// that is. Answers how many; at least one.
    #[inline(always)]
    pub fn step(&mut self, window: &Window, at: u32, end: u32, block_at: u32) -> u32 {
        let here = end.wrapping_sub(at);
        match self.state {
            state::NAME_PASSED_OVER | state::VALUE_PASSED_OVER => return self.pass_over(here),
            state::BROKEN => return here,
            state::NAME if self.left == NAME_LEN && here >= NAME_LEN => {
                // A plain name in one piece: two words of it tell.
                let start = read_word(window, at) as u32;
                let end = read_word(window, at.wrapping_add(NAME_LEN - 8));
                self.left = 0;
                self.end_name(start == u32::from_le_bytes(*b"trac") && end == NAME_END);
                return NAME_LEN;
            }
            state::VALUE
                if self.coded == 0
                    && self.value_len == VALUE_LEN as u32
                    && self.left == VALUE_LEN as u32
                    && here >= self.left =>
            {
                // All of it, in one piece.
                let read = self.value.take_version_00(|offset| {
                    let word = read_word(window, at.wrapping_add(offset));
                    // Behind the value it looks for the end of a line.
                    if offset == 48 {
                        (word & (u64::MAX >> 8)) | ((b'\r' as u64) << 56)
                    } else {
                        word
                    }
                });
                if read {
                    self.left = 0;
                    self.end_field();
                    return VALUE_LEN as u32;
                }
            }
            _ => {}
        }
        self.take_byte(byte_at(window, at), block_at);
        1
    }

    #[inline(always)]
    fn pass_over(&mut self, here: u32) -> u32 {
        let taken = if self.left < here { self.left } else { here };
        self.left = self.left.wrapping_sub(taken);
        if self.left == 0 {
            if self.state == state::NAME_PASSED_OVER {
                self.state = state::VALUE_START;
            } else {
                self.end_field();
            }
        }
        taken
    }

    #[inline(always)]
    fn take_byte(&mut self, byte: u8, block_at: u32) {
        match self.state {
            state::FIELD => self.begin_field(byte),
            state::NAME_START | state::VALUE_START => {
                self.coded = byte >> 7;
                if self.begin_integer(byte, 0x7f) {
                    self.begin_string(block_at);
                } else {
                    self.state += 1;
                }
            }
            state::INDEX | state::NAME_SIZE | state::VALUE_SIZE => {
                if !self.go_on_with_integer(byte) {
                    return;
                }
                if self.state == state::INDEX {
                    self.end_index()
                } else {
                    self.begin_string(block_at)
                }
            }
            state::NAME => {
                self.name_start = (self.name_start << 8) | (self.name_end & 0xff) as u32;
                self.name_end = (self.name_end >> 8) | ((byte as u64) << 56);
                self.left = self.left.wrapping_sub(1);
                if self.left == 0 {
                    let is_this = if self.coded != 0 {
                        self.name_end == CODED_NAME
                    } else {
                        self.name_start & 0x00ff_ffff == NAME_FRONT && self.name_end == NAME_END
                    };
                    self.end_name(is_this);
                }
            }
            state::VALUE => {
                if self.coded != 0 {
                    let is_last = self.left == 1;
                    self.bits.take(byte, is_last, &mut self.value);
                } else {
                    self.value.push(byte);
                }
                self.left = self.left.wrapping_sub(1);
                if self.left == 0 {
                    self.end_field();
                }
            }
            _ => self.state = state::BROKEN,
        }
    }

    /// The first byte of a field (§6).
    #[inline(always)]
    fn begin_field(&mut self, byte: u8) {
        self.named = verdict::NO;
        let mask = if byte & 0x80 != 0 {
            self.form = form::INDEXED;
            0x7f
        } else if byte & 0x40 != 0 {
            self.form = form::LITERAL_ADDED;
            0x3f
        } else if byte & 0x20 != 0 {
            self.form = form::TABLE_SIZE;
            0x1f
        } else {
            self.form = form::LITERAL;
            0x0f
        };
        if self.begin_integer(byte, mask) {
            self.end_index();
        } else {
            self.state = state::INDEX;
        }
    }

    /// The first byte of an integer. Answers whether that is all of it.
    #[inline(always)]
    fn begin_integer(&mut self, byte: u8, mask: u8) -> bool {
        self.integer = (byte & mask) as u32;
        self.shift = 0;
        self.integer < mask as u32
    }

    /// A further byte of an integer. Answers whether it is the last. One of more than 28 bits is
    /// none that a peer takes.
    #[inline(always)]
    fn go_on_with_integer(&mut self, byte: u8) -> bool {
        let shift = self.shift & 31;
        if shift > 21 {
            self.state = state::BROKEN;
            return false;
        }
        self.integer = self.integer.wrapping_add(((byte & 0x7f) as u32) << shift);
        self.shift = shift + 7;
        byte & 0x80 == 0
    }

    /// An index, or the new size of the table, was read.
    #[inline(always)]
    fn end_index(&mut self) {
        let index = self.integer;
        match self.form {
            form::TABLE_SIZE => self.state = state::FIELD,
            form::INDEXED if index == 0 => self.state = state::BROKEN,
            form::INDEXED => {
                self.named = self.verdict_on(index);
                if self.named == verdict::YES {
                    self.recall(index);
                }
                self.state = state::FIELD;
                self.note_field();
            }
            _ if index == 0 => self.state = state::NAME_START,
            _ => {
                self.named = self.verdict_on(index);
                self.state = state::VALUE_START;
            }
        }
    }

    /// Whether the entry at `index` is named `traceparent`.
    #[inline(always)]
    fn verdict_on(&self, index: u32) -> u8 {
        if index <= STATIC_ENTRIES {
            return verdict::NO;
        }
        let back = index - STATIC_ENTRIES - 1;
        if back >= REMEMBERED || back as u64 >= self.added || bit(&self.unknowns, back) {
            verdict::UNKNOWN
        } else if bit(&self.traceparents, back) {
            verdict::YES
        } else {
            verdict::NO
        }
    }

    /// Finds the value of the `traceparent` at `index`; one that is no context if it is not kept.
    #[inline(always)]
    fn recall(&mut self, index: u32) {
        let number = self.added.wrapping_sub((index - STATIC_ENTRIES - 1) as u64);
        let mut at = 0;
        self.value.clear();
        self.value_at = 0;
        self.value_len = 0;
        self.value_coded = 0;
        while at < VALUES {
            if self.entries[at].number == number {
                self.value = self.entries[at].value;
            }
            at += 1;
        }
    }

    #[inline(always)]
    fn begin_string(&mut self, block_at: u32) {
        self.left = self.integer;
        if self.state == state::NAME_START || self.state == state::NAME_SIZE {
            let coded_len = 8;
            let wanted = if self.coded != 0 { coded_len } else { NAME_LEN };
            self.state = if self.left == wanted { state::NAME } else { state::NAME_PASSED_OVER };
            if self.left == 0 {
                self.state = state::VALUE_START;
            }
            return;
        }
        if self.named == verdict::YES {
            self.value.clear();
            self.bits = Bits::default();
            self.value_at = block_at.wrapping_add(1);
            self.value_len = self.left;
            self.value_coded = self.coded;
            self.state = state::VALUE;
            if self.left > LONGEST_VALUE {
                self.value.push(0);
                self.state = state::VALUE_PASSED_OVER;
            }
        } else {
            self.state = state::VALUE_PASSED_OVER;
        }
        if self.left == 0 {
            self.end_field();
        }
    }

    #[inline(always)]
    fn end_name(&mut self, is_traceparent: bool) {
        self.named = if is_traceparent { verdict::YES } else { verdict::NO };
        self.state = state::VALUE_START;
    }

    #[inline(always)]
    fn end_field(&mut self) {
        self.state = state::FIELD;
        if self.form == form::LITERAL_ADDED {
            self.add();
        }
        self.note_field();
    }

    #[inline(always)]
    fn note_field(&mut self) {
        if self.named == verdict::UNKNOWN {
            self.facts |= FACT_UNKNOWN_FIELD;
        }
        if self.named == verdict::YES {
            let more = if self.facts & FACT_TRACEPARENT != 0 { FACT_REPEATED } else { 0 };
            let indexed = if self.form == form::LITERAL { 0 } else { FACT_INDEXED };
            self.facts |= FACT_TRACEPARENT | more | indexed;
        }
    }

    /// The field is a new entry of the dynamic table (§6.2.1).
    #[inline(always)]
    fn add(&mut self) {
        let is_this = self.named == verdict::YES;
        self.added = self.added.wrapping_add(1);
        push(&mut self.traceparents, is_this);
        // What takes its name from an entry that is not known is as little known.
        push(&mut self.unknowns, self.named == verdict::UNKNOWN);
        if is_this {
            let at = self.kept as usize & (VALUES - 1);
            self.entries[at] = Entry { number: self.added, value: self.value };
            self.kept = self.kept.wrapping_add(1);
        }
    }
}

/// The bit of the entry that is `back` behind the newest; `back` is below [`REMEMBERED`].
#[inline(always)]
fn bit(history: &[u64; HISTORY], back: u32) -> bool {
    let word = match back / 64 {
        0 => history[0],
        1 => history[1],
        2 => history[2],
        _ => history[3],
    };
    word >> (back & 63) & 1 != 0
}

/// Puts the bit of a new entry before all others.
#[inline(always)]
fn push(history: &mut [u64; HISTORY], newest: bool) {
    history[3] = (history[3] << 1) | (history[2] >> 63);
    history[2] = (history[2] << 1) | (history[1] >> 63);
    history[1] = (history[1] << 1) | (history[0] >> 63);
    history[0] = (history[0] << 1) | newest as u64;
}

/// The last eight letters of the name, and the three before them.
const NAME_END: u64 = u64::from_le_bytes(*b"ceparent");
const NAME_FRONT: u32 = ((b't' as u32) << 16) | ((b'r' as u32) << 8) | b'a' as u32;

#[cfg(test)]
#[path = "hpack_tests.rs"]
mod tests;
