//! What arrives against what was sent: the same bytes, and headers only where they may be. With
//! a field in a header block of HTTP/2 goes a longer frame: neither is right without the other.

use tracewire_tests::trace_parent::{FIELD_LEN, HEADER_LEN, TraceParent};

use crate::digest::Digest;
use crate::oracle::Spot;

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
    /// A header that has begun to come.
    header: Vec<u8>,
    /// Whether the length of the next place's frame, as far as it came, is the one that was sent.
    is_same: bool,
    /// Whether it is that with a field.
    is_grown: bool,
    /// The spots where a header came.
    pub(crate) injected: Vec<Spot>,
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
            injected: Vec::new(),
            digest: Digest::default(),
            received: 0,
            tail: Vec::new(),
        }
    }

    /// Whether everything up to `end` has come, and no half of a header.
    pub(crate) fn has_reached(&self, end: usize) -> bool {
        self.at >= end && !self.is_in_header()
    }

    /// Whether the next byte has to be one of a header.
    pub(crate) fn is_in_header(&self) -> bool {
        let spot = self.spots.get(self.next_spot);
        let is_due =
            spot.is_some_and(|spot| spot.frame.is_some() && spot.at == self.at && self.is_grown);
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
            let spot = self.spots.get(self.next_spot).copied();
            if self.is_in_header() {
                let is_field = spot.is_some_and(|spot| spot.frame.is_some());
                let len = if is_field { FIELD_LEN } else { HEADER_LEN };
                let (more, after) = rest.split_at(rest.len().min(len - self.header.len()));
                self.header.extend_from_slice(more);
                self.note(more);
                rest = after;
                if self.header.len() == len {
                    let read =
                        if is_field { TraceParent::parse_field } else { TraceParent::parse_line };
                    if read(&self.header).is_none() {
                        return Err(self.difference("no header that may be written", rest));
                    }
                    self.header.clear();
                    self.injected.extend(spot);
                    self.pass_spot();
                }
                continue;
            }
            if let Some(frame) = spot.and_then(|spot| spot.frame)
                && (frame..frame + LENGTH_LEN).contains(&self.at)
            {
                if !self.take_length(*first, frame) {
                    return Err(self.difference("differs", rest));
                }
                self.note(&rest[..1]);
                rest = &rest[1..];
                continue;
            }
            if spot.is_some_and(|spot| spot.at == self.at && spot.frame.is_some()) {
                // No field was announced.
                self.pass_spot();
                continue;
            }
            if spot.is_some_and(|spot| spot.at == self.at) {
                // A head's empty line starts with CR: no header can be taken for it.
                if *first == b't' {
                    self.header.push(*first);
                    self.note(&rest[..1]);
                    rest = &rest[1..];
                    continue;
                }
                self.pass_spot();
            }
            let limit = self.spots.get(self.next_spot).map_or(self.expected.len(), |spot| {
                spot.frame.filter(|frame| self.at < *frame).unwrap_or(spot.at)
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

    fn pass_spot(&mut self) {
        self.next_spot += 1;
        self.is_same = true;
        self.is_grown = true;
    }

    /// Takes a byte of the length of the frame that starts at `frame`. Answers whether it is
    /// one of those that it may be.
    fn take_length(&mut self, byte: u8, frame: usize) -> bool {
        let number = self.at - frame;
        let sent = &self.expected[frame..frame + LENGTH_LEN];
        let len = sent.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
        let grown = (len + FIELD_LEN).to_be_bytes();
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

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    const SENT: &str = "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n";
    const SPOTS: [Spot; 2] = [spot(16, None), spot(34, None)];

    const fn spot(at: usize, frame: Option<usize>) -> Spot {
        Spot { at, frame, is_clear: true }
    }

    fn compare(received: &str, piece: usize) -> Result<usize, String> {
        let mut matcher = Matcher::new(SENT.as_bytes(), &SPOTS);
        for piece in received.as_bytes().chunks(piece) {
            matcher.take(piece)?;
        }
        assert!(matcher.has_reached(SENT.len()));
        assert_eq!(matcher.digest.value(), Digest::of(SENT.as_bytes()));
        Ok(matcher.injected.len())
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
        let spots = [spot(207, Some(0)), spot(220, Some(209))];
        let mut matcher = Matcher::new(&sent, &spots);
        for piece in received.chunks(piece) {
            matcher.take(piece)?;
        }
        if !matcher.has_reached(sent.len()) {
            return Err("it is not all".into());
        }
        assert_eq!(matcher.digest.value(), Digest::of(&sent));
        Ok(matcher.injected.len())
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
}
