//! Header blocks (RFC 7541), as far as places depend on them: where a field ends, and which are
//! a `traceparent`. What is beyond doubt is told by a decoder of others'; what that refuses is
//! read here all the same, since where such a block ends is known by its frames.

use loona_hpack::Decoder;
use loona_hpack::huffman::HuffmanDecoder;

/// Entries of the static table (RFC 7541 Appendix A). None is a `traceparent`.
const STATIC_ENTRIES: usize = 61;

const NAME: &[u8] = b"traceparent";

/// A trace context whose value is in a block, and goes into no table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Context {
    /// Where in the block the value starts, with its length.
    pub(super) at: usize,
    /// Its bytes there, with those of its length.
    pub(super) len: usize,
    /// Whether it is Huffman coded.
    pub(super) is_coded: bool,
    /// The value as it was meant.
    pub(super) value: Vec<u8>,
}

impl Context {
    /// The context whose value ends `block`.
    fn read(block: &[u8], (is_coded, bytes): (bool, &[u8])) -> Option<Self> {
        let value =
            if is_coded { HuffmanDecoder::new().decode(bytes).ok()? } else { bytes.to_vec() };
        // Of a length of one byte: none that matters has more.
        let at = block.len().checked_sub(bytes.len() + 1)?;
        let is_short = usize::from(block[at] & 0x7f) == bytes.len();
        is_short.then_some(Self { at, len: 1 + bytes.len(), is_coded, value })
    }
}

/// What a header block holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// A trace context, in whatever coding.
    pub(super) has_context: bool,
    /// The only one, if its value is read in the block alone.
    pub(super) context: Option<Context>,
    /// A field whose name refers to what never was in the table.
    pub(super) has_unknown: bool,
    /// Whether a decoder takes it, as all blocks before.
    pub(super) is_clean: bool,
}

/// Reads the header blocks of one direction.
pub(super) struct Reader {
    decoder: Decoder<'static>,
    /// For each entry that was added to the dynamic table, evicted or not, whether it is a
    /// `traceparent`; `None` if that is not known.
    added: Vec<Option<bool>>,
    is_clean: bool,
}

impl Reader {
    /// A reader before the first block.
    pub(super) fn new() -> Self {
        Self { decoder: Decoder::new(), added: Vec::new(), is_clean: true }
    }

    /// Reads the next block. Nothing if its fields cannot be told from one another.
    pub(super) fn read(&mut self, block: &[u8]) -> Option<Fields> {
        let mut fields = self.scan(block)?;
        let decoded = if self.is_clean { self.decoder.decode(block).ok() } else { None };
        self.is_clean = decoded.is_some();
        fields.is_clean = self.is_clean;
        if let Some(decoded) = decoded {
            fields.has_context = decoded.iter().any(|(name, _)| name == NAME);
        }
        Some(fields)
    }

    fn scan(&mut self, block: &[u8]) -> Option<Fields> {
        let mut fields = Fields::default();
        let mut rest = block;
        let mut count = 0;
        while let Some(first) = rest.first() {
            let mut context = None;
            let named = match first {
                0x80.. => match integer(&mut rest, 7)? {
                    0 => return None,
                    index => self.named(index),
                },
                0x40.. => {
                    let (named, _) = self.literal(&mut rest, 6)?;
                    self.added.push(named);
                    named
                }
                0x20.. => {
                    integer(&mut rest, 5)?;
                    Some(false)
                }
                _ => {
                    let (named, value) = self.literal(&mut rest, 4)?;
                    context = Some(value);
                    named
                }
            };
            fields.has_context |= named == Some(true);
            fields.has_unknown |= named.is_none();
            if named == Some(true) {
                count += 1;
                let before_rest = block.len() - rest.len();
                fields.context = context
                    .filter(|_| count == 1)
                    .and_then(|value| Context::read(&block[..before_rest], value));
            }
        }
        Some(fields)
    }

    /// Whether the entry at `index` is a `traceparent`.
    fn named(&self, index: usize) -> Option<bool> {
        let Some(back) = index.checked_sub(STATIC_ENTRIES) else { return Some(false) };
        if back == 0 {
            return Some(false);
        }
        *self.added.get(self.added.len().checked_sub(back)?)?
    }

    /// Takes a literal field: whether it is a `traceparent`, and its value.
    #[expect(clippy::type_complexity, reason = "of one caller")]
    fn literal<'a>(
        &self,
        rest: &mut &'a [u8],
        prefix: u32,
    ) -> Option<(Option<bool>, (bool, &'a [u8]))> {
        let named = match integer(rest, prefix)? {
            0 => Some(is_name(string(rest)?)),
            index => self.named(index),
        };
        Some((named, string(rest)?))
    }
}

fn is_name((coded, bytes): (bool, &[u8])) -> bool {
    if !coded {
        return bytes == NAME;
    }
    HuffmanDecoder::new().decode(bytes).is_ok_and(|name| name == NAME)
}

/// Takes an integer whose first byte has so many bits of it (§5.1). More than 32 bits are none.
fn integer(rest: &mut &[u8], prefix: u32) -> Option<usize> {
    let (first, mut after) = rest.split_first()?;
    let most = (1u64 << prefix) - 1;
    let mut value = u64::from(*first) & most;
    if value == most {
        for shift in (0..).step_by(7).take(5) {
            let (byte, behind) = after.split_first()?;
            after = behind;
            value += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *rest = after;
                return u32::try_from(value).ok()?.try_into().ok();
            }
        }
        return None;
    }
    *rest = after;
    value.try_into().ok()
}

/// Takes a string: whether it is Huffman coded, and its bytes (§5.2).
fn string<'a>(rest: &mut &'a [u8]) -> Option<(bool, &'a [u8])> {
    let coded = rest.first()? & 0x80 != 0;
    let len = integer(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some((coded, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"\x00\x0btraceparent\x01x";
    const ADDED: &[u8] = b"\x40\x0btraceparent\x01x";
    const CODED: &[u8] = b"\x00\x88\x4d\x83\x21\x6b\x1d\x85\xa9\x3f\x01x";

    fn read(reader: &mut Reader, block: &[u8]) -> Option<(bool, bool, bool)> {
        let fields = reader.read(block)?;
        Some((fields.has_context, fields.has_unknown, fields.is_clean))
    }

    #[test]
    fn contexts_are_found_in_every_coding() {
        let mut reader = Reader::new();
        assert_eq!(read(&mut reader, b"\x82\x41\x01a"), Some((false, false, true)));
        for context in [PLAIN, CODED, ADDED] {
            assert_eq!(read(&mut reader, context), Some((true, false, true)));
        }
        // By name and by value, from the table; the one before it is none.
        assert_eq!(read(&mut reader, b"\xbe"), Some((true, false, true)));
        assert_eq!(read(&mut reader, b"\x0f\x2f\x01y"), Some((true, false, true)));
        assert_eq!(read(&mut reader, b"\xbf"), Some((false, false, true)));
        assert_eq!(read(&mut reader, b"\xc0"), Some((false, true, false)));
        // After that nothing is clean, and contexts are still found.
        assert_eq!(read(&mut reader, b"\xbe\x82"), Some((true, false, false)));
        assert_eq!(read(&mut reader, CODED), Some((true, false, false)));
    }

    #[test]
    fn blocks_that_cannot_be_read_are_none() {
        for block in [
            b"\x80".as_slice(),
            b"\x40",
            b"\x00\x05abc",
            b"\xff\xff\xff\xff\xff\xff\x01",
            b"\xff\xff\xff\xff\xff\x7f",
            b"\x00\x01a",
        ] {
            assert_eq!(Reader::new().read(block), None, "{}", block.escape_ascii());
        }
        // A code that is none does not hide where the field ends.
        assert_eq!(read(&mut Reader::new(), b"\x00\x01a\x81\x00"), Some((false, false, false)));
    }
}
