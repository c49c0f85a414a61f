//! Feeds the HTTP/1.x machine as the kernel half does, and writes down what it saw.

use tracewire_common::config::WINDOW;
use tracewire_common::context::TraceContext;
use tracewire_common::outcome::HeadKind;
use tracewire_common::parse::http1::{
    Body, Event, FACT_CONNECT, FACT_TRACEPARENT, FACT_TRACEPARENT_REPEATED, FACT_UPGRADE, Http1,
    Window,
};

/// What a response answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A request whose method says nothing about the length of the response.
    Plain,
    /// `HEAD`.
    Head,
    /// `CONNECT`.
    Connect,
}

/// How a stream is cut into the pieces that are handed over one after the other.
#[derive(Clone, Debug)]
pub enum Pieces {
    /// One piece.
    Whole,
    /// Pieces of so many bytes.
    Each(usize),
    /// Two pieces, the first of so many bytes.
    CutAt(usize),
    /// Pieces of random lengths, most of them short.
    Random(u64),
}

impl Pieces {
    /// The lengths of the pieces of a stream of `total` bytes.
    pub fn lengths(&self, total: usize) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut left = total;
        let mut noise = Noise::new(if let Self::Random(seed) = self { *seed } else { 0 });
        while left > 0 {
            let wanted = match self {
                Self::Whole => left,
                Self::Each(len) => *len,
                Self::CutAt(at) if lengths.is_empty() => *at,
                Self::CutAt(_) => left,
                Self::Random(_) => {
                    let longest = [1, 3, 17, 120, 3000][noise.draw() as usize % 5];
                    1 + noise.draw() as usize % longest
                }
            };
            let len = wanted.clamp(1, left);
            lengths.push(len);
            left -= len;
        }
        lengths
    }
}

/// How the bytes lie in the window.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The most bytes that are loaded at once, 1 to [`WINDOW`].
    pub load: usize,
    /// Where in the window they are put; below [`WINDOW`].
    pub offset: usize,
    /// What the rest of the window holds.
    pub garbage: Garbage,
}

/// What the window holds besides the bytes of the stream.
#[derive(Clone, Copy, Debug)]
pub enum Garbage {
    /// This byte everywhere.
    Byte(u8),
    /// The end of a head, over and over.
    HeadEnds,
    /// Anything.
    Random(u64),
}

impl Layout {
    /// The whole window, filled up with line feeds.
    pub const PLAIN: Self = Self { load: WINDOW, offset: 0, garbage: Garbage::Byte(b'\n') };

    /// A window that holds nothing of a stream yet.
    pub fn window(&self) -> Window {
        let mut window = Window([0; size_of::<Window>()]);
        let mut noise = Noise::new(if let Garbage::Random(seed) = self.garbage { seed } else { 0 });
        for (at, byte) in window.0.iter_mut().enumerate() {
            *byte = match self.garbage {
                Garbage::Byte(byte) => byte,
                Garbage::HeadEnds => b"\r\n\r\n"[at % 4],
                Garbage::Random(_) => noise.draw() as u8,
            };
        }
        window
    }
}

/// A small generator of numbers (xorshift64*).
#[derive(Clone, Debug)]
pub struct Noise(u64);

impl Noise {
    /// Numbers that are the same for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}

/// One message as the machine reported it. Positions are in the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Where its first byte is.
    pub start: usize,
    /// Where the first byte behind its head is, if the head ended.
    pub head_end: Option<usize>,
    /// `FACT_` bits when the head ended.
    pub facts: u16,
    /// The status code when the head ended.
    pub status: u16,
    /// The trace context, if there is exactly one header and it is valid.
    pub traceparent: Option<TraceContext>,
    /// Where in the head the value of `traceparent` starts.
    pub traceparent_at: usize,
    /// The content, transfer coding taken off.
    pub content: Vec<u8>,
    /// Where the first byte behind the message is, if it ended.
    pub end: Option<usize>,
    /// `FACT_` bits when the message ended.
    pub end_facts: u16,
}

impl Message {
    /// Whether all of the bits are among the facts.
    pub fn has(&self, facts: u16) -> bool {
        self.facts & facts == facts
    }
}

/// How the machine stood when the stream ended or it would not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Between messages.
    Between,
    /// In a head.
    InHead,
    /// In a body of known length, or of chunks.
    InBody,
    /// In a body that lasts until the connection is closed.
    UntilClose,
    /// In another protocol, after a switch.
    Opaque,
    /// At bytes that are no HTTP/1.x, at this position.
    NotHttp(usize),
    /// At bytes behind an open `Upgrade` or `CONNECT`, at this position.
    Held(usize),
}

/// What the machine saw of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The messages that started.
    pub messages: Vec<Message>,
    /// How it ended.
    pub ending: Ending,
}

/// Reads a stream of requests in one piece.
pub fn requests(bytes: &[u8]) -> Seen {
    read(bytes, HeadKind::Request, &[], &Pieces::Whole, &Layout::PLAIN)
}

/// Reads a stream of responses in one piece.
pub fn responses(bytes: &[u8], asked: &[Asked]) -> Seen {
    read(bytes, HeadKind::Response, asked, &Pieces::Whole, &Layout::PLAIN)
}

/// Reads a stream. Responses past the end of `asked` answer plain requests.
pub fn read(
    bytes: &[u8],
    kind: HeadKind,
    asked: &[Asked],
    pieces: &Pieces,
    layout: &Layout,
) -> Seen {
    let mut reading = Reading {
        http1: Http1::new(kind),
        bytes,
        at: 0,
        asked: asked.iter(),
        messages: Vec::new(),
        ending: None,
    };
    let mut window = layout.window();
    let mut piece_end = 0;
    for len in pieces.lengths(bytes.len()) {
        piece_end += len;
        while reading.at < piece_end && reading.ending.is_none() {
            reading.load(&mut window, layout, piece_end);
        }
    }
    let ending = reading.ending.unwrap_or_else(|| reading.state());
    Seen { messages: reading.messages, ending }
}

struct Reading<'a> {
    http1: Http1,
    bytes: &'a [u8],
    at: usize,
    asked: std::slice::Iter<'a, Asked>,
    messages: Vec<Message>,
    ending: Option<Ending>,
}

impl Reading<'_> {
    /// Puts the next bytes into the window and takes them, or more where a body reaches further.
    fn load(&mut self, window: &mut Window, layout: &Layout, piece_end: usize) {
        let offset = layout.offset % WINDOW;
        let len = (piece_end - self.at).min(layout.load.max(1)).min(WINDOW - offset);
        window.0[offset..offset + len].copy_from_slice(&self.bytes[self.at..self.at + len]);
        let base = self.at;
        let end = (offset + len) as u32;
        let mut idle = 0;
        while self.at < base + len && self.ending.is_none() {
            let at = (offset + self.at - base) as u32;
            let available = (piece_end - self.at) as u32;
            let content = self.http1.content();
            let head_len = self.http1.head_len();
            let was_at_start = self.http1.is_at_start();
            let (taken, event) = self.http1.step(window, at, end, available);
            assert!(taken <= available, "took {taken} of {available} bytes");
            idle = if taken == 0 { idle + 1 } else { 0 };
            let over = matches!(event, Event::NotHttp | Event::Held);
            assert!(idle < 2 || over, "stood still at {} ({:?})", self.at, self.http1);
            let from = self.at;
            self.at += taken as usize;
            let starts = was_at_start && !self.http1.is_at_start() && event != Event::NotHttp;
            if starts {
                assert!(taken > 0, "a message starts with a byte");
                self.messages.push(Message { start: from, ..Message::default() });
            }
            let head_len = if starts { 0 } else { head_len };
            let passed = self.http1.content().wrapping_sub(content) == taken as u64;
            if taken > 0 && passed && !starts && !self.http1.is_in_head() {
                // The content of a message grew by just what was taken.
                if let Some(message) = self.messages.last_mut() {
                    message.content.extend_from_slice(&self.bytes[from..self.at]);
                }
            } else if !self.http1.is_opaque() {
                assert!(at + taken <= end, "took bytes behind the window that are no body");
            }
            if self.http1.is_in_head() {
                assert_eq!(self.http1.head_len(), head_len + taken, "bytes of the head miscounted");
            }
            self.react(event);
        }
    }

    fn react(&mut self, event: Event) {
        match event {
            Event::None => {}
            Event::HeadEnd => self.head_end(),
            Event::MessageEnd => self.message_end(),
            Event::NotHttp => self.ending = Some(Ending::NotHttp(self.at)),
            Event::Held => self.ending = Some(Ending::Held(self.at)),
        }
    }

    fn head_end(&mut self) {
        let facts = self.http1.facts();
        let status = self.http1.status();
        let message = self.messages.last_mut().expect("a head that ends belongs to a message");
        message.head_end = Some(self.at);
        message.facts = facts;
        message.status = status;
        message.traceparent_at = self.http1.traceparent_at() as usize;
        if facts & (FACT_TRACEPARENT | FACT_TRACEPARENT_REPEATED) == FACT_TRACEPARENT {
            message.traceparent = self.http1.traceparent().finish();
        }
        assert_eq!(self.http1.head_len() as usize, self.at - message.start, "head length");
        let body = if self.http1.is_request() { Body::Framed } else { self.response_body(status) };
        let event = self.http1.begin_body(body);
        self.react(event);
    }

    /// RFC 9112 §6.3, the rules that the head alone does not tell.
    fn response_body(&mut self, status: u16) -> Body {
        if status == 101 {
            return Body::Switched;
        }
        if (100..200).contains(&status) {
            return Body::None;
        }
        match self.asked.next().copied().unwrap_or(Asked::Plain) {
            Asked::Head => Body::None,
            Asked::Connect if (200..300).contains(&status) => Body::Switched,
            _ if status == 204 || status == 304 => Body::None,
            _ => Body::Framed,
        }
    }

    fn message_end(&mut self) {
        let content = self.http1.content();
        let message = self.messages.last_mut().expect("what ends has started");
        message.end = Some(self.at);
        message.end_facts = self.http1.facts();
        assert_eq!(content, message.content.len() as u64, "bytes of content");
        if self.http1.is_request() && self.http1.facts() & (FACT_UPGRADE | FACT_CONNECT) != 0 {
            self.http1.hold();
        } else {
            self.http1.next_message();
        }
    }

    fn state(&self) -> Ending {
        if self.http1.is_at_start() || self.http1.is_held() {
            Ending::Between
        } else if self.http1.is_in_head() {
            Ending::InHead
        } else if self.http1.is_until_close() {
            Ending::UntilClose
        } else if self.http1.is_opaque() {
            Ending::Opaque
        } else {
            Ending::InBody
        }
    }
}
