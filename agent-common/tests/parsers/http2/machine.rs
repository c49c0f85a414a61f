//! Feeds the HTTP/2 machine as the kernel half does, and writes down what it saw.

use crate::machine::{Layout, Pieces};
use tracewire_common::config::WINDOW;
use tracewire_common::context::TraceContext;
use tracewire_common::outcome::HeadKind;
use tracewire_common::parse::http1::Window;
use tracewire_common::parse::http2::{Event, Http2};

/// Something the machine came upon. Positions are in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What.
    pub event: Event,
    /// Where the first byte behind it is.
    pub at: usize,
    /// Where the frame starts.
    pub frame_at: usize,
    /// Bytes of its payload.
    pub frame_len: u32,
    /// Its stream.
    pub stream: u32,
    /// Whether it ends the stream; of a reset nothing is said.
    pub ends_stream: bool,
    /// Whether the header block is that of a promised request.
    pub is_promise: bool,
    /// Why the stream was reset.
    pub error_code: u32,
    /// The header block that ended.
    pub block: Option<Block>,
}

/// A header block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Its number.
    pub number: u32,
    /// The bytes, put together.
    pub bytes: Vec<u8>,
    /// What the scanner says of them, in requests.
    pub verdict: Verdict,
}

/// What the scanner says of a header block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// `FACT_` bits.
    pub facts: u8,
    /// The one valid context.
    pub context: Option<TraceContext>,
    /// Where the value is, how long, and whether it is coded; of no account without one.
    pub place: (u32, u32, bool),
}

/// How the machine stood when the stream ended or it would not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Between frames.
    Between,
    /// In a frame, or in the preface.
    Within,
    /// At bytes that are no HTTP/2, found out at this position.
    NotHttp2(usize),
}

/// What the machine saw of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// In the order of the stream.
    pub found: Vec<Found>,
    /// How it ended.
    pub ending: Ending,
    /// How many steps that took.
    pub steps: Steps,
}

/// A number of steps. How many they are is no part of what was seen.
#[derive(Clone, Copy, Debug)]
pub struct Steps(pub usize);

impl PartialEq for Steps {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Steps {}

/// Reads a stream.
pub fn read(bytes: &[u8], kind: HeadKind, pieces: &Pieces, layout: &Layout) -> Seen {
    read_with_gaps(bytes, kind, pieces, layout, &mut |_| 0).0
}

/// Reads a stream of which bytes are not seen: as many as `gap` says of those that are left in the
/// piece, wherever the machine allows it. Answers how many these were as well.
pub fn read_with_gaps(
    bytes: &[u8],
    kind: HeadKind,
    pieces: &Pieces,
    layout: &Layout,
    gap: &mut dyn FnMut(usize) -> usize,
) -> (Seen, usize) {
    let mut unseen = 0;
    let mut reading = Reading {
        http2: Http2::new(kind),
        bytes,
        at: 0,
        block: Vec::new(),
        found: Vec::new(),
        ending: None,
        steps: 0,
    };
    let mut window = layout.window();
    let mut piece_end = 0;
    for len in pieces.lengths(bytes.len()) {
        piece_end += len;
        while reading.at < piece_end && reading.ending.is_none() {
            let missing = gap(piece_end - reading.at);
            if missing > 0 && reading.http2.pass_over(missing as u32) {
                reading.at += missing;
                unseen += missing;
            } else {
                reading.load(&mut window, layout, piece_end);
            }
        }
    }
    let between = reading.http2.is_at_frame();
    let ending = reading.ending.unwrap_or(if between { Ending::Between } else { Ending::Within });
    (Seen { found: reading.found, ending, steps: Steps(reading.steps) }, unseen)
}

struct Reading<'a> {
    http2: Http2,
    bytes: &'a [u8],
    at: usize,
    block: Vec<u8>,
    found: Vec<Found>,
    ending: Option<Ending>,
    steps: usize,
}

impl Reading<'_> {
    /// Puts the next bytes into the window and takes them, or more where what is passed over
    /// reaches further.
    fn load(&mut self, window: &mut Window, layout: &Layout, piece_end: usize) {
        let offset = layout.offset % WINDOW;
        let len = (piece_end - self.at).min(layout.load.max(1)).min(WINDOW - offset);
        window.0[offset..offset + len].copy_from_slice(&self.bytes[self.at..self.at + len]);
        let base = self.at;
        let end = (offset + len) as u32;
        while self.at < base + len && self.ending.is_none() {
            let at = (offset + self.at - base) as u32;
            let available = (piece_end - self.at) as u32;
            let in_block = self.http2.is_in_block();
            let looks = in_block || self.http2.is_at_frame();
            let (taken, event) = self.http2.step(window, at, end, available);
            self.steps += 1;
            assert!(taken <= available, "took {taken} of {available} bytes");
            assert!(!looks || at + taken <= end, "took bytes that it did not see");
            assert!(taken > 0 || event == Event::NotHttp2, "stood still: {:?}", self.http2);
            let from = self.at;
            self.at += taken as usize;
            if in_block {
                self.block.extend_from_slice(&self.bytes[from..self.at]);
            }
            self.react(event);
        }
    }

    fn react(&mut self, event: Event) {
        match event {
            Event::None => return,
            Event::NotHttp2 => {
                self.ending = Some(Ending::NotHttp2(self.at));
                return;
            }
            _ => {}
        }
        let is_reset = event == Event::Reset;
        let is_of_block = matches!(event, Event::BlockStart | Event::BlockPart | Event::BlockEnd);
        assert_eq!(self.http2.is_in_block(), event == Event::BlockStart);
        let mut found = Found {
            event,
            at: self.at,
            frame_at: self.at - self.http2.since_frame() as usize,
            frame_len: self.http2.frame_len(),
            stream: self.http2.stream(),
            ends_stream: !is_reset && self.http2.ends_stream(),
            is_promise: is_of_block && self.http2.is_promise(),
            error_code: if is_reset { self.http2.error_code() } else { 0 },
            block: None,
        };
        if is_of_block {
            assert_eq!(self.http2.block_len() as usize, self.block.len(), "bytes of the block");
        }
        if event == Event::BlockEnd {
            let scanner = &self.http2.scanner;
            let (at, len) = scanner.value_place();
            found.block = Some(Block {
                number: self.http2.block(),
                bytes: std::mem::take(&mut self.block),
                verdict: Verdict {
                    facts: scanner.facts(),
                    context: scanner.context(),
                    place: (at, len, scanner.value_is_coded()),
                },
            });
            self.http2.next_block();
        }
        self.found.push(found);
    }
}
