//! Header compression of HTTP/2 (RFC 7541): the decoder.
//!
//! It reads what two other programs say to each other, so it may have missed some of it, and may
//! not refuse what they both take. What it cannot know is unknown, never a guess. The work on a
//! block is bounded by its length: an index is looked up in one step, and of the fields of one
//! name only the first is copied, so a block that names one large entry many times costs no
//! more than any other of its length.

mod huffman;
mod static_table;
mod table;

pub(crate) use table::Table;

use super::fields::{Fields, LONGEST_NAME, Name};

/// Why decoding ended before the block did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The block ends in the middle of a field: the rest of it was not captured.
    Truncated,
    /// No encoder writes this.
    Invalid,
}

/// Decodes a block, or the front of one, into `fields`, and brings the table up to date. After an
/// error both hold what came before it; what the rest did to the table is for the caller to say.
pub(crate) fn decode(block: &[u8], table: &mut Table, fields: &mut Fields) -> Result<(), Stop> {
    let mut input = Input { rest: block };
    let mut scratch = Vec::new();
    while let Some(&first) = input.rest.first() {
        match first {
            // §6.1: indexed.
            0x80.. => {
                let found = table.get(input.integer(7)?)?;
                fields.add(found.name, found.value);
            }
            // §6.2.1: a literal that is inserted.
            0x40..0x80 => literal(&mut input, 6, true, table, fields, &mut scratch)?,
            // §6.3: the table's size changes. At the beginning of a block only, but there is no
            // doubt of what it means elsewhere.
            0x20..0x40 => table.set_limit(input.integer(5)?),
            // §6.2.2 and §6.2.3: a literal that is not inserted, or never.
            0x00..0x20 => literal(&mut input, 4, false, table, fields, &mut scratch)?,
        }
    }
    Ok(())
}

fn literal(
    input: &mut Input<'_>,
    prefix: u32,
    is_inserted: bool,
    table: &mut Table,
    fields: &mut Fields,
    scratch: &mut Vec<u8>,
) -> Result<(), Stop> {
    let (name, name_len) = match input.integer(prefix)? {
        0 => input.string()?.name()?,
        index => table.get(index).map(|found| (found.name, found.name_len))?,
    };
    let text = input.string()?;
    let value_len = if name.is_kept() {
        text.decode_into(scratch, name.longest_value())?
    } else if is_inserted {
        // Only its length is of interest, and only to the table.
        text.decoded_len()?
    } else {
        0
    };
    let is_kept = name.is_kept() && value_len as usize <= name.longest_value();
    let value = is_kept.then_some(scratch.as_slice());
    fields.add(name, value);
    if is_inserted {
        table.insert(name, name_len, value_len, value);
    }
    Ok(())
}

/// What is left of a block.
struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<u8, Stop> {
        let (&byte, rest) = self.rest.split_first().ok_or(Stop::Truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    /// An integer that begins in the low `prefix` bits of a byte (RFC 7541 §5.1), to 2^32 - 1.
    fn integer(&mut self, prefix: u32) -> Result<u32, Stop> {
        let mask = (1u8 << prefix) - 1;
        let first = self.byte()? & mask;
        let mut value = u32::from(first);
        if first < mask {
            return Ok(value);
        }
        for shift in (0..32).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f) << shift;
            let sum = u64::from(value) + bits;
            value = u32::try_from(sum).map_err(|_| Stop::Invalid)?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        // Longer than any number that is of use (RFC 7541 §7.4).
        Err(Stop::Invalid)
    }

    /// A string literal (RFC 7541 §5.2).
    fn string(&mut self) -> Result<Text<'a>, Stop> {
        let is_huffman = self.rest.first().ok_or(Stop::Truncated)? & 0x80 != 0;
        let length = self.integer(7)? as usize;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Stop::Truncated)?;
        self.rest = rest;
        Ok(Text { bytes, is_huffman })
    }
}

/// A string as it was sent. Not longer than the block, so lengths fit in 32 bits.
#[derive(Clone, Copy)]
struct Text<'a> {
    bytes: &'a [u8],
    is_huffman: bool,
}

impl Text<'_> {
    fn decoded_len(self) -> Result<u32, Stop> {
        let mut length = self.bytes.len() as u32;
        if self.is_huffman {
            length = 0;
            huffman::decode(self.bytes, |_| length += 1)?;
        }
        Ok(length)
    }

    /// Decodes the first `most` bytes into `out`, and says how many there are in all.
    fn decode_into(self, out: &mut Vec<u8>, most: usize) -> Result<u32, Stop> {
        out.clear();
        if !self.is_huffman {
            out.extend_from_slice(&self.bytes[..self.bytes.len().min(most)]);
            return Ok(self.bytes.len() as u32);
        }
        let mut length = 0;
        huffman::decode(self.bytes, |byte| {
            if (length as usize) < most {
                out.push(byte);
            }
            length += 1;
        })?;
        Ok(length)
    }

    /// The name that this is, and its length.
    fn name(self) -> Result<(Name, u32), Stop> {
        if !self.is_huffman {
            return Ok((Name::of(self.bytes), self.bytes.len() as u32));
        }
        let mut front = [0; LONGEST_NAME];
        let mut length = 0u32;
        huffman::decode(self.bytes, |byte| {
            if let Some(slot) = front.get_mut(length as usize) {
                *slot = byte;
            }
            length += 1;
        })?;
        let name = front.get(..length as usize).map_or(Name::Other, Name::of);
        Ok((name, length))
    }
}

#[cfg(test)]
#[path = "encoder_tests.rs"]
pub(crate) mod encoder;
#[cfg(test)]
#[path = "hpack_tests.rs"]
mod tests;
