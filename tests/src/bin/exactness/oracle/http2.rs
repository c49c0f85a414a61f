//! HTTP/2 (RFC 9113), as a client sends it: a field at the end of the header block of each
//! request, and nothing after the first frame that no client may send.

use tracewire_tests::trace_parent::FIELD_LEN;

use super::{Change, LONGEST_HEAD, PARENT, Spot, hpack, is_received};

/// What a client sends first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's header (RFC 9113 §4.1).
const FRAME_HEADER: usize = 9;

/// The longest payload that every peer takes, in bytes (RFC 9113 §4.2).
const LONGEST_FRAME: usize = 16_384;

/// A block up to which the agent is sure to read all, in bytes.
const SHORT_BLOCK: usize = 8_000;

/// The largest type of a frame that the agent knows. Others may be sent by anybody, and are to
/// be passed over, but it does not (README, "Limits").
const LARGEST_TYPE: u8 = 0x10;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const HAS_PRIORITY: u8 = 0x20;

/// The header of a frame.
struct Frame {
    len: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// A header block that has begun.
struct Block {
    stream: u32,
    /// Whether its first frame says that nothing comes behind it.
    ends_stream: bool,
    bytes: Vec<u8>,
}

/// The places for fields in `stream`, which begins with [`PREFACE`].
pub(super) fn read(stream: &[u8]) -> Vec<Spot> {
    let mut spots = Vec::new();
    let mut reader = hpack::Reader::new();
    let mut block: Option<Block> = None;
    let mut newest = 0;
    let mut sure = true;
    let mut at = PREFACE.len();
    while let Some(frame) = Frame::read(&stream[at..]) {
        let is_first = at == PREFACE.len();
        let payload = &stream[at + FRAME_HEADER..];
        let payload = &payload[..frame.len.min(payload.len())];
        if is_first && (frame.kind != SETTINGS || frame.flags & ACK != 0) || !frame.is_legal() {
            break;
        }
        let is_expected = match &block {
            Some(block) => frame.kind == CONTINUATION && frame.stream == block.stream,
            None => frame.kind != CONTINUATION,
        };
        if !is_expected {
            break;
        }
        sure &= frame.len <= LONGEST_FRAME && frame.kind <= LARGEST_TYPE;
        let end = at + FRAME_HEADER + frame.len;
        if !matches!(frame.kind, HEADERS | CONTINUATION) {
            if end > stream.len() || frame.kind == DATA && frame.inside(payload).is_none() {
                break;
            }
            at = end;
            continue;
        }
        let Some((from, padding)) = frame.inside(payload) else { break };
        let place = end - padding;
        let Some(bytes) = stream.get(at + FRAME_HEADER + from..place) else { break };
        let ends_stream = frame.flags & END_STREAM != 0;
        let fresh = || Block { stream: frame.stream, ends_stream, bytes: Vec::new() };
        let so_far = block.get_or_insert_with(fresh);
        so_far.bytes.extend_from_slice(bytes);
        if frame.flags & END_HEADERS != 0 {
            let Some(fields) = reader.read(&so_far.bytes) else { break };
            sure &= fields.is_clean && so_far.bytes.len() <= SHORT_BLOCK;
            let is_trailer = so_far.stream <= newest;
            // Trailers end their stream; a second head is none.
            sure &= !is_trailer || so_far.ends_stream;
            let len = so_far.bytes.len();
            let has_room = len <= LONGEST_HEAD && frame.len + FIELD_LEN <= LONGEST_FRAME;
            if !is_trailer && has_room && !fields.has_context && !fields.has_unknown {
                let change = Change::Field { frame: at };
                spots.push(Spot { at: place, change, together: at..place, is_clear: sure });
            }
            let passed_on = fields.context.filter(|context| is_received(&context.value));
            if let Some(context) = passed_on.filter(|_| !is_trailer && frame.kind == HEADERS) {
                let value = place - len + context.at;
                let (value, change) = if context.is_coded {
                    (value, Change::Value { frame: at, len: context.len })
                } else {
                    (value + 1 + PARENT.start, Change::Parent)
                };
                let together = change.frame().unwrap_or(value)..place;
                // Threads share connections: where several receive requests, what one sends is for the only
                // request that is open, if it is the only one, whoever received that. None is beyond doubt.
                spots.push(Spot { at: value, change, together, is_clear: false });
            }
            newest = newest.max(so_far.stream);
            block = None;
        }
        if end > stream.len() {
            break;
        }
        at = end;
    }
    spots
}

impl Frame {
    fn read(bytes: &[u8]) -> Option<Self> {
        let [one, two, three, kind, flags, stream @ ..] = *bytes.first_chunk::<FRAME_HEADER>()?;
        let len = u32::from_be_bytes([0, one, two, three]);
        // The first bit is reserved.
        let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
        Some(Self { len: usize::try_from(len).ok()?, kind, flags, stream })
    }

    /// Whether a client may send a frame with such a header (RFC 9113 §6).
    fn is_legal(&self) -> bool {
        let (len, of_connection) = (self.len, self.stream == 0);
        match self.kind {
            DATA => !of_connection,
            HEADERS | CONTINUATION => !self.stream.is_multiple_of(2),
            PRIORITY => !of_connection && len == 5,
            RST_STREAM => !of_connection && len == 4,
            SETTINGS => {
                of_connection && len.is_multiple_of(6) && (self.flags & ACK == 0 || len == 0)
            }
            PUSH_PROMISE => false,
            PING => of_connection && len == 8,
            GOAWAY => of_connection && len >= 8,
            WINDOW_UPDATE => len == 4,
            _ => true,
        }
    }

    /// Where in the payload what it carries starts, and how much padding follows that; `None`
    /// if that does not fit.
    fn inside(&self, payload: &[u8]) -> Option<(usize, usize)> {
        if self.kind == CONTINUATION {
            return Some((0, 0));
        }
        let (mut from, mut padding) = (0, 0);
        if self.flags & PADDED != 0 {
            padding = usize::from(*payload.first()?);
            from += 1;
        }
        if self.kind == HEADERS && self.flags & HAS_PRIORITY != 0 {
            from += 5;
        }
        (from + padding <= self.len).then_some((from, padding))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    /// A place for each, with its frame, and whether it is clear; counted from behind SETTINGS.
    fn places(frames: &[Vec<u8>]) -> Vec<(usize, usize, bool)> {
        let start = [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].concat();
        let spots = read(&[start.clone(), frames.concat()].concat());
        let frame = |spot: &Spot| spot.change.frame().expect("a frame") - start.len();
        let spot = |spot: &Spot| (spot.at - start.len(), frame(spot));
        spots.iter().map(|s| (spot(s).0, spot(s).1, s.is_clear)).collect()
    }

    #[test]
    fn blocks_have_a_place_at_their_end() {
        let request = frame(HEADERS, END_HEADERS, 1, &[0x82, 0x84]);
        assert_eq!(places(std::slice::from_ref(&request)), [(11, 0, true)]);
        let padded = [&[3, 0, 0, 0, 0, 9][..], &[0x82], &[0; 3]].concat();
        let padded = frame(HEADERS, PADDED | HAS_PRIORITY | END_HEADERS, 3, &padded);
        assert_eq!(places(&[request.clone(), padded.clone()])[1], (27, 11, true));
        // Padding that never comes changes nothing; a byte of the block that does not, does.
        let cut = |len: usize| vec![request.clone(), padded[..padded.len() - len].to_vec()];
        assert_eq!(places(&cut(3)).len(), 2);
        assert_eq!(places(&cut(4)).len(), 1);
        let parts = [
            frame(HEADERS, END_STREAM, 5, &[0x40]),
            frame(CONTINUATION, 0, 5, &[]),
            frame(CONTINUATION, END_HEADERS, 5, b"\x01a\x01b"),
        ];
        assert_eq!(places(&parts), [(32, 19, true)]);
    }

    #[test]
    fn trailers_and_other_frames_have_none() {
        let request = frame(HEADERS, END_HEADERS, 1, &[0x82]);
        let frames = [
            request.clone(),
            frame(DATA, PADDED, 1, &[1, b'x', 0]),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x82]),
            frame(PING, 0, 0, &[0; 8]),
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            frame(PRIORITY, 0, 9, &[0; 5]),
            frame(RST_STREAM, 0, 1, &[0; 4]),
            frame(0xb, 0xff, 7, &[0; 3]),
            frame(SETTINGS, ACK, 0, &[]),
        ];
        let end = frames.concat().len();
        let all = [&frames[..], &[frame(HEADERS, END_HEADERS, 3, &[0x82])]].concat();
        assert_eq!(places(&all), [(10, 0, true), (end + 10, end, true)]);
        let own = frame(HEADERS, END_HEADERS, 3, b"\x40\x0btraceparent\x01x");
        let indexed = frame(HEADERS, END_HEADERS, 5, &[0xbe]);
        let next = frame(HEADERS, END_HEADERS, 7, &[0x82]);
        assert_eq!(places(&[request, own, indexed, next]).len(), 2);
    }

    #[test]
    fn long_frames_and_blocks_have_none() {
        let block = |len: usize| vec![0x82; len];
        let request = |stream, len| frame(HEADERS, END_HEADERS, stream, &block(len));
        assert_eq!(places(&[request(1, LONGEST_FRAME - FIELD_LEN)]).len(), 1);
        assert_eq!(places(&[request(1, LONGEST_FRAME - FIELD_LEN + 1)]).len(), 0);
        let parts = |last| {
            let mut parts = vec![frame(HEADERS, 0, 1, &block(16_384))];
            parts.extend((0..3).map(|_| frame(CONTINUATION, 0, 1, &block(16_000))));
            parts.push(frame(CONTINUATION, END_HEADERS, 1, &block(last)));
            places(&parts).len()
        };
        assert_eq!(parts(1_152), 1);
        assert_eq!(parts(1_153), 0);
    }

    #[test]
    fn nothing_follows_a_frame_that_no_client_sends() {
        let request = |stream| frame(HEADERS, END_HEADERS, stream, &[0x82]);
        for illegal in [
            frame(HEADERS, END_HEADERS, 0, &[0x82]),
            frame(HEADERS, END_HEADERS, 2, &[0x82]),
            frame(HEADERS, END_HEADERS | PADDED, 3, &[2, 0x82]),
            frame(HEADERS, END_HEADERS, 3, &[0x80]),
            frame(HEADERS, END_HEADERS, 3, b"\x00\x05abc"),
            frame(CONTINUATION, END_HEADERS, 1, &[0x82]),
            [frame(HEADERS, 0, 3, &[0x82]), frame(DATA, 0, 1, &[])].concat(),
            [frame(HEADERS, 0, 3, &[0x82]), frame(CONTINUATION, END_HEADERS, 1, &[0x82])].concat(),
            frame(DATA, 0, 0, &[1]),
            frame(DATA, PADDED, 1, &[9]),
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]),
            frame(SETTINGS, 0, 1, &[]),
            frame(SETTINGS, 0, 0, &[0; 5]),
            frame(SETTINGS, ACK, 0, &[0; 6]),
            frame(PING, 0, 0, &[0; 7]),
            frame(PING, 0, 1, &[0; 8]),
            frame(GOAWAY, 0, 0, &[0; 7]),
            frame(RST_STREAM, 0, 1, &[0; 5]),
            frame(PRIORITY, 0, 1, &[0; 4]),
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
        ] {
            let text = illegal.escape_ascii().to_string();
            assert_eq!(places(&[request(1), illegal, request(5)]).len(), 1, "{text}");
        }
        // The first has to be SETTINGS.
        for first in [request(1), frame(SETTINGS, ACK, 0, &[]), frame(PING, 0, 0, &[0; 8])] {
            assert_eq!(read(&[PREFACE.to_vec(), first, request(3)].concat()), []);
        }
        let doubtful = frame(HEADERS, END_HEADERS, 3, b"\x00\x01a\x81\x00");
        let clear: Vec<bool> =
            places(&[request(1), doubtful, request(5)]).iter().map(|place| place.2).collect();
        assert_eq!(clear, [true, false, false]);
    }
}
