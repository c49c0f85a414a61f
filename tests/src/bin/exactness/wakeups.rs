//! Counts how a client is woken: a server sends messages of known lengths, each when the
//! one before was answered, so that each must wake its reader, and once.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;

use crate::sys;

/// How a client waits, and reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// epoll_wait(2), level-triggered
    EpollLevel,
    /// epoll_wait(2), edge-triggered, then reads until EAGAIN
    EpollEdge,
    /// poll(2)
    Poll,
    /// select(2)
    Select,
    /// poll(2), then a read of as much as FIONREAD says
    Fionread,
    /// A blocking recv(2)
    Recv,
    /// poll(2), then recv(2) with MSG_PEEK, then without
    Peek,
    /// poll(2), then recv(2) with MSG_PEEK piece by piece, by SO_PEEK_OFF, then without
    PeekOff,
    /// A blocking recv(2) with MSG_WAITALL; messages come in two parts
    WaitAll,
    /// poll(2) under SO_RCVLOWAT of a whole message; messages come in two parts
    LowWater,
    /// poll(2), then splice(2) into a pipe
    Splice,
}

/// What `wake` is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Settings {
    #[arg(long, value_enum)]
    mode: Mode,
    /// Messages on each connection
    #[arg(long)]
    messages: u64,
    /// Connections at once
    #[arg(long)]
    connections: u64,
}

/// What was counted on all connections.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
struct Counts {
    /// Messages that arrived whole and as they were sent.
    messages: u64,
    /// Returns from waiting.
    woken: u64,
    /// Reads that found nothing when something was said to be there.
    empty: u64,
    /// Reads that gave another length than they had to.
    short: u64,
    /// Waits of a second and more.
    stalls: u64,
}

/// Time as this process has it: it stands still while the process is stopped.
static TICKS: AtomicU64 = AtomicU64::new(0);
const TICK: Duration = Duration::from_millis(50);
/// A second, less the wait for the first tick.
const TICKS_OF_A_STALL: u64 = 19;

/// The longest message, in bytes: one packet on the loopback interface.
const LONGEST: usize = 16_000;

/// Runs all connections; writes the counts as JSON.
pub(crate) fn run(settings: &Settings) -> ExitCode {
    match all(settings).and_then(|counts| Ok(serde_json::to_string(&counts)?)) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("exactness: {:?}: {error}", settings.mode);
            ExitCode::FAILURE
        }
    }
}

fn all(settings: &Settings) -> Result<Counts> {
    let Settings { mode, messages, connections } = *settings;
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(TICK);
            TICKS.fetch_add(1, Ordering::Relaxed);
        }
    });
    let mut threads = Vec::new();
    for number in 0..connections {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let to = listener.local_addr()?;
        let server = std::thread::spawn(move || serve(&listener, number, messages, mode));
        let client = std::thread::spawn(move || {
            TcpStream::connect(to).and_then(|stream| listen(stream, number, messages, mode))
        });
        threads.push((server, client));
    }
    let mut total = Counts::default();
    for (server, client) in threads {
        let gone = |_| Error::other("a thread panicked");
        let counts = client.join().map_err(gone)??;
        server.join().map_err(gone)??;
        total.messages += counts.messages;
        total.woken += counts.woken;
        total.empty += counts.empty;
        total.short += counts.short;
        total.stalls += counts.stalls;
    }
    Ok(total)
}

/// The messages of a connection, the same for both ends.
fn messages(number: u64, count: u64) -> impl Iterator<Item = Vec<u8>> {
    let mut rng = Rng::with_seed(number);
    (0..count).map(move |_| {
        let mut message = vec![0; rng.usize(2..LONGEST)];
        rng.fill(&mut message);
        message
    })
}

fn serve(listener: &TcpListener, number: u64, count: u64, mode: Mode) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut rng = Rng::with_seed(!number);
    for message in messages(number, count) {
        // Sometimes the reader waits already, sometimes not yet.
        if rng.bool() {
            std::thread::sleep(Duration::from_micros(rng.u64(..300)));
        }
        let in_parts = matches!(mode, Mode::WaitAll | Mode::LowWater);
        let first = if in_parts { message.len() / 2 } else { message.len() };
        stream.write_all(&message[..first])?;
        if first < message.len() {
            std::thread::sleep(Duration::from_micros(500));
            stream.write_all(&message[first..])?;
        }
        stream.read_exact(&mut [0])?;
    }
    Ok(())
}

fn listen(mut stream: TcpStream, number: u64, count: u64, mode: Mode) -> Result<Counts> {
    stream.set_nodelay(true)?;
    let mut counts = Counts::default();
    let mut waiter = Waiter::new(&stream, mode)?;
    for message in messages(number, count) {
        let mut got = Vec::new();
        while got.len() < message.len() {
            let start = TICKS.load(Ordering::Relaxed);
            let some = waiter.take(&stream, message.len() - got.len(), &mut counts)?;
            let ticks = TICKS.load(Ordering::Relaxed).wrapping_sub(start);
            counts.stalls += u64::from(ticks >= TICKS_OF_A_STALL);
            got.extend_from_slice(&some);
        }
        if got != message {
            return Err(Error::other("a message came changed"));
        }
        counts.messages += 1;
        stream.write_all(b"!")?;
    }
    Ok(counts)
}

struct Waiter {
    mode: Mode,
    epoll: Option<std::os::fd::OwnedFd>,
}

impl Waiter {
    fn new(stream: &TcpStream, mode: Mode) -> Result<Self> {
        let fd = stream.as_raw_fd();
        let epoll = match mode {
            Mode::EpollLevel => Some(sys::epoll(fd, libc::EPOLLIN)?),
            Mode::EpollEdge => Some(sys::epoll(fd, libc::EPOLLIN | libc::EPOLLET)?),
            _ => None,
        };
        if mode == Mode::PeekOff {
            sys::set(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0)?;
        }
        // Without it splice(2) waits at the socket's own queue, whatever its flags say.
        stream.set_nonblocking(mode == Mode::Splice)?;
        Ok(Self { mode, epoll })
    }

    /// Waits, and takes what came; `wanted` bytes of the message are still to come.
    fn take(&mut self, stream: &TcpStream, wanted: usize, counts: &mut Counts) -> Result<Vec<u8>> {
        let fd = stream.as_raw_fd();
        let mut buffer = vec![0; LONGEST];
        match self.mode {
            Mode::Recv => match sys::recv(fd, &mut buffer, 0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    counts.empty += 1;
                    return Ok(Vec::new());
                }
                got => {
                    counts.woken += 1;
                    return keep(buffer, got?);
                }
            },
            Mode::WaitAll => {
                let got = match sys::recv(fd, &mut buffer[..wanted], libc::MSG_WAITALL) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        counts.empty += 1;
                        return Ok(Vec::new());
                    }
                    got => got?,
                };
                counts.woken += 1;
                counts.short += u64::from(got < wanted);
                return keep(buffer, got);
            }
            Mode::LowWater => {
                let mark = i32::try_from(wanted).unwrap_or(1);
                sys::set(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, mark)?;
                self.wait(fd)?;
                counts.woken += 1;
                let got = sys::recv(fd, &mut buffer, libc::MSG_DONTWAIT)?;
                counts.short += u64::from(got < wanted);
                return keep(buffer, got);
            }
            _ => self.wait(fd)?,
        }
        counts.woken += 1;
        match self.mode {
            Mode::Fionread => {
                let waiting = sys::waiting(fd)?;
                counts.short += u64::from(waiting != wanted);
                // A program that trusts a 0 would wait for ever.
                buffer.truncate(waiting.max(1));
            }
            Mode::Peek => {
                let peeked = sys::recv(fd, &mut buffer, libc::MSG_PEEK | libc::MSG_DONTWAIT)?;
                counts.short += u64::from(peeked != wanted);
            }
            Mode::Splice => {
                let (out, into) = sys::pipe()?;
                let flags = libc::SPLICE_F_NONBLOCK;
                if let Ok(moved @ 1..) = sys::splice(fd, None, into.as_raw_fd(), wanted, flags) {
                    counts.short += u64::from(moved < wanted);
                    let got = sys::read(out.as_raw_fd(), &mut buffer)?;
                    return keep(buffer, got);
                }
                counts.short += 1;
            }
            Mode::PeekOff => {
                let mut peeked = Vec::new();
                while peeked.len() < wanted {
                    let len = (wanted / 3 + 1).min(wanted - peeked.len());
                    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
                    match sys::recv(fd, &mut buffer[..len], flags) {
                        Ok(got) if got > 0 => peeked.extend_from_slice(&buffer[..got]),
                        _ => break,
                    }
                }
                let got = sys::recv(fd, &mut buffer, libc::MSG_DONTWAIT)?;
                counts.short += u64::from(peeked != buffer[..got]);
                return keep(buffer, got);
            }
            _ => {}
        }
        let got = match sys::recv(fd, &mut buffer, libc::MSG_DONTWAIT) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                counts.empty += 1;
                return Ok(Vec::new());
            }
            got => got?,
        };
        if self.mode == Mode::EpollEdge {
            let mut all = keep(buffer, got)?;
            let mut buffer = vec![0; LONGEST];
            while let Ok(more) = sys::recv(fd, &mut buffer, libc::MSG_DONTWAIT) {
                all.extend_from_slice(&buffer[..more]);
            }
            return Ok(all);
        }
        keep(buffer, got)
    }

    /// Waits until there is something to read, for ten seconds at most.
    fn wait(&self, fd: i32) -> Result<()> {
        const LIMIT: i32 = 10_000;
        let woken = match &self.epoll {
            Some(epoll) => sys::epoll_wait(epoll.as_raw_fd(), LIMIT)? != 0,
            None if self.mode == Mode::Select => sys::select(fd, LIMIT.unsigned_abs())?,
            None => sys::poll(fd, libc::POLLIN, LIMIT)? != 0,
        };
        if woken { Ok(()) } else { Err(Error::new(ErrorKind::TimedOut, "never woken")) }
    }
}

fn keep(mut buffer: Vec<u8>, len: usize) -> Result<Vec<u8>> {
    if len == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    buffer.truncate(len);
    Ok(buffer)
}
