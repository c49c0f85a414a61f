//! What was sent against what arrived: the same bytes, plus at most one header a request.

use crate::trace_parent::{self, HEADER_LEN, TraceParent};

/// A part of a byte stream, as the application sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A request head, ending in an empty line, without a `traceparent`.
    Head(Vec<u8>),
    /// Bytes that must arrive as they are.
    Exact(Vec<u8>),
}

impl Part {
    /// A request head.
    pub fn head(bytes: impl AsRef<[u8]>) -> Self {
        Self::Head(bytes.as_ref().to_vec())
    }

    /// Bytes that must arrive as they are.
    pub fn exact(bytes: impl AsRef<[u8]>) -> Self {
        Self::Exact(bytes.as_ref().to_vec())
    }

    /// The bytes as sent.
    pub fn bytes(&self) -> &[u8] {
        let (Self::Head(bytes) | Self::Exact(bytes)) = self;
        bytes
    }
}

/// All parts as one piece.
pub fn concat(parts: &[Part]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.bytes().iter().copied()).collect()
}

/// Checks that `received` is `sent`, with at most one header line before the empty
/// line of each head. Gives, for each head, the header that was found.
///
/// # Panics
///
/// At the first byte that differs, with what is around it on both sides.
pub fn compare(what: &str, sent: &[Part], received: &[u8]) -> Vec<Option<TraceParent>> {
    let mut at = 0;
    let mut found = Vec::new();
    for (number, part) in sent.iter().enumerate() {
        match part {
            Part::Exact(bytes) => expect(what, number, bytes, received, &mut at),
            Part::Head(bytes) => {
                let Some(lines) = bytes.strip_suffix(b"\r\n") else {
                    panic!("{what}: part {number} is no head: {}", show(bytes));
                };
                expect(what, number, lines, received, &mut at);
                let header = received.get(at..).and_then(TraceParent::parse_line);
                if header.is_some() {
                    at += HEADER_LEN;
                }
                found.push(header);
                expect(what, number, b"\r\n", received, &mut at);
            }
        }
    }
    assert!(
        at == received.len(),
        "{what}: {} bytes too many after what was sent: {}",
        received.len() - at,
        show(&received[at..])
    );
    found
}

/// As [`compare`], and no head may have been given a header.
///
/// # Panics
///
/// As [`compare`].
pub fn untouched(what: &str, sent: &[u8], received: &[u8]) {
    compare(what, &[Part::exact(sent)], received);
}

fn expect(what: &str, number: usize, bytes: &[u8], received: &[u8], at: &mut usize) {
    let rest = received.get(*at..).unwrap_or_default();
    let same = bytes.iter().zip(rest).take_while(|(sent, got)| sent == got).count();
    if same < bytes.len() {
        let from = same.saturating_sub(40);
        panic!(
            "{what}: part {number} differs at its byte {same} (byte {} received of {})\n  \
             sent     …{}\n  received …{}",
            *at + same,
            received.len(),
            show(&bytes[from..]),
            show(rest.get(from..).unwrap_or_default()),
        );
    }
    *at += bytes.len();
}

/// The first bytes of a piece, readable.
pub fn show(bytes: &[u8]) -> String {
    const SHOWN: usize = 200;
    let more = if bytes.len() > SHOWN { "…" } else { "" };
    format!("\"{}\"{more}", bytes[..bytes.len().min(SHOWN)].escape_ascii())
}

/// The one `traceparent` of a head that an application received.
///
/// # Panics
///
/// If there is none, more than one, or one that the agent may not write.
pub fn only_header(what: &str, head: &[u8]) -> TraceParent {
    let values = trace_parent::in_head(head);
    let [value] = values.as_slice() else {
        panic!("{what}: {} traceparent headers, not one: {}", values.len(), show(head));
    };
    TraceParent::parse(value)
        .unwrap_or_else(|| panic!("{what}: bad traceparent {}", value.escape_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";

    fn sent() -> Vec<Part> {
        vec![Part::head("GET / HTTP/1.1\r\nhost: a\r\n\r\n"), Part::exact("GET / HTTP/1.1\r\n\r\n")]
    }

    #[test]
    fn one_header_before_the_empty_line_is_accepted() {
        let got = format!("GET / HTTP/1.1\r\nhost: a\r\n{LINE}\r\nGET / HTTP/1.1\r\n\r\n");
        let found = compare("here", &sent(), got.as_bytes());
        assert_eq!(found[0].as_ref().map(|h| h.span_id.as_str()), Some("b7ad6b7169203331"));
        assert_eq!(compare("plain", &sent(), &concat(&sent())), [None]);
    }

    #[test]
    #[should_panic(expected = "part 0 differs at its byte 0")]
    fn a_second_header_is_refused() {
        let got = format!("GET / HTTP/1.1\r\nhost: a\r\n{LINE}{LINE}\r\nGET / HTTP/1.1\r\n\r\n");
        compare("here", &sent(), got.as_bytes());
    }

    #[test]
    #[should_panic(expected = "part 1 differs")]
    fn a_header_in_a_body_is_refused() {
        let got = format!("GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\n{LINE}\r\n");
        compare("here", &sent(), got.as_bytes());
    }

    #[test]
    #[should_panic(expected = "3 bytes too many")]
    fn bytes_added_at_the_end_are_refused() {
        compare("here", &sent(), &[concat(&sent()), b"abc".to_vec()].concat());
    }
}
