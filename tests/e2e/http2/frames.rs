//! Random frames in random pieces: what the receiver decodes is what was sent, and one context.

use std::collections::VecDeque;

use fastrand::Rng;
use tracewire_tests::agent::Agent;
use tracewire_tests::http2::{Fields, Frame, PREFACE, compare, flag, kind};
use tracewire_tests::script::Step;
use tracewire_tests::stream::show;
use tracewire_tests::world::{World, is_control, serve};

/// Connections in one test.
const CONNECTIONS: u64 = 40;
/// Bytes that a peer accepts in a frame until it says otherwise (RFC 9113 §4.2).
const FRAME_MAX: usize = 16_384;
/// Bytes that the context may take: more than any form of it.
const ROOM: usize = 80;
const OWN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Strings and their Huffman codes: RFC 7541 §C.4 and §C.6, and the last by its appendix B.
const HUFFMAN: [(&str, &[u8]); 5] = [
    ("www.example.com", b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"),
    ("no-cache", b"\xa8\xeb\x10\x64\x9c\xbf"),
    ("custom-key", b"\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f"),
    ("custom-value", b"\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf"),
    ("traceparent", b"\x4d\x83\x21\x6b\x1d\x85\xa9\x3f"),
];

/// How a stream of bytes is cut into sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// A frame in each.
    Frames,
    /// Several frames in each.
    Whole,
    /// Anywhere.
    Anywhere,
    /// A byte in each, of the first ones.
    Bytes,
}

/// A sender with its table, which has the entries that its receiver has.
struct Sender {
    rng: Rng,
    frames: Vec<Frame>,
    table: VecDeque<(String, String)>,
    next_stream: u32,
    open: Vec<u32>,
    /// The streams whose requests must be given a context if each frame is a send.
    plain: Vec<u32>,
    /// The streams whose requests have one already.
    own: Vec<u32>,
    /// Whether it sent a frame of an unknown type: allowed (RFC 9113 §5.5), but what follows may be left
    /// alone then.
    is_strange: bool,
}

impl Sender {
    fn new(seed: u64) -> Self {
        let settings = Frame { kind: kind::SETTINGS, flags: 0, stream: 0, payload: Vec::new() };
        Self {
            rng: Rng::with_seed(seed),
            frames: vec![settings],
            table: VecDeque::new(),
            next_stream: 1,
            open: Vec::new(),
            plain: Vec::new(),
            own: Vec::new(),
            is_strange: false,
        }
    }

    /// Something that a client may send next.
    fn step(&mut self) {
        let stream = self.rng.choice(&self.open).copied();
        match (self.rng.u8(..16), stream) {
            (0..5, _) => self.request(),
            (5..8, Some(stream)) => self.data(stream),
            (8, Some(stream)) => self.trailers(stream),
            (9, Some(stream)) => {
                self.open.retain(|&open| open != stream);
                self.push(kind::RST_STREAM, 0, stream, vec![0, 0, 0, 8]);
            }
            (10, Some(stream)) => self.push(kind::PRIORITY, 0, stream, vec![0, 0, 0, 0, 7]),
            (11, _) => self.push(kind::WINDOW_UPDATE, 0, 0, vec![0, 0, 1, 0]),
            (12, _) => self.push(kind::SETTINGS, 0, 0, vec![0, 3, 0, 0, 0, 100]),
            (13, _) if self.rng.u8(..4) == 0 => {
                // A type that nobody knows, with what looks like a request.
                self.is_strange = true;
                let payload = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
                let flags = self.rng.u8(..);
                self.push(0xbb, flags, stream.unwrap_or(0), payload);
            }
            _ => {
                let payload = self.rng.u64(..).to_be_bytes().to_vec();
                self.push(kind::PING, 0, 0, payload);
            }
        }
    }

    fn push(&mut self, kind: u8, flags: u8, stream: u32, payload: Vec<u8>) {
        self.frames.push(Frame { kind, flags, stream, payload });
    }

    fn data(&mut self, stream: u32) {
        let len = if self.rng.u8(..8) == 0 { 16_000 } else { self.rng.usize(..600) };
        let mut content = tracewire_tests::script::fill(len);
        let mut flags = 0;
        if self.rng.bool() {
            flags |= flag::PADDED;
            let padding = self.rng.u8(..);
            content.insert(0, padding);
            content.resize(content.len() + usize::from(padding), 0);
        }
        self.push(kind::DATA, flags, stream, content);
    }

    fn request(&mut self) {
        let stream = self.next_stream;
        self.next_stream += 2 * self.rng.u32(1..4);
        let mut block = Vec::new();
        if self.rng.u8(..10) == 0 {
            // The table of no size, and again of its usual: it is empty then.
            self.table.clear();
            block.extend_from_slice(b"\x20\x3f\xe1\x1f");
        }
        // GET, http; a path of its own.
        block.extend_from_slice(&[0x82, 0x86]);
        self.literal(&mut block, Some(4), ":path", &format!("/random/{stream}"));
        for _ in 0..self.rng.usize(..8) {
            self.field(&mut block);
        }
        if self.rng.u8(..8) == 0 {
            self.literal(&mut block, None, "traceparent", OWN);
            self.own.push(stream);
            self.field(&mut block);
        } else if self.table.iter().any(|(name, _)| name == "traceparent") && self.rng.bool() {
            self.again(&mut block, "traceparent");
            self.own.push(stream);
        }
        let ends = self.rng.u8(..3) == 0;
        if !ends {
            self.open.push(stream);
        }
        let frames = self.frames.len();
        self.block(stream, &block, if ends { flag::END_STREAM } else { 0 });
        let is_one = self.frames.len() == frames + 1;
        let has_room = self.frames.last().is_some_and(|f| f.payload.len() + ROOM <= FRAME_MAX);
        if is_one && has_room && !self.is_strange && !self.own.contains(&stream) {
            self.plain.push(stream);
        }
    }

    fn trailers(&mut self, stream: u32) {
        let mut block = Vec::new();
        self.field(&mut block);
        self.open.retain(|&open| open != stream);
        self.block(stream, &block, flag::END_STREAM);
    }

    /// A block in frames, one or several, of any form.
    fn block(&mut self, stream: u32, block: &[u8], flags: u8) {
        let pieces = if self.rng.u8(..4) == 0 { self.rng.usize(2..5) } else { 1 };
        let size = block.len().div_ceil(pieces).clamp(1, 16_000);
        let count = block.len().div_ceil(size);
        for (number, piece) in block.chunks(size).enumerate() {
            let mut flags = if number == 0 { flags } else { 0 };
            if number + 1 == count {
                flags |= flag::END_HEADERS;
            }
            if number > 0 {
                self.push(kind::CONTINUATION, flags, stream, piece.to_vec());
                continue;
            }
            let mut payload = Vec::new();
            let padding = if self.rng.u8(..4) == 0 { self.rng.u8(..) } else { 0 };
            if padding > 0 {
                flags |= flag::PADDED;
                payload.push(padding);
            }
            if self.rng.u8(..4) == 0 {
                flags |= flag::PRIORITY;
                payload.extend_from_slice(&[0, 0, 0, 0, 9]);
            }
            payload.extend_from_slice(piece);
            payload.resize(payload.len() + usize::from(padding), 0);
            self.push(kind::HEADERS, flags, stream, payload);
        }
    }

    fn field(&mut self, block: &mut Vec<u8>) {
        let known = self.table.len();
        if known > 0 && self.rng.u8(..3) == 0 {
            let at = self.rng.usize(..known);
            let name = &self.table[at].0;
            if name != "traceparent" && !name.starts_with(':') {
                integer(block, 0x80, 7, 62 + at);
                return;
            }
        }
        let names = ["x-a", "traceparenu", "x-traceparent", "custom-key", "tracestate"];
        let name = names[self.rng.usize(..names.len())];
        let value = match self.rng.u8(..12) {
            0 => "v".repeat(5000),
            1 => OWN.to_owned(),
            2..5 => HUFFMAN[self.rng.usize(..4)].0.to_owned(),
            _ => "w".repeat(self.rng.usize(..200)),
        };
        let entry = self.table.iter().position(|(known, _)| known == name);
        self.literal(block, entry.map(|at| 62 + at), name, &value);
    }

    /// A field of the table, or its name with the value anew.
    fn again(&mut self, block: &mut Vec<u8>, name: &str) {
        let Some(at) = self.table.iter().position(|(known, _)| known == name) else { return };
        if self.rng.bool() {
            integer(block, 0x80, 7, 62 + at);
        } else {
            self.literal(block, Some(62 + at), name, OWN);
        }
    }

    /// A literal field of any of the three forms; its name by index, if there is one.
    fn literal(&mut self, block: &mut Vec<u8>, index: Option<usize>, name: &str, value: &str) {
        let form = self.rng.u8(..3);
        let (first, bits) = [(0x40, 6), (0x00, 4), (0x10, 4)][usize::from(form)];
        match index.filter(|_| self.rng.u8(..4) > 0) {
            Some(index) => integer(block, first, bits, index),
            None => {
                block.push(first);
                self.string(block, name);
            }
        }
        self.string(block, value);
        if form == 0 {
            self.table.push_front((name.to_owned(), value.to_owned()));
            let size = |entry: &(String, String)| entry.0.len() + entry.1.len() + 32;
            while self.table.iter().map(size).sum::<usize>() > 4096 {
                self.table.pop_back();
            }
        }
    }

    fn string(&mut self, block: &mut Vec<u8>, text: &str) {
        let code = HUFFMAN.iter().find(|(known, _)| *known == text).map(|(_, code)| *code);
        if let Some(code) = code.filter(|_| self.rng.bool()) {
            integer(block, 0x80, 7, code.len());
            block.extend_from_slice(code);
        } else {
            integer(block, 0, 7, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }

    /// All that it says, in sends; the first has preface and SETTINGS.
    fn sends(&mut self, cut: Cut) -> Vec<Vec<u8>> {
        let first = [PREFACE, &self.frames[0].bytes()].concat();
        let frames: Vec<Vec<u8>> = self.frames[1..].iter().map(Frame::bytes).collect();
        let mut sends = vec![first];
        let all = frames.concat();
        let mut rest = all.as_slice();
        match cut {
            Cut::Frames => sends.extend(frames),
            Cut::Whole => sends.extend(frames.chunks(5).map(<[_]>::concat)),
            Cut::Anywhere | Cut::Bytes => {
                while !rest.is_empty() {
                    let ones = cut == Cut::Bytes && sends.len() < 400;
                    let len = if ones { 1 } else { self.rng.usize(1..1500) };
                    let (piece, after) = rest.split_at(len.min(rest.len()));
                    sends.push(piece.to_vec());
                    rest = after;
                }
            }
        }
        sends
    }
}

/// An integer after the upper bits of its first byte (RFC 7541 §5.1).
fn integer(block: &mut Vec<u8>, first: u8, bits: u8, value: usize) {
    let most = (1usize << bits) - 1;
    if value < most {
        block.push(first | value as u8);
        return;
    }
    block.push(first | most as u8);
    let mut rest = value - most;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// Fields, readable.
fn describe(fields: &Fields) -> String {
    let field = |(name, value): &(Vec<u8>, Vec<u8>)| {
        format!("{}: {}", show(name), show(&value[..value.len().min(60)]))
    };
    fields.iter().map(field).collect::<Vec<_>>().join(", ")
}

/// Connections cut in one way. Each has its steps at both ends; the bytes are compared.
fn check(cut: Cut, seed: u64) {
    let mut world = World::traced();
    let settings = Frame { kind: kind::SETTINGS, flags: 0, stream: 0, payload: Vec::new() };
    let mut senders: Vec<Sender> = Vec::new();
    let mut streams = Vec::new();
    for number in 0..CONNECTIONS {
        let mut sender = Sender::new(seed + number);
        while sender.frames.len() < 50 && sender.plain.len() + sender.own.len() < 12 {
            sender.step();
        }
        streams.push(sender.sends(cut));
        senders.push(sender);
    }
    let steps =
        vec![Step::UntilMore(PREFACE.len()), Step::send(settings.bytes()), Step::UntilClosed];
    let server = world.peer(|directory| serve(directory, vec![steps]));
    let address = server.address();
    let steps = streams.iter().enumerate().flat_map(|(number, sends)| {
        let mut steps = vec![Step::Connect(address)];
        steps.extend(sends.iter().take(1).map(Step::send));
        steps.push(Step::UntilMore(settings.bytes().len()));
        steps.extend(sends.iter().skip(1).map(Step::send));
        steps.push(Step::Close);
        steps.into_iter().map(move |step| (number, step))
    });
    world.client(streams.len(), steps.collect());
    let (mut given, mut requests, mut musts, mut missing) = (0, 0, 0, Vec::new());
    for (number, (sender, sends)) in senders.iter().zip(&streams).enumerate() {
        let what = format!("{cut:?}, seed {}", seed + number as u64);
        let heads = compare(&what, &sends.concat(), &server.received(number));
        requests += heads.len();
        for head in heads {
            given += usize::from(head.context.is_some());
            let has_own = head.fields.iter().any(|(name, _)| name == b"traceparent");
            assert_eq!(has_own, sender.own.contains(&head.stream), "{what}: the test's own count");
            assert!(!has_own || head.context.is_none(), "{what}: a second context: {head:?}");
            let must = cut == Cut::Frames && sender.plain.contains(&head.stream);
            musts += usize::from(must);
            if must && head.context.is_none() {
                let fields = describe(&head.fields);
                missing.push(format!("{what}, stream {}: {fields}", head.stream));
            }
        }
    }
    // Most of it is never answered, and counted so: what was dropped is no failure here.
    let counters = world.take_agent().map(Agent::stop).unwrap_or_default();
    let why = counters.iter().filter(|(name, _)| name.starts_with("propagation_"));
    let why: Vec<_> = why.collect();
    eprintln!("{cut:?}: {given} of {requests} requests were given a context: {why:?}");
    assert!(musts > 100 || cut != Cut::Frames, "{musts} requests that must be given a context");
    if is_control() {
        assert_eq!(given, 0, "{cut:?}: contexts without an agent");
    } else {
        // A frame whose header has left cannot be made longer.
        let must = matches!(cut, Cut::Frames | Cut::Whole);
        assert!(given > 0 || !must, "{cut:?}: {given} of {requests}");
        assert!(
            missing.is_empty(),
            "{} without a context, as {:#?}",
            missing.len(),
            &missing[..missing.len().min(5)]
        );
    }
}

#[test]
fn frames_in_a_send_each_arrive_as_sent_with_one_context_each() {
    check(Cut::Frames, 1000);
}

#[test]
fn several_frames_in_a_send_arrive_as_sent() {
    check(Cut::Whole, 2000);
}

#[test]
fn frames_cut_anywhere_arrive_as_sent() {
    check(Cut::Anywhere, 3000);
}

#[test]
fn frames_in_single_bytes_arrive_as_sent() {
    check(Cut::Bytes, 4000);
}
