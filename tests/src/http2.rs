//! HTTP/2 as the tests read it (RFC 9113): what was sent against what arrived, each decoded by
//! itself, with a decoder of HPACK (RFC 7541) that the agent does not have.

use std::collections::HashSet;

use loona_hpack::Decoder;

use crate::stream::show;
use crate::trace_parent::TraceParent;

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 §6).
pub mod kind {
    /// DATA.
    pub const DATA: u8 = 0;
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// PRIORITY.
    pub const PRIORITY: u8 = 2;
    /// RST_STREAM.
    pub const RST_STREAM: u8 = 3;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// PING.
    pub const PING: u8 = 6;
    /// WINDOW_UPDATE.
    pub const WINDOW_UPDATE: u8 = 8;
    /// CONTINUATION.
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    /// The sender sends no more on the stream; of SETTINGS and PING: an answer.
    pub const END_STREAM: u8 = 1;
    /// The header block ends here.
    pub const END_HEADERS: u8 = 4;
    /// There is padding.
    pub const PADDED: u8 = 8;
    /// HEADERS has a priority.
    pub const PRIORITY: u8 = 32;
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// All after its nine bytes of header.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The frame on the wire.
    ///
    /// # Panics
    ///
    /// If it is longer than a frame can be.
    pub fn bytes(&self) -> Vec<u8> {
        let len = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        assert!(len < 1 << 24, "a frame of {len} bytes");
        let mut bytes = len.to_be_bytes()[1..].to_vec();
        bytes.extend_from_slice(&[self.kind, self.flags]);
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// The next frame, and what is after it.
    fn take(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = bytes.split_at_checked(9)?;
        let len = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let (payload, rest) = rest.split_at_checked(len)?;
        let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
        Some((Self { kind: header[3], flags: header[4], stream, payload: payload.to_vec() }, rest))
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn carries_block(&self) -> bool {
        matches!(self.kind, kind::HEADERS | kind::CONTINUATION)
    }

    /// What is before the part of a header block, the part, and the padding.
    fn parts(&self) -> Option<(&[u8], &[u8], &[u8])> {
        if self.kind != kind::HEADERS {
            return Some((&[], &self.payload, &[]));
        }
        let mut before = 0;
        let mut padding = 0;
        if self.has(flag::PADDED) {
            padding = usize::from(*self.payload.first()?);
            before += 1;
        }
        if self.has(flag::PRIORITY) {
            before += 5;
        }
        let end = self.payload.len().checked_sub(padding)?;
        Some((self.payload.get(..before)?, self.payload.get(before..end)?, &self.payload[end..]))
    }
}

/// A client's stream after its preface, as frames.
///
/// # Panics
///
/// If it is not made of whole frames.
pub fn frames(what: &str, bytes: &[u8]) -> Vec<Frame> {
    let mut rest = bytes
        .strip_prefix(PREFACE)
        .unwrap_or_else(|| panic!("{what}: no preface: {}", show(bytes)));
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (frame, after) =
            Frame::take(rest).unwrap_or_else(|| panic!("{what}: half a frame: {}", show(rest)));
        frames.push(frame);
        rest = after;
    }
    frames
}

/// Fields of a header block.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A request's header block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its stream.
    pub stream: u32,
    /// What its sender said.
    pub fields: Fields,
    /// The context that the receiver found at its end, and the sender had not written.
    pub context: Option<TraceParent>,
}

/// Checks that `received` is `sent`, with at most one `traceparent` more at the end of each
/// request's header block; gives the requests.
///
/// # Panics
///
/// At the first difference besides.
pub fn compare(what: &str, sent: &[u8], received: &[u8]) -> Vec<Head> {
    let (sent, received) = (frames(what, sent), frames(what, received));
    assert_eq!(sent.len(), received.len(), "{what}: frames");
    let mut decoders = (Decoder::new(), Decoder::new());
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    let mut heads = Vec::new();
    for (number, (sent, received)) in sent.iter().zip(&received).enumerate() {
        let what = format!("{what}, frame {number}");
        if !sent.carries_block() {
            assert_eq!(sent, received, "{what}");
            continue;
        }
        let added = added(&what, sent, received);
        left.extend_from_slice(part(&what, sent));
        right.extend_from_slice(part(&what, received));
        if !sent.has(flag::END_HEADERS) {
            assert_eq!(added, 0, "{what}: bytes added before the block's end");
            continue;
        }
        let decode = |decoder: &mut Decoder, block: &[u8]| -> Fields {
            decoder.decode(block).unwrap_or_else(|error| panic!("{what}: {error:?}"))
        };
        let fields = decode(&mut decoders.0, &std::mem::take(&mut left));
        let got = decode(&mut decoders.1, &std::mem::take(&mut right));
        let (same, more) = got.split_at_checked(fields.len()).unwrap_or((&got, &[]));
        assert_eq!(same, fields, "{what}: fields");
        let is_request = seen.insert(sent.stream);
        let context = match more {
            [] if added == 0 => None,
            [(name, value)] if added > 0 && is_request && name == b"traceparent" => {
                let context = TraceParent::parse(value);
                assert!(context.is_some(), "{what}: bad context {}", value.escape_ascii());
                context
            }
            _ => panic!("{what}: {added} bytes and {more:?} added, request {is_request}"),
        };
        if is_request {
            heads.push(Head { stream: sent.stream, fields, context });
        }
    }
    heads
}

fn part<'a>(what: &str, frame: &'a Frame) -> &'a [u8] {
    frame.parts().unwrap_or_else(|| panic!("{what}: too short for its padding: {frame:?}")).1
}

/// How many bytes the received frame has more at the end of its part of a block, and nothing else.
fn added(what: &str, sent: &Frame, received: &Frame) -> usize {
    let whole = |frame: &Frame| (frame.kind, frame.flags, frame.stream);
    assert_eq!(whole(sent), whole(received), "{what}");
    let parts = |frame: &'_ Frame| -> (Vec<u8>, Vec<u8>) {
        let (before, _, padding) =
            frame.parts().unwrap_or_else(|| panic!("{what}: too short: {frame:?}"));
        (before.to_vec(), padding.to_vec())
    };
    assert_eq!(parts(sent), parts(received), "{what}: priority and padding");
    let more = part(what, received).strip_prefix(part(what, sent));
    more.unwrap_or_else(|| panic!("{what}: bytes of a block differ")).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELD: &[u8] =
        b"\x00\x0btraceparent\x3700-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(stream: u32, block: &[u8]) -> Frame {
        // Padded by three, with a priority.
        let flags = flag::END_HEADERS | flag::PADDED | flag::PRIORITY;
        let payload = [&[3, 0, 0, 0, 0, 9], block, &[0; 3]].concat();
        Frame { kind: kind::HEADERS, flags, stream, payload }
    }

    fn stream(frames: &[Frame]) -> Vec<u8> {
        [PREFACE.to_vec()].into_iter().chain(frames.iter().map(Frame::bytes)).flatten().collect()
    }

    /// The first is put into the table, the second is that entry.
    const BLOCKS: [&[u8]; 2] = [b"\x82\x40\x01a\x01b", b"\x82\xbe"];

    #[test]
    fn one_field_at_the_end_of_a_request_is_accepted() {
        let sent = stream(&[headers(1, BLOCKS[0]), headers(3, BLOCKS[1])]);
        let with = [BLOCKS[0], FIELD].concat();
        let received = stream(&[headers(1, &with), headers(3, BLOCKS[1])]);
        let heads = compare("here", &sent, &received);
        let span = heads[0].context.as_ref().map(|context| context.span_id.as_str());
        assert_eq!((span, &heads[1].context), (Some("b7ad6b7169203331"), &None));
        assert_eq!(
            heads[1].fields,
            [(b":method".to_vec(), b"GET".to_vec()), (b"a".to_vec(), b"b".to_vec())]
        );
        assert_eq!(compare("same", &sent, &sent).len(), 2);
    }

    #[test]
    #[should_panic(expected = "2")]
    fn two_fields_are_refused() {
        let with = [BLOCKS[0], FIELD, FIELD].concat();
        compare("two", &stream(&[headers(1, BLOCKS[0])]), &stream(&[headers(1, &with)]));
    }

    #[test]
    #[should_panic(expected = "fields")]
    fn a_field_that_moves_the_table_is_refused() {
        let indexed = [b"\x40", &FIELD[1..]].concat();
        let with = [BLOCKS[0], &indexed].concat();
        let sent = stream(&[headers(1, BLOCKS[0]), headers(3, BLOCKS[1])]);
        compare("table", &sent, &stream(&[headers(1, &with), headers(3, BLOCKS[1])]));
    }

    #[test]
    #[should_panic(expected = "request false")]
    fn a_field_in_trailers_is_refused() {
        let with = [BLOCKS[1], FIELD].concat();
        let sent = stream(&[headers(1, BLOCKS[0]), headers(1, BLOCKS[1])]);
        compare("trailers", &sent, &stream(&[headers(1, BLOCKS[0]), headers(1, &with)]));
    }

    #[test]
    #[should_panic(expected = "frame 1")]
    fn another_byte_elsewhere_is_refused() {
        let ping = |byte| Frame { kind: kind::PING, flags: 0, stream: 0, payload: vec![byte; 8] };
        let frames = |byte| stream(&[headers(1, BLOCKS[0]), ping(byte)]);
        compare("ping", &frames(1), &frames(2));
    }
}
