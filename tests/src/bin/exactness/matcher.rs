//! What arrives against what was sent: the same bytes, and headers only where they may be.

use tracewire_tests::trace_parent::{HEADER_LEN, TraceParent};

use crate::digest::Digest;
use crate::oracle::Spot;

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
            injected: Vec::new(),
            digest: Digest::default(),
            received: 0,
            tail: Vec::new(),
        }
    }

    /// Whether everything up to `end` has come, and no half of a header.
    pub(crate) fn has_reached(&self, end: usize) -> bool {
        self.at >= end && self.header.is_empty()
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
            if !self.header.is_empty() {
                let (more, after) = rest.split_at(rest.len().min(HEADER_LEN - self.header.len()));
                self.header.extend_from_slice(more);
                self.note(more);
                rest = after;
                if self.header.len() == HEADER_LEN {
                    if TraceParent::parse_line(&self.header).is_none() {
                        return Err(self.difference("no header that may be written", rest));
                    }
                    self.header.clear();
                    self.injected.extend(spot);
                    self.next_spot += 1;
                }
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
                self.next_spot += 1;
            }
            let limit = self.spots.get(self.next_spot).map_or(self.expected.len(), |s| s.at);
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
    const SPOTS: [Spot; 2] = [Spot { at: 16, is_clear: true }, Spot { at: 34, is_clear: true }];

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
}
