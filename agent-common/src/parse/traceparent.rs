//! The value of a `traceparent` header (W3C Trace Context §3.2), byte by byte.

use crate::context::{FLAG_SAMPLED, TraceContext};

/// Length of a version 00 value, in bytes.
pub const VALUE_LEN: usize = 55;

/// Where the parent id starts in a value.
pub const PARENT_OFFSET: u32 = 36;

/// `traceparent: ` + value + CR LF.
pub const HEADER_LEN: usize = 13 + VALUE_LEN + 2;

/// The value of one lower-case hex digit, or 0xff. Upper case is invalid (§3.2.2).
#[inline(always)]
const fn hex(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => 0xff,
    }
}

/// A value that is being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TraceparentValue {
    trace_id_hi: u64,
    trace_id_lo: u64,
    span_id: u64,
    /// Bytes read, saturating past the end.
    len: u8,
    version: u8,
    flags: u8,
    /// Non-zero once the value cannot be valid any more.
    bad: u8,
    /// Non-zero once white space followed the value.
    ended: u8,
    pad: [u8; 3],
}

impl TraceparentValue {
    /// Starts over.
    #[inline(always)]
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes the next byte of the value; white space around it may be included.
    #[inline(always)]
    pub fn push(&mut self, byte: u8) {
        if byte == b' ' || byte == b'\t' {
            if self.len > 0 {
                self.ended = 1;
            }
            return;
        }
        if self.ended != 0 {
            self.bad = 1;
            return;
        }
        let at = self.len;
        if at < 60 {
            self.len = at + 1;
        }
        if at == 2 || at == 35 || at == 52 || at == 55 {
            // Version 00 ends at 55; later versions may go on after a dash (§3.2.4).
            if byte != b'-' || (at == 55 && self.version == 0) {
                self.bad = 1;
            }
            return;
        }
        if at > 55 {
            return;
        }
        let digit = hex(byte);
        if digit == 0xff {
            self.bad = 1;
            return;
        }
        let digit64 = digit as u64;
        if at < 2 {
            self.version = (self.version << 4) | digit;
        } else if at < 19 {
            self.trace_id_hi = (self.trace_id_hi << 4) | digit64;
        } else if at < 35 {
            self.trace_id_lo = (self.trace_id_lo << 4) | digit64;
        } else if at < 52 {
            self.span_id = (self.span_id << 4) | digit64;
        } else {
            self.flags = (self.flags << 4) | digit;
        }
    }

    /// Whether more than white space was read.
    #[inline(always)]
    pub fn has_begun(&self) -> bool {
        self.len > 0
    }

    /// The parent id as it was read, whether the rest is valid or not.
    #[inline(always)]
    pub fn parent_id(&self) -> u64 {
        self.span_id
    }

    /// Reads a whole value of version 00 that lies in one piece, up to the CR behind it.
    /// `word(at)` is the eight bytes at `at` of the value, the first in the lowest byte.
    /// Answers `false`, and has read nothing, if it is not such a value: byte by byte
    /// says what it is then.
    #[inline(always)]
    pub fn take_version_00(&mut self, word: impl Fn(u32) -> u64) -> bool {
        let start = word(0) & 0x00ff_ffff;
        let end = word(48) >> 32;
        let dashes = start == u64::from_le_bytes(*b"00-\0\0\0\0\0")
            && (word(28) >> 56) as u8 == b'-'
            && end as u8 == b'-'
            && (end >> 24) as u8 == b'\r';
        let (high, low) = (hex((end >> 8) as u8), hex((end >> 16) as u8));
        if !dashes || high == 0xff || low == 0xff {
            return false;
        }
        let mut value = Self { len: VALUE_LEN as u8, flags: (high << 4) | low, ..Self::default() };
        // One after the other: all at once they do not fit on the kernel's stack.
        let read = join(take_eight(word(3)), take_eight(word(11)), &mut value.trace_id_hi)
            && join(take_eight(word(19)), take_eight(word(27)), &mut value.trace_id_lo)
            && join(take_eight(word(36)), take_eight(word(44)), &mut value.span_id);
        if !read {
            return false;
        }
        *self = value;
        true
    }

    /// The context, if the value that was read is valid.
    #[inline(always)]
    pub fn finish(&self) -> Option<TraceContext> {
        let context = TraceContext {
            trace_id_hi: self.trace_id_hi,
            trace_id_lo: self.trace_id_lo,
            span_id: self.span_id,
            // Unknown flags are not passed on (§3.2.2.5.2).
            flags: self.flags & FLAG_SAMPLED,
            pad: [0; 7],
        };
        // Version ff is invalid (§3.2.2.1).
        let valid = self.bad == 0
            && self.len as usize >= VALUE_LEN
            && self.version != 0xff
            && context.is_valid();
        if valid { Some(context) } else { None }
    }
}

/// Reads a whole value at once.
pub fn parse(value: &[u8]) -> Option<TraceContext> {
    let mut machine = TraceparentValue::default();
    for &byte in value {
        machine.push(byte);
    }
    machine.finish()
}

/// Eight hex digits of `word`, most significant first, as the bytes of a little-endian `u64`.
#[inline(always)]
const fn hex_digits(word: u32) -> u64 {
    // Spread the eight nibbles into eight bytes, the first digit in the lowest byte.
    let x = word.swap_bytes() as u64;
    let x = (x | (x << 16)) & 0x0000_ffff_0000_ffff;
    let x = (x | (x << 8)) & 0x00ff_00ff_00ff_00ff;
    let x = ((x >> 4) & 0x000f_000f_000f_000f) | ((x & 0x000f_000f_000f_000f) << 8);
    // 0..9 to '0'..'9', 10..15 to 'a'..'f', all eight at once: 6 more carries into bit 4.
    let letters = ((x + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    x + 0x3030_3030_3030_3030 + letters * 0x27
}

/// The value of eight hex digits, the first in the lowest byte. Any other bytes give
/// some number.
#[inline(always)]
const fn hex_value(digits: u64) -> u32 {
    let letters = (digits >> 6) & 0x0101_0101_0101_0101;
    let x = (digits & 0x0f0f_0f0f_0f0f_0f0f) + letters * 9;
    // Two nibbles to a byte, two bytes to a pair, two pairs to a word.
    let x = ((x & 0x000f_000f_000f_000f) << 4) | ((x >> 8) & 0x000f_000f_000f_000f);
    let x = (x | (x >> 8)) & 0x0000_ffff_0000_ffff;
    ((x | (x >> 16)) as u32).swap_bytes()
}

/// The value of eight lower-case hex digits. Above 32 bits: they were none.
#[inline(always)]
const fn take_eight(digits: u64) -> u64 {
    let value = hex_value(digits);
    // Written again it must give the same digits: that holds for lower-case hex only.
    if hex_digits(value) == digits { value as u64 } else { u64::MAX }
}

/// Puts two halves together, if both are some.
#[inline(always)]
const fn join(high: u64, low: u64, to: &mut u64) -> bool {
    *to = (high << 32) | low;
    high <= u32::MAX as u64 && low <= u32::MAX as u64
}

/// Sixteen hex digits of an id, as two little-endian words.
#[inline(always)]
pub const fn hex_id(id: u64) -> [u64; 2] {
    [hex_digits((id >> 32) as u32), hex_digits(id as u32)]
}

/// Writes the whole header line, `traceparent: …` with CR LF.
#[inline(always)]
pub fn write_header(out: &mut [u8; HEADER_LEN], context: &TraceContext) {
    *out = *b"traceparent: 00-................................-................-00\r\n";
    put_value::<13, HEADER_LEN>(out, context);
}

/// `traceparent` and its value as a field of HPACK: a literal that is not added to the table, nothing
/// of it Huffman coded (RFC 7541 §6.2.2).
pub const FIELD_LEN: usize = 2 + 11 + CODED_VALUE_LEN;

/// A value of version 00 as a string of HPACK: its length before it.
pub const CODED_VALUE_LEN: usize = 1 + VALUE_LEN;

/// Writes the whole field.
#[inline(always)]
pub fn write_field(out: &mut [u8; FIELD_LEN], context: &TraceContext) {
    *out = *b"\x00\x0btraceparent\x3700-................................-................-00";
    put_value::<14, FIELD_LEN>(out, context);
}

/// Writes the value alone, as a string of HPACK.
#[inline(always)]
pub fn write_coded_value(out: &mut [u8; CODED_VALUE_LEN], context: &TraceContext) {
    *out = *b"\x3700-................................-................-00";
    put_value::<1, CODED_VALUE_LEN>(out, context);
}

/// Writes what differs from value to value into one that starts at `AT`.
#[inline(always)]
fn put_value<const AT: usize, const LEN: usize>(out: &mut [u8; LEN], context: &TraceContext) {
    let hi = hex_id(context.trace_id_hi);
    let lo = hex_id(context.trace_id_lo);
    let span = hex_id(context.span_id);
    put(out, AT + 3, hi[0]);
    put(out, AT + 11, hi[1]);
    put(out, AT + 19, lo[0]);
    put(out, AT + 27, lo[1]);
    put(out, AT + 36, span[0]);
    put(out, AT + 44, span[1]);
    if let Some(flags) = out.get_mut(AT + 54) {
        *flags = b'0' + (context.flags & FLAG_SAMPLED);
    }
}

#[inline(always)]
fn put<const LEN: usize>(out: &mut [u8; LEN], at: usize, word: u64) {
    let bytes = word.to_le_bytes();
    let mut i = 0;
    while i < 8 {
        if let (Some(to), Some(from)) = (out.get_mut(at + i), bytes.get(i)) {
            *to = *from;
        }
        i += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_field_says_what_a_header_does() {
        let context = parse(VALID).expect("the example of the specification is valid");
        let mut field = [0; FIELD_LEN];
        write_field(&mut field, &context);
        assert_eq!(field[..14], *b"\x00\x0btraceparent\x37");
        assert_eq!(&field[14..], VALID);
        let mut value = [0; CODED_VALUE_LEN];
        write_coded_value(&mut value, &context);
        assert_eq!(value, field[13..]);
    }

    #[test]
    fn a_valid_value_gives_its_ids_and_flags() {
        let context = parse(VALID).expect("the example of the specification is valid");
        assert_eq!(context.trace_id_hi, 0x4bf9_2f35_77b3_4da6);
        assert_eq!(context.trace_id_lo, 0xa3ce_929d_0e0e_4736);
        assert_eq!(context.span_id, 0x00f0_67aa_0ba9_02b7);
        assert!(context.is_sampled());
    }

    #[test]
    fn invalid_values_are_refused() {
        for bad in [
            &b""[..],
            b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
            b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what",
            b"00-4bf92f3577b34da6a3ce929d0e0e473600-f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7 -01",
            b"0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
        ] {
            assert_eq!(parse(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    fn take_whole(value: &[u8]) -> (bool, TraceparentValue) {
        let mut machine = TraceparentValue::default();
        let mut bytes = value.to_vec();
        bytes.push(b'\r');
        bytes.resize(64, b'x');
        let whole = machine.take_version_00(|at| {
            let at = at as usize;
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        });
        (whole, machine)
    }

    #[test]
    fn a_value_read_at_once_is_as_one_read_byte_by_byte() {
        let slow = |value: &[u8]| {
            let mut machine = TraceparentValue::default();
            value.iter().for_each(|&byte| machine.push(byte));
            machine
        };
        assert_eq!(take_whole(VALID), (true, slow(VALID)));
        for at in 0..VALID.len() {
            for byte in 0..=255 {
                let mut value = VALID.to_vec();
                value[at] = byte;
                let (whole, machine) = take_whole(&value);
                if whole {
                    assert_eq!(machine, slow(&value), "{}", String::from_utf8_lossy(&value));
                } else {
                    assert_eq!(machine, TraceparentValue::default());
                    let later = byte.is_ascii_hexdigit() && at < 2;
                    assert!(later || slow(&value).finish().is_none(), "byte {byte} at {at}");
                }
            }
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for value in [
            &b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"[..],
            b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-brings",
        ] {
            assert!(parse(value).is_some());
        }
    }

    #[test]
    fn white_space_around_the_value_is_no_part_of_it() {
        let mut padded = b" \t".to_vec();
        padded.extend_from_slice(VALID);
        padded.extend_from_slice(b"  ");
        assert_eq!(parse(&padded), parse(VALID));
    }

    #[test]
    fn unknown_flags_are_not_passed_on() {
        let context =
            parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe").expect("valid");
        assert_eq!(context.flags, 0);
    }

    #[test]
    fn a_written_header_reads_back_as_it_was() {
        for seed in 0..1000u64 {
            let id = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let context = TraceContext {
                trace_id_hi: id,
                trace_id_lo: id.rotate_left(17),
                span_id: id.rotate_left(31),
                flags: (seed & 1) as u8,
                pad: [0; 7],
            };
            let mut line = [0; HEADER_LEN];
            write_header(&mut line, &context);
            assert!(line.starts_with(b"traceparent: ") && line.ends_with(b"\r\n"));
            assert_eq!(parse(&line[13..68]), Some(context));
            let text = format!(
                "00-{:016x}{:016x}-{:016x}-{:02x}",
                context.trace_id_hi, context.trace_id_lo, context.span_id, context.flags
            );
            assert_eq!(&line[13..68], text.as_bytes());
        }
    }
}
