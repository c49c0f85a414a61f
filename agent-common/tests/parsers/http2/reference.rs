//! A second reader of HTTP/2, which has all of the stream at once, and loona-hpack for the header
//! blocks: it says what the machine should have seen.

use super::machine::{Block, Ending, Found, Seen, Verdict};
use crate::reference::traceparent;
use loona_hpack::Decoder;
use loona_hpack::decoder::DecoderError;
use std::ops::Range;
use tracewire_common::context::TraceContext;
use tracewire_common::outcome::HeadKind;
use tracewire_common::parse::http2::hpack::{
    FACT_INDEXED, FACT_REPEATED, FACT_TRACEPARENT, FACT_UNKNOWN_FIELD,
};
use tracewire_common::parse::http2::{Event, PREFACE};

/// Entries that the scanner remembers the names of, and values that it remembers.
const NAMES: usize = 256;
const VALUES: usize = 4;

/// The longest value that it reads.
const LONGEST_VALUE: usize = 256;

/// Checks what the machine saw of `bytes` against the reference.
pub fn check(bytes: &[u8], kind: HeadKind, seen: &Seen) {
    let mut reader = Reader {
        bytes,
        at: 0,
        kind,
        block: None,
        blocks: 0,
        found: Vec::new(),
        has_settings: false,
    };
    let ending = reader.read();
    let found = reader.found;
    let mut tables = Tables::default();
    let mut ending = ending;
    let mut broken_at = None;
    for (number, expected) in found.iter().enumerate() {
        if let (HeadKind::Request, Some(block)) = (kind, &expected.block) {
            let Some(fields) = fields(&block.bytes) else {
                broken_at = Some(number);
                ending = Ending::NotHttp2(expected.at);
                break;
            };
            if let (Some(read), Some(Block { verdict, .. })) = (
                tables.read(&block.bytes, &fields),
                seen.found.get(number).and_then(|found| found.block.as_ref()),
            ) {
                read.check(verdict);
            }
        }
    }
    let found = &found[..broken_at.unwrap_or(found.len())];
    let without_verdict = |found: &Found| {
        let mut found = found.clone();
        if let Some(block) = &mut found.block {
            block.verdict = Verdict::default();
        }
        found
    };
    let seen_found: Vec<Found> = seen.found.iter().map(without_verdict).collect();
    assert_eq!(seen_found, found);
    assert_eq!(seen.ending, ending);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    kind: HeadKind,
    /// The header block that has begun.
    block: Option<Begun>,
    blocks: u32,
    found: Vec<Found>,
    has_settings: bool,
}

/// A header block that has begun, with its first frame.
struct Begun {
    stream: u32,
    ends_stream: bool,
    is_promise: bool,
    bytes: Vec<u8>,
}

struct Frame {
    at: usize,
    len: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl<'a> Reader<'a> {
    fn read(&mut self) -> Ending {
        if self.kind == HeadKind::Request {
            for (at, byte) in PREFACE.iter().enumerate() {
                match self.bytes.get(at) {
                    None => return Ending::Within,
                    Some(here) if here != byte => return Ending::NotHttp2(at),
                    Some(_) => {}
                }
            }
            self.at = PREFACE.len();
        }
        while self.at < self.bytes.len() {
            if let Err(ending) = self.frame() {
                return ending;
            }
        }
        Ending::Between
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Ending> {
        let taken = self.bytes.get(self.at..self.at + len).ok_or(Ending::Within)?;
        self.at += len;
        Ok(taken)
    }

    fn illegal_if(&self, illegal: bool) -> Result<(), Ending> {
        if illegal { Err(Ending::NotHttp2(self.at)) } else { Ok(()) }
    }

    fn frame(&mut self) -> Result<(), Ending> {
        let at = self.at;
        let head = self.take(9)?;
        let frame = Frame {
            at,
            len: u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize,
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & !(1 << 31),
        };
        self.illegal_if(!self.has_settings && (frame.kind != 4 || frame.flags & 1 != 0))?;
        self.has_settings = true;
        if let Some(block) = &self.block {
            self.illegal_if(frame.kind != 9 || frame.stream != block.stream)?;
        }
        match frame.kind {
            0 => {
                self.illegal_if(frame.stream == 0)?;
                let mut left = frame.len;
                if frame.flags & 8 != 0 {
                    self.illegal_if(left == 0)?;
                    let padding = usize::from(self.take(1)?[0]);
                    left -= 1;
                    self.illegal_if(padding > left)?;
                }
                self.take(left)?;
                let found = self.found(Event::Data, &frame);
                self.found.push(Found { ends_stream: frame.flags & 1 != 0, ..found });
            }
            1 | 5 => return self.block_start(&frame),
            3 => {
                self.illegal_if(frame.stream == 0 || frame.len != 4)?;
                let code = self.take(4)?;
                let error_code = u32::from_be_bytes([code[0], code[1], code[2], code[3]]);
                let found = self.found(Event::Reset, &frame);
                self.found.push(Found { error_code, ..found });
            }
            2 | 4 | 6 | 7 | 8 => {
                self.illegal_if(match frame.kind {
                    2 => frame.stream == 0 || frame.len != 5,
                    4 => {
                        let has_ack = frame.flags & 1 != 0;
                        let is_odd = !frame.len.is_multiple_of(6);
                        frame.stream != 0 || is_odd || (has_ack && frame.len > 0)
                    }
                    6 => frame.stream != 0 || frame.len != 8,
                    7 => frame.stream != 0 || frame.len < 8,
                    _ => frame.len != 4,
                })?;
                self.take(frame.len)?;
            }
            9 => {
                self.illegal_if(self.block.is_none())?;
                return self.part(&frame, frame.len);
            }
            _ => {
                self.take(frame.len)?;
            }
        }
        Ok(())
    }

    fn block_start(&mut self, frame: &Frame) -> Result<(), Ending> {
        let is_promise = frame.kind == 5;
        self.illegal_if(frame.stream == 0)?;
        if self.kind == HeadKind::Request {
            self.illegal_if(is_promise || frame.stream.is_multiple_of(2))?;
        }
        let mut left = frame.len;
        let before = match (is_promise, frame.flags & 0x20 != 0) {
            (true, _) => 4,
            (false, true) => 5,
            (false, false) => 0,
        };
        let mut padding = 0;
        if frame.flags & 8 != 0 {
            self.illegal_if(left < 1 + before)?;
            padding = usize::from(self.take(1)?[0]);
            left -= 1;
        }
        self.illegal_if(left < before + padding)?;
        self.take(before)?;
        self.block = Some(Begun {
            stream: frame.stream,
            ends_stream: !is_promise && frame.flags & 1 != 0,
            is_promise,
            bytes: Vec::new(),
        });
        self.part(frame, left - before - padding)?;
        self.take(padding)?;
        Ok(())
    }

    fn part(&mut self, frame: &Frame, len: usize) -> Result<(), Ending> {
        if len > 0 {
            let found = self.found(Event::BlockStart, frame);
            self.found.push(found);
        }
        let part = self.take(len)?;
        if let Some(block) = &mut self.block {
            block.bytes.extend_from_slice(part);
        }
        if frame.flags & 4 == 0 {
            let found = self.found(Event::BlockPart, frame);
            self.found.push(found);
            return Ok(());
        }
        let found = self.found(Event::BlockEnd, frame);
        let bytes = self.block.take().map(|block| block.bytes).unwrap_or_default();
        let block = Some(Block { number: self.blocks, bytes, verdict: Verdict::default() });
        self.found.push(Found { block, ..found });
        self.blocks += 1;
        Ok(())
    }

    fn found(&self, event: Event, frame: &Frame) -> Found {
        Found {
            event,
            at: self.at,
            frame_at: frame.at,
            frame_len: frame.len as u32,
            stream: frame.stream,
            ends_stream: self.block.as_ref().is_some_and(|block| block.ends_stream),
            is_promise: self.block.as_ref().is_some_and(|block| block.is_promise),
            error_code: 0,
            block: None,
        }
    }
}

/// How a field is represented (RFC 7541 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Indexed,
    Added,
    Literal,
    TableSize,
}

/// A field, as far as it is seen without tables.
#[derive(Debug)]
pub struct Field {
    range: Range<usize>,
    form: Form,
    /// Of the field, or of its name; 0 for a name that is written out.
    index: usize,
    /// The value, where it is written out, and whether it is coded.
    value: Range<usize>,
    coded: bool,
}

/// Takes a header block apart; nothing if it is no whole number of fields.
pub fn fields(block: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    let mut at = 0;
    while let Some(first) = block.get(at) {
        let (form, mask) = match first {
            0x80.. => (Form::Indexed, 0x7f),
            0x40.. => (Form::Added, 0x3f),
            0x20.. => (Form::TableSize, 0x1f),
            _ => (Form::Literal, 0x0f),
        };
        let start = at;
        let index = integer(block, &mut at, mask)?;
        let mut field = Field { range: start..at, form, index, value: at..at, coded: false };
        if form == Form::Indexed && index == 0 {
            return None;
        }
        if matches!(form, Form::Added | Form::Literal) {
            if index == 0 {
                string(block, &mut at)?;
            }
            field.coded = block.get(at)? & 0x80 != 0;
            field.value = string(block, &mut at)?;
            field.range.end = at;
        }
        fields.push(field);
    }
    Some(fields)
}

fn string(block: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let len = integer(block, at, 0x7f)?;
    let start = *at;
    *at += len;
    (*at <= block.len()).then_some(start..*at)
}

/// RFC 7541 §5.1; no more bytes than four behind the first.
fn integer(block: &[u8], at: &mut usize, mask: u8) -> Option<usize> {
    let mut value = usize::from(block.get(*at)? & mask);
    *at += 1;
    if value < usize::from(mask) {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = *block.get(*at)?;
        *at += 1;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What the receiver of requests knows, and what the scanner can know of it.
#[derive(Default)]
pub struct Tables {
    decoder: Decoder<'static>,
    /// The decoder refused something; nothing is said any more.
    in_doubt: bool,
    /// Entries that were added since the start, or since a loss.
    added: Vec<Added>,
}

/// An entry of the dynamic table.
struct Added {
    /// Whether it is `traceparent`, if that can be known.
    is_this: Option<bool>,
    /// What the context may be, if it is.
    contexts: Vec<Option<TraceContext>>,
}

/// What is to be known of a block.
#[derive(Debug)]
pub struct Expected {
    facts: u8,
    /// What the context may be.
    contexts: Vec<Option<TraceContext>>,
    place: Option<(u32, u32, bool)>,
    /// Contexts of all fields that are `traceparent`, known as such or not.
    all: Vec<Option<TraceContext>>,
    /// Names and values of all fields.
    pub list: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Tables {
    /// The scanner lost its position; the receiver did not.
    pub fn lose(&mut self) {
        self.added.clear();
    }

    /// Reads the fields of a block; nothing if there is doubt of them.
    pub fn read(&mut self, block: &[u8], fields: &[Field]) -> Option<Expected> {
        let mut expected = Expected {
            facts: 0,
            contexts: vec![None],
            place: None,
            all: Vec::new(),
            list: Vec::new(),
        };
        for field in fields {
            if self.in_doubt {
                return None;
            }
            let list = match self.decoder.decode(&block[field.range.clone()]) {
                Ok(list) => list,
                // Each field is decoded by itself, so that this is said of all of them.
                Err(DecoderError::SizeUpdateAtEnd) => continue,
                Err(_) => {
                    self.in_doubt = true;
                    return None;
                }
            };
            let [(name, value)] = list.as_slice() else {
                panic!("a field is decoded to {} fields", list.len());
            };
            let is_this = name == b"traceparent";
            let known = self.knows(field.index).then_some(is_this);
            if is_this {
                expected.all.push(traceparent(value));
            }
            match known {
                None => expected.facts |= FACT_UNKNOWN_FIELD,
                Some(true) => {
                    expected.note(field);
                    expected.contexts = self.contexts(field, value);
                }
                Some(false) => {}
            }
            if field.form == Form::Added {
                let contexts = self.contexts(field, value);
                self.added.push(Added { is_this: known, contexts });
            }
            expected.list.extend(list);
        }
        if expected.facts & FACT_REPEATED != 0 {
            expected.contexts = vec![None];
        }
        Some(expected)
    }

    /// Whether the scanner can know what the entry is named.
    fn knows(&self, index: usize) -> bool {
        let Some(back) = index.checked_sub(62) else {
            return true;
        };
        back < NAMES
            && self.added.iter().rev().nth(back).is_some_and(|added| added.is_this.is_some())
    }

    /// What may be read of a field that is `traceparent`.
    fn contexts(&self, field: &Field, value: &[u8]) -> Vec<Option<TraceContext>> {
        if field.form == Form::Indexed {
            let mut those = self.added.iter().rev().skip(field.index - 62);
            let newer = self.added.iter().rev().take(field.index - 62);
            let is_kept = newer.filter(|added| added.is_this == Some(true)).count() < VALUES;
            return match those.next() {
                Some(added) if is_kept => added.contexts.clone(),
                _ => vec![None],
            };
        }
        if field.value.len() > LONGEST_VALUE {
            return vec![None];
        }
        let foreign =
            value.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        match foreign {
            // The scanner knows the code of no other symbols.
            Some(at) if field.coded => vec![None, traceparent(&value[..at])],
            _ => vec![traceparent(value)],
        }
    }
}

impl Expected {
    fn note(&mut self, field: &Field) {
        if self.facts & FACT_TRACEPARENT != 0 {
            self.facts |= FACT_REPEATED;
        }
        self.facts |= FACT_TRACEPARENT;
        if field.form != Form::Literal {
            self.facts |= FACT_INDEXED;
        }
        self.place = Some(if field.form == Form::Indexed {
            (0, 0, false)
        } else {
            (field.value.start as u32, field.value.len() as u32, field.coded)
        });
    }

    /// Checks what the scanner says.
    pub fn check(&self, verdict: &Verdict) {
        assert_eq!(verdict.facts, self.facts, "{self:?}");
        assert!(self.contexts.contains(&verdict.context), "{verdict:?} {self:?}");
        if let Some(place) = self.place {
            assert_eq!(verdict.place, place, "{self:?}");
        }
        // What the decoder says, without regard to what the scanner may know.
        let (count, unknown) = (self.all.len(), self.facts & FACT_UNKNOWN_FIELD != 0);
        let seen = (u8::from(count > 0) * FACT_TRACEPARENT) | (u8::from(count > 1) * FACT_REPEATED);
        let said = verdict.facts & (FACT_TRACEPARENT | FACT_REPEATED);
        assert!(said == seen || unknown && said & !seen == 0, "{verdict:?} {self:?}");
    }
}
