//! One end's socket: its options, its waits, and what went oddly on it.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};

use crate::plan::Manners;
use crate::sys;

/// Seconds without anything happening after which an end gives up.
pub(crate) const PATIENCE: u32 = 10;

/// One end's socket.
pub(crate) struct Socket {
    stream: TcpStream,
    /// Whether calls return instead of waiting.
    pub(crate) non_blocking: bool,
    /// The longest wait in which nothing happened, in whole seconds.
    pub(crate) longest_idle: u32,
    /// What a call did that it should not, and how often.
    pub(crate) oddities: BTreeMap<String, u64>,
    /// Sends with MSG_ZEROCOPY, and how many of those the kernel is done with.
    pub(crate) zero_copies: (u32, u32),
    /// The calls in which nothing happened for a second, in order.
    pub(crate) idle_in: Vec<String>,
    /// The call at hand.
    pub(crate) call: String,
    idle: u32,
}

impl Socket {
    /// Takes a connected socket and sets it up.
    pub(crate) fn new(stream: TcpStream, manners: &Manners) -> Result<Self> {
        let fd = stream.as_raw_fd();
        stream.set_nodelay(manners.no_delay)?;
        if let Some(bytes) = manners.send_buffer {
            sys::set(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes)?;
        }
        if let Some(bytes) = manners.receive_buffer {
            sys::set(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)?;
        }
        if manners.urgent_inline {
            sys::set(fd, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
        }
        stream.set_nonblocking(manners.non_blocking)?;
        // Blocking calls wake up each second, so that a stall is seen.
        let second = libc::timeval { tv_sec: 1, tv_usec: 0 };
        sys::set(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, second)?;
        let patience = libc::timeval { tv_sec: PATIENCE.into(), tv_usec: 0 };
        sys::set(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, patience)?;
        Ok(Self {
            stream,
            non_blocking: manners.non_blocking,
            longest_idle: 0,
            oddities: BTreeMap::new(),
            zero_copies: (0, 0),
            idle_in: Vec::new(),
            call: String::new(),
            idle: 0,
        })
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// The socket as the standard library sees it.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Notes something that should not be.
    pub(crate) fn odd(&mut self, what: &str) {
        *self.oddities.entry(what.to_owned()).or_default() += 1;
    }

    /// A second passed in which nothing happened.
    pub(crate) fn was_idle(&mut self, seconds: u32) -> Result<()> {
        self.idle += seconds;
        self.idle_in.push(self.call.clone());
        self.longest_idle = self.longest_idle.max(self.idle);
        if self.idle >= PATIENCE {
            return Err(Error::new(ErrorKind::TimedOut, "stalled: nothing happened"));
        }
        Ok(())
    }

    /// Something happened.
    pub(crate) fn went_on(&mut self) {
        self.idle = 0;
    }

    /// Waits by poll(2) for reading or writing.
    pub(crate) fn wait(&mut self, events: i16) -> Result<()> {
        loop {
            let happened = sys::poll(self.fd(), events, 1000)?;
            if happened & (events | libc::POLLHUP) != 0 {
                return Ok(());
            }
            if happened & libc::POLLERR != 0 {
                self.take_completions()?;
            }
            if happened == 0 {
                self.was_idle(1)?;
            }
        }
    }

    /// Takes what the kernel says about zero-copy sends off the error queue.
    pub(crate) fn take_completions(&mut self) -> Result<()> {
        loop {
            match sys::completed(self.fd()) {
                Ok(Some((first, last))) => {
                    self.zero_copies.1 += last.wrapping_sub(first).wrapping_add(1);
                }
                Ok(None) => self.odd("an error report that is none of a zero-copy send"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
