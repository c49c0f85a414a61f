//! Receiving a stream in all ways, with what each call promises checked.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::socket::Socket;
use crate::sys;
use crate::uring::Ring;
use crate::ways::Take;

/// The most that is read by one call.
const LARGE: usize = 65_536;

/// Less than SO_RCVTIMEO, which ends a wait.
const ALMOST_A_SECOND: Duration = Duration::from_millis(900);

/// Receives one stream.
pub(crate) struct Receiver<'a> {
    ring: &'a mut Ring,
    rng: Rng,
    takes: Vec<Take>,
    buffer: Vec<u8>,
    pipe: Option<(OwnedFd, OwnedFd)>,
    level: Option<OwnedFd>,
    edge: Option<OwnedFd>,
    /// Whether the last read at an edge found nothing more.
    drained: bool,
    is_small: bool,
}

impl<'a> Receiver<'a> {
    /// A receiver that uses these ways. `is_small`: SO_RCVBUF was set.
    pub(crate) fn new(ring: &'a mut Ring, rng: Rng, takes: &[Take], is_small: bool) -> Self {
        Self {
            ring,
            rng,
            takes: takes.to_vec(),
            buffer: vec![0; LARGE],
            pipe: None,
            level: None,
            edge: None,
            drained: false,
            is_small,
        }
    }

    /// Receives some bytes; none at the stream's end. At least `want` more bytes will come.
    pub(crate) fn receive(&mut self, socket: &mut Socket, want: usize) -> Result<(Take, &[u8])> {
        loop {
            let mut take = self.takes[self.rng.usize(..self.takes.len())];
            if want == 0 && take.promises_length() {
                take = Take::Read;
            }
            socket.call = format!("{take:?}");
            let start = Instant::now();
            match self.take(socket, take, want) {
                Ok(len) => {
                    socket.went_on();
                    return Ok((take, &self.buffer[..len]));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.drained = true;
                    if socket.non_blocking {
                        self.wait(socket, take)?;
                    } else {
                        // SO_RCVTIMEO passed, or should have.
                        if start.elapsed() < ALMOST_A_SECOND {
                            socket.odd("a blocking read gave EAGAIN at once");
                        } else {
                            socket.was_idle(1)?;
                        }
                    }
                }
                Err(error) => {
                    return Err(Error::new(error.kind(), format!("{take:?}: {error}")));
                }
            }
        }
    }

    fn wait(&mut self, socket: &mut Socket, take: Take) -> Result<()> {
        match take {
            Take::EpollEdge => self.wait_edge(socket),
            _ => socket.wait(libc::POLLIN),
        }
    }

    fn take(&mut self, socket: &mut Socket, take: Take, want: usize) -> Result<usize> {
        let fd = socket.fd();
        let some = self.rng.usize(1..LARGE);
        match take {
            Take::Read => sys::read(fd, &mut self.buffer[..some]),
            Take::ReadTiny => {
                // Large contents byte by byte would test nothing but patience.
                let most = if want > 20_000 { 2_000 } else { 8 };
                let len = self.rng.usize(1..=most);
                sys::read(fd, &mut self.buffer[..len])
            }
            Take::Readv => sys::readv(fd, &mut self.buffer[..some]),
            Take::Recvmsg => sys::recvmsg(fd, &mut self.buffer[..some]),
            Take::Peek => self.peek(socket, some),
            Take::WaitAll => self.wait_all(socket, want),
            Take::LowWater => self.low_water(socket, want),
            Take::Fionread => self.by_fionread(socket),
            Take::Splice => self.splice(socket, some),
            Take::Poll => {
                socket.wait(libc::POLLIN)?;
                self.at_once(socket, "poll")
            }
            Take::Select => {
                while !sys::select(fd, 1000)? {
                    socket.was_idle(1)?;
                }
                self.at_once(socket, "select")
            }
            Take::EpollLevel => {
                if self.level.is_none() {
                    self.level = Some(sys::epoll(fd, libc::EPOLLIN)?);
                }
                wait_epoll(socket, self.level.as_ref())?;
                self.at_once(socket, "epoll")
            }
            Take::EpollEdge => {
                if self.edge.is_none() {
                    self.edge = Some(sys::epoll(fd, libc::EPOLLIN | libc::EPOLLET)?);
                }
                if self.drained {
                    self.wait_edge(socket)?;
                }
                sys::recv(fd, &mut self.buffer[..some], libc::MSG_DONTWAIT)
            }
            Take::UringRecv | Take::UringRead => {
                let as_read = take == Take::UringRead;
                let answer = self.ring.receive(fd, &mut self.buffer[..some], as_read);
                if answer.idle > 0 {
                    socket.was_idle(answer.idle)?;
                }
                answer.result
            }
        }
    }

    fn wait_edge(&mut self, socket: &mut Socket) -> Result<()> {
        // Other ways to take may have drained the socket before this one was first used.
        if self.edge.is_none() {
            self.edge = Some(sys::epoll(socket.fd(), libc::EPOLLIN | libc::EPOLLET)?);
        }
        wait_epoll(socket, self.edge.as_ref())?;
        self.drained = false;
        Ok(())
    }

    /// Reads without waiting what was said to be there.
    fn at_once(&mut self, socket: &mut Socket, who: &str) -> Result<usize> {
        let len = self.rng.usize(1..LARGE);
        let result = sys::recv(socket.fd(), &mut self.buffer[..len], libc::MSG_DONTWAIT);
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            let before = socket.zero_copies.1;
            socket.take_completions()?;
            if who == "select" && socket.zero_copies.1 > before {
                // Errors make readable, too, for select(2), and reports are errors.
                return Err(ErrorKind::Interrupted.into());
            }
            socket.odd(&format!("readable by {who}, but nothing to read"));
            return Err(ErrorKind::Interrupted.into());
        }
        result
    }

    fn peek(&mut self, socket: &mut Socket, some: usize) -> Result<usize> {
        let peeked = sys::recv(socket.fd(), &mut self.buffer[..some], libc::MSG_PEEK)?;
        if peeked == 0 {
            return Ok(0);
        }
        let seen = self.buffer[..peeked].to_vec();
        let len = sys::recv(socket.fd(), &mut self.buffer[..peeked], 0)?;
        if len != peeked {
            socket.odd("a read of what was peeked at gave less");
        }
        if seen[..len] != self.buffer[..len] {
            return Err(Error::other("MSG_PEEK showed other bytes than were read"));
        }
        Ok(len)
    }

    fn wait_all(&mut self, socket: &mut Socket, want: usize) -> Result<usize> {
        let len = self.rng.usize(1..=want.clamp(1, LARGE));
        let start = Instant::now();
        let got = sys::recv(socket.fd(), &mut self.buffer[..len], libc::MSG_WAITALL)?;
        // SO_RCVTIMEO ends the wait after a second.
        if got < len && !socket.non_blocking && start.elapsed() < ALMOST_A_SECOND {
            socket.odd("MSG_WAITALL gave less than asked");
        }
        Ok(got)
    }

    fn low_water(&mut self, socket: &mut Socket, want: usize) -> Result<usize> {
        // Half the receive buffer is the most that the kernel takes (`tcp_set_rcvlowat`).
        let most = want.clamp(1, if self.is_small { 16 } else { 30_000 });
        let mark = self.rng.usize(1..=most);
        let set = |mark| sys::set(socket.fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, mark);
        set(i32::try_from(mark).unwrap_or(1))?;
        let waited = if socket.non_blocking { socket.wait(libc::POLLIN) } else { Ok(()) };
        let start = Instant::now();
        let got = sys::recv(socket.fd(), &mut self.buffer, 0);
        let set = |mark| sys::set(socket.fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, mark);
        set(1)?;
        waited?;
        if got.as_ref().is_ok_and(|got| *got < mark) && start.elapsed() < ALMOST_A_SECOND {
            socket.odd("SO_RCVLOWAT gave less than its mark");
        }
        got
    }

    fn by_fionread(&mut self, socket: &mut Socket) -> Result<usize> {
        socket.wait(libc::POLLIN)?;
        let waiting = sys::waiting(socket.fd())?;
        if waiting == 0 {
            let len = sys::recv(socket.fd(), &mut self.buffer[..1], libc::MSG_DONTWAIT)?;
            if len > 0 {
                socket.odd("FIONREAD said 0, and there was something");
            }
            return Ok(len);
        }
        let len = waiting.min(LARGE);
        let got = sys::recv(socket.fd(), &mut self.buffer[..len], libc::MSG_DONTWAIT)?;
        if got < len {
            socket.odd("FIONREAD said more than there was");
        }
        Ok(got)
    }

    fn splice(&mut self, socket: &mut Socket, some: usize) -> Result<usize> {
        if self.pipe.is_none() {
            self.pipe = Some(sys::pipe()?);
        }
        let Some((out, into)) = &self.pipe else { return Err(Error::other("no pipe")) };
        let moved = sys::splice(socket.fd(), None, into.as_raw_fd(), some, 0)?;
        let mut got = 0;
        while got < moved {
            got += sys::read(out.as_raw_fd(), &mut self.buffer[got..moved])?;
        }
        Ok(moved)
    }
}

fn wait_epoll(socket: &mut Socket, epoll: Option<&OwnedFd>) -> Result<()> {
    let Some(epoll) = epoll else { return Err(Error::other("no epoll")) };
    loop {
        let happened = sys::epoll_wait(epoll.as_raw_fd(), 1000)?.cast_signed();
        if happened & (libc::EPOLLIN | libc::EPOLLHUP) != 0 {
            return Ok(());
        }
        if happened & libc::EPOLLERR != 0 {
            socket.take_completions()?;
        }
        if happened == 0 {
            socket.was_idle(1)?;
        }
    }
}
