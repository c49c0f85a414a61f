//! Where a header may stand in what a client sends: a reader of its own, over the whole
//! stream at leisure, that shares nothing with the agent's. It knows what the README
//! promises: a header only in a request's head, exactly before the empty line that ends
//! it, and none in a head that two readers could read differently, nor after one; and another
//! parent id in a context that is passed on as it was received. What begins with the preface of
//! HTTP/2 is read by [`http2`], records of FastCGI by [`fastcgi`].

mod fastcgi;
mod hpack;
mod http2;

use std::ops::Range;

use httparse::Status;
use tracewire_tests::trace_parent::{FIELD_LEN, HEADER_LEN, TraceParent, VALUE_LEN};

/// The longest head that is given a header, in bytes (README, "Limits").
const LONGEST_HEAD: usize = 64 * 1024;

/// The context that a client has received, if it has received one (W3C Trace Context, §3.2).
pub(crate) const RECEIVED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Where in a value the parent id is.
const PARENT: Range<usize> = 36..52;

/// What the agent may write at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A header, before the empty line that ends a head.
    Line,
    /// A field at the end of a header block of HTTP/2, which ends in the frame that starts here.
    Field { frame: usize },
    /// Another parent id, in place of that of a context that is passed on.
    Parent,
    /// A context as it is, with its length, in place of so many bytes of a Huffman coded one, in a frame
    /// of HTTP/2 that starts here.
    Value { frame: usize, len: usize },
}

impl Change {
    /// Where the frame starts whose length grows.
    pub(crate) fn frame(self) -> Option<usize> {
        match self {
            Self::Field { frame } | Self::Value { frame, .. } => Some(frame),
            Self::Line | Self::Parent => None,
        }
    }

    /// Bytes that are written.
    pub(crate) fn written(self) -> usize {
        match self {
            Self::Line => HEADER_LEN,
            Self::Field { .. } => FIELD_LEN,
            Self::Parent => PARENT.len(),
            Self::Value { .. } => 1 + VALUE_LEN,
        }
    }

    /// Bytes of what was sent that those stand for.
    pub(crate) fn replaced(self) -> usize {
        match self {
            Self::Line | Self::Field { .. } => 0,
            Self::Parent => PARENT.len(),
            Self::Value { len, .. } => len,
        }
    }

    /// Whether it is made to a context that is passed on.
    pub(crate) fn is_of_passed_on(self) -> bool {
        matches!(self, Self::Parent | Self::Value { .. })
    }
}

/// A place for a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    /// Where the change is: where the empty line that ends the head starts; of HTTP/2, where the header
    /// block ends; where what is replaced starts.
    pub(crate) at: usize,
    /// What may be written there.
    pub(crate) change: Change,
    /// Bytes that have to be sent by one call for it.
    pub(crate) together: Range<usize>,
    /// Whether nothing speaks against it.
    pub(crate) is_clear: bool,
}

impl Spot {
    /// What of the stream it is about: the frame's header, and what is replaced.
    pub(crate) fn range(&self) -> Range<usize> {
        self.change.frame().unwrap_or(self.at)..self.at + self.change.replaced()
    }

    /// Moves it to where it is without one byte before it.
    pub(crate) fn move_back(&mut self) {
        self.at -= 1;
        self.change = match self.change {
            Change::Field { frame } => Change::Field { frame: frame - 1 },
            Change::Value { frame, len } => Change::Value { frame: frame - 1, len },
            change => change,
        };
    }

    /// Where it is behind `before` bytes that were read otherwise. Whether what stands there is read as it was
    /// here is in doubt.
    fn behind(self, before: usize) -> Self {
        let change = match self.change {
            Change::Field { frame } => Change::Field { frame: frame + before },
            Change::Value { frame, len } => Change::Value { frame: frame + before, len },
            change => change,
        };
        let together = self.together.start + before..self.together.end + before;
        Self { at: self.at + before, change, together, is_clear: false }
    }

    /// The place of a parent id, in a value that starts at `value`, in a head that ends at `end`.
    fn parent(value: usize, end: usize, is_clear: bool) -> Self {
        let at = value + PARENT.start;
        Self { at, change: Change::Parent, together: at..end, is_clear }
    }
}

/// Whether a context is the one that was received: its trace and its parent are, whatever its
/// flags.
fn is_received(value: &[u8]) -> bool {
    let ids = |value: &[u8]| value.get(3..PARENT.end).map(<[u8]>::to_vec);
    value.len() >= VALUE_LEN && ids(value) == ids(RECEIVED.as_bytes())
}

/// What was read of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The places for headers, in order.
    pub(crate) spots: Vec<Spot>,
    /// Where a head starts that is none that all readers read alike, if there is one.
    stopped: Option<usize>,
}

impl Reading {
    /// Adds the one place that is tolerated beyond what the README promises: before a CR
    /// that ended a send and looked like the last line's until no LF came. A header in a
    /// head that is none is not read by anybody.
    fn tolerate(&mut self, stream: &[u8]) {
        let Some(start) = self.stopped else { return };
        let line = stream[start..].windows(2).position(|pair| pair == b"\n\r");
        let Some(at) = line.map(|line| start + line + 1) else { return };
        if stream.get(at + 1) != Some(&b'\n') {
            self.spots.push(Spot { at, change: Change::Line, together: at..at, is_clear: false });
        }
    }
}

/// How a request's body ends.
enum Body {
    Length(usize),
    Chunked,
}

/// What the lines of a head say.
struct Head {
    /// Its bytes, with the empty line.
    len: usize,
    body: Body,
    /// How many trace contexts it has.
    contexts: usize,
    /// Where the value of the last one is.
    context: Range<usize>,
    /// Whether it asks for another protocol.
    switches: bool,
    is_connect: bool,
    /// Whether the client says that nothing more will come.
    closes: bool,
    /// Whether httparse, too, takes it for a request with the same end.
    is_plain: bool,
}

/// The places for headers in `stream`. `answers`: the status of each final response, in
/// order; `None` if what answers is no server that can be relied on. `has_received`: whether the client
/// works on a request that came with [`RECEIVED`].
pub(crate) fn read(stream: &[u8], answers: Option<&[u16]>, has_received: bool) -> Reading {
    let Reading { mut spots, mut stopped } = Reading::default();
    if stream.starts_with(http2::PREFACE) {
        return Reading { spots: http2::read(stream), stopped };
    }
    let mut at = 0;
    // What begins like the other version is left alone, whatever it turns out to be.
    let mut sure = !stream.starts_with(&http2::PREFACE[..8]);
    for number in 0.. {
        // RFC 9112 §2.2: empty lines before a request line are to be ignored.
        while matches!(stream.get(at), Some(b'\r' | b'\n')) {
            at += 1;
            sure = false;
        }
        if stream.get(at) == Some(&1) {
            let Some(request) = fastcgi::read(stream, at) else { break };
            let is_passed_on = |value: &Range<usize>| is_received(&stream[value.clone()]);
            let context = request.context.filter(|value| has_received && is_passed_on(value));
            if let Some(value) = context {
                let is_valid = TraceParent::parse(&stream[value.clone()]).is_some();
                let is_short = request.head_end - at <= LONGEST_HEAD;
                let is_clear = sure && is_valid && is_short && answers.is_some();
                spots.push(Spot::parent(value.start, request.head_end, is_clear));
            }
            // An agent that left a request alone does not come back.
            sure &= request.is_kept && !request.is_doubtful;
            let Some(end) = request.end else { break };
            at = end;
            continue;
        }
        let Some(head) = read_head(&stream[at..]) else {
            stopped = Some(at);
            break;
        };
        let is_clear = sure && head.is_plain && answers.is_some();
        if head.contexts == 0 && head.len <= LONGEST_HEAD {
            let at = at + head.len - 2;
            spots.push(Spot { at, change: Change::Line, together: at..at, is_clear });
        }
        let value = at + head.context.start..at + head.context.end;
        if has_received && head.contexts == 1 && is_received(&stream[value.clone()]) {
            let is_valid = TraceParent::parse(&stream[value.clone()]).is_some();
            let is_clear = is_clear && is_valid && head.len <= LONGEST_HEAD;
            spots.push(Spot::parent(value.start, at + head.len, is_clear));
        }
        sure &= head.is_plain && !head.closes && head.len <= LONGEST_HEAD;
        at += head.len;
        let rest = &stream[at..];
        let len = match head.body {
            Body::Length(len) => (len <= rest.len()).then_some(len),
            Body::Chunked => chunks(rest),
        };
        let Some(len) = len else { break };
        at += len;
        if head.switches || head.is_connect {
            match answers.map(|answers| answers.get(number)) {
                // RFC 7540 §3.2: `Upgrade: h2c`.
                Some(Some(101)) if stream[at..].starts_with(http2::PREFACE) => {
                    let switched = http2::read(&stream[at..]);
                    spots.extend(switched.into_iter().map(|spot| spot.behind(at)));
                    break;
                }
                Some(None | Some(101)) => break,
                Some(Some(200..=299)) if head.is_connect => break,
                Some(Some(_)) => {}
                None => sure = false,
            }
        }
    }
    let mut reading = Reading { spots, stopped };
    reading.tolerate(stream);
    reading
}

/// The head at the start of `bytes`, if it is a whole one that all readers read alike.
fn read_head(bytes: &[u8]) -> Option<Head> {
    let end = bytes.windows(2).position(|pair| pair == b"\n\r" || pair == b"\n\n")?;
    // The first empty line must be CR LF, and no line may end without CR.
    let text = bytes.get(..end + 1)?;
    if bytes.get(end + 1..end + 3)? != b"\r\n" {
        return None;
    }
    let mut lines = text.strip_suffix(b"\n")?.split(|b| *b == b'\n');
    let mut words = lines.next()?.strip_suffix(b"\r")?.splitn(2, |b| *b == b' ');
    let method = words.next()?;
    let token = |b: &u8| b.is_ascii_uppercase() || *b == b'-' || *b == b'_';
    if method.is_empty() || method.len() > 24 || !method.iter().all(token) {
        return None;
    }
    // Of the target the agent looks at the first byte; httparse says what is right.
    let (_, version) = words.next()?.split_last_chunk::<9>()?;
    let [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] = version else { return None };
    if !minor.is_ascii_digit() {
        return None;
    }
    let mut head = Head {
        len: end + 3,
        body: Body::Length(0),
        contexts: 0,
        context: 0..0,
        switches: false,
        is_connect: method == b"CONNECT",
        closes: *minor == b'0',
        is_plain: is_plain(&bytes[..end + 3]),
    };
    let (mut length, mut codings) = (None, None);
    for line in lines {
        let line = line.strip_suffix(b"\r")?;
        // A folded line, or nothing that could be told from the head's end.
        if line.first().is_none_or(|b| *b == b' ' || *b == b'\t') {
            return None;
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = (line[..colon].to_ascii_lowercase(), line[colon + 1..].trim_ascii());
        // To the agent a name with a lone CR is no name that it knows, and a value with one
        // is any value but where it says how long the message is; to httparse both are
        // errors, and so the head is not plain.
        let framing = ["content-length", "transfer-encoding"];
        if value.contains(&b'\r') && framing.iter().any(|framing| name == framing.as_bytes()) {
            return None;
        }
        let known = ["content-length", "transfer-encoding", "traceparent", "upgrade"];
        let blanks = name.iter().rev().take_while(|b| matches!(b, b' ' | b'\t')).count();
        let bare = &name[..name.len() - blanks];
        if blanks > 0 && known.iter().any(|known| bare == known.as_bytes()) {
            return None;
        }
        match name.as_slice() {
            b"content-length" if length.is_some() => return None,
            b"content-length" => {
                let value = std::str::from_utf8(value).ok()?;
                if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                // More than there is in any stream, if it is no number of this machine.
                length = Some(value.parse().unwrap_or(usize::MAX));
            }
            // One list over all lines (RFC 9110 §5.3).
            b"transfer-encoding" => {
                let list: &mut Vec<u8> = codings.get_or_insert_default();
                list.extend_from_slice(b",");
                list.extend(value.to_ascii_lowercase());
            }
            b"traceparent" => {
                head.contexts += 1;
                // The line starts where it does in the head: both are slices of `bytes`.
                let from = value.as_ptr() as usize - bytes.as_ptr() as usize;
                head.context = from..from + value.len();
            }
            b"upgrade" => head.switches = true,
            b"connection" => head.closes |= contains(&value.to_ascii_lowercase(), b"close"),
            _ => {}
        }
    }
    head.body = match (length, codings) {
        (Some(_), Some(_)) => return None,
        (Some(length), None) => Body::Length(length),
        (None, None) => Body::Length(0),
        (None, Some(codings)) => {
            let mut codings = codings.rsplit(|b| *b == b',').map(<[u8]>::trim_ascii);
            if codings.next() != Some(b"chunked") || codings.any(|coding| coding == b"chunked") {
                return None;
            }
            Body::Chunked
        }
    };
    Some(head)
}

/// Whether httparse reads a request of exactly these bytes.
fn is_plain(bytes: &[u8]) -> bool {
    let mut headers = vec![httparse::EMPTY_HEADER; 2_000];
    let read = httparse::Request::new(&mut headers).parse(bytes);
    matches!(read, Ok(Status::Complete(len)) if len == bytes.len())
}

/// How long the chunked body at the start of `bytes` is, if it is whole and beyond doubt.
fn chunks(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = line(&bytes[at..])?;
        at += line.len() + 2;
        let size = line.split(|b| *b == b';' || *b == b' ' || *b == b'\t').next()?;
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        if bytes.get(at.checked_add(size)?..at + size + 2)? != b"\r\n" {
            return None;
        }
        at += size + 2;
    }
    loop {
        let line = line(&bytes[at..])?;
        at += line.len() + 2;
        if line.is_empty() {
            return Some(at);
        }
    }
}

/// The line at the start of `bytes`, without its CR LF; `None` for other line ends.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    bytes[..end].strip_suffix(b"\r")
}

fn contains(bytes: &[u8], pattern: &[u8]) -> bool {
    bytes.windows(pattern.len()).any(|window| window == pattern)
}

#[cfg(test)]
mod tests {
    use tracewire_common::config::WINDOW;
    use tracewire_common::outcome::HeadKind;
    use tracewire_common::parse::http1::{
        Body, Event, FACT_CONNECT, FACT_TRACEPARENT, FACT_UPGRADE, Http1, Window,
    };

    use super::*;
    use crate::plan::Side;
    use crate::protocols::Protocol;

    fn places(stream: &str) -> Vec<usize> {
        read(stream.as_bytes(), Some(&[200; 8]), false).spots.iter().map(|spot| spot.at).collect()
    }

    #[test]
    fn a_head_has_a_place_before_its_empty_line_and_bodies_have_none() {
        assert_eq!(places("GET / HTTP/1.1\r\n\r\n"), [16]);
        let inner = "GET / HTTP/1.1\r\n\r\n";
        let post = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n", inner.len());
        let at = post.len() - 2;
        let next = at + 2 + inner.len() + 16;
        assert_eq!(places(&format!("{post}{inner}{inner}")), [at, next]);
        let chunked = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        let body = format!("{:x};x=y\r\n{inner}\r\n0\r\nt: GET / HTTP/1.1\r\n\r\n", inner.len());
        let at = chunked.len() - 2;
        let next = chunked.len() + body.len() + 16;
        assert_eq!(places(&format!("{chunked}{body}{inner}")), [at, next]);
    }

    #[test]
    fn nothing_follows_a_head_that_could_be_read_in_two_ways() {
        let next = "GET /next HTTP/1.1\r\n\r\n";
        for head in [
            "GET / HTTP/1.1\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\n",
            "GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length : 0\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\n",
            "GET /\r\n\r\n",
            "GET /xHTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\ncontent-length: 0\rx: y\r\n\r\n",
            "hello HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(places(&format!("{head}{next}")), [0; 0], "{head:?}");
        }
    }

    #[test]
    fn own_contexts_and_switched_protocols_are_left_alone() {
        let next = "GET /next HTTP/1.1\r\n\r\n";
        let own = "GET / HTTP/1.1\r\nTraceParent: x\r\n\r\n";
        assert_eq!(places(&format!("{own}{next}")), [own.len() + 20]);
        let upgrade = "GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n";
        let stream = format!("{upgrade}{next}");
        let at = upgrade.len() - 2;
        let first = Spot { at, change: Change::Line, together: at..at, is_clear: true };
        let read = |answers| read(stream.as_bytes(), answers, false).spots;
        assert_eq!(read(Some(&[101])), [first]);
        assert_eq!(read(Some(&[200])).len(), 2);
        assert!(!read(None)[0].is_clear);
    }

    #[test]
    fn behind_an_upgrade_to_http_2_its_streams_may_have_a_field() {
        let upgrade = b"GET / HTTP/1.1\r\nupgrade: h2c\r\n\r\n";
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let request = [0, 0, 1, 1, 4, 0, 0, 0, 3, 0x82];
        let stream = [&upgrade[..], http2::PREFACE, &settings, &request].concat();
        let spots = |status| read(&stream, Some(&[status]), false).spots;
        let (frame, end) = (stream.len() - request.len(), stream.len());
        let change = Change::Field { frame };
        let field = Spot { at: end, change, together: frame..end, is_clear: false };
        assert_eq!(spots(101)[1..], [field]);
        assert_eq!(spots(200).len(), 1);
    }

    #[test]
    fn the_parent_id_of_what_was_received_may_change_if_it_is_passed_on_once() {
        let places = |stream: &str, has_received| {
            let spots = read(stream.as_bytes(), Some(&[200; 8]), has_received).spots;
            spots.iter().map(|spot| (spot.at, spot.change)).collect::<Vec<_>>()
        };
        let head = format!("GET / HTTP/1.1\r\ntraceparent: \t{RECEIVED} \r\n\r\n");
        let at = head.find("b7ad").expect("a parent id");
        assert_eq!(places(&head, true), [(at, Change::Parent)]);
        assert_eq!(places(&head, false), []);
        assert_eq!(places(&head.replace("-01", "-00"), true), [(at, Change::Parent)]);
        for other in [
            head.replace("b7ad", "b7ae"),
            head.replace("0af7", "0AF7"),
            head.replace("\r\n\r\n", &format!("\r\nTraceparent: {RECEIVED}\r\n\r\n")),
            head.replace("traceparent", "traceparents"),
        ] {
            assert!(!places(&other, true).iter().any(|(_, change)| *change == Change::Parent));
        }
    }

    /// Where the agent's parser would have a header written: at the end of heads, up to the first that
    /// leaves a doubt.
    fn places_of_agent(stream: &[u8]) -> Vec<usize> {
        let mut parser = Http1::new(HeadKind::Request);
        let mut window = Window([0; size_of::<Window>()]);
        let (mut places, mut start) = (Vec::new(), 0);
        while start < stream.len() {
            let loaded = (stream.len() - start).min(WINDOW);
            window.0[..loaded].copy_from_slice(&stream[start..start + loaded]);
            let mut at = 0;
            while at < loaded {
                let left = stream.len() - start - at;
                let (taken, event) = parser.step(&window, at as u32, loaded as u32, left as u32);
                at += taken as usize;
                let ends = match event {
                    Event::None => false,
                    Event::HeadEnd => {
                        let has_context = parser.facts() & FACT_TRACEPARENT != 0;
                        if parser.is_doubtful() {
                            return places;
                        }
                        if !has_context && parser.head_len() as usize <= LONGEST_HEAD {
                            places.push(start + at - 2);
                        }
                        parser.begin_body(Body::Framed) == Event::MessageEnd
                    }
                    Event::MessageEnd => true,
                    Event::NotHttp | Event::Held => return places,
                };
                if ends {
                    // What is answered decides about what follows these.
                    let is_open = parser.facts() & (FACT_CONNECT | FACT_UPGRADE) != 0;
                    if parser.is_doubtful() || is_open {
                        return places;
                    }
                    parser.next_message();
                }
            }
            start += at;
        }
        places
    }

    #[test]
    fn the_agents_parser_finds_no_place_that_is_none() {
        // A difference was in one of 80,000.
        let plans = std::env::var("PLANS").ok().and_then(|plans| plans.parse().ok());
        for number in 0..plans.unwrap_or(2_000) {
            let plan = crate::plan::Plan::new(7, number, &[Protocol::Adversarial], false);
            let stream = plan.stream(Side::Client);
            let lines = plan.spots.iter().filter(|spot| spot.change == Change::Line);
            let spots: Vec<usize> = lines.map(|spot| spot.at).collect();
            for place in places_of_agent(stream) {
                assert!(
                    spots.contains(&place),
                    "connection {number}: {}|{}",
                    stream[place.saturating_sub(300)..place].escape_ascii(),
                    stream[place..].iter().copied().take(60).collect::<Vec<u8>>().escape_ascii()
                );
            }
        }
    }
}
