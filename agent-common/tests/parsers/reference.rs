//! A second reader of HTTP/1.x, as plain as can be, with httparse for the heads:
//! it says what the machine should have seen, as far as there is no doubt.

use crate::machine::{Asked, Ending, Message, Seen};
use httparse::Status;
use tracewire_common::context::{FLAG_SAMPLED, TraceContext};
use tracewire_common::outcome::HeadKind;
use tracewire_common::parse::http1::{
    FACT_AMBIGUOUS, FACT_BROKEN, FACT_CHUNKED, FACT_CODING, FACT_CONNECT, FACT_HEAD, FACT_LENGTH,
    FACT_TRACEPARENT, FACT_TRACEPARENT_REPEATED, FACT_UPGRADE,
};

/// The most headers that the reference follows.
const MAX_HEADERS: usize = 128;

/// How long a body is.
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
    Switched,
}

/// What a head says.
#[derive(Debug, Default)]
struct Head {
    len: usize,
    facts: u16,
    status: u16,
    length: u64,
    traceparent: Option<TraceContext>,
    traceparent_at: usize,
}

/// Checks what the machine saw of `bytes` against the reference. Stops, without
/// an error, where the reference is in doubt.
pub fn check(bytes: &[u8], kind: HeadKind, asked: &[Asked], seen: &Seen) {
    let mut asked = asked.iter().copied();
    let mut at = 0;
    for number in 0.. {
        if kind == HeadKind::Request {
            while matches!(bytes.get(at), Some(b'\r' | b'\n')) {
                at += 1;
            }
        }
        let Some(head) = read_head(&bytes[at..], kind) else {
            return;
        };
        let message = seen.messages.get(number).unwrap_or_else(|| {
            panic!("the message at {at} was not seen: {:?}", seen.ending);
        });
        check_head(&head, at, message);
        let content_at = at + head.len;
        let framing = match kind {
            HeadKind::Request => request_framing(&head),
            HeadKind::Response => response_framing(&head, &mut asked),
        };
        let Some(framing) = framing else { return };
        let rest = &bytes[content_at..];
        let (content, len) = match framing {
            Framing::Length(length) => match rest.get(..length as usize) {
                Some(content) => (content.to_vec(), Some(content.len())),
                None => (rest.to_vec(), None),
            },
            Framing::Chunked => match read_chunks(rest) {
                Some(chunks) => chunks,
                None => return,
            },
            Framing::UntilClose => {
                assert_eq!(seen.ending, Ending::UntilClose);
                (rest.to_vec(), None)
            }
            Framing::Switched => {
                assert_eq!(seen.ending, Ending::Opaque);
                return;
            }
        };
        assert_eq!(message.content, content, "content of the message at {at}");
        assert_eq!(message.end, len.map(|len| content_at + len), "end of the message at {at}");
        let Some(len) = len else { return };
        at = content_at + len;
        if kind == HeadKind::Request && head.facts & (FACT_UPGRADE | FACT_CONNECT) != 0 {
            let held = if at < bytes.len() { Ending::Held(at) } else { Ending::Between };
            assert_eq!(seen.ending, held, "after an upgrade");
            return;
        }
    }
}

fn check_head(head: &Head, at: usize, message: &Message) {
    assert_eq!(message.start, at, "start of a message");
    assert_eq!(message.head_end, Some(at + head.len), "end of the head at {at}");
    assert_eq!(message.status, head.status, "status of the head at {at}");
    let sure = !FACT_AMBIGUOUS;
    let facts = message.facts;
    assert_eq!(facts & sure, head.facts & sure, "facts of the head at {at}: {facts:#x}");
    if head.facts & FACT_AMBIGUOUS != 0 {
        assert!(message.has(FACT_AMBIGUOUS), "the head at {at} is ambiguous");
    }
    if head.facts & (FACT_TRACEPARENT | FACT_TRACEPARENT_REPEATED) == FACT_TRACEPARENT {
        assert_eq!(message.traceparent, head.traceparent, "trace context of the head at {at}");
        assert_eq!(message.traceparent_at, head.traceparent_at, "its place in the head at {at}");
    }
}

/// The head at the start of `bytes`, or `None` if it is not whole or not beyond doubt.
fn read_head(bytes: &[u8], kind: HeadKind) -> Option<Head> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = Head::default();
    match kind {
        HeadKind::Request => {
            let mut request = httparse::Request::new(&mut headers);
            let Ok(Status::Complete(len)) = request.parse(bytes) else {
                return None;
            };
            let method = request.method?;
            let plain = |b: u8| b.is_ascii_uppercase() || b == b'-' || b == b'_';
            if method.len() > 24 || !method.bytes().all(plain) {
                return None;
            }
            head.len = len;
            head.facts |= match method {
                "HEAD" => FACT_HEAD,
                "CONNECT" => FACT_CONNECT,
                _ => 0,
            };
        }
        HeadKind::Response => {
            if matches!(bytes.first(), Some(b'\r' | b'\n')) {
                return None;
            }
            let mut response = httparse::Response::new(&mut headers);
            let Ok(Status::Complete(len)) = response.parse(bytes) else {
                return None;
            };
            head.len = len;
            head.status = response.code?;
        }
    }
    let text = &bytes[..head.len];
    if text.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r') {
        head.facts |= FACT_AMBIGUOUS;
    }
    let mut codings = Vec::new();
    for header in headers.iter().take_while(|header| !header.name.is_empty()) {
        let value = header.value;
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let length = length(value);
                if head.facts & FACT_LENGTH != 0 && length != Some(head.length) || length.is_none()
                {
                    head.facts |= FACT_BROKEN | FACT_AMBIGUOUS;
                }
                if head.facts & FACT_LENGTH != 0 {
                    head.facts |= FACT_AMBIGUOUS;
                }
                head.facts |= FACT_LENGTH;
                head.length = length.unwrap_or(0);
            }
            "transfer-encoding" => {
                head.facts |= FACT_CODING;
                codings.extend(value.split(|b| *b == b',').map(|c| c.trim_ascii().to_vec()));
            }
            "upgrade" => head.facts |= FACT_UPGRADE,
            "traceparent" => {
                if head.facts & FACT_TRACEPARENT != 0 {
                    head.facts |= FACT_TRACEPARENT_REPEATED;
                }
                head.facts |= FACT_TRACEPARENT;
                head.traceparent = traceparent(value);
                let at = value.as_ptr() as usize - bytes.as_ptr() as usize;
                head.traceparent_at = if value.is_empty() { 0 } else { at };
            }
            _ => {}
        }
    }
    codings.retain(|coding| !coding.is_empty());
    if codings.last().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked")) {
        head.facts |= FACT_CHUNKED;
    }
    if head.facts & FACT_CODING != 0 && head.facts & FACT_LENGTH != 0 {
        head.facts |= FACT_AMBIGUOUS;
    }
    Some(head)
}

/// A length, if it is one and not past what the machine follows.
fn length(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse::<u64>().ok().filter(|length| length / 10 <= u64::MAX >> 8)
}

fn request_framing(head: &Head) -> Option<Framing> {
    if head.facts & FACT_BROKEN != 0 {
        return None;
    }
    if head.facts & FACT_CHUNKED != 0 {
        return Some(Framing::Chunked);
    }
    if head.facts & FACT_CODING != 0 {
        return None;
    }
    Some(Framing::Length(head.length))
}

fn response_framing(head: &Head, asked: &mut impl Iterator<Item = Asked>) -> Option<Framing> {
    if head.status == 101 {
        return Some(Framing::Switched);
    }
    if (100..200).contains(&head.status) {
        return Some(Framing::Length(0));
    }
    let asked = asked.next().unwrap_or(Asked::Plain);
    if asked == Asked::Connect && (200..300).contains(&head.status) {
        return Some(Framing::Switched);
    }
    if asked == Asked::Head || head.status == 204 || head.status == 304 {
        return Some(Framing::Length(0));
    }
    if head.facts & (FACT_BROKEN | FACT_CODING) == 0 && head.facts & FACT_LENGTH == 0 {
        return Some(Framing::UntilClose);
    }
    if head.facts & FACT_BROKEN == 0 && head.facts & (FACT_CODING | FACT_CHUNKED) == FACT_CODING {
        return Some(Framing::UntilClose);
    }
    request_framing(head)
}

/// The content of a chunked body and its length on the wire, if it is whole.
/// `None` where it is not beyond doubt.
fn read_chunks(bytes: &[u8]) -> Option<(Vec<u8>, Option<usize>)> {
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        let Ok(Status::Complete((line, size))) = httparse::parse_chunk_size(&bytes[at..]) else {
            // Not whole or not valid: either way the rest is not told from here.
            return None;
        };
        let digits = bytes[at..].iter().take_while(|b| b.is_ascii_hexdigit()).count();
        // No size at all and a bare line feed are taken by httparse, but not beyond doubt.
        let doubtful = bytes[at..at + line - 2].iter().any(|b| matches!(b, b'\r' | b'\n'));
        if !(1..=15).contains(&digits) || doubtful {
            return None;
        }
        at += line;
        if size == 0 {
            break;
        }
        let Some(data) = bytes[at..].get(..size as usize) else {
            content.extend_from_slice(&bytes[at..]);
            return Some((content, None));
        };
        content.extend_from_slice(data);
        at += size as usize;
        match bytes[at..].get(..2) {
            Some(b"\r\n") => at += 2,
            _ => return None,
        }
    }
    loop {
        let line = bytes[at..].iter().position(|b| *b == b'\n')?;
        let text = &bytes[at..at + line];
        at += line + 1;
        if text == b"\r" {
            return Some((content, Some(at)));
        }
        if !text.ends_with(b"\r") || text.starts_with(b"\r") {
            return None;
        }
    }
}

/// A `traceparent` value read at leisure (W3C Trace Context §3.2).
pub fn traceparent(value: &[u8]) -> Option<TraceContext> {
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let start = value.iter().position(|b| !blank(b))?;
    let end = value.iter().rposition(|b| !blank(b))? + 1;
    let value = &value[start..end];
    if value.iter().any(blank) {
        return None;
    }
    let field = |from: usize, to: usize| {
        let text = std::str::from_utf8(value.get(from..to)?).ok()?;
        let lower_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if text.bytes().all(lower_hex) { u64::from_str_radix(text, 16).ok() } else { None }
    };
    let version = field(0, 2)?;
    let dashes = [2, 35, 52].iter().all(|at| value.get(*at) == Some(&b'-'));
    let tail = value.get(55..)?;
    if !dashes || version == 0xff || (version == 0 && !tail.is_empty()) {
        return None;
    }
    if tail.first().is_some_and(|b| *b != b'-') {
        return None;
    }
    let context = TraceContext {
        trace_id_hi: field(3, 19)?,
        trace_id_lo: field(19, 35)?,
        span_id: field(36, 52)?,
        flags: field(53, 55)? as u8 & FLAG_SAMPLED,
        pad: [0; 7],
    };
    context.is_valid().then_some(context)
}
