//! One end of one connection: takes its turns, and reports.

use std::io::{Error, Result};
use std::net::{Shutdown, TcpStream};
use std::path::Path;

use fastrand::Rng;

use crate::digest::Digest;
use crate::matcher::Matcher;
use crate::oracle::Spot;
use crate::plan::{Ending, Plan, Side};
use crate::receiver::Receiver;
use crate::report::Report;
use crate::sender::Sender;
use crate::socket::Socket;
use crate::sys;
use crate::uring::Ring;

/// What a worker has for all its connections.
pub(crate) struct Tools {
    sending: Ring,
    receiving: Ring,
}

impl Tools {
    /// New rings.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { sending: Ring::new()?, receiving: Ring::new()? })
    }
}

/// What arrives at this end, if all goes well.
struct Arriving {
    bytes: Vec<u8>,
    spots: Vec<Spot>,
    /// The ends of the peer's turns, in order.
    ends: Vec<usize>,
    /// An urgent byte that is not in the stream: where it would be, and what it is.
    urgent: Option<(usize, u8)>,
}

impl Arriving {
    fn new(plan: &Plan, side: Side) -> Self {
        let from = side.peer();
        let mut bytes = plan.stream(from).to_vec();
        let mut spots = if from == Side::Client { plan.spots.clone() } else { Vec::new() };
        let turns = plan.turns.iter().filter(|turn| turn.side == from);
        let mut ends: Vec<usize> = turns.map(|turn| turn.end).collect();
        let urgent = plan.urgent(from).filter(|(_, inline)| !inline).map(|(at, _)| at);
        let urgent = urgent.map(|at| (at, bytes.remove(at)));
        if let Some((at, _)) = urgent {
            ends.iter_mut().filter(|end| **end > at).for_each(|end| *end -= 1);
            // An urgent byte is sent by itself: no frame around it can still grow.
            // Nor is a parent id one that the kernel sees in one piece.
            spots.retain(|spot| !spot.range().contains(&at));
            spots.iter_mut().filter(|spot| spot.at > at).for_each(Spot::move_back);
            // The application's bytes are not what the kernel sees: no head is beyond doubt.
            spots.iter_mut().for_each(|spot| spot.is_clear = false);
        }
        Self { bytes, spots, ends, urgent }
    }
}

/// Runs `side` of a connection; the report says how it went.
pub(crate) fn run(
    side: Side,
    plan: &Plan,
    stream: TcpStream,
    tools: &mut Tools,
    directory: &Path,
) -> Report {
    let arriving = Arriving::new(plan, side);
    let mut matcher = Matcher::new(&arriving.bytes, &arriving.spots);
    let mut report = Report::default();
    let result = Socket::new(stream, plan.manners(side)).and_then(|mut socket| {
        let result =
            talk(side, plan, &arriving, &mut matcher, &mut socket, tools, directory, &mut report);
        report.idle = socket.longest_idle;
        report.idle_in = std::mem::take(&mut socket.idle_in);
        report.oddities = std::mem::take(&mut socket.oddities);
        result
    });
    if let Err(error) = result {
        let (at, of) = (matcher.at, arriving.bytes.len());
        report.failure = Some(format!("{side:?}: {error} (received {at} of {of} bytes)"));
    }
    report.received = (matcher.digest.len, matcher.digest.value());
    report.passed_on = matcher.changed.iter().filter(|s| s.change.is_of_passed_on()).count() as u64;
    for spot in &matcher.changed {
        let way = plan.way_at(spot.at).map_or_else(String::new, |way| format!("{way:?}"));
        *report.changed.entry(way).or_default() += 1;
    }
    for spot in arriving.spots.iter().filter(|spot| !matcher.changed.contains(spot)) {
        report.without += 1;
        if plan.must_have_header(spot) {
            let Spot { at, change, .. } = spot;
            report.missed.push(format!("{change:?} at {at} by {:?}", plan.way_at(*at)));
        }
    }
    for piece in plan.turns.iter().filter(|turn| turn.side == side).flat_map(|turn| &turn.pieces) {
        *report.ways.entry(format!("{:?}", piece.way)).or_default() += piece.bytes.len() as u64;
    }
    report
}

#[expect(clippy::too_many_arguments, reason = "one caller, which owns all of these")]
fn talk(
    side: Side,
    plan: &Plan,
    arriving: &Arriving,
    matcher: &mut Matcher<'_>,
    socket: &mut Socket,
    tools: &mut Tools,
    directory: &Path,
    report: &mut Report,
) -> Result<()> {
    let Tools { sending, receiving } = tools;
    let outgoing = plan.stream(side);
    let original = Digest::of(outgoing);
    report.sent = (0, Digest::default().value());
    let mine = || plan.turns.iter().filter(|turn| turn.side == side);
    let urgent_inline = plan.manners(side.peer()).urgent_inline;
    let mut sender = Sender::new(outgoing, mine(), sending, directory, urgent_inline)?;
    let manners = plan.manners(side);
    let rng = Rng::with_seed(plan.seed ^ side as u64);
    let is_small = manners.receive_buffer.is_some();
    let mut receiver = Receiver::new(receiving, rng, &manners.takes, is_small);
    let mut ends = arriving.ends.iter();
    let mut left = mine().count();
    let early = plan.ending == Ending::HalfCloseEarly;
    if early && left == 0 && side == Side::Client {
        socket.stream().shutdown(Shutdown::Write)?;
    }
    for turn in &plan.turns {
        let mut hear = |socket: &mut Socket, matcher: &mut Matcher<'_>, end: Option<usize>| {
            hear(socket, &mut receiver, matcher, arriving, end, report)
        };
        if turn.side == side {
            sender.send(socket, turn)?;
            report.sent = (sender.digest.len, sender.digest.value());
            left -= 1;
            if early && left == 0 && side == Side::Client {
                socket.stream().shutdown(Shutdown::Write)?;
            }
            continue;
        }
        if turn.delay > 0 {
            std::thread::sleep(std::time::Duration::from_millis(turn.delay));
        }
        hear(socket, matcher, ends.next().copied())?;
        if early && ends.len() == 0 && side == Side::Server {
            hear(socket, matcher, None)?;
        }
    }
    let first = if plan.ending == Ending::ServerFirst { Side::Server } else { Side::Client };
    if side == first && !early {
        socket.stream().shutdown(Shutdown::Write)?;
    }
    if !(early && side == Side::Server) {
        hear(socket, &mut receiver, matcher, arriving, None, report)?;
    }
    if side != first {
        socket.stream().shutdown(Shutdown::Write)?;
    }
    sender.check_sources(socket, original)
}

/// Receives up to `end`, or to the end of the stream, where nothing more may come.
fn hear(
    socket: &mut Socket,
    receiver: &mut Receiver<'_>,
    matcher: &mut Matcher<'_>,
    arriving: &Arriving,
    end: Option<usize>,
    report: &mut Report,
) -> Result<()> {
    while end.is_none_or(|end| !matcher.has_reached(end)) {
        if let Some((at, byte)) = arriving.urgent
            && matcher.at == at
            && !report.takes.contains_key("Urgent")
        {
            // Reading stops here, and goes on past the urgent byte.
            take_urgent(socket, byte)?;
            report.takes.insert("Urgent".into(), 1);
            continue;
        }
        let want = end.map_or(0, |end| end.saturating_sub(matcher.reached()));
        let (take, bytes) = receiver.receive(socket, want)?;
        match (bytes.is_empty(), end) {
            (true, None) if matcher.is_in_header() => {
                return Err(Error::other(format!("{take:?}: the stream ended within a header")));
            }
            (true, None) => return Ok(()),
            (true, Some(_)) => {
                return Err(Error::other(format!("{take:?}: the stream ended early")));
            }
            _ => {}
        }
        *report.takes.entry(format!("{take:?}")).or_default() += bytes.len() as u64;
        let taken = matcher.take(bytes);
        taken.map_err(|difference| Error::other(format!("{take:?}: {difference}")))?;
    }
    Ok(())
}

/// Takes an urgent byte that is not in the stream (tcp(7), "Out-of-band data").
fn take_urgent(socket: &mut Socket, expected: u8) -> Result<()> {
    for _ in 0..200 {
        let mut byte = [0];
        match sys::recv(socket.fd(), &mut byte, libc::MSG_OOB) {
            Ok(1) if byte == [expected] => return Ok(()),
            Ok(_) if sys::out_of_order(socket.fd())? > 0 => {
                socket.odd(
                    "an urgent byte was not the one that was sent, where segments overtook others",
                );
                return Ok(());
            }
            Ok(_) => return Err(Error::other(format!("urgent byte {byte:?}, not {expected}"))),
            // Not there yet.
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    }
    Err(Error::other("no urgent byte came"))
}
