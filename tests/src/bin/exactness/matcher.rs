//! What arrives against what was sent: the same bytes, and headers only where they may be, or another
//! parent in those that are passed on. With a field in a header block of HTTP/2 goes a longer frame:
//! neither is right without the other.

use tracewire_tests::trace_parent::{TraceParent, VALUE_LEN};

use crate::digest::Digest;
use crate::oracle::{Change, RECEIVED, Spot};

/// Bytes that say how long a frame of HTTP/2 is.
const LENGTH_LEN: usize = 3;

/// Bytes of a message shown around a difference.
const SHOWN: usize = 48;

/// Compares a stream as it arrives.
pub(crate) struct Matcher<'a> {
    expected: &'a [u8],
    spots: &'a [Spot],
    next_spot: usize,
    /// How much of what is expected has come.
    pub(crate) at: usize,
    /// A change that has begun to come.
    header: Vec<u8>,
    /// Whether the length of the next place's frame, as far as it came, is the one that was sent.
    is_same: bool,
    /// Whether it is the one with the change.
    is_grown: bool,
    /// The spots where a header came, or another than was sent.
    pub(crate) changed: Vec<Spot>,
    /// What came, without headers.
    pub(crate) digest: Digest,
    /// What came, headers and all, in bytes.
    pub(crate) received: u64,
    /// The end of what came, for messages.
    tail: Vec<u8>,
}

impl<'a> Matcher<'a> {
    /// A matcher at the start of a stream.
    pub(crate) fn new(expected: &'a [u8], spots: &'a [Spot]) -> Self {
        Self {
            expected,
            spots,
            next_spot: 0,
            at: 0,
            header: Vec::new(),
            is_same: true,
            is_grown: true,
            changed: Vec::new(),
            digest: Digest::default(),
            received: 0,
            tail: Vec::new(),
        }
    }

    /// Whether everything up to `end` has come, and no half of a header.
    pub(crate) fn has_reached(&self, end: usize) -> bool {
        self.at >= end && !self.is_in_header()
    }

    /// How much of what is expected has come, at most, with what came of a change so far.
    pub(crate) fn reached(&self) -> usize {
        let replaced = self.spots.get(self.next_spot).map_or(0, |spot| spot.change.replaced());
        self.at + self.header.len().min(replaced)
    }

    /// Whether the next byte has to be one of a change.
    pub(crate) fn is_in_header(&self) -> bool {
        let is_due = self.spots.get(self.next_spot).is_some_and(|spot| {
            let is_announced = match spot.change {
                Change::Line => false,
                Change::Parent => true,
                Change::Field { .. } | Change::Value { .. } => self.is_grown,
            };
            is_announced && spot.at == self.at
        });
        is_due || !self.header.is_empty()
    }

    /// Takes what came.
    ///
    /// # Errors
    ///
    /// At the first byte that should not be there, with what is around it.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            let spot = self.spots.get(self.next_spot).cloned();
            if let Some(spot) = &spot
                && self.is_in_header()
            {
                rest = self.take_change(spot, rest)?;
                continue;
            }
            let change = spot.as_ref().map(|spot| spot.change);
            if let Some((change, frame)) = change.and_then(|change| Some((change, change.frame()?)))
                && (frame..frame + LENGTH_LEN).contains(&self.at)
            {
                if !self.take_length(*first, frame, change.written() - change.replaced()) {
                    return Err(self.difference("differs", rest));
                }
                self.note(&rest[..1]);
                rest = &rest[1..];
                continue;
            }
            if spot.as_ref().is_some_and(|spot| spot.at == self.at) {
                // A head's empty line starts with CR: no header can be taken for it.
                if change == Some(Change::Line) && *first == b't' {
                    self.header.push(*first);
                    self.note(&rest[..1]);
                    rest = &rest[1..];
                    continue;
                }
                // No header comes, or no frame announced a change. The next frame may start right here.
                self.pass_spot();
                continue;
            }
            let limit = self.spots.get(self.next_spot).map_or(self.expected.len(), |spot| {
                spot.change.frame().filter(|frame| self.at < *frame).unwrap_or(spot.at)
            });
            let expected = &self.expected[self.at..limit];
            let len = expected.len().min(rest.len());
            let same = if expected[..len] == rest[..len] {
                len
            } else {
                expected.iter().zip(rest).take_while(|(sent, got)| sent == got).count()
            };
            self.digest.add(&rest[..same]);
            self.note(&rest[..same]);
            self.at += same;
            rest = &rest[same..];
            if same < len || len == 0 {
                return Err(self.difference("differs", rest));
            }
        }
        Ok(())
    }

    /// Takes bytes of a change, and judges it when they are all there. Gives what is left.
    fn take_change<'b>(&mut self, spot: &Spot, bytes: &'b [u8]) -> Result<&'b [u8], String> {
        let wanted = spot.change.written() - self.header.len();
        let (more, after) = bytes.split_at(bytes.len().min(wanted));
        self.header.extend_from_slice(more);
        self.note(more);
        if more.len() < wanted {
            return Ok(after);
        }
        let written = std::mem::take(&mut self.header);
        let sent = &self.expected[spot.at..spot.at + spot.change.replaced()];
        let is_right = match spot.change {
            Change::Line => TraceParent::parse_line(&written).is_some(),
            Change::Field { .. } => TraceParent::parse_field(&written).is_some(),
            Change::Parent => written == sent || is_span_id(&written),
            Change::Value { .. } => {
                written[0] == VALUE_LEN as u8
                    && TraceParent::parse(&written[1..]).is_some_and(|context| {
                        RECEIVED.contains(&context.trace_id) && !RECEIVED.contains(&context.span_id)
                    })
            }
        };
        if !is_right {
            return Err(self.difference("no header that may be written", after));
        }
        // What was sent, also where it was changed as it may be.
        self.digest.add(sent);
        self.at += sent.len();
        if written != sent {
            self.changed.push(spot.clone());
        }
        self.pass_spot();
        Ok(after)
    }

    fn pass_spot(&mut self) {
        self.next_spot += 1;
        self.is_same = true;
        self.is_grown = true;
    }

    /// Takes a byte of the length of the frame that starts at `frame`, which may grow by so much.
    /// Answers whether it is one of those that it may be.
    fn take_length(&mut self, byte: u8, frame: usize, more: usize) -> bool {
        let number = self.at - frame;
        let sent = &self.expected[frame..frame + LENGTH_LEN];
        let len = sent.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
        let grown = (len + more).to_be_bytes();
        self.is_same &= byte == sent[number];
        self.is_grown &= byte == grown[grown.len() - LENGTH_LEN + number];
        if !self.is_same && !self.is_grown {
            return false;
        }
        // What was sent, also where it was changed as it may be.
        self.digest.add(&sent[number..=number]);
        self.at += 1;
        true
    }

    fn note(&mut self, bytes: &[u8]) {
        self.received += bytes.len() as u64;
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(SHOWN)..]);
        let surplus = self.tail.len().saturating_sub(SHOWN);
        self.tail.drain(..surplus);
    }

    fn difference(&self, what: &str, rest: &[u8]) -> String {
        let before = &self.expected[self.at.saturating_sub(SHOWN)..self.at];
        let after = &self.expected[self.at..(self.at + SHOWN).min(self.expected.len())];
        let next = self.spots.get(self.next_spot).map(|spot| spot.at);
        format!(
            "{what} at byte {} of {} sent (byte {} received; next place for a header: {next:?})\n\
             \x20   sent     …{}|{}…\n\x20   received …{}|{}…",
            self.at,
            self.expected.len(),
            self.received,
            before.escape_ascii(),
            after.escape_ascii(),
            self.tail.escape_ascii(),
            rest[..rest.len().min(2 * SHOWN)].escape_ascii()
        )
    }
}

/// Whether it is the id of a span, as the agent writes it.
fn is_span_id(id: &[u8]) -> bool {
    id.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) && id.iter().any(|b| *b != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    const SENT: &str = "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    const SPOTS: [Spot; 2] = [spot(16, Change::Line), spot(34, Change::Line)];

    const fn spot(at: usize, change: Change) -> Spot {
        Spot { at, change, together: 0..0, is_clear: true }
    }

    fn compare(received: &str, piece: usize) -> Result<usize, String> {
        let mut matcher = Matcher::new(SENT.as_bytes(), &SPOTS);
        for piece in received.as_bytes().chunks(piece) {
            matcher.take(piece)?;
        }
        assert!(matcher.has_reached(SENT.len()));
        assert_eq!(matcher.digest.value(), Digest::of(SENT.as_bytes()));
        Ok(matcher.changed.len())
    }

    #[test]
    fn headers_are_taken_at_their_places_however_they_come() {
        let one = format!("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n{LINE}\r\n");
        let both = format!("GET / HTTP/1.1\r\n{LINE}\r\nGET / HTTP/1.1\r\n{LINE}\r\n");
        for piece in 1..200 {
            assert_eq!(compare(SENT, piece), Ok(0));
            assert_eq!(compare(&one, piece), Ok(1));
            assert_eq!(compare(&both, piece), Ok(2));
        }
    }

    #[test]
    fn anything_else_is_a_difference() {
        for wrong in [
            format!("GET / HTTP/1.1\r\n{LINE}{LINE}\r\nGET / HTTP/1.1\r\n\r\n"),
            format!("GET / HTTP/1.1\r\n\r\n{LINE}GET / HTTP/1.1\r\n\r\n"),
            format!("{LINE}{SENT}"),
            format!("{SENT}{LINE}"),
            format!("{SENT}x"),
            SENT.replace("GET", "PUT"),
            format!("GET / HTTP/1.1\r\n{}\r\n", LINE.replace("-01", "-99")),
        ] {
            for piece in [1, 7, 500] {
                assert!(compare(&wrong, piece).is_err(), "{wrong}");
            }
        }
    }

    const FIELD: &str = "\0\x0btraceparent700-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// Two header blocks, the first with padding, the second up to the stream's end. The field
    /// makes the length of the first carry into its second byte.
    fn frames(lens: [u16; 2], fields: [&str; 2], behind: &str) -> Vec<u8> {
        let mut stream = vec![0];
        stream.extend(lens[0].to_be_bytes());
        stream.extend(b"\x01\x0c\0\0\0\x01");
        stream.push(2);
        stream.extend([0x82; 197]);
        stream.extend(fields[0].bytes());
        stream.extend([0; 2]);
        stream.extend(behind.bytes());
        stream.push(0);
        stream.extend(lens[1].to_be_bytes());
        stream.extend(b"\x01\x04\0\0\0\x03\x82\x84");
        stream.extend(fields[1].bytes());
        stream
    }

    fn compare_frames(received: &[u8], piece: usize) -> Result<usize, String> {
        let sent = frames([200, 2], ["", ""], "");
        let spots =
            [spot(207, Change::Field { frame: 0 }), spot(220, Change::Field { frame: 209 })];
        let mut matcher = Matcher::new(&sent, &spots);
        for piece in received.chunks(piece) {
            matcher.take(piece)?;
        }
        if !matcher.has_reached(sent.len()) {
            return Err("it is not all".into());
        }
        assert_eq!(matcher.digest.value(), Digest::of(&sent));
        Ok(matcher.changed.len())
    }

    #[test]
    fn fields_are_taken_with_their_lengths() {
        for piece in 1..300 {
            let compare = |lens, fields| compare_frames(&frames(lens, fields, ""), piece);
            assert_eq!(compare([200, 2], ["", ""]), Ok(0));
            assert_eq!(compare([269, 2], [FIELD, ""]), Ok(1));
            assert_eq!(compare([200, 71], ["", FIELD]), Ok(1));
            assert_eq!(compare([269, 71], [FIELD, FIELD]), Ok(2));
        }
    }

    #[test]
    fn a_length_without_its_field_and_a_field_without_its_length_are_differences() {
        let twice = FIELD.repeat(2);
        let invalid = FIELD.replace("-01", "-99");
        let other = FIELD.replace("traceparent", "tracestates");
        for wrong in [
            frames([269, 2], ["", ""], ""),
            frames([200, 71], ["", ""], ""),
            frames([200, 2], [FIELD, ""], ""),
            frames([200, 2], ["", FIELD], ""),
            frames([338, 2], [&twice, ""], ""),
            frames([269, 2], [&twice, ""], ""),
            frames([269, 2], [&invalid, ""], ""),
            frames([269, 2], [&other, ""], ""),
            frames([269, 2], [&FIELD[..68], ""], ""),
            frames([269, 2], ["", ""], FIELD),
            frames([270, 2], [FIELD, ""], ""),
            frames([200 ^ 256, 2], ["", ""], ""),
            // As the first byte of the longer one, then as that of the other.
            frames([256 + 200, 2], [FIELD, ""], ""),
        ] {
            for piece in [1, 2, 7, 500] {
                assert!(compare_frames(&wrong, piece).is_err(), "{}", wrong.escape_ascii());
            }
        }
    }

    #[test]
    fn no_field_is_taken_where_there_is_no_place() {
        let sent = frames([200, 2], ["", ""], "");
        for wrong in [frames([269, 2], [FIELD, ""], ""), frames([200, 71], ["", FIELD], "")] {
            assert!(Matcher::new(&sent, &[]).take(&wrong).is_err());
        }
    }

    fn compare_one(
        sent: &[u8],
        change: Change,
        at: usize,
        received: &[u8],
    ) -> Result<usize, String> {
        let spots = [spot(at, change)];
        let mut counts = Vec::new();
        for piece in 1..received.len() + 1 {
            let mut matcher = Matcher::new(sent, &spots);
            for piece in received.chunks(piece) {
                matcher.take(piece)?;
            }
            if !matcher.has_reached(sent.len()) || matcher.is_in_header() {
                return Err("it is not all".into());
            }
            assert_eq!(matcher.digest.value(), Digest::of(sent));
            counts.push(matcher.changed.len());
        }
        counts.dedup();
        assert_eq!(counts.len(), 1, "however it is cut");
        Ok(counts[0])
    }

    #[test]
    fn of_what_is_passed_on_the_parent_id_alone_may_differ() {
        let sent = format!("GET / HTTP/1.1\r\ntraceparent: {RECEIVED}\r\n\r\n");
        let at = sent.find("b7ad").expect("a parent id");
        let compare =
            |received: &str| compare_one(sent.as_bytes(), Change::Parent, at, received.as_bytes());
        assert_eq!(compare(&sent), Ok(0));
        assert_eq!(compare(&sent.replace("b7ad", "b7ae")), Ok(1));
        // Part of it counts as come: it is not asked for again.
        let spots = [spot(at, Change::Parent)];
        let mut matcher = Matcher::new(sent.as_bytes(), &spots);
        assert_eq!(matcher.take(&sent.as_bytes()[..at + 5]), Ok(()));
        assert_eq!(matcher.reached(), at + 5);
        for wrong in [
            sent.replace("b7ad", "B7AD"),
            sent.replace("b7ad6b7169203331", "0000000000000000"),
            sent.replace("0af7", "0af8"),
            sent.replace("-01", "-00"),
            sent.replace("b7ad", "b7a"),
            sent.replace("b7ad", "b7add"),
        ] {
            assert!(compare(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_plain_context_stands_for_a_coded_one_if_its_frame_has_grown() {
        let coded = [0xa0; 41];
        let frame = |len: u8, value: &[u8]| {
            [&[0, 0, len], &b"\x01\x04\0\0\0\x01\x0f\x2f"[..], value, b"\x82"].concat()
        };
        let sent = frame(44, &coded);
        let compare =
            |received: &[u8]| compare_one(&sent, Change::Value { frame: 0, len: 41 }, 11, received);
        let plain = |value: &str| [b"\x37", value.as_bytes()].concat();
        let new = RECEIVED.replace("b7ad", "b7ae");
        assert_eq!(compare(&sent), Ok(0));
        assert_eq!(compare(&frame(59, &plain(&new))), Ok(1));
        for wrong in [
            frame(44, &plain(&new)),
            frame(59, &coded),
            frame(58, &plain(&new)),
            frame(59, &plain(RECEIVED)),
            frame(59, &plain(&new.replace("0af7", "0af8"))),
            frame(59, &[b"\x38", new.as_bytes()].concat()),
        ] {
            assert!(compare(&wrong).is_err(), "{}", wrong.escape_ascii());
        }
    }
}
