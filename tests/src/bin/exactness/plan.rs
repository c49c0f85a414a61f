//! What one connection carries and how, from a seed and a number alone: both ends make
//! the same plan, so nothing needs to be told beside the connection.

use std::fmt;
use std::ops::Range;

use fastrand::Rng;

use crate::dialogue::Dialogue;
use crate::oracle::{self, Spot};
use crate::protocols::Protocol;
use crate::ways::{Take, Way};

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Side {
    /// The end that connects; headers may be inserted into what it sends.
    Client,
    /// The end that accepts.
    Server,
}

impl Side {
    /// The other end.
    pub(crate) fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The client shuts its sending half down when all was said.
    ClientFirst,
    /// The server does.
    ServerFirst,
    /// The client does right after its last bytes, before what the server still has to say.
    HalfCloseEarly,
}

/// Some bytes, sent by one call or several of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where in the sender's stream.
    pub(crate) bytes: Range<usize>,
    /// By which call.
    pub(crate) way: Way,
}

/// What one end says before the other goes on.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    /// Who speaks.
    pub(crate) side: Side,
    /// Where the turn ends in the sender's stream.
    pub(crate) end: usize,
    /// All of it, in order.
    pub(crate) pieces: Vec<Piece>,
    /// Whether TCP_CORK is set meanwhile.
    pub(crate) cork: bool,
    /// Milliseconds that the other end waits before it reads.
    pub(crate) delay: u64,
}

/// How an end sets up its socket, and how it reads.
#[derive(Clone, Debug)]
pub(crate) struct Manners {
    /// TCP_NODELAY.
    pub(crate) no_delay: bool,
    /// O_NONBLOCK.
    pub(crate) non_blocking: bool,
    /// SO_SNDBUF, in bytes as asked for.
    pub(crate) send_buffer: Option<i32>,
    /// SO_RCVBUF, likewise; set before the connection is there.
    pub(crate) receive_buffer: Option<i32>,
    /// The ways to read, one drawn for each call.
    pub(crate) takes: Vec<Take>,
    /// Whether this end reads urgent bytes in the stream (SO_OOBINLINE).
    pub(crate) urgent_inline: bool,
}

/// All that happens on one connection.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What each side sends, by [`Side`].
    streams: [Vec<u8>; 2],
    manners: [Manners; 2],
    /// Who speaks when.
    pub(crate) turns: Vec<Turn>,
    /// How it ends.
    pub(crate) ending: Ending,
    /// Whether the client works on a request that came with [`oracle::RECEIVED`] meanwhile.
    pub(crate) has_received: bool,
    /// Where headers may stand in the client's stream.
    pub(crate) spots: Vec<Spot>,
    /// Where a byte is urgent, by [`Side`] of the sender.
    urgent: [Option<usize>; 2],
    /// Draws what need not be the same at both ends.
    pub(crate) seed: u64,
}

impl Plan {
    /// The plan of connection `number`.
    /// `spare_verdict`: client's sockets pass what they receive through a verdict program,
    /// which has limits of the kernel's own (README, "Kernels").
    pub(crate) fn new(seed: u64, number: u64, only: &[Protocol], spare_verdict: bool) -> Self {
        // Numbers are neighbours; their generators must not be.
        let seed = Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).u64(..);
        let mut rng = Rng::with_seed(seed);
        let protocol = Self::protocol_of(number, only);
        let dialogue = protocol.dialogue(&mut rng);
        Self::of(dialogue, rng, spare_verdict)
    }

    /// What is spoken on connection `number`.
    pub(crate) fn protocol_of(number: u64, only: &[Protocol]) -> Protocol {
        let menu = if only.is_empty() { Protocol::ALL } else { only };
        menu[usize::try_from(number).unwrap_or(0) % menu.len()]
    }

    fn of(dialogue: Dialogue, mut rng: Rng, spare_verdict: bool) -> Self {
        let rng = &mut rng;
        let mut manners = [manners(rng), manners(rng)];
        let mut streams = [Vec::new(), Vec::new()];
        let mut turns: Vec<Turn> = Vec::new();
        for (side, bytes) in dialogue.turns {
            let stream: &mut Vec<u8> = &mut streams[side.index()];
            let start = stream.len();
            stream.extend_from_slice(&bytes);
            let pieces = cut(rng, &bytes, start);
            let long = bytes.len() > 60_000;
            let delay = if rng.u8(..100) < if long { 40 } else { 2 } { rng.u64(1..15) } else { 0 };
            let cork = rng.u8(..100) < 6;
            turns.push(Turn { side, end: stream.len(), pieces, cork, delay });
        }
        for side in [Side::Client, Side::Server] {
            let heard = turns.iter().filter(|turn| turn.side != side);
            let pieces = heard.map(|turn| turn.pieces.len()).sum();
            let (sends, receives) =
                (streams[side.index()].len(), streams[side.peer().index()].len());
            manners[side.index()].fit(sends, receives, pieces);
        }
        spare_holes(&manners[0], &mut turns);
        let mut urgent = [None, None];
        if rng.u8(..100) < 4 {
            let side = if rng.bool() { Side::Client } else { Side::Server };
            let inline = rng.bool() || spare_verdict && side == Side::Server;
            urgent[side.index()] = make_urgent(rng, &mut turns, side);
            let reader = &mut manners[side.peer().index()];
            reader.urgent_inline = inline;
            // A read ends before an urgent byte; these promise that it does not.
            let promise = |take: &Take| take.promises_length();
            reader.takes.retain(|take| !promise(take));
            if reader.takes.is_empty() {
                reader.takes.push(Take::Read);
            }
        }
        if spare_verdict {
            manners[0].takes.iter_mut().filter(|take| take.needs_own_queue()).for_each(|take| {
                *take = Take::Read;
            });
        }
        let has_received = rng.u8(..100) < 40;
        let reading = oracle::read(&streams[0], dialogue.answers.as_deref(), has_received);
        let last = turns.last().map(|turn| turn.side);
        let ending = match rng.u8(..10) {
            0..=2 => Ending::ServerFirst,
            3..=6 if last == Some(Side::Server) => Ending::HalfCloseEarly,
            _ => Ending::ClientFirst,
        };
        let seed = rng.u64(..);
        Self { streams, manners, turns, ending, has_received, spots: reading.spots, urgent, seed }
    }

    /// What `side` sends.
    pub(crate) fn stream(&self, side: Side) -> &[u8] {
        &self.streams[side.index()]
    }

    /// How `side` behaves.
    pub(crate) fn manners(&self, side: Side) -> &Manners {
        &self.manners[side.index()]
    }

    /// The urgent byte in what `side` sends, and whether its peer reads it in the stream.
    pub(crate) fn urgent(&self, side: Side) -> Option<(usize, bool)> {
        self.urgent[side.index()].map(|at| (at, self.manners(side.peer()).urgent_inline))
    }

    /// By which call the byte at `at` of the client's stream is sent.
    pub(crate) fn way_at(&self, at: usize) -> Option<Way> {
        let pieces = self.turns.iter().filter(|t| t.side == Side::Client).flat_map(|t| &t.pieces);
        pieces.into_iter().find(|piece| piece.bytes.contains(&at)).map(|piece| piece.way)
    }

    /// Whether the header of `spot` must be written: the head is beyond doubt, and the
    /// send buffer has room for it in every case.
    pub(crate) fn must_have_header(&self, spot: &Spot) -> bool {
        let manners = self.manners(Side::Client);
        if !spot.is_clear || manners.send_buffer.is_some() || self.urgent[0].is_some() {
            return false;
        }
        if !spot.together.is_empty() && !self.is_in_one_send(spot.together.clone()) {
            return false;
        }
        let mut start = 0;
        for turn in self.turns.iter().filter(|turn| turn.side == Side::Client) {
            if turn.end > spot.at {
                // Sends that fit at once; a retry goes past the program, which is known.
                return spot.at - start < 16_000 && self.stream(Side::Client).len() < 200_000;
            }
            start = turn.end;
        }
        false
    }
}

impl Plan {
    /// Whether the client sends these bytes by one call that the kernel does not cut, after a
    /// first that tells HTTP/2.
    fn is_in_one_send(&self, bytes: Range<usize>) -> bool {
        let turns = || self.turns.iter().filter(|turn| turn.side == Side::Client);
        let mut pieces = turns().flat_map(|turn| &turn.pieces);
        let tells = |first: &Piece| first.bytes.len() >= 8 && first.way.is_one_message();
        let has_start = pieces.clone().next().is_some_and(tells);
        let is_around =
            |piece: &&Piece| piece.bytes.start <= bytes.start && bytes.end <= piece.bytes.end;
        has_start && pieces.find(is_around).is_some_and(|piece| piece.way.is_one_message())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for side in [Side::Client, Side::Server] {
            writeln!(f, "{side:?}: {:?}, urgent {:?}", self.manners(side), self.urgent(side))?;
        }
        let Self { ending, has_received, spots, .. } = self;
        writeln!(
            f,
            "ends {ending:?}; the client has received a request: {has_received}; {spots:?}"
        )?;
        let mut starts = [0, 0];
        for Turn { side, end, pieces, cork, delay } in &self.turns {
            let start = std::mem::replace(&mut starts[side.index()], *end);
            writeln!(f, "\n{side:?} to {end}, cork {cork}, heard after {delay} ms")?;
            for pieces in pieces.chunk_by(|one, other| one.way == other.way) {
                let lens: Vec<usize> = pieces.iter().map(|piece| piece.bytes.len()).collect();
                writeln!(f, "  {:?} {lens:?}", pieces[0].way)?;
            }
            let bytes = &self.stream(*side)[start..*end];
            let (first, last) = (&bytes[..bytes.len().min(400)], bytes.len().saturating_sub(200));
            write!(f, "  | {}", first.escape_ascii())?;
            writeln!(f, " … {}", bytes[last.max(first.len())..].escape_ascii())?;
        }
        Ok(())
    }
}

impl Manners {
    /// Takes small buffers back where the streams are long: what is said by a few bytes at
    /// a time, each waiting for a timer of TCP's, would take minutes.
    fn fit(&mut self, sends: usize, receives: usize, pieces: usize) {
        let is_slow = |buffer: Option<i32>, len: usize| {
            buffer.is_some_and(|bytes| match bytes {
                ..9_000 => len > 3_000,
                // Over loopback a segment is larger than what such a buffer ever advertises, so
                // that the sender waits for its persist timer, for each few KiB: 200 ms.
                9_000..=20_000 => len > 50_000,
                _ => len > 1_000_000,
            })
        };
        if is_slow(self.send_buffer, sends) {
            self.send_buffer = Some(40_000);
        }
        // A byte that comes by itself takes as much of the buffer as a whole page.
        if is_slow(self.receive_buffer, receives) || pieces > 30 {
            self.receive_buffer = None;
        }
    }
}

fn manners(rng: &mut Rng) -> Manners {
    let small = rng.u8(..100) < 15;
    let takes = if rng.bool() {
        vec![Take::ALL[rng.usize(..Take::ALL.len())]]
    } else {
        (0..3).map(|_| Take::ALL[rng.usize(..Take::ALL.len())]).collect()
    };
    Manners {
        no_delay: rng.u8(..100) < 75,
        // Edge triggers need it.
        non_blocking: takes.contains(&Take::EpollEdge) || rng.u8(..100) < 30,
        send_buffer: small.then(|| [1, 4_096, 9_000, 40_000][rng.usize(..4)]),
        receive_buffer: (rng.u8(..100) < 15).then(|| [1, 3_000, 20_000][rng.usize(..3)]),
        takes,
        urgent_inline: false,
    }
}

/// Keeps sendmmsg(2) to where it sends all at once on a socket in a socket map. There the
/// kernel goes on with the next message after one that was cut, and leaves a hole
/// (`tcp_bpf_sendmsg` does not give back what it took of the iterator; net/ipv4/tcp_bpf.c).
fn spare_holes(client: &Manners, turns: &mut [Turn]) {
    for turn in turns.iter_mut().filter(|turn| turn.side == Side::Client) {
        for piece in turn.pieces.iter_mut().filter(|piece| piece.way == Way::Sendmmsg) {
            let may_be_cut = client.non_blocking || client.send_buffer.is_some();
            if may_be_cut || piece.bytes.len() > 16_000 {
                piece.way = Way::Sendmsg;
            }
        }
    }
}

/// Makes one byte of one of a side's turns urgent, in a piece of its own.
fn make_urgent(rng: &mut Rng, turns: &mut [Turn], side: Side) -> Option<usize> {
    let mine: Vec<usize> = (0..turns.len())
        .filter(|n| turns[*n].side == side && !turns[*n].pieces.is_empty())
        .collect();
    let turn = &mut turns[*mine.get(rng.usize(..mine.len().max(1)))?];
    let number = rng.usize(..turn.pieces.len());
    let piece = turn.pieces.remove(number);
    let at = rng.usize(piece.bytes.clone());
    let parts = [
        (piece.bytes.start..at, piece.way),
        (at..at + 1, Way::Urgent),
        (at + 1..piece.bytes.end, piece.way),
    ];
    let parts = parts.into_iter().filter(|(bytes, _)| !bytes.is_empty());
    let parts: Vec<Piece> = parts.map(|(bytes, way)| Piece { bytes, way }).collect();
    turn.pieces.splice(number..number, parts);
    Some(at)
}

/// The most pieces of one turn.
const MAX_PIECES: usize = 400;

/// Cuts a turn that starts at `base` of its stream into pieces, each with a way.
fn cut(rng: &mut Rng, bytes: &[u8], base: usize) -> Vec<Piece> {
    let len = bytes.len();
    if len == 0 {
        return Vec::new();
    }
    let mut cuts: Vec<usize> = match rng.u8(..100) {
        0..=29 => Vec::new(),
        30..=49 => vec![rng.usize(..len)],
        50..=59 => (1..len).collect(),
        60..=69 => steps(rng, len, 20),
        70..=79 => steps(rng, len, 2_000),
        80..=86 => steps(rng, len, 200_000),
        // Around line ends, where everything is decided.
        _ => (1..len).filter(|at| bytes[at - 1] < b' ' || bytes[*at] < b' ').collect(),
    };
    cuts.retain(|at| *at > 0);
    cuts.truncate(MAX_PIECES);
    cuts.push(len);
    let one = Way::ORDINARY[rng.usize(..Way::ORDINARY.len())];
    let mixed = rng.u8(..100) < 30;
    let mut start = 0;
    let mut pieces = Vec::new();
    for end in cuts {
        let mut way = one;
        if mixed {
            way = Way::ORDINARY[rng.usize(..Way::ORDINARY.len())];
        }
        if way == Way::UringZeroCopy && pieces.len() > 5 {
            // The ring waits until the peer has said that it has the bytes, which it may
            // put off for 40 ms (tcp(7), TCP_QUICKACK).
            way = Way::UringSend;
        }
        if end == len && way == Way::More {
            // Nothing comes after it that would push it out.
            way = Way::Send;
        }
        pieces.push(Piece { bytes: base + start..base + end, way });
        start = end;
    }
    pieces
}

fn steps(rng: &mut Rng, len: usize, most: usize) -> Vec<usize> {
    let mut at = 0;
    std::iter::from_fn(|| {
        at += rng.usize(1..=most);
        (at < len).then_some(at)
    })
    .collect()
}
